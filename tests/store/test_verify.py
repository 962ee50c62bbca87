"""Verification names every kind of damage: the file, the layer, the shard, the images."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from support import damaged_store as by_hand

from declip_pipeline.datasets.samples import Samples
from declip_pipeline.errors import InputError, StoreError
from declip_pipeline.store import format as fmt
from declip_pipeline.store.reader import Store
from declip_pipeline.store.shards import EncodedShard
from declip_pipeline.store.storage import storage_at
from declip_pipeline.store.verify import verify_store


@pytest.fixture(scope="module")
def made(tiny_backbone, tmp_path_factory) -> Path:
    """A store that no test changes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fmt, "ROWS_PER_SHARD", by_hand.ROWS_PER_SHARD)
        return by_hand.make_store(tmp_path_factory.mktemp("made"), tiny_backbone)[1]


@pytest.fixture
def store(made, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "store"))


def found_in(path, *, deep=False):
    return verify_store(path, deep=deep).problems


@pytest.mark.slow
def test_a_good_store_is_found_good_and_left_alone(made):
    before = by_hand.files_of(made)
    times = {file: file.stat().st_mtime_ns for file in made.rglob("*")}
    told = []
    for deep in (False, True):
        found = verify_store(
            made, deep=deep, progress=lambda done, total: told.append((done, total))
        )
        assert found.problems == []
        assert (found.arrays, found.shards, found.rows) == (7, 4, 15)
        assert found.total_bytes == sum(map(len, before.values()))
    assert by_hand.files_of(made) == before
    assert {file: file.stat().st_mtime_ns for file in made.rglob("*")} == times
    assert told == 2 * [(done, 28) for done in range(29)]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8-per-channel"])
def test_other_dtypes_and_the_usual_shards_are_found_good(store_in, dtype):
    found = verify_store(store_in(dtype).location, deep=True)
    assert (found.problems, found.shards, found.rows) == ([], 1, 15)


@pytest.mark.slow
@pytest.mark.parametrize("name", by_hand.CASES)
def test_damage_is_named(name, store):
    case = by_hand.CASES[name]
    case.damage(store)
    samples = Samples.from_parquet((store / fmt.MANIFEST).read_bytes())
    problems = found_in(store, deep=True)
    assert [problem.key for problem in problems] == [case.key], problems
    problem = problems[0]
    assert case.what in problem.what
    assert problem.rows == case.rows
    assert problem.images == tuple(samples[row].image for row in case.rows)
    assert problem.is_repairable
    assert "\n" not in problem.what
    array, _, chunk = case.key.rpartition("/")
    if name.startswith("shard"):
        assert (problem.array, problem.shard) == (array, int(chunk.split(".")[1]))
    elif name.startswith("ledger"):
        assert (problem.array, problem.shard) == (None, 1)
    else:
        assert (problem.array, problem.shard) == (None, None)
    shallow = found_in(store)
    if case.is_shallow:
        assert shallow == problems
    else:
        assert all(problem.key == fmt.COMPLETE for problem in shallow)


def test_what_is_not_edited_with_its_ledger_is_told_by_the_completion(store):
    by_hand.SHARD_CASES["its ledger's hash edited"].damage(store)
    problem = found_in(store)[0]
    assert problem.key == fmt.COMPLETE
    assert "ledger_sha256 is not that of the ledger" in problem.what


@pytest.mark.slow
def test_a_flipped_bit_is_found_in_every_file(made, tmp_path):
    rng = random.Random(0)
    path = Path(shutil.copytree(made, tmp_path / "store"))
    for key, data in by_hand.files_of(made).items():
        by_hand.flip(key, rng.randrange(len(data)))(path)
        try:
            assert found_in(path, deep=True), key
        except StoreError:
            # Of the group's own metadata, which says what the store is.
            assert key == fmt.GROUP
        (path / key).write_bytes(data)
    assert found_in(path, deep=True) == []


def test_several_damaged_files_are_all_named(store):
    one, other = (by_hand.shard("layers/layer0", number) for number in (0, 2))
    by_hand.swap(one, other)(store)
    by_hand.remove(by_hand.shard("targets", 3))(store)
    by_hand.flip("labels/c.0", 2)(store)
    problems = {problem.key: problem for problem in found_in(store, deep=True)}
    assert set(problems) == {one, other, by_hand.shard("targets", 3), "labels/c.0"}
    assert problems[one].rows == (0, 1, 2, 3)
    assert problems[other].rows == (8, 9, 10, 11)
    assert "its shard holds other images or features, as when files are moved" in problems[one].what


