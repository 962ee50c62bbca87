"""The store's format: names, version, and the Zarr metadata of every array (cache/README.md)."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from declip_pipeline.feature_shape import FeatureShape

FORMAT_VERSION = 1
ATTRIBUTES = "declip_pipe"
GROUP = "zarr.json"
MANIFEST = "manifest.json"
COMPLETE = "complete.json"

ROWS_PER_SHARD = 64
DTYPES = ("float16", "float32")
TARGET_SIZE = 256
THUMBNAIL_SIZE = 128
# Native masks are mostly one value: zstd takes them to a few hundred bytes, and tiles keep a
# small mask cheap to read beside a large one.
MASK_TILE = 512


def layer_key(layer: str) -> str:
    """Path of a layer's array within the store."""
    return f"layers/{layer}"


def ledger_key(shard: int) -> str:
    """Path of a shard's ledger entry within the store."""
    return f"ledger/{shard:06d}.json"


def shard_key(array: str, shard: int, dimensions: int) -> str:
    """Path of one shard of an array: sharding goes along the rows alone."""
    return f"{array}/c/{shard}" + "/0" * (dimensions - 1)


def shard_count(rows: int) -> int:
    """How many shards hold `rows` rows."""
    return -(-rows // ROWS_PER_SHARD)


def metadata_blobs(
    attributes: Mapping[str, Any],
    layers: Mapping[str, FeatureShape],
    dtype: str,
    labels: np.ndarray,
    sizes: np.ndarray,
) -> dict[str, bytes]:
    """Every file of an empty store but the manifest: Zarr metadata, labels and sizes.

    Made by zarr-python in memory, so that they can be put in place whole, whatever the storage.
    `labels` is (N,) int8, `sizes` is (N, 2) int32 (height, width) of each picture, in pixels.
    """
    blobs: dict[str, Any] = {}
    group = zarr.create_group(MemoryStore(blobs), attributes={ATTRIBUTES: dict(attributes)})
    rows = len(labels)

    def rowwise(
        name: str, shape: tuple[int, ...], kind: str, tile: tuple[int, ...], codecs: list[Any]
    ) -> None:
        padded = tuple(-(-side // step) * step for side, step in zip(shape, tile, strict=True))
        group.create_array(
            name,
            shape=(rows, *shape),
            dtype=kind,
            chunks=(1, *tile),
            shards=(ROWS_PER_SHARD, *padded),
            compressors=codecs,
            fill_value=0,
        )

    for name, layer in layers.items():
        rowwise(layer_key(name), layer.array_shape, dtype, layer.array_shape, [Crc32cCodec()])
    compressed = [ZstdCodec(level=3), Crc32cCodec()]
    target = (TARGET_SIZE, TARGET_SIZE)
    rowwise("targets", target, "uint8", target, compressed)
    picture = (THUMBNAIL_SIZE, THUMBNAIL_SIZE, 3)
    rowwise("thumbnails", picture, "uint8", picture, compressed)
    height, width = (int(side) for side in sizes.max(axis=0, initial=1))
    tile = (min(height, MASK_TILE), min(width, MASK_TILE))
    rowwise("masks", (height, width), "bool", tile, compressed)
    for name, values in (("labels", labels), ("sizes", sizes)):
        array = group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            compressors=[Crc32cCodec()],
            config={"write_empty_chunks": True},
        )
        array[...] = values

    return {key: buffer.to_bytes() for key, buffer in blobs.items()}


def tensorstore_metadata(blob: bytes) -> dict[str, Any]:
    """The part of an array's zarr.json that TensorStore takes to open it elsewhere."""
    metadata = json.loads(blob)
    fields = ("shape", "data_type", "chunk_grid", "chunk_key_encoding", "codecs", "fill_value")
    return {name: metadata[name] for name in fields}
