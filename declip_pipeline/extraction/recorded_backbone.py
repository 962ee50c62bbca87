"""The backbone that a store's features are of, opened again and seen to be the same."""

from collections.abc import Sequence

from declip_pipeline.backbones.contract import Backbone
from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.errors import IdentityMismatchError
from declip_pipeline.store.header import StoreHeader


def open_recorded_backbone(
    header: StoreHeader,
    location: str,
    *,
    arch: str,
    weights: Sequence[str],
    device: str,
    remedy: str = "name the weights that made it with --weights",
) -> Backbone:
    """Open `arch` with `weights`, as `open_backbone` does, for the store at `location`.

    `remedy` is what the user can do when it is another one.
    Raises `IdentityMismatchError` when it is not the one that the store's identity names.
    """
    identity = header.identity
    backbone = open_backbone(arch, weights=weights, device=device).in_precision(identity.precision)
    for field, expected, opened in (
        ("backbone", identity.backbone, backbone.name),
        ("weights_sha256", identity.weights_sha256, backbone.weights_sha256),
        ("preprocessing", identity.preprocessing, backbone.preprocessing.to_json()),
        ("precision", identity.precision, backbone.precision),
    ):
        if opened != expected:
            raise IdentityMismatchError(
                f"{field} differs: {location} was made with {expected!r}, {arch} opened here has "
                f"{opened!r}; {remedy}"
            )
    return backbone
