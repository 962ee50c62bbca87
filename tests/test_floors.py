"""Imports run one way: from `stages` down, floor by floor, and never back up."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIBRARY = "declip_pipeline"
FLOORS = [
    {
        "arguments",
        "errors",
        "files",
        "features",
        "compute",
        "entry_points",
        "options",
    },
    {"jobs"},
    {"images", "metrics"},
    {"datasets"},
    {"backbones", "store", "decoders"},
    {"extraction", "feeding"},
    {"training"},
    {"evaluation"},
    {"sweeps", "reports", "exchange"},
    {"study", "prediction"},
    {"testing"},
]
FLOOR_OF = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}
# The parts of the ground floor are words of one language; elsewhere, neighbours do not meet.
GROUND = 0


def imported_modules(source: str) -> set[str]:
    """Every module that a file imports, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def arrows_up(part: str, source: str) -> list[str]:
    """The imports of a file in `part` of the library that do not run down."""
    wrong = []
    for module in sorted(imported_modules(source)):
        names = module.split(".")
        if names[0] == "stages":
            wrong.append(module)
        if names[0] != LIBRARY or len(names) < 2 or names[1] in ("__version__", part):
            continue
        below = FLOOR_OF[names[1]]
        if below > FLOOR_OF[part] or (below == FLOOR_OF[part] != GROUND):
            wrong.append(module)
    return wrong


def part_of(file: Path) -> str:
    return file.relative_to(ROOT / LIBRARY).parts[0].removesuffix(".py")


def library_files() -> list[Path]:
    return [file for file in (ROOT / LIBRARY).rglob("*.py") if part_of(file) != "__init__"]


def test_no_import_runs_up():
    wrong = {
        file.relative_to(ROOT).as_posix(): arrows
        for file in library_files()
        if (arrows := arrows_up(part_of(file), file.read_text()))
    }
    assert wrong == {}


def test_every_part_has_its_floor():
    assert {part_of(file) for file in library_files()} == set(FLOOR_OF)


def test_an_arrow_up_is_found():
    assert arrows_up("images", "from declip_pipeline.store.reader import Store")
    assert arrows_up("feeding", "def f():\n    import declip_pipeline.training.train")
    assert arrows_up("reports", "from stages.screen import remark")
    assert not arrows_up("training", "from declip_pipeline.store.reader import Store")


def test_the_package_itself_imports_nothing_before_a_name_is_used():
    code = """
import sys
before = set(sys.modules)
import declip_pipeline
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(found.stdout.split()) - sys.stdlib_module_names == {LIBRARY}


def test_only_the_program_knows_settings_and_screens():
    screens = {"typer", "rich", "pydantic"}
    for file in library_files():
        used = {module.split(".")[0] for module in imported_modules(file.read_text())}
        assert not used & screens, file
