"""Every command of the program by its full name."""

from stages.app import COMMANDS, GROUPS, app

NAMES = [
    *COMMANDS,
    *(f"{group} {name}" for group, (_, table) in GROUPS.items() for name in table),
]


def command_of(name: str):
    """A command by its full name."""
    command = app
    for part in name.split():
        command = command.commands[part]
    return command.command
