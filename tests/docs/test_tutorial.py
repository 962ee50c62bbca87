"""The tutorial runs, and its outputs are those of a run."""

import json
import re

import pytest
import run_tutorial

NOTEBOOK = json.loads(run_tutorial.NOTEBOOK.read_text())


def shape_of(outputs):
    """Return the kinds of a cell's outputs, and its text without numbers."""
    kinds = [(one["output_type"], sorted(one.get("data", {}))) for one in outputs]
    texts = ["".join(one.get("text", one.get("data", {}).get("text/plain", ""))) for one in outputs]
    return kinds, [re.sub(r"\s*-?\d+(\.\d+)?", " N", text) for text in texts]


@pytest.mark.slow
def test_tutorial_gives_the_outputs_that_it_shows():
    again = run_tutorial.executed(NOTEBOOK)
    for shown, found in zip(NOTEBOOK["cells"], again["cells"], strict=True):
        if shown["cell_type"] == "code":
            assert shape_of(found["outputs"]) == shape_of(shown["outputs"])


def test_every_code_cell_was_executed_in_order():
    counts = [one["execution_count"] for one in NOTEBOOK["cells"] if one["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))


def test_a_cell_gives_what_it_prints_its_last_value_and_its_figures():
    source = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nprint('one')\n1 + 1"
    stream, figure, value = run_tutorial.run_cell(source, {}, 3)
    assert stream["text"] == ["one\n"]
    assert figure["data"]["image/png"].startswith("iVBOR")
    assert value["data"]["text/plain"] == ["2"]
