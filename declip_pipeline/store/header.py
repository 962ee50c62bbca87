"""Header of a store: read first, whether the store is complete or not."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from declip_pipeline.datasets.samples import PLACE, Samples
from declip_pipeline.datasets.tiles import require_sound_tiles
from declip_pipeline.errors import InputError, StoreError
from declip_pipeline.features import FEATURE_DTYPES, FeatureShape
from declip_pipeline.files import sha256_of_json
from declip_pipeline.images.tiles import Tiling
from declip_pipeline.store import format as fmt
from declip_pipeline.store.identity import StoreIdentity
from declip_pipeline.store.schema import DamagedRecordError, Fields, parse_json
from declip_pipeline.store.storage import URL_MARK

_MOST_ROWS = 2**40
MOST_ROWS_PER_SHARD = 2**16
# Of a layer of one image: 8 GB in float32.
_MOST_NUMBERS = 2**31
# What the numbers of a layer depend on, beside the image.
_FEATURE_FIELDS = ("backbone", "weights_sha256", "preprocessing", "view", "dtype", "precision")


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

    def shard_mark(self, array: fmt.RowArray, shard: int, samples: Samples) -> bytes:
        """The mark of an array's shard: SHA-256 of which images it holds what of, 32 bytes.

        The files of one array cannot be exchanged, nor those of two stores, without being seen:
        equal marks mean the same images and masks in the same order, and the same features of them.
        """
        rows = self.shard_rows(shard)
        columns = samples.table.slice(rows.start, len(rows))
        hashes = [columns.column(name).to_pylist() for name in ("image_sha256", "mask_sha256")]
        what: dict[str, Any] = {"fake_is_white": self.fake_is_white}
        if array.is_of_layer:
            identity = self.identity.to_json()
            what = {field: identity[field] for field in _FEATURE_FIELDS}
        content = [
            [None if one is None else one.hex() for one in row] for row in zip(*hashes, strict=True)
        ]
        if samples.are_tiles:
            places = zip(*(columns.column(name).to_pylist() for name in PLACE), strict=True)
            content = [[*row, *place] for row, place in zip(content, places, strict=True)]
        return bytes.fromhex(sha256_of_json({"array": array.name, "of": what, "rows": content}))

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


def parse_header(
    group: bytes | None, location: str, *, is_to_be_repaired: bool = False
) -> StoreHeader:
    """The header out of the bytes of a store's `zarr.json`, None where there is none.

    With `is_to_be_repaired`, the numbers of rows may be 0, which no store has. Raises `StoreError`
    for what is not a store, of another format version, or was edited.
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
    try:
        return _parsed(group or b"", 0 if is_to_be_repaired else 1)
    except DamagedRecordError as error:
        raise StoreError(
            f"{location}: its {fmt.GROUP} {error}; extract it again with `overwrite=True`"
        ) from error


def _parsed(group: bytes, fewest: int) -> StoreHeader:
    """The header, of this format version. Raises `DamagedRecordError`."""
    attributes = Fields(parse_json(group)).fields("attributes").fields(fmt.ATTRIBUTES)
    found = attributes.fields("identity")
    identity = StoreIdentity(
        backbone=found.text("backbone"),
        weights_sha256=found.text("weights_sha256"),
        preprocessing=found.mapping("preprocessing"),
        view=found.text("view"),
        layers=found.texts("layers"),
        dtype=found.text("dtype"),
        manifest_sha256=found.sha256("manifest_sha256"),
        format_version=found.integer("format_version", fmt.FORMAT_VERSION, fmt.FORMAT_VERSION),
        precision=found.text("precision"),
        tiles=_tiles(found),
    )
    if identity.sha256 != attributes.sha256("identity_sha256"):
        raise DamagedRecordError("was edited, the SHA-256 of its identity differs")
    if identity.dtype not in FEATURE_DTYPES:
        raise DamagedRecordError(f"is damaged (its dtype is {identity.dtype!r})")
    # A store may come from anyone, and these become paths within it and beside it.
    for name in (identity.view, *identity.layers):
        if not {"", ".", ".."}.isdisjoint(name.split("/")):
            raise DamagedRecordError(f"is damaged (the name {name!r} leads out of a store)")
    layers = attributes.fields("layers")
    return StoreHeader(
        identity=identity,
        layers={name: _shape(name, layers.fields(name)) for name in identity.layers},
        dataset=attributes.text("dataset"),
        fake_is_white=attributes.boolean("fake_is_white"),
        provenance=attributes.mapping("provenance"),
        rows=attributes.integer("rows", fewest, _MOST_ROWS),
        rows_per_shard=attributes.integer("rows_per_shard", fewest, MOST_ROWS_PER_SHARD),
    )


def _tiles(identity: Fields) -> str | None:
    if "tiles" not in identity:
        return None
    try:
        return str(Tiling.parse(identity.text("tiles")))
    except InputError as error:
        raise DamagedRecordError(f"is damaged ({error})") from error


def _shape(name: str, found: Fields) -> FeatureShape:
    prefix = found.any("prefix_tokens")
    channels, height, width = (
        found.integer(side, 1, _MOST_NUMBERS) for side in ("channels", "height", "width")
    )
    if prefix is not None:
        prefix = found.integer("prefix_tokens", 0, _MOST_NUMBERS)
    shape = FeatureShape(channels, height, width, prefix)
    if prod(shape.array_shape) > _MOST_NUMBERS:
        raise DamagedRecordError(f"is damaged ({name!r} has the shape {shape.to_json()})")
    return shape


def format_version_of(group: bytes | None) -> Any:
    """Return the format version in the bytes of a `zarr.json`; None where it has none."""
    try:
        attributes = Fields(parse_json(group or b"")).fields("attributes")
        return attributes.fields(fmt.ATTRIBUTES).any("format_version")
    except DamagedRecordError:
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
        samples = Samples.from_parquet(content)
        require_sound_tiles(samples)
        return samples
    except InputError as error:
        raise StoreError(
            f"{location}: its {fmt.MANIFEST} is damaged ({error}); {remedy}"
        ) from error
