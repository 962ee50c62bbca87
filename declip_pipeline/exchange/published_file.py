"""Reading and writing of published checkpoint files, without running pickled code."""

import io
import pickle
import pickletools
import re
import textwrap
import warnings
import zipfile
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from declip_pipeline.errors import InputError
from declip_pipeline.files import write_bytes

EXPECTED = (
    "expected a DeCLIP checkpoint (.pth): a dict of model, optimizer, total_steps, feature_layer "
    "and decoder_type"
)
# Prefixes in `model`: the CLIP model that was trained on, and its image network.
_BACKBONE, _VISUAL = "model.", "model.visual."

# Files of torch before 1.6 hold this many pickles, followed by raw numbers.
MOST_PICKLES = 5
# Modules that `torch.save` refers to for tensors.
_OF_TENSORS = ("torch", "torch._utils", "torch._tensor", "collections")


@dataclass(frozen=True)
class PublishedCheckpoint:
    """Content of a published checkpoint; None for what the file does not say.

    Attributes:
        decoder: Tensors of the decoder by their published names, which are also ours.
        visual: Tensors of the backbone's image network by OpenAI's names; empty if there are none.
    """

    path: Path
    decoder: dict[str, Tensor]
    visual: dict[str, Tensor]
    feature_layer: str | None
    decoder_type: str | None
    total_steps: int | None


def read_published(path: Path) -> PublishedCheckpoint:
    """Read a published checkpoint onto the CPU; no pickled code is run.

    Raises `InputError` when the file is missing, would run code, or has another format.

    Source: the checkpoints of DeCLIP (Smeu et al., WACV 2025, arXiv 2409.08849).
    """
    content = _content(path)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        found = (
            f"a dict of {_some(content)}" if isinstance(content, dict) else type(content).__name__
        )
        raise InputError(f"{path} is no DeCLIP checkpoint: it holds {found}; {EXPECTED}")
    model: dict[Any, Any] = content["model"]
    for name, value in model.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InputError(
                f"{path}: {name!r} of its model is {type(value).__name__}, expected a tensor with "
                "a name; save the network's state_dict() as model"
            )
    decoder = {name: value for name, value in model.items() if not name.startswith(_BACKBONE)}
    if not any(name.startswith("fc.") for name in decoder):
        raise InputError(
            f"{path}: its model holds no decoder, no tensor is named fc.* (it has {_some(model)}); "
            f"{EXPECTED}"
        )
    visual = {
        name.removeprefix(_VISUAL): value
        for name, value in model.items()
        if name.startswith(_VISUAL)
    }
    if not visual and len(decoder) < len(model):
        other = [name for name in model if name.startswith(_BACKBONE)]
        raise InputError(
            f"{path}: the backbone in its model is no CLIP, it has {_some(other)}; expected "
            f"{_VISUAL}*, or no {_BACKBONE}* at all"
        )
    return PublishedCheckpoint(
        path,
        decoder,
        visual,
        _entry(content, "feature_layer", str, path),
        _entry(content, "decoder_type", str, path),
        _entry(content, "total_steps", int, path),
    )


def write_published(
    path: Path,
    decoder: Mapping[str, Tensor],
    *,
    feature_layer: str,
    decoder_type: str,
    total_steps: int,
) -> None:
    """Write a decoder's tensors as a published checkpoint, whole or not at all.

    The file has no backbone weights and an empty `optimizer`; prediction needs neither.
    """
    content = io.BytesIO()
    torch.save(
        {
            "model": {name: value.cpu().contiguous() for name, value in decoder.items()},
            "optimizer": {},
            "total_steps": total_steps,
            "feature_layer": feature_layer,
            "decoder_type": decoder_type,
        },
        content,
    )
    write_bytes(path, content.getvalue())


def _content(path: Path) -> Any:
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise InputError(f"{path}: {found}; {EXPECTED}")
    try:
        with warnings.catch_warnings():
            # Newer versions of torch warn about files of older ones.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception as error:  # the reader raises a dozen unrelated classes on damaged files
        asked = None
        if isinstance(error, pickle.UnpicklingError):
            named = re.search(r"GLOBAL (\S+)", str(error))
            # For other pickle protocols than torch's, the reader's error is about the protocol.
            asked = named[1] if named else _code_asked_for(path)
        if asked:
            raise InputError(
                f"{path} asks to run {asked} when it is loaded; refused, nothing of it was run; "
                "expected tensors and plain values alone"
            ) from error
        lines = (str(error).strip() or type(error).__name__).splitlines()
        # Torch's message begins with a remark on its own versions.
        first_line = next((line for line in lines if line.startswith("Unsupported")), lines[0])
        reason = textwrap.shorten(first_line, 120, placeholder=" ...")
        raise InputError(f"{path} cannot be read as a checkpoint ({reason}); {EXPECTED}") from error


def _entry(content: Mapping[Any, Any], key: str, kind: type, path: Path) -> Any:
    value = content.get(key)
    if value is not None and type(value) is not kind:
        raise InputError(
            f"{path}: its {key} is {type(value).__name__}, expected "
            f"{'text' if kind is str else 'a whole number'}; {EXPECTED}"
        )
    return value


def _some(names: Any) -> str:
    """Return the first five names for a message."""
    texts = [str(name) for name in names]
    return ", ".join(texts[:5]) + (", ..." if texts[5:] else "") if texts else "nothing"


def _code_asked_for(path: Path) -> str | None:
    """Return the first function or class, `module.name`, that a file's pickles would call.

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
    for _ in range(MOST_PICKLES):
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
