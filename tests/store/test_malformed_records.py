"""Records that no writer makes: every reader says so in one line, and takes no memory for them."""

import dataclasses
import json
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
from awscrt.checksums import crc32c
from numcodecs import zstd
from numcodecs.fletcher32 import Fletcher32
from support.damaged_store import seal_metadata
from support.handmade_store import ARRAYS, ROWS_PER_SHARD, SAMPLES, begin_store, write_pending

from declip_pipeline.datasets.samples import SCHEMA, Samples
from declip_pipeline.errors import InputError, StoreError
from declip_pipeline.extraction.maintenance import prune_store
from declip_pipeline.files import canonical_json, sha256_of_bytes
from declip_pipeline.store import format as fmt
from declip_pipeline.store.catalog import describe_store, list_stores
from declip_pipeline.store.hdf5 import export_store, import_store
from declip_pipeline.store.reader import Store
from declip_pipeline.store.shards import (
    MARK_BYTES,
    DamagedChunkError,
    EncodedShard,
    decode_tail,
    decode_tile,
    tail_bytes,
)
from declip_pipeline.store.verify import verify_store

ROWS = np.arange(len(SAMPLES))
LEDGER = fmt.ledger_key(0)
# As text, since JSON's own writers make no such numbers.
WRONG = {
    "none": "null",
    "list": "[]",
    "mapping": "{}",
    "text": '"x"',
    "true": "true",
    "minus one": "-1",
    "fraction": "1.5",
    "2^70": str(2**70),
    "1e999": "1e999",
    "NaN": "NaN",
    "deep": "[" * 100_000 + "]" * 100_000,
    "a row that is not there": '{"99999":"gone"}',
    "row -1": '{"-1":"gone"}',
    "odd rows": '{"0x1":"gone"," 1":1}',
}
FIELDS = {
    fmt.GROUP: [
        ("attributes",),
        ("attributes", fmt.ATTRIBUTES),
        *(
            ("attributes", fmt.ATTRIBUTES, name)
            for name in ("rows", "rows_per_shard", "layers", "identity", "dataset", "provenance")
        ),
        ("attributes", fmt.ATTRIBUTES, "layers", "layer0"),
        ("attributes", fmt.ATTRIBUTES, "layers", "layer0", "channels"),
        ("attributes", fmt.ATTRIBUTES, "identity", "layers"),
    ],
    fmt.COMPLETE: [(name,) for name in ("rows", "failures", "ledger_sha256", "metadata_sha256")],
    LEDGER: [(name,) for name in ("shard", "rows", "manifest_sha256", "files", "failures")]
    + [("files", "targets/c.0.0.0"), ("files", "targets/c.0.0.0", "bytes")],
}


pytestmark = pytest.mark.usefixtures("small_shards")


@pytest.fixture
def store(tmp_path) -> Path:
    path = tmp_path / "root" / "set" / "network" / "store"
    write_pending(begin_store(path))
    return path


def replace(blob: bytes, field: tuple[str, ...], text: str) -> bytes:
    value = json.loads(blob)
    inner = value
    for name in field[:-1]:
        inner = inner[name]
    inner[field[-1]] = "HERE"
    return canonical_json(value).replace(b'"HERE"', text.encode())


def outcome(work: Callable[[], Any]) -> str:
    """What went wrong, in one line; empty where nothing did. Any other error is the test's."""
    try:
        work()
    except (StoreError, InputError) as error:
        text = str(error)
        assert text
        assert "\n" not in text
        assert len(text) < 1000
        return text
    return ""


def use(path: Path) -> str:
    """Do all that reads a store, and say why it cannot be read."""
    list_stores(path.parents[2])
    outcome(lambda: describe_store(path))
    outcome(lambda: verify_store(path, deep=True))
    outcome(lambda: prune_store(Store(path), splits=["none"]))
    return outcome(lambda: [Store(path).read_array(name, ROWS) for name in ARRAYS])


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(
    ("key", "field"),
    [(key, field) for key, fields in FIELDS.items() for field in fields],
    ids=lambda one: "/".join(one[-2:]) if isinstance(one, tuple) else one,
)
def test_a_wrong_field_is_one_line(store, key, field, wrong):
    path = store / key
    edited = replace(path.read_bytes(), field, WRONG[wrong])
    is_fine = (
        (field[-1] == "provenance" and WRONG[wrong].startswith("{"))
        or (field[-1], wrong) == ("dataset", "text")
        or (key == fmt.COMPLETE and (field[-1], wrong) == ("failures", "mapping"))
    )
    path.write_bytes(edited)
    said = use(store)
    # A reader of rows that none failed needs no entry of the ledger.
    assert bool(said) == (key == fmt.GROUP or (key == fmt.COMPLETE and not is_fine))
    if key == LEDGER and (field[-1], wrong) != ("failures", "mapping"):
        assert verify_store(store).problems
    if key == fmt.GROUP and wrong not in ("1e999", "NaN", "deep"):
        # The same by a writer that is wrong: all hashes fit.
        summary = json.loads((store / fmt.COMPLETE).read_bytes())
        summary["metadata_sha256"][fmt.GROUP] = sha256_of_bytes(edited)
        (store / fmt.COMPLETE).write_bytes(canonical_json(summary))
        assert bool(use(store)) == (not is_fine)


