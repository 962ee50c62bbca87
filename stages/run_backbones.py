"""Backbones that a user chose, and those of a run: how weights are recorded, and opened again."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from declip_pipeline.errors import DownloadError, WeightsError

if TYPE_CHECKING:
    from declip_pipeline.backbones.contract import Backbone


def recorded_weights(weights: list[str]) -> list[str]:
    """Weights as a later command finds them from any folder."""
    return [text if text.startswith("random:") else str(Path(text).absolute()) for text in weights]


def open_chosen_backbone(arch: str, weights: list[str] | None, device: str) -> "Backbone":
    """The backbone of `--arch`, where any other would do, too."""
    from declip_pipeline.backbones.registry import open_backbone

    try:
        return open_backbone(arch, weights=weights or (), device=device)
    except DownloadError as error:
        raise WeightsError(
            f"{error}, or take --arch efficientnet-lite0, whose weights are installed"
        ) from error


def open_backbones(
    parts: list[dict[str, Any]],
    inputs: list[dict[str, Any]],
    weights: list[str] | None,
    device: str,
) -> list["Backbone"]:
    """The backbone of each layer that a decoder joins, each opened once.

    `weights`, where given, are those of all backbones in order, one for each part of a fusion.
    """
    from declip_pipeline.backbones.registry import open_backbone

    left = list(weights or [])
    opened: dict[tuple[str, str], Backbone] = {}
    for part, made in zip(parts, inputs, strict=True):
        key = part["backbone"], part["weights_sha256"]
        if key in opened:
            continue
        several = len({(one["backbone"], one["weights_sha256"]) for one in parts}) > 1
        count = len(part["backbone"].split(",")) if several else len(left)
        used, left = left[:count], left[count:]
        opened[key] = open_backbone(
            part["backbone"], weights=used or _weights_of_run(made["provenance"]), device=device
        )
    return [opened[part["backbone"], part["weights_sha256"]] for part in parts]


def _weights_of_run(provenance: dict[str, Any]) -> list[str]:
    """The weights that a run's features were extracted with, none where they come by name."""
    recorded = [str(text) for text in provenance.get("weights", [])]
    for text in recorded:
        if not text.startswith("random:") and not Path(text).is_file():
            raise WeightsError(
                f"the run was trained with {text}, which is not there; pass --weights"
            )
    return recorded
