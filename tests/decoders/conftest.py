"""The recipe of the golden weights and features, for the decoders' tests."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def recipe() -> ModuleType:
    """`tests/golden/recipe.py`, loaded by its path."""
    path = Path(__file__).parents[1] / "golden" / "recipe.py"
    specification = importlib.util.spec_from_file_location("golden_recipe", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
