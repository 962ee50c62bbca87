"""A store of a few rows that a test writes itself, without images and without a backbone."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from declip_pipeline.datasets.sample import Sample
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.features import FeatureShape
from declip_pipeline.store import format as fmt
from declip_pipeline.store.identity import StoreIdentity, manifest_sha256
from declip_pipeline.store.records import ShardFile
from declip_pipeline.store.storage import storage_at
from declip_pipeline.store.writer import StoredShard, StoreWriter

ROWS, ROWS_PER_SHARD = 3, 2
LAYER = {"layer0": FeatureShape(4, 2, 2, 1)}
SAMPLES = Samples.from_rows(
    Sample(
        id=f"image{number}",
        image=f"images/image{number}.png",
        mask=f"masks/image{number}.png",
        split="train",
        generator="lama",
        label=1,
        source="made",
        height=16,
        width=16,
        image_sha256=f"{number:064x}",
        mask_sha256=f"{number + 1000:064x}",
    )
    for number in range(ROWS)
)
IDENTITY = StoreIdentity(
    backbone="test",
    weights_sha256="0" * 64,
    preprocessing={"height": 8},
    view="clean",
    layers=tuple(LAYER),
    dtype="float16",
    manifest_sha256=manifest_sha256(True, SAMPLES),
    format_version=fmt.FORMAT_VERSION,
)
ARRAYS = fmt.row_arrays(LAYER, "float16", SAMPLES)
# What each array holds of each sample.
VALUES: Mapping[str, Mapping[str, np.ndarray]] = {
    name: {
        sample.id: np.full(array.row_shape, number + 1, array.dtype)
        for number, sample in enumerate(SAMPLES)
    }
    for name, array in ARRAYS.items()
}


def begin_store(
    path: Path, samples: Samples = SAMPLES, layers: Mapping[str, FeatureShape] = LAYER
) -> StoreWriter:
    """A writer for the store at `path`; a new store has the samples in the given order."""
    return StoreWriter(
        str(path),
        identity=IDENTITY,
        layers=layers,
        dataset="made",
        provenance={},
        samples=samples,
        fake_is_white=True,
    )


def write_pending(store: StoreWriter, earlier: Path | None = None, more: int = 0) -> None:
    """Write what is pending of a store, and finish it.

    `earlier`, a store in the same order, gives the layer's files. `more` is added to all values.
    """
    for shard in store.pending_shards():
        rows = store.shard_rows(shard)
        stored = {} if earlier is None else {"layers/layer0": _stored_shard(earlier, shard)}
        arrays = {
            name: [of_sample[store.samples[row].id] + np.asarray(more) for row in rows]
            for name, of_sample in VALUES.items()
            if name not in stored
        }
        arrays = {n: [v.astype(ARRAYS[n].dtype) for v in rows] for n, rows in arrays.items()}
        store.write_shard(shard, rows, arrays, {}, stored)
    store.finish()


def _stored_shard(earlier: Path, shard: int) -> StoredShard:
    key = ARRAYS["layers/layer0"].shard_key(shard)
    entry = json.loads((earlier / fmt.ledger_key(shard)).read_bytes())
    return StoredShard(storage_at(earlier), key, ShardFile(**entry["files"][key]))


def require_no_store(refusal: Exception) -> None:
    """A reader's refusal says that there is no store, or not all of one, and nothing worse."""
    reasons = ("is incomplete", "is not a feature store", "does not exist")
    assert any(reason in str(refusal) for reason in reasons), refusal


def files_of(path: Path) -> dict[str, bytes]:
    """All files below a folder, by their paths within it."""
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file()
    }
