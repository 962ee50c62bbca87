"""A store gives back what was written, refuses the rest, and finishes byte-identical."""

import json
from pathlib import Path

import numpy as np
import pytest
import zarr

from declip_pipeline.datasets.sample import Sample
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.errors import StorageFullError, StoreError, UnknownNameError
from declip_pipeline.features import FeatureShape
from declip_pipeline.store import format as fmt
from declip_pipeline.store.identity import StoreIdentity, manifest_sha256
from declip_pipeline.store.reader import Store
from declip_pipeline.store.writer import StoreWriter

LAYERS = {"layer0": FeatureShape(8, 3, 3, 1), "layer1": FeatureShape(4, 5, 5)}
ROWS = 150
FAILED = {3: "zero bytes", 149: "truncated"}


def identity(**changes):
    fields = {
        "backbone": "test",
        "weights_sha256": "0" * 64,
        "preprocessing": {"height": 8},
        "view": "clean",
        "layers": tuple(LAYERS),
        "dtype": "float16",
        "manifest_sha256": manifest_sha256(True, samples()),
        "format_version": fmt.FORMAT_VERSION,
    }
    return StoreIdentity(**(fields | changes))


def store_array(name):
    return fmt.row_arrays(LAYERS, "float16", samples())[name]


def samples(rows=ROWS):
    return Samples.from_rows(
        Sample(
            id=f"image{row:03d}",
            image=f"images/image{row:03d}.png",
            mask=f"masks/image{row:03d}.png",
            split=("train", "valid", "test")[row % 3],
            generator="lama" if row % 2 else "ldm",
            label=1,
            source="made",
            height=20 if row % 5 else 600,
            width=30 if row % 5 else 10,
            image_sha256=f"{row:064x}",
            mask_sha256=f"{row + 1000:064x}",
        )
        for row in range(rows)
    )


def writer(path: Path, **changes):
    return StoreWriter(
        str(path),
        identity=identity(**changes),
        layers=LAYERS,
        dataset="made",
        provenance={"root": "somewhere"},
        samples=samples(),
        fake_is_white=True,
    )


def contents(rows):
    """Values of every array for the given rows; each row's depend on its number alone."""
    rows = list(rows)
    heights, widths = samples().sizes.max(axis=0)

    def made(shape, kind):
        values = [np.random.default_rng(row).integers(0, 200, shape) for row in rows]
        return np.asarray(values, np.int64).reshape(len(rows), *shape).astype(kind)

    masks = [
        mask[:height, :width]
        for mask, (height, width) in zip(
            made((heights, widths), np.uint8) > 100, samples().sizes[rows], strict=True
        )
    ]
    return {
        "layers/layer0": made((10, 8), np.float16),
        "layers/layer1": made((4, 5, 5), np.float16),
        "targets": made((256, 256), np.uint8),
        "thumbnails": made((128, 128, 3), np.uint8),
        "masks": masks,
    }


def write_shards(store, shards):
    for shard in shards:
        rows = [row for row in store.shard_rows(shard) if row not in FAILED]
        failures = {row: FAILED[row] for row in store.shard_rows(shard) if row in FAILED}
        store.write_shard(shard, rows, contents(rows), failures)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "finished"
    store = writer(path)
    write_shards(store, store.pending_shards())
    assert store.failures() == FAILED
    store.finish()
    return path


def files_of(path: Path):
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file()
    }


def test_rows_come_back_in_the_asked_order(finished):
    store = Store(finished)
    rows = np.asarray([120, 0, 77, 64, 63])
    expected = contents(rows)
    np.testing.assert_array_equal(
        store.read_layer("layer0", rows).values, expected["layers/layer0"]
    )
    np.testing.assert_array_equal(
        store.read_layer("layer1", rows).values, expected["layers/layer1"]
    )
    np.testing.assert_array_equal(store.read_targets(rows), expected["targets"])
    np.testing.assert_array_equal(store.read_thumbnails(rows), expected["thumbnails"])
    tall = np.asarray([100, 0, 75])
    np.testing.assert_array_equal(store.read_masks(tall), contents(tall)["masks"])
    small = np.asarray([1, 99])
    np.testing.assert_array_equal(store.read_masks(small), contents(small)["masks"])


def test_a_row_of_zeros_is_data(tmp_path):
    store = writer(tmp_path / "zeros")
    zeros = {
        name: [np.zeros_like(value) for value in values]
        for name, values in contents(range(64)).items()
    }
    store.write_shard(0, range(64), zeros, {})
    write_shards(store, [1, 2])
    store.finish()
    assert not Store(tmp_path / "zeros").read_layer("layer0", np.arange(64)).values.any()


def test_a_failed_row_cannot_be_read_and_is_in_no_split(finished):
    store = Store(finished)
    assert store.failures == FAILED
    with pytest.raises(
        StoreError, match=r"row 3 of layers/layer0 cannot be read, it is missing; run .*verify"
    ):
        store.read_layer("layer0", np.asarray([2, 3]))
    for split in store.splits:
        assert not set(FAILED) & set(store.fake_rows(split).tolist())


