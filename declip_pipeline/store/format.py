"""The store's format: names, version, arrays, and their Zarr metadata (cache/README.md)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from declip_pipeline.datasets.samples import Samples
from declip_pipeline.features import SCALE_DTYPE, FeatureShape, feature_dtype

FORMAT_VERSION = 4
ATTRIBUTES = "declip_pipe"
GROUP = "zarr.json"
MANIFEST = "manifest.parquet"
FORMER_MANIFEST = "manifest.json"
"""Manifest of format versions 1 and 2, which are listed and removed, not read."""
COMPLETE = "complete.json"
LEDGER = "ledger/"
LABELS, SIZES = "labels", "sizes"

ROWS_PER_SHARD = 64
TARGET_SIZE = 256
THUMBNAIL_SIZE = 128
# Native masks are mostly one value: zstd takes them to a few hundred bytes, and tiles keep a
# small mask cheap to read beside a large one.
MASK_TILE = 512
ZSTD_LEVEL = 3


@dataclass(frozen=True)
class RowArray:
    """An array with one row a sample: `row_shape` is cut into tiles of `tile`, each a chunk."""

    name: str
    dtype: str
    row_shape: tuple[int, ...]
    tile: tuple[int, ...]
    is_compressed: bool

    @property
    def is_of_layer(self) -> bool:
        """Return whether it holds features or their scales; else it comes from the files."""
        return self.name.startswith(("layers/", "scales/"))

    @property
    def tiles(self) -> tuple[int, ...]:
        """Number of tiles of a row along each axis."""
        return tuple(-(-side // step) for side, step in zip(self.row_shape, self.tile, strict=True))

    @property
    def tiles_per_row(self) -> int:
        """Number of chunks of a row."""
        return int(np.prod(self.tiles))

    @property
    def tile_bytes(self) -> int:
        """Bytes of a tile before compression."""
        return int(np.prod(self.tile)) * np.dtype(self.dtype).itemsize

    def shard_key(self, shard: int) -> str:
        """Path of one of the array's shards within the store: shards lie along the rows alone."""
        return f"{self.name}/c.{shard}" + ".0" * len(self.row_shape)


def layer_key(layer: str) -> str:
    """Path of a layer's array within the store."""
    return f"layers/{layer}"


def scales_key(layer: str) -> str:
    """Path of the array of an int8 layer's scales within the store."""
    return f"scales/{layer}"


def ledger_key(shard: int) -> str:
    """Path of a shard's ledger entry within the store."""
    return f"{LEDGER}{shard:06d}.json"


def shard_count(rows: int, rows_per_shard: int) -> int:
    """Number of shards that hold `rows` rows."""
    return -(-rows // rows_per_shard)


def row_arrays(
    layers: Mapping[str, FeatureShape], dtype: str, samples: Samples
) -> dict[str, RowArray]:
    """Return every sharded array of a store, by name.

    The largest image, or tile, makes the shape of `masks`. Where no sample says what is fake,
    there are neither `masks` nor `targets`.
    """
    kind = feature_dtype(dtype)
    arrays = []
    for name, shape in layers.items():
        sides = shape.array_shape
        arrays.append(RowArray(layer_key(name), kind.stored, sides, sides, is_compressed=False))
        scales = kind.scale_shape(shape)
        if scales is not None:
            arrays.append(RowArray(scales_key(name), SCALE_DTYPE, scales, scales, False))
    image = (THUMBNAIL_SIZE, THUMBNAIL_SIZE, 3)
    arrays.append(RowArray("thumbnails", "uint8", image, image, is_compressed=True))
    if samples.have_masks:
        target = (TARGET_SIZE, TARGET_SIZE)
        arrays.append(RowArray("targets", "uint8", target, target, is_compressed=True))
        height, width = (int(side) for side in samples.row_sizes.max(axis=0, initial=1))
        tile = (min(height, MASK_TILE), min(width, MASK_TILE))
        arrays.append(RowArray("masks", "bool", (height, width), tile, is_compressed=True))
    return {array.name: array for array in arrays}


def metadata_blobs(
    attributes: Mapping[str, Any], arrays: Mapping[str, RowArray], samples: Samples
) -> dict[str, bytes]:
    """Return every file of an empty store but the manifest: Zarr metadata, labels and sizes.

    Made by zarr-python in memory, so that they can be put in place whole, whatever the storage.
    """
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec
    from zarr.storage import MemoryStore

    blobs: dict[str, Any] = {}
    # One folder an array: a file a shard, none of them in folders of its own.
    flat: Any = {"name": "default", "separator": "."}
    group = zarr.create_group(MemoryStore(blobs), attributes={ATTRIBUTES: dict(attributes)})
    for array in arrays.values():
        padded = tuple(np.multiply(array.tiles, array.tile).tolist())
        codecs: list[Any] = [ZstdCodec(level=ZSTD_LEVEL)] if array.is_compressed else []
        group.create_array(
            array.name,
            shape=(len(samples), *array.row_shape),
            dtype=array.dtype,
            chunks=(1, *array.tile),
            shards=(attributes["rows_per_shard"], *padded),
            compressors=[*codecs, Crc32cCodec()],
            chunk_key_encoding=flat,
            fill_value=0,
        )
    for name, values in ((LABELS, samples.labels), (SIZES, samples.row_sizes)):
        whole = group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=values.shape,
            compressors=[Crc32cCodec()],
            chunk_key_encoding=flat,
            config={"write_empty_chunks": True},
        )
        whole[...] = values
    return {key: buffer.to_bytes() for key, buffer in blobs.items()}
