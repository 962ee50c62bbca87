"""A store that is replaced while others read it or write into it: nobody sees a mixture."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.handmade_store import (
    ARRAYS,
    SAMPLES,
    VALUES,
    begin_store,
    write_pending,
)
from support.s3_server import running_s3_server

from declip_pipeline.errors import InputError, StoreError
from declip_pipeline.store import format as fmt
from declip_pipeline.store.catalog import find_view_stores, list_stores
from declip_pipeline.store.generations import OVERWRITE, RETRY, beside, settle
from declip_pipeline.store.reader import Store
from declip_pipeline.store.storage import storage_at
from declip_pipeline.store.verify import verify_store
from declip_pipeline.store.writer import StoreWriter

OTHER_ORDER = SAMPLES.take(np.arange(len(SAMPLES))[::-1])


pytestmark = pytest.mark.usefixtures("small_shards")


@pytest.fixture(params=["folder", "bucket"])
def location(request, tmp_path, monkeypatch) -> str:
    if request.param == "folder":
        return str(tmp_path / "set" / "store")
    server = running_s3_server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{server.new_bucket()}/set/store"


def overwrite(location: str, samples=OTHER_ORDER, ending: str = OVERWRITE) -> None:
    write_pending(begin_store(beside(location, ending), samples))
    settle(location)


def require_rows(store: Store) -> None:
    """Every row that is read is that of its image."""
    for name, expected in VALUES.items():
        read = store.read_array(name, np.arange(len(store)))
        np.testing.assert_array_equal(read, [expected[one] for one in store.samples.ids])


def test_a_store_is_replaced_in_its_place(location):
    write_pending(begin_store(location))
    overwrite(location)
    store = Store(location)
    assert store.samples == OTHER_ORDER
    require_rows(store)
    assert verify_store(location, deep=True).problems == []
    folder = storage_at(location.rpartition("/")[0])
    assert folder.folders() == ["store"]


def test_a_reader_of_a_replaced_store_gets_its_own_rows_or_an_error(location):
    write_pending(begin_store(location))
    touched, opened = Store(location), Store(location)
    require_rows(touched)
    overwrite(location)
    require_rows(Store(location))
    for store in (touched, opened):
        for name, expected in VALUES.items():
            for row, of_sample in enumerate(SAMPLES.ids):
                try:
                    read = store.read_array(name, np.asarray([row]))
                except StoreError as error:
                    assert "was replaced or removed since its store was opened" in str(error)
                else:
                    np.testing.assert_array_equal(read[0], expected[of_sample])
    # What was not read before cannot be what it was.
    with pytest.raises(StoreError, match="store was replaced or removed since its store was"):
        opened.read_targets(np.asarray([0]))


def test_a_writer_of_a_replaced_store_commits_nothing(location):
    writer = begin_store(location)
    commit = pending_commit(writer, 1)
    pending_commit(writer, 0)()
    overwrite(location)
    before = storage_at(location).sizes()
    with pytest.raises(StoreError, match="was replaced while this extraction was at"):
        commit()
    with pytest.raises(StoreError, match="was replaced while"):
        writer.finish()
    assert storage_at(location).sizes() == before
    require_rows(Store(location))
    assert verify_store(location, deep=True).problems == []


def test_a_writer_of_a_removed_store_commits_nothing(location):
    writer = begin_store(location)
    storage_at(location).delete_all()
    with pytest.raises(StoreError, match=r"manifest\.parquet has gone while this extraction"):
        pending_commit(writer, 0)()
    assert fmt.ledger_key(0) not in storage_at(location).sizes()


def test_an_entry_of_other_samples_does_not_count(location):
    """As a writer without a lock may leave it in a bucket."""
    one, other = begin_store(location), begin_store(f"{location}2", OTHER_ORDER)
    for shard in one.pending_shards():
        pending_commit(one, shard)()
        pending_commit(other, shard)()
    one.storage.write(fmt.ledger_key(1), [storage_at(other.location).read(fmt.ledger_key(1))])
    with pytest.raises(StoreError, match=r"its ledger/000001\.json is of other images"):
        one.finish()
    with pytest.raises(StoreError, match="is incomplete"):
        Store(location)


def test_leftovers_are_listed_as_such_and_given_to_nobody(location):
    write_pending(begin_store(location))
    begin_store(beside(location, OVERWRITE))
    write_pending(begin_store(beside(location, RETRY)))
    found = {one.location: one for one in list_stores(location.rpartition("/")[0])}
    assert found[location].leftover is None
    assert "leftover" not in found[location].to_json()
    assert "`overwrite=True` again" in found[beside(location, OVERWRITE)].to_json()["leftover"]
    assert "second try" in str(found[beside(location, RETRY)].leftover)
    assert find_view_stores(Store(location), ["layer0"]) == {"clean": location}
    settle(location)
    assert list(Store(location).failures) == []
    assert [one.location for one in list_stores(location.rpartition("/")[0])] == [
        location,
        beside(location, OVERWRITE),
    ]


@pytest.mark.parametrize("rows", [[-1], [0, 3], [99999]])
def test_rows_that_there_are_not_are_refused(location, rows):
    write_pending(begin_store(location))
    with pytest.raises(InputError, match=f"rows from {rows[0]} to {rows[-1]} .* rows from 0 to 2"):
        Store(location).read_targets(np.asarray(rows))


@pytest.mark.parametrize("name", ["layers/layer0", "targets"])
def test_exchanged_shards_are_refused_by_a_reader(tmp_path, name):
    """Though every chunk is whole and of the right size."""
    location = tmp_path / "store"
    samples = SAMPLES.take(np.arange(2)), SAMPLES.take(np.arange(2)[::-1])
    places = [tmp_path / "one" / "store", tmp_path / "two" / "store"]
    for place, rows in zip(places, samples, strict=True):
        write_pending(begin_store(place, rows))
    key = ARRAYS[name].shard_key(0)
    files = [place / key for place in places]
    contents = [file.read_bytes() for file in files]
    files[0].write_bytes(contents[1])
    with pytest.raises(StoreError, match=rf"row 1 of {name} .*, its shard holds other images"):
        Store(places[0]).read_array(name, np.asarray([1]))
    assert not location.exists()


def pending_commit(writer: StoreWriter, shard: int) -> Callable[[], None]:
    """The writing of a shard, to be called later."""
    rows = writer.shard_rows(shard)
    arrays = {
        name: [of_sample[writer.samples[row].id] for row in rows]
        for name, of_sample in VALUES.items()
    }
    return lambda: writer.write_shard(shard, rows, arrays, {})


def test_a_relative_place_is_settled_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pending(begin_store(Path("store")))
    overwrite("store")
    require_rows(Store("store"))
