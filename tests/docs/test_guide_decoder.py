"""The decoder of the guide keeps the contract of decoders."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from declip_pipeline.testing.decoders import DecoderContract

GUIDE = (Path(__file__).parents[2] / "docs" / "guide.md").read_text()
(SNIPPET,) = re.findall(r"```python\n((?:(?!```).)*class Projection.*?)```", GUIDE, re.DOTALL)
MODULE = ModuleType("module_of_the_guide")
exec(compile(SNIPPET, "docs/guide.md", "exec"), MODULE.__dict__)


@pytest.fixture(autouse=True)
def importable_module(monkeypatch):
    """Let checkpoints find the decoder by its module."""
    monkeypatch.setitem(sys.modules, MODULE.__name__, MODULE)


class TestProjection(DecoderContract):
    decoder = MODULE.Projection
