"""Tensors out of a weights file, whichever of the usual containers it is."""

import textwrap
import warnings
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from declip_pipeline.errors import WeightsError

EXPECTED = (
    "expected an OpenAI CLIP .pt (TorchScript archive or state dict), "
    "an open_clip .safetensors or .bin, or a timm state dict"
)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a weights file by name, on the CPU, in the file's own types.

    The container is told by content, not by suffix: safetensors, TorchScript archive, or a state
    dict of `torch.save`. No pickled code is run. A dict under "state_dict" is unwrapped, and the
    prefix "module." of data-parallel training dropped.
    Raises `WeightsError` when the file is missing, empty, or none of these.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise WeightsError(f"weights {path}: {found}; {EXPECTED}")
    if path.stat().st_size == 0:
        raise WeightsError(f"weights {path}: the file is empty; {EXPECTED}")
    try:
        content = _content(path)
    except Exception as error:  # the readers raise a dozen unrelated classes on damaged files
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        reason = textwrap.shorten(first_line, 120, placeholder=" ...")
        raise WeightsError(
            f"weights {path}: not a weights file, or damaged ({reason}); {EXPECTED}"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    tensors = {
        str(name).removeprefix("module."): value
        for name, value in (content.items() if isinstance(content, dict) else ())
        if isinstance(value, Tensor)
    }
    if not tensors:
        raise WeightsError(f"weights {path}: holds no named tensors; {EXPECTED}")
    return tensors


def _content(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{":  # safetensors: 8 bytes of length, then a JSON header
        return safetensors.torch.load_file(path)
    if _is_torchscript(path):
        with warnings.catch_warnings():
            # OpenAI's own files are TorchScript, which newer torch calls deprecated.
            warnings.simplefilter("ignore")
            archive: Any = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
            return dict(archive.state_dict())
    return torch.load(path, map_location="cpu", weights_only=True)


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
