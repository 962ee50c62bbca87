"""Reading and writing of published checkpoint files, without running pickled code."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from declip_pipeline.backbones.weights_file import read_content, without_prefixes
from declip_pipeline.errors import InputError
from declip_pipeline.files import write_bytes

EXPECTED = (
    "expected a DeCLIP checkpoint (.pth): a dict of model, optimizer, total_steps, feature_layer "
    "and decoder_type"
)
# Prefixes in `model`: the CLIP model that was trained on, and its image network.
_BACKBONE, _VISUAL = "model.", "model.visual."


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
    content = read_content(path, str(path), expected=EXPECTED, error=InputError)
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
    model = without_prefixes(model)
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
