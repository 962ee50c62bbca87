"""Help is quick and complete: nothing heavy is imported for it, every option is explained."""

import subprocess
import sys

import pytest
from support.commands import NAMES, command_of

from stages.app import app

HEAVY = ("torch", "numpy", "zarr", "tensorstore", "open_clip", "timm", "PIL", "yaml")


def imported_by(*arguments: str) -> set[str]:
    """The modules that the program imports for these arguments."""
    code = (
        "import sys\n"
        f"sys.argv = ['declip-pipe', *{arguments!r}]\n"
        "from stages.app import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('MODULES', *sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    label, *modules = run.stdout.splitlines()[-1].split()
    assert label == "MODULES"
    return set(modules)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_nothing_heavy_is_imported_for_help(name):
    assert not imported_by(*name.split(), "--help") & set(HEAVY)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["cache", "--help"]])
def test_no_command_is_imported_for_the_list_of_commands(arguments):
    modules = imported_by(*arguments)
    assert {name for name in modules if name.startswith("stages.")} == {
        "stages.app",
        "stages.signals",
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_list_of_commands_has_the_first_sentence_of_each_help(name):
    listed = app
    for part in name.split():
        listed = listed.commands[part]
    assert listed.help == " ".join(command_of(name).help.split("\n\n")[0].split())


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_explained(name):
    command = command_of(name)
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name} has no help"


@pytest.mark.parametrize("name", NAMES)
def test_no_name_is_cut_on_a_narrow_terminal(name, program, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    outcome = program(*name.split(), "--help")
    assert outcome.code == 0
    assert "…" not in outcome.out and max(map(len, outcome.out.splitlines())) <= 80
    words = {word.strip(",") for word in outcome.out.split()}
    for parameter in command_of(name).params:
        if parameter.param_type_name == "option":
            assert {*parameter.opts, *parameter.secondary_opts} <= words


def test_the_help_lists_panels_choices_and_ranges(program, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    page = program("train", "--help").out
    titles = [line.split()[1] for line in page.splitlines() if line.startswith("╭─")]
    assert titles == ["Arguments", "Options", "Data", "Decoder", "Training", "Machine", "Output"]
    for text in ("auto|cpu|cuda", "mean|max|learned", "INTEGER>=1", "[default: auto]"):
        assert text in page
    first = page[page.index("─ Options") : page.index("─ Data")]
    assert [line.split()[1].strip(",") for line in first.splitlines() if line[:4] == "│ --"] == [
        "--feature-layer",
        "--decoder-type",
        "--train-on",
        "--help",
    ]