@pytest.mark.parametrize(
    ("column", "value"),
    [("label", 100), ("label", -2), ("height", -1), ("width", -5)],
)
def test_a_table_with_values_that_no_sample_has(store, column, value):
    values = [value, *SAMPLES.table.column(column).to_pylist()[1:]]
    index = SCHEMA.get_field_index(column)
    table = SAMPLES.table.set_column(
        index, SCHEMA.field(column), pa.array(values, SCHEMA.types[index])
    )
    (store / fmt.MANIFEST).write_bytes(Samples(table).to_parquet())
    assert "was edited or damaged" in use(store)
    seal_metadata(store)
    assert "manifest.parquet is damaged (the table of samples has" in use(store)


def test_failures_that_the_ledger_lacks_leave_no_row_out(store):
    summary = json.loads((store / fmt.COMPLETE).read_bytes())
    summary["failures"] = {"1": "gone"}
    (store / fmt.COMPLETE).write_bytes(canonical_json(summary))
    assert "complete.json has other failures than ledger/000000.json" in use(store)
    # The same in both: the shard itself tells.
    entry = json.loads((store / LEDGER).read_bytes())
    entry["failures"] = {"1": "gone"}
    (store / LEDGER).write_bytes(canonical_json(entry))
    Store(store)
    assert "row 1 of layers/layer0 cannot be read, complete.json says that it failed" in use(store)


@pytest.mark.parametrize(
    ("offset", "length"), [(2**63, 100), (0, 2**50), (2**64 - 2, 2**64 - 2), (0, 2**64 - 1)]
)
def test_an_index_that_makes_no_sense(offset, length):
    array = ARRAYS["targets"]
    tail = bytearray(tail_bytes(array, 1))
    tail[MARK_BYTES:-4] = np.asarray([offset, length], "<u8").tobytes()
    tail[-4:] = crc32c(bytes(tail[MARK_BYTES:-4])).to_bytes(4, "little")
    with pytest.raises(DamagedChunkError, match="the index of a shard is damaged"):
        decode_tail(array, 1, bytes(tail), bytes(MARK_BYTES))


@pytest.mark.parametrize("size", [2**28, ARRAYS["targets"].tile_bytes - 1])
def test_a_compressed_chunk_inflates_to_its_tile_and_no_further(size):
    array, pool = ARRAYS["targets"], pa.default_memory_pool()
    bomb = np.frombuffer(zstd.compress(bytes(size)), np.uint8)
    before = pool.max_memory()
    with pytest.raises(DamagedChunkError, match="a chunk cannot be decompressed"):
        decode_tile(array, bomb)
    assert pool.max_memory() <= max(before, pool.bytes_allocated() + 2**20)


def test_a_deflated_chunk_inflates_to_its_tile_and_no_further(store, tmp_path):
    file = tmp_path / "store.h5"
    export_store(Store(store), file)
    bomb = zlib.compress(bytes(2**28), 9)
    with h5py.File(file, "r+") as opened:
        content = bytes(Fletcher32().encode(np.frombuffer(bomb, np.uint8)))
        opened["targets"].id.write_direct_chunk((0, 0, 0), content, 0)
    tracemalloc.start()
    try:
        with pytest.raises(StoreError, match="row 0 of targets cannot be read, a chunk has 65537 "):
            Store(file).read_targets(ROWS)
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()
    assert "65537 bytes, expected 65536" in outcome(lambda: import_store(file, tmp_path / "cache"))


@pytest.mark.parametrize("name", ["layers/layer0", "targets"])
def test_exchanged_shards_are_neither_read_nor_exported(store, tmp_path, monkeypatch, name):
    monkeypatch.setattr(fmt, "ROWS_PER_SHARD", 1)
    other = tmp_path / "other"
    write_pending(begin_store(other))
    first, second = (other / ARRAYS[name].shard_key(shard) for shard in (0, 1))
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    opened = Store(other)
    message = f"row 0 of {name} cannot be read, its shard holds other images or features"
    with pytest.raises(StoreError, match=message):
        opened.read_array(name, ROWS)
    with pytest.raises(StoreError, match=message):
        export_store(Store(other), tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_a_shard_of_another_view_or_store_is_refused(store, tmp_path):
    """Though it is of the same images."""
    header = Store(store).header
    array = ARRAYS["layers/layer0"]
    mark = header.shard_mark(array, 0, SAMPLES)
    others = [
        header.shard_mark(array, 1, SAMPLES),
        header.shard_mark(ARRAYS["targets"], 0, SAMPLES),
        header.shard_mark(array, 0, SAMPLES.take(ROWS[::-1])),
    ]
    for field in ("view", "weights_sha256", "dtype", "precision", "backbone"):
        identity = dataclasses.replace(header.identity, **{field: "another"})
        others.append(dataclasses.replace(header, identity=identity).shard_mark(array, 0, SAMPLES))
    assert len({mark, *others}) == len(others) + 1
    values = [np.full(array.row_shape, 9, array.dtype) for _ in range(2)]
    file = store / array.shard_key(0)
    for number, wrong in enumerate([*others, mark]):
        file.write_bytes(b"".join(EncodedShard(array, ROWS_PER_SHARD, [0, 1], values, wrong)))
        said = outcome(lambda: Store(store).read_layer("layer0", ROWS))
        assert ("its shard holds other images or features" in said) == (number < len(others))


def test_a_damaged_shard_is_not_shared(store, tmp_path):
    file = store / ARRAYS["layers/layer0"].shard_key(0)
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    for content in (bytes(data), bytes(data)[:-1], bytes(data) + b"\0"):
        file.write_bytes(content)
        with pytest.raises(StoreError, match=r"its layers/layer0/c\.0\.0\.0 is damaged, it is not"):
            write_pending(begin_store(tmp_path / "grown"), earlier=store)
        assert not (tmp_path / "grown" / LEDGER).exists()
