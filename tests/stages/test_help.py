"""Help is quick and complete: nothing heavy is imported for it, every option is explained."""

import subprocess
import sys

import pytest

from stages.app import CACHE_COMMANDS, COMMANDS, DATA_COMMANDS, app

HEAVY = ("torch", "numpy", "zarr", "tensorstore", "open_clip", "timm", "PIL", "yaml")
NAMES = [
    *COMMANDS,
    *(f"cache {name}" for name in CACHE_COMMANDS),
    *(f"data {name}" for name in DATA_COMMANDS),
]


def command_of(name: str):
    """A command by its full name."""
    command = app
    for part in name.split():
        command = command.commands[part]
    return command.command


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


@pytest.mark.parametrize("name", NAMES)
def test_nothing_heavy_is_imported_for_help(name):
    assert not imported_by(*name.split(), "--help") & set(HEAVY)


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
