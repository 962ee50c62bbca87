"""Identity of stores and features, and the refusal to mix different ones."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from declip_pipeline.datasets.samples import Samples
from declip_pipeline.datasets.tiles import whole_images
from declip_pipeline.errors import IdentityMismatchError
from declip_pipeline.features import FeatureShape
from declip_pipeline.files import folder_name, sha256_of_json
from declip_pipeline.store.storage import join_location


@dataclass(frozen=True)
class StoreIdentity:
    """Content of a store, however it was made; its SHA-256 names the store.

    `preprocessing` is the backbone's resize and normalisation as plain JSON, `layers` are in order
    of depth, `manifest_sha256` is that of `manifest_sha256()`, `precision` the forward
    pass's, `tiles` the text of the `Tiling` whose windows the rows are, None for whole images.
    """

    backbone: str
    weights_sha256: str
    preprocessing: dict[str, Any]
    view: str
    layers: tuple[str, ...]
    dtype: str
    manifest_sha256: str
    format_version: int
    precision: str = "float32"
    tiles: str | None = None

    @property
    def sha256(self) -> str:
        """The identity as 64 hex digits."""
        return sha256_of_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The identity as plain JSON values."""
        value = asdict(self) | {"layers": list(self.layers)}
        if self.tiles is None:
            del value["tiles"]
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "StoreIdentity":
        """The inverse of `to_json`."""
        return cls(**(value | {"layers": tuple(value["layers"])}))


def feature_identity(
    backbone: str,
    weights_sha256: str,
    preprocessing: dict[str, Any],
    layer: str,
    shape: FeatureShape,
    *,
    tiles: int | None = None,
) -> dict[str, Any]:
    """Return what features must share with those that a decoder was trained on.

    `tiles` is the side of the windows at native resolution, None for whole images.
    The dataset is not part of it (a decoder is meant for other images), nor is the view (the
    robustness protocol changes it), nor the dtype (it rounds the same numbers), nor the overlap of
    tiles.
    """
    identity: dict[str, Any] = {
        "backbone": backbone,
        "weights_sha256": weights_sha256,
        "preprocessing": preprocessing,
        "layer": layer,
        "shape": shape.to_json(),
    }
    return identity if tiles is None else identity | {"tiles": tiles}


def joined_identity(parts: Sequence[Mapping[str, Any]], fusion: str) -> dict[str, Any]:
    """The identity of features of several layers that a decoder joins; of one, its own."""
    if len(parts) == 1:
        return dict(parts[0])
    return {"fusion": fusion, "parts": [dict(part) for part in parts]}


def parts_of(features: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The identities of the layers that were joined, or of the only one."""
    parts: list[dict[str, Any]] = features.get("parts", [dict(features)])
    return parts


def require_same_features(
    trained_on: Mapping[str, Any], found: Mapping[str, Any], *, decoder: str, features: str
) -> None:
    """Refuse features that a decoder was not trained on.

    `decoder` and `features` name the two sides in the message. Raises `IdentityMismatchError`
    naming the first field that differs, with both values.
    """
    # Tiles say more than the input's size, which follows from them.
    for field in dict.fromkeys(("backbone", "tiles", *trained_on, *found)):
        expected, other = trained_on.get(field), found.get(field)
        if other == expected:
            continue
        if isinstance(expected, Mapping) and isinstance(other, Mapping):
            both = {**expected, **other}
            names = [name for name in both if expected.get(name) != other.get(name)]
            expected, other = ({name: one.get(name) for name in names} for one in (expected, other))
        raise IdentityMismatchError(
            f"{field} differs: {decoder} was trained on {_shown(field, expected)}, {features} has "
            f"{_shown(field, other)}; use features extracted as the decoder's were"
        )


def _shown(field: str, value: Any) -> str:
    if field == "tiles":
        return "whole images" if value is None else f"tiles of {value} pixels"
    return repr(value)


def manifest_sha256(fake_is_white: bool, samples: Samples) -> str:
    """Fingerprint of polarity, images and their files' content, 64 hex digits.

    The order of the samples is not part of it: a store that grew has its rows in another order
    than one made at once. Of tiles, it is that of their images.
    """
    images, _ = whole_images(samples)
    ordered = images.take(images.by_id())
    return sha256_of_json({"fake_is_white": fake_is_white, "samples_sha256": ordered.sha256()})


def store_location(root: str | Path, dataset: str, identity: StoreIdentity) -> str:
    """Return the location of a store under a cache root: dataset, backbone, then its identity."""
    backbone = folder_name(identity.backbone)
    return join_location(root, folder_name(dataset), backbone, store_folder(identity))


def store_folder(identity: StoreIdentity) -> str:
    """The name of a store's own folder."""
    return f"{identity.view}-{identity.dtype}-{identity.sha256[:16]}"
