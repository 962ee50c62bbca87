"""Help page of a command: its options in panels, no name cut, every accepted value listed."""

import inspect
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

from stages.options import DATA, DECODER, MACHINE, OUTPUT, TRAINING

TITLES = ("Arguments", "Options", DATA, DECODER, TRAINING, MACHINE, OUTPUT)
# Columns that names and values of options take, of the 80 of a narrow terminal.
NAMES_WIDTH = 27
_TYPE_NAMES = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}


class DocumentedCommand(TyperCommand):
    """Command that prints this module's help page."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print usage, the command's description, and a panel for each kind of option."""
        console = Console(highlight=False)
        console.print(Padding(self.get_usage(ctx), (1, 1)))
        console.print(Padding(_prose(self.help or ""), (0, 1, 1, 1)))
        kinds = _kinds(self.callback)
        panels: dict[str, list[Any]] = {title: [] for title in TITLES}
        for parameter in self.get_params(ctx):
            if getattr(parameter, "hidden", False):
                continue
            is_argument = parameter.param_type_name == "argument"
            title = "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None)
            panels.setdefault(title or "Options", []).append(parameter)
        for title, parameters in panels.items():
            if parameters:
                rows = Table.grid(padding=(0, 2, 0, 0), expand=True)
                rows.add_column(width=NAMES_WIDTH, overflow="fold")
                rows.add_column(ratio=1, overflow="fold")
                for parameter in parameters:
                    kind, info = kinds.get(parameter.name, (bool, None))
                    value = _value_text(parameter, kind, info)
                    rows.add_row(_names(parameter, value), _explanation(parameter))
                console.print(Panel(rows, title=title, title_align="left", border_style="dim"))


def _kinds(function: Any) -> dict[str, tuple[Any, Any]]:
    """Return the declared type of each parameter of a command, and its `typer.Option`."""
    signature = inspect.signature(function, eval_str=True)
    return {
        name: (get_args(one.annotation)[0], get_args(one.annotation)[1])
        for name, one in signature.parameters.items()
        if len(get_args(one.annotation)) == 2
    }


def _value_text(parameter: Any, kind: Any, info: Any) -> str:
    """Return the value to type for a parameter: its choices, its range or its type's name."""
    if getattr(parameter, "metavar", None):
        return str(parameter.metavar)
    while get_origin(kind) is not Literal and (inner := get_args(kind)):
        kind = inner[0]  # of a list its items', of what may be None the other
    if kind is bool:
        return ""
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    name = _TYPE_NAMES.get(kind, "VALUE")
    least, most = getattr(info, "min", None), getattr(info, "max", None)
    if most is not None:
        return f"{name} {least:g}..{most:g}"
    return name if least is None else f"{name}>={least:g}"


def _names(parameter: Any, value: str) -> Text:
    """Names and value of a parameter, on as few lines as have room for them."""
    if parameter.param_type_name == "argument":
        return Text(value or parameter.name.upper(), style="bold cyan")
    lines = [""]
    # Long names first: they are what is looked for.
    names = sorted([*parameter.opts, *parameter.secondary_opts], key=lambda name: name[:2] != "--")
    words = [*(f"{name}, " for name in names[:-1]), names[-1] + " "]
    words += re.findall(r"[^|]+\|?", value)
    for word in words:
        if len((lines[-1] + word).rstrip()) > NAMES_WIDTH - 1 and lines[-1]:
            lines.append("  ")
        lines[-1] += word
    text = Text("\n".join(line.rstrip() for line in lines))
    text.highlight_regex(r"--?[a-zA-Z][a-z-]*", style="bold cyan")
    return text


def _explanation(parameter: Any) -> Text:
    text = _prose(getattr(parameter, "help", None) or "")
    default = getattr(parameter, "default", None)
    if parameter.required:
        text.append(" [required]", style="red")
    elif default is not None and not isinstance(default, bool | list) and not callable(default):
        text.append(f" [default: {default}]", style="dim")
    return text


def _prose(text: str) -> Text:
    """Paragraphs without their line breaks; what is in backquotes is bold."""
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    found = Text()
    for number, piece in enumerate("\n\n".join(paragraphs).split("`")):
        found.append(piece, style="bold" if number % 2 else "")
    return found
