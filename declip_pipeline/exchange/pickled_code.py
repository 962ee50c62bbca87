"""What a pickle asks to be run, read off its opcodes; nothing of it is."""

import pickletools
import zipfile
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

# Files of torch before 1.6 are so many pickles in a row, and then raw numbers.
MOST_PICKLES = 5
# What tensors are made with, in `torch.save`'s own words.
_OF_TENSORS = ("torch", "torch._utils", "torch._tensor", "collections")


def code_asked_for(path: Path) -> str | None:
    """The first function or class that a `torch.save` or pickle file asks for besides tensors'.

    As module.name; None where there is none, or the file is no pickle.
    """
    # Damaged files make the reader of opcodes raise a dozen unrelated classes.
    with suppress(Exception):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for member in archive.namelist():
                    if member.endswith(".pkl"):
                        with archive.open(member) as file:
                            if (found := _first(file)) is not None:
                                return found
        else:
            with path.open("rb") as file:
                return _first(file)
    return None


def _first(file: IO[bytes]) -> str | None:
    for _ in range(MOST_PICKLES):
        for module, name in _globals(file):
            if module not in _OF_TENSORS:
                return f"{module}.{name}"
    return None


def _globals(file: IO[bytes]) -> Iterator[tuple[str, str]]:
    """Module and name of all that one pickle looks up.

    From protocol 4 on these are the two texts on top of the stack, which may come out of the memo.
    """
    texts: deque[str] = deque(maxlen=2)
    memo: dict[int, str] = {}
    top = ""
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("GLOBAL", "INST"):
            module, _, name = str(argument).partition(" ")
            yield module, name
        elif opcode.name == "STACK_GLOBAL":
            module, name = texts
            yield module, name
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = top
        elif opcode.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[int(str(argument))] = top
        else:
            is_get = opcode.name in ("GET", "BINGET", "LONG_BINGET")
            value = memo[int(str(argument))] if is_get else argument
            top = value if isinstance(value, str) else ""
            if isinstance(value, str):
                texts.append(value)
