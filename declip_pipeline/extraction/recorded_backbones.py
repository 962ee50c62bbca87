"""Backbones of stores and runs, opened again from what these record."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.compute import choose_device
from declip_pipeline.errors import IdentityMismatchError, WeightsError
from declip_pipeline.store.header import StoreHeader


def open_store_backbone(
    header: StoreHeader,
    location: str,
    *,
    arch: str | Backbone,
    weights: Sequence[str],
    device: str,
    remedy: str = "name the weights that made it with `weights`",
) -> Backbone:
    """Open the backbone that made the store at `location`, in the store's precision.

    `arch`, `weights` and `device` are those of `open_backbone`; `remedy` ends the message when they
    give another backbone.
    Raises `IdentityMismatchError` naming the field that differs from the store's identity.
    """
    identity = header.identity
    backbone = open_backbone(
        arch, weights=weights, image_size=size_of(identity.preprocessing), device=device
    ).in_precision(identity.precision)
    for field, expected, opened in (
        ("backbone", identity.backbone, backbone.name),
        ("weights_sha256", identity.weights_sha256, backbone.weights_sha256),
        ("preprocessing", identity.preprocessing, backbone.preprocessing.to_json()),
        ("precision", identity.precision, backbone.precision),
    ):
        if opened != expected:
            named = arch if isinstance(arch, str) else arch.name
            raise IdentityMismatchError(
                f"{field} differs: {location} was made with {expected!r}, {named} opened here has "
                f"{opened!r}; {remedy}"
            )
    return backbone


def open_run_backbones(
    parts: Sequence[Mapping[str, Any]],
    inputs: Sequence[Mapping[str, Any]],
    *,
    weights: Sequence[str] = (),
    device: str = "auto",
    backbones: Sequence[Backbone] = (),
) -> list[Backbone]:
    """Open the backbone of each layer that a run's decoder takes, each backbone once.

    Args:
        parts: Identities of the run's features (`store.identity.parts_of`), one for each layer.
        inputs: The run's `config()["inputs"]`, which record the weights; one for each layer.
        weights: Those of all backbones in order, one for each part of a fusion. Empty: the
            recorded ones.
        device: Device of all backbones, as for `open_backbone`.
        backbones: Opened ones, moved to `device` and used for the parts that have their names and
            sizes.

    Raises:
        WeightsError: A recorded file is missing; otherwise raises as `open_backbone` does.
    """
    given = {
        (backbone.name, size_of(backbone.preprocessing.to_json())): backbone
        for backbone in backbones
    }
    left = list(weights)
    several = len({_key(part) for part in parts}) > 1
    opened: dict[tuple[str, str, tuple[int, int]], Backbone] = {}
    for part, recorded in zip(parts, inputs, strict=True):
        name = str(part["backbone"])
        if _key(part) in opened:
            continue
        size = size_of(part["preprocessing"])
        if (name, size) in given:
            opened[_key(part)] = given[name, size].to(choose_device(device))
            continue
        count = len(name.split(",")) if several else len(left)
        used, left = left[:count], left[count:]
        opened[_key(part)] = open_backbone(
            name,
            weights=used or _recorded_weights(recorded["provenance"]),
            image_size=size,
            device=device,
        )
    return [opened[_key(part)] for part in parts]


def size_of(preprocessing: Mapping[str, Any]) -> tuple[int, int]:
    """Return height and width in pixels from a recorded preprocessing."""
    return int(preprocessing["height"]), int(preprocessing["width"])


def _key(part: Mapping[str, Any]) -> tuple[str, str, tuple[int, int]]:
    return str(part["backbone"]), str(part["weights_sha256"]), size_of(part["preprocessing"])


def _recorded_weights(provenance: Mapping[str, Any]) -> list[str]:
    """Return the weights that features were extracted with; none where the name implies them."""
    recorded = [str(text) for text in provenance.get("weights", [])]
    for text in recorded:
        if not text.startswith("random:") and not Path(text).is_file():
            raise WeightsError(
                f"the run was trained with {text}, which is not there; pass `weights`"
            )
    return recorded
