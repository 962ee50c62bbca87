"""Tensors of a TorchScript archive, read out of the file without running the file's code.

`torch.jit.load` compiles and runs what the archive defines, such as a `__setstate__`. Here the
archive's pickle is read with a table of the few names that tensors and plain values are made of;
any other name is refused.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

_DTYPES = MappingProxyType(
    {
        f"{name}Storage": dtype
        for name, dtype in {
            "Half": torch.float16,
            "BFloat16": torch.bfloat16,
            "Float": torch.float32,
            "Double": torch.float64,
            "Bool": torch.bool,
            "Byte": torch.uint8,
            "Char": torch.int8,
            "Short": torch.int16,
            "Int": torch.int32,
            "Long": torch.int64,
        }.items()
    }
)
_TAGS = frozenset(
    f"torch.jit._pickle {name}"
    for name in (
        "build_boollist",
        "build_doublelist",
        "build_intlist",
        "build_tensorlist",
        "restore_type_tag",
    )
)


class CodeInFileError(Exception):
    """A file asks for a function or class that its tensors do not need; the message names it."""


def is_torchscript(path: Path) -> bool:
    """Return whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Return the parameters and buffers of an archive by the names of `state_dict()`, on the CPU.

    Raises:
        CodeInFileError: The archive's pickle asks for code.
        ValueError: Modules or storages are not as `torch.jit.save` writes them. Readers of ZIP
            archives and pickles raise further errors on damaged files.
    """
    with zipfile.ZipFile(path) as archive:
        member = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        with archive.open(member) as file:
            root = _Unpickler(file, archive, member.removesuffix("data.pkl")).load()
    tensors: dict[str, Tensor] = {}
    _collect(root, "", tensors, ())
    return tensors


class _Module:
    """Attributes of a module of the archive."""

    def __init__(self) -> None:
        self.attributes: dict[Any, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise CodeInFileError("a __setstate__ of its own")
        self.attributes = state


class _Unpickler(pickle.Unpickler):
    """Reader of an archive's pickle that knows tensors, modules and plain values alone."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self._archive = archive
        self._folder = folder
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".", maxsplit=1)[0] == "__torch__":
            return _Module
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        full = f"{module} {name}"
        if full in _TAGS:
            return _first
        known: Mapping[str, Callable[..., Any]] = {
            "torch._utils _rebuild_tensor_v2": _tensor,
            "collections OrderedDict": OrderedDict,
        }
        if full not in known:
            raise CodeInFileError(f"{module}.{name}")
        return known[full]

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _device, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise ValueError(f"unknown storage {kind!r}")
        if key not in self._storages:
            entry = self._archive.getinfo(f"{self._folder}data/{key}")
            # Torch writes storages as they are; a compressed one could fill any memory.
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"storage {key} is compressed")
            self._storages[key] = torch.frombuffer(
                bytearray(self._archive.read(entry)), dtype=torch.uint8
            )
        values = self._storages[key].view(dtype)
        if len(values) != count:
            raise ValueError(f"storage {key} holds {len(values)} numbers, not {count}")
        return values


def _tensor(
    storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any
) -> Tensor:
    numbers = [offset, *size, *stride]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("sizes of a tensor are no whole numbers")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    # Overlapping elements would make a large tensor of a small file.
    count = torch.Size(size).numel()
    if count > len(storage) or (count and last >= len(storage)):
        raise ValueError("a tensor is larger than its storage")
    return storage.as_strided(tuple(size), tuple(stride), offset)


def _first(value: Any, *_: Any) -> Any:
    return value


def _collect(
    module: Any, prefix: str, tensors: dict[str, Tensor], above: tuple[_Module, ...]
) -> None:
    if not isinstance(module, _Module) or module in above:
        raise ValueError("its modules are no tree")
    for name, value in module.attributes.items():
        if isinstance(value, Tensor):
            tensors[f"{prefix}{name}"] = value
        elif isinstance(value, _Module):
            _collect(value, f"{prefix}{name}.", tensors, (*above, module))
