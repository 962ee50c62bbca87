"""The program's commands, called by one of its own with options by name."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from declip_pipeline.errors import InputError, UnknownNameError
from stages.screen import remark


class OwnCommand:
    """A command of the program with its arguments, as if it were typed.

    `options` are named as the command's own, without dashes: `{"batch_size": 64}`. A value is a
    number, a text, a list (its items joined by commas; of an option that may be given again, each
    item once) or, of an option without a value, true or false. `where` is named by errors.

    Raises `UnknownNameError` for an option that the command does not have, `InputError` for a value
    that it does not take.
    """

    def __init__(
        self,
        context: typer.Context,
        name: str,
        arguments: Sequence[str],
        options: Mapping[str, Any],
        where: str,
    ) -> None:
        self._root = context.find_root()
        self._name = name
        self._command: Any = getattr(self._root.command, "commands")[name].command  # noqa: B009
        self._typed = [*map(str, arguments), *self._flags(options, where)]
        try:
            self._parsed()
        except Exception as error:
            if not hasattr(error, "format_message"):
                raise
            text = " ".join(error.format_message().split()).rstrip(".")
            raise InputError(f"{where}: {text}") from error

    def __str__(self) -> str:
        return shlex.join(["declip-pipe", self._name, *self._typed])

    def run(self) -> Any:
        """Say the command, carry it out, and return what it returns. Raises what it raises."""
        remark(f"$ {self}")
        with self._parsed() as context:
            return self._command.invoke(context)

    def _parsed(self) -> Any:
        return self._command.make_context(self._name, [*self._typed], parent=self._root)

    def _flags(self, options: Mapping[str, Any], where: str) -> list[str]:
        known = {
            flag.lstrip("-").replace("-", "_"): (flag, option)
            for option in self._command.params
            if option.param_type_name == "option"
            for flag in option.opts
            if flag.startswith("--")
        }
        flags: list[str] = []
        for key, value in options.items():
            if key not in known:
                raise UnknownNameError(f"option in {where}", key, known)
            flag, option = known[key]
            if option.is_flag:
                if not isinstance(value, bool):
                    raise InputError(f"{where}: {key}: found {value!r}; expected true or false")
                flags += [flag] if value else []
            elif option.multiple:
                items = value if isinstance(value, list) else [value]
                flags += [part for item in items for part in (flag, _text(item))]
            else:
                flags += [flag, _text(value)]
        return flags


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
