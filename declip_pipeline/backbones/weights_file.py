"""Files of weights and checkpoints: one reader, which runs no code of the file."""

import pickle
import pickletools
import re
import textwrap
import warnings
import zipfile
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from torch import Tensor

from declip_pipeline.backbones.torchscript_file import (
    CodeInFileError,
    is_torchscript,
    read_torchscript,
)
from declip_pipeline.errors import DeclipError, WeightsError

EXPECTED = (
    "expected an OpenAI CLIP .pt (TorchScript archive or state dict), "
    "an open_clip .safetensors or .bin, or a timm state dict"
)

PREFIXES = ("module.", "_orig_mod.", "clip.")
"""Prefixes that wrappers give all names: data-parallel training, torch.compile, a larger model."""

# Entries of a training's checkpoint that hold its tensors.
_WRAPPED = ("state_dict", "model_state_dict", "model")
# Files of torch before 1.6 hold this many pickles, followed by raw numbers.
_MOST_PICKLES = 5
# Modules that `torch.save` refers to for tensors.
_OF_TENSORS = ("torch", "torch._utils", "torch._tensor", "collections")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read every tensor of a weights file by name, on the CPU, in the file's own types.

    A dict under "state_dict", "model_state_dict" or "model" is unwrapped, and the prefixes that
    wrappers give all names are dropped. Raises `WeightsError` as `read_content` does, and for a
    file without named tensors.
    """
    content = read_content(path, f"weights {path}", expected=EXPECTED, error=WeightsError)
    if isinstance(content, dict):
        for entry in _WRAPPED:
            inner = content.get(entry)
            if isinstance(inner, dict) and any(isinstance(one, Tensor) for one in inner.values()):
                content = inner
                break
    named = content.items() if isinstance(content, dict) else ()
    tensors = {str(name): value for name, value in named if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"weights {path}: holds no named tensors; {EXPECTED}")
    return without_prefixes(tensors)


def without_prefixes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors without those of `PREFIXES` that all names begin with."""
    while True:
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), None)
        if prefix is None or not tensors:
            return dict(tensors)
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def read_content(
    path: Path, source: str, *, expected: str, error: type[DeclipError] = WeightsError
) -> Any:
    """Read what a file of torch or safetensors holds, onto the CPU; no code of the file is run.

    The content, not the suffix, decides the container: safetensors, TorchScript archive, or what
    `torch.save` wrote.

    Args:
        path: The file.
        source: The file, in messages.
        expected: What was expected, in messages.
        error: Class of the error.

    Raises:
        DeclipError: Of the class `error`, for a file that is missing, empty or damaged, or that
            asks to run code.
    """
    require_file(path, source, expected=expected, error=error)
    try:
        with path.open("rb") as file:
            start = file.read(9)
        if start[8:] == b"{":  # safetensors: 8 bytes of length, then a JSON header
            return safetensors.torch.load_file(path)
        if is_torchscript(path):
            return read_torchscript(path)
        with warnings.catch_warnings():
            # Newer versions of torch warn about files of older ones.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception as cause:  # the readers raise a dozen unrelated classes on damaged files
        code = _code_asked_for(path, cause)
        if code:
            raise error(
                f"{source} asks to run {code} when it is loaded; refused, nothing of it was run; "
                "expected tensors and plain values alone, such as its `state_dict()`"
            ) from cause
        raise error(
            f"{source}: not a weights file, or damaged ({_reason(cause)}); {expected}"
        ) from cause


def require_file(
    path: Path, source: str, *, expected: str, error: type[DeclipError] = WeightsError
) -> None:
    """Raise `error` for a file that is missing or empty; arguments as of `read_content`."""
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file" if not path.exists() else "no file"
        raise error(f"{source}: {found}; {expected}")
    if path.stat().st_size == 0:
        raise error(f"{source}: the file is empty; {expected}")


def _reason(error: Exception) -> str:
    """Return the first line of an error that says something, without what terminals act on."""
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", str(error)).strip() or type(error).__name__
    lines = ["".join(c if c.isprintable() else " " for c in line) for line in text.splitlines()]
    # Torch's message begins with a remark on its own versions.
    line = next((line for line in lines if line.startswith("Unsupported")), lines[0])
    return textwrap.shorten(line, 120, placeholder=" ...")


def _code_asked_for(path: Path, error: Exception) -> str | None:
    """Return the function or class, `module.name`, for which a file was refused; None if another
    reason was it.
    """
    if isinstance(error, CodeInFileError):
        return str(error)
    if not isinstance(error, pickle.UnpicklingError):
        return None
    named = re.search(r"GLOBAL (\S+)", str(error))
    # For other pickle protocols than torch's, the reader's error is about the protocol.
    return named[1] if named else _first_global(path)


def _first_global(path: Path) -> str | None:
    """Return the first function or class that a file's pickles would call.

    Those that tensors are made with do not count. None if there is none, or the file is no pickle.
    Only opcodes are read; nothing is run.
    """
    # On damaged files, the reader of opcodes raises a dozen unrelated classes.
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
    for _ in range(_MOST_PICKLES):
        for module, name in _globals(file):
            if module not in _OF_TENSORS:
                return f"{module}.{name}"
    return None


def _globals(file: IO[bytes]) -> Iterator[tuple[str, str]]:
    """Yield module and name of every global that one pickle looks up.

    From protocol 4 on, these are the two strings on top of the stack, possibly from the memo.
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