def test_rows_are_chosen_by_split_and_generator(finished):
    store = Store(finished)
    rows = store.fake_rows("train", ["lama"])
    assert rows.tolist() == [row for row in range(ROWS) if row % 3 == 0 and row % 2 and row != 3]
    with pytest.raises(UnknownNameError, match=r"'valid_'; did you mean 'valid'\? known: test, tr"):
        store.fake_rows("valid_")
    with pytest.raises(UnknownNameError, match=r"generator .*'dall-e'; known: lama, ldm"):
        store.fake_rows("train", ["dall-e"])
    with pytest.raises(UnknownNameError, match=r"layer .*'layer9'; .*known: layer0, layer1"):
        store.feature_identity("layer9")


def test_interrupted_and_out_of_order_writing_gives_the_same_bytes(finished, tmp_path):
    path = tmp_path / "again"
    first = writer(path)
    write_shards(first, [2])
    # A shard that was written but not entered in the ledger, as a kill would leave it.
    (path / fmt.ledger_key(2)).unlink()
    (path / store_array("targets").shard_key(2)).write_bytes(b"torn")
    second = writer(path)
    assert second.pending_shards() == [0, 1, 2]
    write_shards(second, [1])
    third = writer(path)
    assert third.pending_shards() == [0, 2]
    write_shards(third, [2, 0])
    third.finish()
    assert files_of(path) == files_of(finished)


def test_zarr_python_reads_it_too(finished):
    group = zarr.open_group(finished, mode="r")
    np.testing.assert_array_equal(group["layers/layer1"][5], contents([5])["layers/layer1"][0])
    assert group["labels"][:].tolist() == [1] * ROWS
    assert group["sizes"][0].tolist() == [600, 10]


def test_a_flipped_bit_is_noticed(finished, tmp_path):
    path = tmp_path / "flipped"
    for name, data in files_of(finished).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    shard = path / store_array("layers/layer0").shard_key(1)
    data = bytearray(shard.read_bytes())
    data[5] ^= 4
    shard.write_bytes(data)
    store = Store(path)
    store.read_layer("layer0", np.arange(4, 64))
    with pytest.raises(
        StoreError, match=r"row 64 of layers/layer0 cannot be read, a chunk's checksum"
    ):
        store.read_layer("layer0", np.arange(64, 70))


def test_an_incomplete_store_is_refused(tmp_path):
    store = writer(tmp_path / "half")
    write_shards(store, [1])
    with pytest.raises(StoreError, match=r"incomplete: 1 of 3 shards; run the same .*extract"):
        Store(tmp_path / "half")
    with pytest.raises(StoreError, match="lacks 2 shards, the first is 0"):
        store.finish()


def test_what_is_not_a_store_is_refused(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("hello")
    for path in (tmp_path / "other", tmp_path / "absent"):
        with pytest.raises(StoreError, match="is not a feature store; expected what"):
            Store(path)
    zarr.create_group(tmp_path / "foreign")
    with pytest.raises(StoreError, match="is not a feature store"):
        Store(tmp_path / "foreign")
    with pytest.raises(StoreError, match="holds other files; name an empty or new folder"):
        writer(tmp_path / "other")


def edit_attributes(path: Path, **changes):
    group = json.loads((path / fmt.GROUP).read_bytes())
    group["attributes"][fmt.ATTRIBUTES] |= changes
    (path / fmt.GROUP).write_text(json.dumps(group))


def test_another_version_and_an_edited_identity_are_refused(tmp_path):
    path = tmp_path / "store"
    store = writer(path)
    write_shards(store, [0, 1, 2])
    store.finish()
    edit_attributes(path, identity=identity(backbone="other").to_json())
    with pytest.raises(StoreError, match="the SHA-256 of its identity differs"):
        Store(path)
    edit_attributes(path, format_version=99)
    with pytest.raises(
        StoreError, match="format version 99, this program reads 4; upgrade declip-pipe"
    ):
        Store(path)


def test_another_identity_does_not_continue_a_store(tmp_path):
    writer(tmp_path / "store")
    with pytest.raises(StoreError, match="holds another store; pass `overwrite=True`"):
        writer(tmp_path / "store", backbone="other")


def test_non_finite_values_are_refused_and_leave_no_shard(tmp_path):
    store = writer(tmp_path / "store")
    arrays = contents(range(64))
    arrays["layers/layer1"][7, 0, 0, 0] = np.inf
    with pytest.raises(
        StoreError, match=r"layers/layer1 has a non-finite value in row 7 .*float32"
    ):
        store.write_shard(0, range(64), arrays, {})
    assert store.pending_shards() == [0, 1, 2]


def test_a_store_of_failures_alone_is_an_error_and_leaves_nothing(tmp_path):
    path = tmp_path / "store"
    store = writer(path)
    for shard in store.pending_shards():
        rows = store.shard_rows(shard)
        store.write_shard(shard, [], contents([]), dict.fromkeys(rows, "zero bytes"))
    with pytest.raises(StoreError, match="none of the 150 images could be used; .*zero bytes"):
        store.finish()
    assert not path.exists()


def test_too_little_space_is_said_beforehand(tmp_path, monkeypatch):
    store = writer(tmp_path / "store")
    monkeypatch.setattr("declip_pipeline.store.local.LocalStorage.free_bytes", lambda self: 1000)
    with pytest.raises(StorageFullError, match=r"needs 0 MB for 150 images, 0 MB are free"):
        store.require_space(store.pending_shards())
