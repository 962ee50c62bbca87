"""A store and its one-file copy hold the same, to the byte; what is damaged is never read."""

import fcntl
import json
import os
import signal
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from declip_pipeline.datasets.sample import Sample
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.errors import InputError, OutputExistsError, StorageFullError, StoreError
from declip_pipeline.features import FEATURE_DTYPES, FeatureShape, encode_features
from declip_pipeline.files import canonical_json, sha256_of_json
from declip_pipeline.store import format as fmt
from declip_pipeline.store.hdf5 import export_store, import_store
from declip_pipeline.store.identity import StoreIdentity, manifest_sha256
from declip_pipeline.store.reader import Store
from declip_pipeline.store.verify import verify_store
from declip_pipeline.store.writer import StoreWriter

LAYERS = {"layer0": FeatureShape(8, 3, 3, 1), "layer1": FeatureShape(4, 5, 5)}
ROWS = 70
FAILED = {3: "zero bytes", 68: "truncated"}
# Of two tiles, and of one that is smaller than a tile.
SIZES = np.asarray([(600, 10) if row % 5 == 0 else (20, 30) for row in range(ROWS)], np.int32)
SAMPLES = Samples.from_rows(
    Sample(
        id=f"image{row:03d}",
        image=f"images/image{row:03d}.png",
        mask=f"masks/image{row:03d}.png",
        split=("train", "valid", "test")[row % 3],
        generator="lama" if row % 2 else "ldm",
        label=1,
        source="made",
        height=int(SIZES[row][0]),
        width=int(SIZES[row][1]),
        image_sha256=f"{row:064x}",
        mask_sha256=f"{row + 1000:064x}",
    )
    for row in range(ROWS)
)


