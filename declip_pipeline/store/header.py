"""Header of a store: read first, whether the store is complete or not."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from declip_pipeline.datasets.samples import Samples
from declip_pipeline.errors import InputError, StoreError
from declip_pipeline.features import FeatureShape
from declip_pipeline.store import format as fmt
from declip_pipeline.store.identity import StoreIdentity
from declip_pipeline.store.storage import URL_MARK


@dataclass(frozen=True)
class StoreHeader:
    """The attributes of a store's group.

    `layers` maps names to shapes, in order of depth; `fake_is_white` says which colour of the
    masks' files marks fake pixels; `provenance` says where all came from;
    `rows` is how many samples there are.
    """

    identity: StoreIdentity
    layers: dict[str, FeatureShape]
    dataset: str
    fake_is_white: bool
    provenance: dict[str, Any]
    rows: int
    rows_per_shard: int

    @property
    def shards(self) -> int:
        """Number of shards that hold the rows."""
        return fmt.shard_count(self.rows, self.rows_per_shard)

    def shard_rows(self, shard: int) -> range:
        """The rows of a shard."""
        first = shard * self.rows_per_shard
        return range(first, min(first + self.rows_per_shard, self.rows))

    def to_json(self) -> dict[str, Any]:
        """The attributes as plain JSON values."""
        return {
            "format_version": fmt.FORMAT_VERSION,
            "identity": self.identity.to_json(),
            "identity_sha256": self.identity.sha256,
            "layers": {name: shape.to_json() for name, shape in self.layers.items()},
            "dataset": self.dataset,
            "fake_is_white": self.fake_is_white,
            "provenance": self.provenance,
            "rows": self.rows,
            "rows_per_shard": self.rows_per_shard,
        }


def parse_header(group: bytes | None, location: str) -> StoreHeader:
    """The header out of the bytes of a store's `zarr.json`, None where there is none.

    Raises `StoreError` for what is not a store, of another format version, or was edited.
    """
    if group is None and URL_MARK not in location and not Path(location).is_dir():
        what = "is a file" if Path(location).is_file() else "does not exist"
        raise StoreError(
            f"{location or 'an empty path'} {what} and is not a feature store; expected what "
            "`declip-pipe extract` printed"
        )
    version = format_version_of(group)
    if version is None:
        raise StoreError(
            f"{location} is not a feature store; expected what `declip-pipe extract` printed"
        )
    if version != fmt.FORMAT_VERSION:
        newer = isinstance(version, int) and version > fmt.FORMAT_VERSION
        remedy = "upgrade declip-pipe" if newer else "extract it again"
        raise StoreError(
            f"{location} has store format version {version}, this program reads "
            f"{fmt.FORMAT_VERSION}; {remedy}"
        )
    attributes = json.loads(group or b"")["attributes"][fmt.ATTRIBUTES]
    try:
        identity = StoreIdentity.from_json(attributes["identity"])
        header = StoreHeader(
            identity=identity,
            layers={
                name: FeatureShape.from_json(attributes["layers"][name]) for name in identity.layers
            },
            dataset=str(attributes["dataset"]),
            fake_is_white=bool(attributes["fake_is_white"]),
            provenance=dict(attributes["provenance"]),
            rows=int(attributes["rows"]),
            rows_per_shard=int(attributes["rows_per_shard"]),
        )
        edited = identity.sha256 != attributes["identity_sha256"]
        for name, shape in header.layers.items():
            if not all(isinstance(side, int) and 0 < side < 2**31 for side in shape.array_shape):
                raise ValueError(f"{name} has the shape {shape.to_json()}")
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{location}: its attributes are damaged ({error!r}); extract it again with "
            "`overwrite=True`"
        ) from error
    if edited:
        raise StoreError(
            f"{location}: its identity was edited (its SHA-256 differs); "
            "extract it again with `overwrite=True`"
        )
    return header


def format_version_of(group: bytes | None) -> Any:
    """Return the format version in the bytes of a `zarr.json`; None where it has none."""
    try:
        return json.loads(group or b"")["attributes"][fmt.ATTRIBUTES]["format_version"]
    except (ValueError, KeyError, TypeError):
        return None


def read_samples(content: bytes | None, location: str) -> Samples:
    """Return the samples in the bytes of a store's manifest, None where there is none.

    Raises:
        StoreError: When the manifest is absent or damaged.
    """
    remedy = f"run `declip-pipe cache verify {location} --repair`"
    if content is None:
        raise StoreError(f"{location} lacks its {fmt.MANIFEST}; {remedy}")
    try:
        return Samples.from_parquet(content)
    except InputError as error:
        raise StoreError(
            f"{location}: its {fmt.MANIFEST} is damaged ({error}); {remedy}"
        ) from error


def read_json(read: Callable[[str], bytes | None], key: str, location: str) -> Any:
    """The JSON at `key`; `read` gives its bytes. Raises `StoreError` when absent or damaged."""
    blob = read(key)
    if blob is None:
        raise StoreError(
            f"{location} lacks its {key}; run `declip-pipe cache verify {location} --repair`"
        )
    try:
        return json.loads(blob)
    except ValueError as error:
        raise StoreError(
            f"{location}: its {key} is damaged ({error}); "
            f"run `declip-pipe cache verify {location} --repair`"
        ) from error
