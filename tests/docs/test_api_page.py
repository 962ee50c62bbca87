"""The API page has every public name, with the signatures and docstrings of the code."""

import inspect
import re
from pathlib import Path

import make_api
import pytest

import declip_pipeline as dp

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text()
NAMES = [name for name in dp.__all__ if not name.startswith("__")]


def code_of(title: str) -> str:
    found = re.search(rf"^###+ {re.escape(title)}\n\n```python\n(.*?)\n```", PAGE, re.M | re.S)
    assert found, f"{title} has no section with its signature"
    return found[1]


def test_page_is_what_the_script_prints():
    assert make_api.page() == PAGE, "run python docs/make_api.py"


@pytest.mark.parametrize("name", NAMES)
def test_signature_has_the_parameters_of_the_code(name):
    thing = getattr(dp, name)
    code = code_of(name)
    if not callable(thing) or (inspect.isclass(thing) and issubclass(thing, Exception)):
        return
    inside = re.sub(r"\[[^\]]*\]", "", code.partition("(")[2].rpartition(")")[0])
    found = re.findall(r"(?:^|[,(]\s*|\n\s+)\*{0,2}(\w+)(?=[:=,]|$|\n)", inside)
    assert [one for one in found if one in inspect.signature(thing).parameters] == list(
        inspect.signature(thing).parameters
    )


def test_sections_of_a_docstring_become_lists():
    text = "Do it.\n\nArgs:\n    one: First,\n        and more.\n\nReturns:\n    A number.\n"
    assert make_api.markdown(text) == (
        "Do it.\n\n**Args**\n\n- `one`: First,\n  and more.\n\n**Returns**\n\nA number."
    )