def write_store(path: Path, dtype: str, view: str = "clean") -> Store:
    """A store of two shards, with a failed row in each."""
    writer = StoreWriter(
        str(path),
        identity=StoreIdentity(
            backbone="test/network",
            weights_sha256="0" * 64,
            preprocessing={"height": 8},
            view=view,
            layers=tuple(LAYERS),
            dtype=dtype,
            manifest_sha256=manifest_sha256(True, SAMPLES),
            format_version=fmt.FORMAT_VERSION,
        ),
        layers=LAYERS,
        dataset="made up",
        provenance={"root": "somewhere"},
        samples=SAMPLES,
        fake_is_white=True,
    )
    for shard in writer.pending_shards():
        places = writer.shard_rows(shard)
        rows = [row for row in places if row not in FAILED]
        made = np.random.default_rng(shard)
        torch.manual_seed(shard)
        arrays = {
            "targets": made.integers(0, 2, (len(rows), 256, 256), np.uint8) * 255,
            "thumbnails": made.integers(0, 256, (len(rows), 128, 128, 3), np.uint8),
            "masks": [made.integers(0, 2, size).astype(bool) for size in SIZES[rows]],
        }
        for name, shape in LAYERS.items():
            features = torch.randn(len(rows), *shape.array_shape)
            stored = encode_features(features, dtype, is_grid=shape.is_grid)
            arrays |= stored.as_arrays(fmt.layer_key(name), fmt.scales_key(name))
        writer.write_shard(shard, rows, arrays, {r: FAILED[r] for r in places if r in FAILED})
    writer.finish()
    return Store(path)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Stores by dtype."""
    return cache(lambda dtype: write_store(tmp_path_factory.mktemp("original") / "store", dtype))


@pytest.fixture(scope="module")
def exported(original, tmp_path_factory):
    """The files of these stores, by dtype; no test changes one."""

    @cache
    def in_dtype(dtype) -> Path:
        path = tmp_path_factory.mktemp("exported") / "out.h5"
        export_store(original(dtype), path)
        return path

    return in_dtype


@pytest.fixture
def changed(exported, tmp_path) -> Path:
    """The float16 file, to be changed."""
    path = tmp_path / "changed.h5"
    path.write_bytes(exported("float16").read_bytes())
    return path


def files_of(place: Path | str) -> dict[str, bytes]:
    folder = Path(place)
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def structures_of(path: Path) -> np.ndarray:
    """The offsets of all bytes of an HDF5 file that are not in a chunk."""
    inside = np.zeros(path.stat().st_size, bool)

    def mark(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            for number in range(item.id.get_num_chunks()):
                chunk = item.id.get_chunk_info(number)
                inside[chunk.byte_offset : chunk.byte_offset + chunk.size] = True

    with h5py.File(path) as file:
        file.visititems(mark)
    return np.flatnonzero(~inside)


def everything_in(store: Store) -> dict[str, np.ndarray]:
    """Every row of every array that has data."""
    rows = np.asarray([row for row in range(ROWS) if row not in FAILED])
    arrays = {name: store.read_array(name, rows) for name in store.arrays if name != "masks"}
    for size in np.unique(SIZES, axis=0):
        same = rows[(SIZES[rows] == size).all(axis=1)]
        arrays[f"masks {size}"] = store.read_masks(same)
    return arrays


@pytest.mark.slow
@pytest.mark.parametrize("dtype", FEATURE_DTYPES)
def test_the_round_trip_gives_every_file_again(original, exported, tmp_path, dtype):
    imported = import_store(exported(dtype), tmp_path / "cache")
    name = original(dtype).identity.sha256[:16]
    assert imported.location == f"{tmp_path}/cache/made-up/test-network/clean-{dtype}-{name}"
    assert (imported.was_there, imported.is_identical) == (False, True)
    assert files_of(imported.location) == files_of(original(dtype).location)
    again = import_store(exported(dtype), tmp_path / "cache")
    assert (again.was_there, again.is_identical) == (True, True)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", FEATURE_DTYPES)
def test_the_file_reads_as_the_store_does(original, exported, dtype):
    store, file = original(dtype), Store(exported(dtype))
    assert file.header == store.header
    assert (file.samples, file.failures) == (store.samples, FAILED)
    np.testing.assert_array_equal(file.sizes, SIZES)
    expected = everything_in(store)
    found = everything_in(file)
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], strict=True)


def test_rows_come_in_the_asked_order_from_several_reads_at_once(original, exported):
    store, file = original("int8"), Store(exported("int8"))
    orders = [np.asarray(rows) for rows in ([69, 0, 64, 63], [5, 5, 1], [], [40, 2])]
    features = [file.begin_reading_layer("layer0", rows) for rows in orders]
    targets = [file.begin_reading_targets(rows) for rows in orders]
    for rows, read, read_targets in reversed(list(zip(orders, features, targets, strict=True))):
        expected = store.read_layer("layer0", rows.astype(np.int64))
        found = read()
        assert torch.equal(found.values, expected.values)
        assert torch.equal(found.scales, expected.scales)
        np.testing.assert_array_equal(read_targets(), store.read_targets(rows.astype(np.int64)))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_that_was_forked_off_reads_too(original, exported):
    file = Store(exported("float16"))
    rows = np.arange(4, 20)
    expected = original("float16").read_targets(rows)
    file.read_targets(rows)  # so that the thread is there already
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a read that never ends is a failure
        os._exit(0 if np.array_equal(file.read_targets(rows), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("array", ["layers/layer0", "scales/layer1", "targets", "thumbnails"])
def test_a_failed_row_cannot_be_read(exported, array):
    with pytest.raises(
        StoreError,
        match=rf"out\.h5: row 68 of {array} cannot be read, it is missing; export it again",
    ):
        Store(exported("int8")).read_array(array, np.asarray([67, 68]))


def test_what_a_killed_export_left_goes_and_what_another_writes_stays(original, tmp_path):
    left, written = (tmp_path / f".{digit * 12}.partial.h5" for digit in "ab")
    other = tmp_path / ".notes.partial.h5"
    for file in (left, written, other):
        file.write_bytes(b"half")
    with written.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        export_store(original("float16"), tmp_path / "out.h5")
    found = {file.name for file in tmp_path.iterdir()}
    assert found == {written.name, other.name, "out.h5"}


@pytest.mark.parametrize("names", [("layers/layer0", "layers/layer1"), ("targets", "thumbnails")])
def test_arrays_whose_names_were_exchanged_are_refused(changed, names):
    one, other = names
    with h5py.File(changed, "r+") as file:
        for old, new in ((one, "aside"), (other, one), ("aside", other)):
            file.move(old, new)
    with pytest.raises(StoreError, match=f"row 0 of {one} cannot be read"):
        Store(changed).read_array(one, np.asarray([0]))


def test_an_array_of_the_same_shape_under_another_s_name_is_refused(changed):
    with h5py.File(changed, "r+") as file:
        file["targets"].attrs["declip_pipe_array"] = "masks"
    with pytest.raises(StoreError, match="row 0 of targets cannot be read, it holds the array 'ma"):
        Store(changed).read_targets(np.asarray([0]))


def test_a_stranger_finds_the_same_arrays(original, exported):
    """With h5py alone: names, types, chunks, filters, records."""
    store = original("int8")
    plain = {"layers/layer0": (1, 10, 8), "scales/layer0": (1, 10, 1), "sizes": (ROWS, 2)}
    compressed = {"targets": (1, 256, 256), "masks": (1, 512, 30), "thumbnails": (1, 128, 128, 3)}
    with h5py.File(exported("int8")) as file:
        assert dict(file.attrs) == {"declip_pipe_store": fmt.FORMAT_VERSION}
        for name, chunks in (plain | compressed).items():
            assert file[name].chunks == chunks
            assert file[name].fletcher32
            assert file[name].compression == ("gzip" if name in compressed else None)
        assert file["layers/layer0"].dtype == np.int8
        assert file["scales/layer0"].dtype == np.dtype("<f4")
        np.testing.assert_array_equal(
            file["layers/layer0"][5], store.read_layer("layer0", np.asarray([5])).values[0]
        )
        np.testing.assert_array_equal(
            file["masks"][5, :600, :10], store.read_masks(np.asarray([5]))[0]
        )
        assert file["labels"][:].tolist() == [1] * ROWS
        assert file["masks"].dtype == bool
        assert file["targets"].id.get_num_chunks() == ROWS - len(FAILED)
        files = files_of(store.location)
        records = {key for key in files if "/c." not in key or key.startswith(("labels", "sizes"))}
        found = {}
        file["records"].visititems(
            lambda key, item: (
                found.update({key: item[()].tobytes()} if item.shape else {})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
        assert found == {key: files[key] for key in records}


def test_the_same_store_gives_the_same_file(original, exported, tmp_path):
    export_store(original("float16"), tmp_path / "again.h5")
    assert (tmp_path / "again.h5").read_bytes() == exported("float16").read_bytes()


def test_a_file_can_be_exported_again(exported, tmp_path):
    export_store(Store(exported("float16")), tmp_path / "again.h5")
    assert (tmp_path / "again.h5").read_bytes() == exported("float16").read_bytes()


@pytest.mark.slow
def test_nothing_is_replaced_unasked_or_left_half_written(original, tmp_path):
    store, path = original("float16"), tmp_path / "out.h5"
    path.write_text("mine")
    with pytest.raises(
        OutputExistsError, match=r"out\.h5 exists; pass `overwrite=True` to replace it"
    ):
        export_store(store, path)

    def stop(done: int, total: int) -> None:
        assert (done, total) == (64, ROWS)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_store(store, path, overwrite=True, progress=stop)
    assert files_of(tmp_path) == {"out.h5": b"mine"}
    export_store(store, path, overwrite=True)
    assert Store(path).identity == store.identity


def test_places_that_cannot_be_a_file(original, tmp_path, monkeypatch):
    store = original("float16")
    with pytest.raises(InputError, match="is a folder; expected a file, name one such as"):
        export_store(store, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot write .*out\.h5: .*; check its folder, or name"):
        export_store(store, tmp_path / "file" / "out.h5")
    monkeypatch.setattr("declip_pipeline.store.local.LocalStorage.free_bytes", lambda self: 1000)
    with pytest.raises(StorageFullError, match=r"out\.h5 needs 0 MB, 0 MB are free there; name"):
        export_store(store, tmp_path / "out.h5")


def edit_record(path, key, edit):
    """Edit a JSON record of an exported file."""
    with h5py.File(path, "r+") as file:
        value = json.loads(file[f"records/{key}"][()].tobytes())
        edit(value)
        del file[f"records/{key}"]
        values = np.frombuffer(canonical_json(value), np.uint8)
        file.create_dataset(f"records/{key}", data=values, chunks=values.shape, fletcher32=True)


def test_an_edited_store_is_not_exported(original, tmp_path):
    copy = tmp_path / "copy"
    for key, data in files_of(original("float16").location).items():
        (copy / key).parent.mkdir(parents=True, exist_ok=True)
        (copy / key).write_bytes(data)
    manifest = (copy / fmt.MANIFEST).read_bytes()
    (copy / fmt.MANIFEST).write_bytes(manifest + b" ")
    with pytest.raises(
        StoreError, match=r"its manifest.parquet was edited or damaged, .*run `.*cache verify"
    ):
        export_store(Store(copy), tmp_path / "out.h5")
    (copy / fmt.MANIFEST).write_bytes(manifest)
    shard = copy / "targets" / "c.1.0.0"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"row 64 of targets .* index .* is damaged; run `.*verif"):
        export_store(Store(copy), tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


class TestImport:
    def test_an_interrupted_one_goes_on(self, original, exported, tmp_path):
        def stop(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            import_store(exported("int8"), tmp_path, progress=stop)
        location = next(tmp_path.glob("*/*/*"))
        with pytest.raises(StoreError, match="is incomplete: 1 of 2 shards"):
            Store(location)
        told = []
        import_store(exported("int8"), tmp_path, progress=lambda *done: told.append(done))
        assert told == [(ROWS, ROWS)]
        assert files_of(location) == files_of(original("int8").location)

    def test_metadata_that_are_there_in_part_are_completed(self, original, exported, tmp_path):
        location = Path(import_store(exported("float16"), tmp_path).location)
        for key in (fmt.COMPLETE, fmt.GROUP, "labels/zarr.json", "masks/c.1.0.0"):
            (location / key).unlink()
        (location / fmt.ledger_key(1)).unlink()
        import_store(exported("float16"), tmp_path)
        assert files_of(location) == files_of(original("float16").location)

    def test_another_zstd_makes_other_bytes_of_the_same_rows(
        self, original, exported, tmp_path, monkeypatch
    ):
        monkeypatch.setattr("declip_pipeline.store.shards.ZSTD_LEVEL", 1)
        imported = import_store(exported("float16"), tmp_path)
        assert not imported.is_identical
        assert verify_store(imported.location, deep=True).problems == []
        expected, found = (
            everything_in(original("float16")),
            everything_in(Store(imported.location)),
        )
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])

    def test_rows_that_are_not_those_of_the_ledger(self, changed, tmp_path):
        with h5py.File(changed, "r+") as file:
            file["layers/layer1"][65] = file["layers/layer1"][66]
        with pytest.raises(
            StoreError, match=r"the rows of layers/layer1/c\.1\.0\.0\.0 are not those of the ledger"
        ):
            import_store(changed, tmp_path / "cache")
        location = next((tmp_path / "cache").glob("*/*/*"))
        assert not (location / fmt.ledger_key(1)).exists()
        assert not (location / fmt.COMPLETE).exists()

    @pytest.mark.parametrize(
        ("key", "message"),
        [
            (
                fmt.MANIFEST,
                "its manifest.parquet was edited or damaged, its SHA-256 is not that in complete",
            ),
            (
                fmt.ledger_key(1),
                "its ledger/000001.json was edited, it is no canonical JSON any more",
            ),
            (fmt.COMPLETE, "its complete.json was edited, it is no canonical JSON any more"),
            ("labels/zarr.json", "its labels/zarr.json was edited"),
        ],
    )
    def test_edited_records(self, changed, tmp_path, key, message):
        with h5py.File(changed, "r+") as file:
            record = file[f"records/{key}"]
            edited = record[()].tobytes().replace(b'"shape":[70]', b'"shape":[71]')
            if edited == record[()].tobytes():
                edited += b" "
            del file[f"records/{key}"]
            values = np.frombuffer(edited, np.uint8)
            file.create_dataset(f"records/{key}", data=values, chunks=values.shape, fletcher32=True)
        with pytest.raises(StoreError, match=f"{message}.*; export it again"):
            import_store(changed, tmp_path / "cache")
        assert not (tmp_path / "cache").exists()

    @pytest.mark.parametrize("name", ["../../../up", "/up", "a//b"])
    def test_names_that_lead_elsewhere(self, changed, tmp_path, name):
        def rename(group):
            attributes = group["attributes"][fmt.ATTRIBUTES]
            attributes["identity"]["view"] = name
            attributes["identity_sha256"] = sha256_of_json(attributes["identity"])

        edit_record(changed, fmt.GROUP, rename)
        with pytest.raises(StoreError, match=f"the name '{name}' leads out of a store"):
            import_store(changed, tmp_path / "cache")
        assert [place.name for place in tmp_path.iterdir()] == ["changed.h5"]

    def test_a_record_that_leads_elsewhere(self, changed, tmp_path):
        edit_record(
            changed,
            fmt.COMPLETE,
            lambda value: value["metadata_sha256"].update({"../up": "0" * 64}),
        )
        with pytest.raises(StoreError, match="lists other metadata files than the store's"):
            import_store(changed, tmp_path / "cache")
        assert [place.name for place in tmp_path.iterdir()] == ["changed.h5"]

    def test_an_unfinished_store_of_another_extraction_stays(self, exported, tmp_path):
        location = Path(import_store(exported("float16"), tmp_path).location)
        (location / fmt.COMPLETE).unlink()
        manifest = location / fmt.MANIFEST
        manifest.write_bytes(manifest.read_bytes() + b"\n")
        with pytest.raises(
            StoreError, match=r"unfinished store of another .* manifest.parquet differ"
        ):
            import_store(exported("float16"), tmp_path)
        for file in location.rglob("*"):
            if file.is_file():
                file.unlink()
        (location / "notes.txt").write_text("mine")
        with pytest.raises(StoreError, match="holds other files; name another `cache`"):
            import_store(exported("float16"), tmp_path)

    def test_what_is_no_file(self, tmp_path):
        with pytest.raises(InputError, match="is not a file; expected a file that `declip-pipe ca"):
            import_store(tmp_path, tmp_path / "cache")
        with pytest.raises(InputError, match="does not exist; expected a file that"):
            import_store(tmp_path / "absent.h5", tmp_path / "cache")


class TestDamage:
    def test_files_that_are_no_export(self, tmp_path, exported):
        path = tmp_path / "some.h5"
        path.write_text("hello")
        with pytest.raises(StoreError, match="is not an HDF5 file; expected a store's folder, or"):
            Store(path)
        with h5py.File(path, "w") as file:
            file["weights"] = np.zeros(3)
        with pytest.raises(StoreError, match="is an HDF5 file of something else; expected a file"):
            Store(path)
        whole = exported("float16").read_bytes()
        for length in (100, 5_000, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(
                StoreError, match=r"cannot be opened, .*it may have been cut short:"
            ):
                Store(path)

    @pytest.mark.parametrize(("version", "remedy"), [(99, "upgrade declip-pipe"), (1, "export it")])
    def test_another_format_version(self, changed, version, remedy):
        with h5py.File(changed, "r+") as file:
            file.attrs["declip_pipe_store"] = version
        with pytest.raises(
            StoreError, match=f"store format version {version}, this program reads 4; {remedy}"
        ):
            Store(changed)

    def test_a_flipped_bit_is_noticed(self, exported, changed):
        with h5py.File(changed) as file:
            place = file["targets"].id.get_chunk_info_by_coord((9, 0, 0))
        data = bytearray(changed.read_bytes())
        data[place.byte_offset + place.size // 2] ^= 4
        changed.write_bytes(data)
        store = Store(changed)
        store.read_targets(np.asarray([8, 10]))
        with pytest.raises(StoreError, match="row 9 of targets cannot be read, a chunk's checksum"):
            store.read_targets(np.asarray([8, 9, 10]))

    @pytest.mark.slow
    def test_no_damage_gives_other_data_or_another_error(self, original, changed):
        """One bit flipped anywhere: the same data, or an error in the program's words."""
        whole = changed.read_bytes()
        expected = everything_in(original("float16"))
        random = np.random.default_rng(0)
        structures = structures_of(changed)
        offsets = [*random.choice(structures, 30), *random.integers(0, len(whole), 10)]
        refused = 0
        for offset in map(int, offsets):
            data = bytearray(whole)
            data[offset] ^= 1 << int(random.integers(8))
            changed.write_bytes(data)
            try:
                found = everything_in(Store(changed))
            except StoreError as error:
                refused += 1
                assert "\n" not in str(error)
                continue
            for name in expected:
                np.testing.assert_array_equal(found[name], expected[name])
        assert refused > 10

    def test_a_repacked_file_without_checksums(self, changed):
        with h5py.File(changed, "r+") as file:
            values = file["layers/layer0"][()]
            del file["layers/layer0"]
            file.create_dataset("layers/layer0", data=values, chunks=(1, *values.shape[1:]))
        with pytest.raises(
            StoreError, match=r"row 5 of layers/layer0 cannot be read, it was not written by `decl"
        ):
            Store(changed).read_layer("layer0", np.asarray([5]))

    @pytest.mark.parametrize("key", [fmt.GROUP, fmt.MANIFEST, fmt.COMPLETE])
    def test_a_missing_record(self, changed, key):
        with h5py.File(changed, "r+") as file:
            del file[f"records/{key}"]
        with pytest.raises(StoreError, match=f"lacks its {key}; export it again"):
            Store(changed)