def test_several_damaged_chunks_are_one_problem(store):
    key = by_hand.shard("layers/layer3", 1)
    for place in (0, 2):
        by_hand.flip(key, place * by_hand.LAYER_CHUNK)(store)
    (problem,) = found_in(store, deep=True)
    # The unreadable picture, row 6, has no chunk.
    assert (problem.key, problem.rows) == (key, (4, 7))


def rewrite_shard(store, name, number, change):
    """Write a shard anew, with other rows or values, and make all records fit it."""
    reader = Store(store)
    array = reader.arrays[name]
    rows = [row for row in reader.header.shard_rows(number) if row not in reader.failures]
    values = dict(zip(rows, reader.read_array(name, np.asarray(rows)), strict=True))
    change(values)
    first = reader.header.shard_rows(number).start
    places = [row - first for row in values]
    mark = reader.header.shard_mark(array, number, reader.samples)
    encoded = EncodedShard(array, reader.header.rows_per_shard, places, values.values(), mark)
    (store / array.shard_key(number)).write_bytes(b"".join(encoded))
    by_hand.seal(store)


@pytest.mark.parametrize("name", ["layers/layer0", "targets"])
def test_a_row_that_is_absent_is_found(store, name):
    rewrite_shard(store, name, 2, lambda values: values.pop(9))
    assert found_in(store) == []
    (problem,) = found_in(store, deep=True)
    assert (problem.what, problem.array, problem.rows) == ("a row is absent", name, (9,))


@pytest.mark.parametrize("row", [by_hand.UNREADABLE_ROW, 15])
def test_a_row_that_should_be_absent_is_found(store, row):
    number = row // by_hand.ROWS_PER_SHARD
    rewrite_shard(store, "thumbnails", number, lambda v: v.update({row: v[max(v)]}))
    (problem,) = found_in(store, deep=True)
    assert problem.what == "a row is there that should be absent"
    assert (problem.key, problem.shard) == (f"thumbnails/c.{number}.0.0.0", number)
    # The last shard has a place behind the last row: that is no row's.
    assert problem.rows == ((row,) if row < 15 else ())


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_number_that_is_not_finite_is_found(store, value):
    rewrite_shard(store, "scales/layer3", 0, lambda values: values[2].__setitem__((7, 0), value))
    (problem,) = found_in(store, deep=True)
    assert problem.what == "a value is infinite or not a number"
    assert (problem.array, problem.shard, problem.rows) == ("scales/layer3", 0, (2,))


def test_chunks_that_leave_room_are_found(store):
    key = by_hand.shard("targets", 0)
    data = (store / key).read_bytes()
    (store / key).write_bytes(bytes(8) + data)
    by_hand.seal(store)
    (problem,) = found_in(store, deep=True)
    assert (problem.key, problem.rows) == (key, (0, 1, 2, 3))
    assert "its chunks do not lie one behind another" in problem.what


def test_files_that_are_no_part_of_it_are_found(store):
    for key in ("notes.txt", "layers/layer9/c.0.0.0", "layers/layer0/c.0.0.0.bak"):
        by_hand.write(key, "hello")(store)
    problems = found_in(store)
    assert [problem.key for problem in problems] == [
        "layers/layer0/c.0.0.0.bak",
        "layers/layer9/c.0.0.0",
        "notes.txt",
    ]
    for problem in problems:
        assert problem.what == "is no part of a store; move it elsewhere"
        assert not problem.is_repairable


def test_what_an_unfinished_store_lacks_is_not_damaged(store):
    by_hand.remove(fmt.COMPLETE)(store)
    by_hand.remove("ledger/000002.json")(store)
    by_hand.remove("ledger/000003.json")(store)
    by_hand.remove(by_hand.shard("masks", 2))(store)
    for deep in (False, True):
        (problem,) = found_in(store, deep=deep)
        assert problem.key == fmt.COMPLETE
        assert problem.what == (
            "the store is incomplete: 2 of 4 shards are missing; "
            "run the same `declip-pipe extract` command to finish it"
        )
    by_hand.flip(by_hand.shard("masks", 0), 3)(store)
    assert [problem.rows for problem in found_in(store, deep=True)] == [(), (0,)]


