"""Help is quick and complete: nothing heavy is imported for it, every option is explained."""

import subprocess
import sys

import click
import pytest
import typer

from stages.app import app

HEAVY = ("torch", "numpy", "zarr", "tensorstore", "open_clip", "timm", "PIL", "yaml")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["extract", "--help"]])
def test_nothing_heavy_is_imported_for_help(arguments):
    code = (
        "import sys\n"
        f"sys.argv = ['declip-pipe', *{arguments!r}]\n"
        "from stages.app import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "HEAVY []"


PROGRAM = typer.main.get_command(app)


def commands(group: click.Command = PROGRAM, name="") -> dict:
    """Every command by its full name, those of sub-commands included."""
    if not hasattr(group, "commands"):
        return {name: group}
    inner = (commands(command, f"{name} {key}") for key, command in group.commands.items())
    return {name: command for found in inner for name, command in found.items()}


@pytest.mark.parametrize("name", commands())
def test_every_option_is_explained(name):
    command = commands()[name]
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name} has no help"