@pytest.mark.parametrize(
    ("damage", "key", "what"),
    [
        (
            by_hand.edit("layers/layer3/zarr.json", "257", "256"),
            "layers/layer3/zarr.json",
            "is not what the format prescribes",
        ),
        (
            by_hand.edit("scales/layer3/zarr.json", "crc32c", "gzip"),
            "scales/layer3/zarr.json",
            "is not what the format prescribes",
        ),
        (
            by_hand.write("scales/zarr.json", "[]"),
            "scales/zarr.json",
            "is not what the format prescribes",
        ),
        (
            by_hand.edit("zarr.json", '"rows": 15', '"rows": 16'),
            "zarr.json",
            "has 16 rows in shards of 4, expected 15 in shards of 4",
        ),
        (
            by_hand.edit("zarr.json", '"rows_per_shard": 4', '"rows_per_shard": 8'),
            "zarr.json",
            "has 15 rows in shards of 8, expected 15 in shards of 4",
        ),
        (by_hand.flip("labels/c.0", 3), "labels/c.0", "holds other labels than the manifest"),
        (by_hand.flip("sizes/c.0.0", 3), "sizes/c.0.0", "holds other sizes than the manifest"),
    ],
)
def test_without_a_completion_the_format_is_the_measure(store, damage, key, what):
    by_hand.remove(fmt.COMPLETE)(store)
    damage(store)
    incomplete, problem = found_in(store, deep=True)
    assert incomplete.key == fmt.COMPLETE
    assert (problem.key, problem.what) == (key, what)


def test_a_manifest_of_other_samples_cannot_be_repaired(store):
    for damage, what in (
        (by_hand.flip(fmt.MANIFEST, 99), "was edited or damaged, its SHA-256 is not"),
        (by_hand.cut(fmt.MANIFEST, 4), "was edited or damaged, its SHA-256 is not"),
        (by_hand.remove(fmt.MANIFEST), "is missing"),
    ):
        damage(store)
        (problem,) = found_in(store, deep=True)
        assert problem.key == fmt.MANIFEST
        assert problem.what.startswith(what)
        assert problem.what.endswith("extract the store again with `overwrite=True`")
        assert not problem.is_repairable


def test_rows_in_another_order_are_found(store):
    by_hand.exchange_rows(store, 0, 5)
    by_hand.seal_metadata(store)
    problems = found_in(store)
    assert [problem.key for problem in problems if problem.shard is not None] == [
        f"ledger/{shard:06d}.json" for shard in range(4)
    ]
    assert "its manifest is not the store's" in problems[-1].what


@pytest.mark.parametrize(
    "damage",
    [
        by_hand.edit("zarr.json", '"backbone": "CLIP', '"backbone": "XLIP'),
        by_hand.edit("zarr.json", '"channels": 128', '"channels": -1'),
        by_hand.edit("zarr.json", '"prefix_tokens": 1', '"prefix_tokens": "1"'),
        by_hand.edit("zarr.json", '"format_version": 4', '"format_version": "4"'),
        by_hand.cut("zarr.json", 1000),
        by_hand.remove("zarr.json"),
    ],
)
def test_a_store_that_does_not_say_what_it_holds_is_refused(store, damage):
    damage(store)
    with pytest.raises(
        StoreError,
        match=r"its zarr\.json is missing, damaged or edited, .*; remove it and run the same "
        r"`declip-pipe extract` command, which writes it again, then verify",
    ):
        verify_store(store)


def test_what_is_no_store_is_refused(store, tmp_path):
    for place in (tmp_path / "absent", tmp_path, tmp_path / "store" / "layers"):
        with pytest.raises(StoreError, match="is not a feature store; expected what"):
            verify_store(place)
    by_hand.edit("zarr.json", '"format_version": 4', '"format_version": 5')(store)
    with pytest.raises(StoreError, match="format version 5, .* reads 4; upgrade declip-pipe"):
        verify_store(store)


def test_a_file_is_to_be_imported_first(tmp_path):
    (tmp_path / "store.h5").write_bytes(b"\x89HDF")
    with pytest.raises(InputError, match=r"store\.h5 is a file, .*declip-pipe cache import"):
        verify_store(tmp_path / "store.h5")


def test_memory_stays_small_however_large_a_shard_is(made, monkeypatch):
    monkeypatch.setattr("declip_pipeline.store.shard_check.PIECE_BYTES", 40_000)
    largest = []
    read_part = type(storage_at(made)).read_part

    def measured(self, key, offset, buffers):
        largest.append(sum(map(len, buffers)))
        return read_part(self, key, offset, buffers)

    monkeypatch.setattr(type(storage_at(made)), "read_part", measured)
    assert found_in(made, deep=True) == []
    # A thumbnail is one chunk, and larger than a piece.
    assert max(largest) < 50_000
    shards = [file for file in made.rglob("c.*") if file.parent.name not in ("labels", "sizes")]
    assert sum(largest) == sum(file.stat().st_size for file in shards)
