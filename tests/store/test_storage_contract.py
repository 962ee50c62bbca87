"""What every storage obeys: a folder of a file system, and a bucket behind the S3 protocol."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.s3_server import running_s3_server

from declip_pipeline.errors import StoreError
from declip_pipeline.store.open_files import MOST_OPEN_FILES
from declip_pipeline.store.storage import Storage, storage_at

Places = Callable[[str], Storage]

ODD_KEYS = [
    "with space",
    "per%cent, %20 and %2F",
    "ünï/ß/日本",
    "plus+and&equals=",
    "question?x=1",
    "number#sign",
    "brackets[0]{1}(2)<3>",
    "quotes'\"`",
    "colon:semi;at@star*bang!",
    "back\\slash",
    ".dot/..two",
    "tilde~caret^bar|dollar$",
]


def part(storage: Storage, key: str, offset: int, *lengths: int) -> list[bytes] | None:
    """What `read_part` fills buffers of these lengths with, None where it says that it cannot."""
    buffers = [np.zeros(length, np.uint8) for length in lengths]
    if not storage.read_part(key, offset, buffers):
        return None
    return [buffer.tobytes() for buffer in buffers]


class StorageContract(ABC):
    """Tests of any storage: `at` makes the one called by a name, all of them side by side."""

    @pytest.fixture
    @abstractmethod
    def at(self) -> Places: ...

    @pytest.fixture
    def storage(self, at) -> Storage:
        return at("store")

    def test_what_is_written_is_read(self, storage):
        storage.write("folder/key", [b"one ", memoryview(b"two "), b"", b"three"])
        assert storage.read("folder/key") == b"one two three"
        assert storage.exists("folder/key")
        assert storage.sizes() == {"folder/key": 13}

    def test_writing_replaces(self, storage):
        storage.write("key", [b"a longer text"])
        storage.write("key", [b"short"])
        assert storage.read("key") == b"short"
        assert storage.sizes() == {"key": 5}

    def test_what_is_missing(self, at, storage):
        for place in (storage, at("nowhere")):
            assert place.read("folder/key") is None
            assert place.read_tail("folder/key", 4) is None
            assert part(place, "folder/key", 0, 4) is None
            assert not place.exists("folder/key")
            assert place.sizes() == {}
            assert place.folders() == []
            place.delete("folder/key")
            place.delete_all()
            place.remove_leftovers()

    def test_a_folder_is_no_key(self, storage):
        storage.write("folder/key", [b"data"])
        assert storage.read("folder") is None
        assert not storage.exists("folder")
        assert storage.read("folder/key/below") is None
        assert storage.read_tail("folder/key/below", 4) is None

    def test_a_key_without_bytes(self, storage):
        storage.write("empty", [])
        assert storage.exists("empty")
        assert storage.read("empty") == b""
        assert storage.read_tail("empty", 4) == b""
        assert part(storage, "empty", 0, 1) is None
        assert storage.sizes() == {"empty": 0}

    def test_read_tail(self, storage):
        storage.write("key", [b"0123456789"])
        assert storage.read_tail("key", 3) == b"789"
        assert storage.read_tail("key", 10) == b"0123456789"
        assert storage.read_tail("key", 99) == b"0123456789"

    def test_read_part(self, storage):
        storage.write("key", [b"0123456789"])
        assert part(storage, "key", 0, 10) == [b"0123456789"]
        assert part(storage, "key", 2, 3) == [b"234"]
        assert part(storage, "key", 3, 1, 4, 2) == [b"3", b"4567", b"89"]
        rows = np.zeros((3, 4), np.uint8)
        assert storage.read_part("key", 1, [rows[2], rows[0]])
        assert rows.tobytes() == b"5678\0\0\0\x001234"

    @pytest.mark.parametrize(
        ("offset", "lengths"),
        [(0, [11]), (8, [2, 1]), (9, [2]), (10, [1]), (50, [1]), (2**40, [1])],
    )
    def test_a_part_past_the_end_is_refused(self, storage, offset, lengths):
        storage.write("key", [b"0123456789"])
        assert part(storage, "key", offset, *lengths) is None

    def test_what_was_replaced_is_not_read_in_part(self, at):
        at("store").write("key", [b"0123456789"])
        assert part(at("store"), "key", 0, 2) == [b"01"]
        at("store").write("key", [b"abc"])
        assert part(at("store"), "key", 0, 2) == [b"ab"]
        assert at("store").read_tail("key", 5) == b"abc"

    def test_one_object_reads_one_content_of_a_key(self, at):
        """Also once its file was closed meanwhile."""
        reader = at("store")
        at("store").write("key", [b"0123456789"])
        for number in range(MOST_OPEN_FILES + 1):
            at("others").write(f"other{number}", [b"other"])
        assert reader.read_tail("key", 2) == b"89"
        others = at("others")
        for number in range(MOST_OPEN_FILES + 1):
            assert part(others, f"other{number}", 0, 5) == [b"other"]
        at("store").write("key", [b"abcdefghij"])
        for read in (lambda: part(reader, "key", 0, 2), lambda: reader.read_tail("key", 2)):
            with pytest.raises(
                StoreError, match=r"key was replaced or removed since .*; open the store again"
            ):
                read()
        assert part(at("store"), "key", 0, 2) == [b"ab"]

    def test_a_version_is_another_once_a_key_is_replaced(self, at):
        assert at("store").version("key") is None
        at("store").write("key", [b"1"])
        first = at("store").version("key")
        assert first is not None
        assert at("store").version("key") == first
        at("store").write("key", [b"2"])
        assert at("store").version("key") not in (None, first)

    def test_moving_is_all_or_nothing(self, at):
        at("source").write("a/b", [b"1"])
        is_moved = at("source").move(at("target"))
        assert at("source").sizes() == ({} if is_moved else {"a/b": 1})
        assert at("target").sizes() == ({"a/b": 1} if is_moved else {})

    def test_creating_is_for_the_first(self, at):
        assert at("store").create("folder/key", b"first")
        assert not at("store").create("folder/key", b"second")
        assert at("store").read("folder/key") == b"first"
        at("store").delete("folder/key")
        assert at("store").create("folder/key", b"third")

    def test_folders_and_sizes(self, at):
        keys = ("zarr.json", "layers/layer0/c.0", "layers/layer0/c.1", "ledger/0.json")
        for key in keys:
            at("store").write(key, [key.encode()])
        at("store2").write("other/key", [b"other"])
        at("store.old").write("older", [b"older"])
        assert at("store").sizes() == {key: len(key) for key in keys}
        assert at("store").folders() == ["layers", "ledger"]
        assert at("store/layers").folders() == ["layer0"]
        assert at("store/layers").sizes() == {"layer0/c.0": 17, "layer0/c.1": 17}
        assert at("store2").sizes() == {"other/key": 5}
        assert at("sto").sizes() == {}
        assert at("sto").folders() == []
        assert {"store", "store2", "store.old"} <= set(at("").folders())

    def test_deleting_one_key(self, storage):
        storage.write("key", [b"1"])
        storage.write("key2", [b"2"])
        storage.delete("key")
        storage.delete("key")
        assert storage.read("key") is None
        assert storage.sizes() == {"key2": 1}

    def test_deleting_all_leaves_the_neighbours(self, at):
        neighbours = {"store2": "key", "store.old": "deep/key", "sto": "re", "": "store-notes"}
        for place, key in neighbours.items():
            at(place).write(key, [b"stays"])
        for key in ("a", "b/c", "b/d/e"):
            at("store").write(key, [b"goes"])
        at("store").delete_all()
        assert at("store").sizes() == {}
        assert "store" not in at("").folders()
        for place, key in neighbours.items():
            assert at(place).read(key) == b"stays"

    def test_linking_shares_the_bytes(self, at):
        source, target = at("source"), at("target")
        source.write("a/b", [b"shared"])
        target.write("c/d", [b"what was there"])
        target.link("c/d", source, "a/b")
        assert target.read("c/d") == b"shared"
        source.write("a/b", [b"changed"])
        assert target.read("c/d") == b"shared"
        source.delete_all()
        assert target.read("c/d") == b"shared"

    def test_linking_what_is_missing(self, at, elsewhere):
        at("source").write("there", [b"1"])
        elsewhere.write("there", [b"1"])
        for source in (at("source"), elsewhere):
            with pytest.raises(StoreError, match=r" lacks its a/b; run .*cache verify .* --repair"):
                at("target").link("c/d", source, "a/b")
        assert not at("target").exists("c/d")

    def test_linking_from_elsewhere_copies(self, storage, elsewhere):
        elsewhere.write("a/b", [b"shared"])
        storage.link("c/d", elsewhere, "a/b")
        elsewhere.delete_all()
        assert storage.read("c/d") == b"shared"

    @pytest.mark.parametrize("key", ODD_KEYS)
    def test_keys_with_odd_characters(self, storage, key):
        data = key.encode()
        storage.write(key, [data])
        assert storage.read(key) == data
        assert storage.exists(key)
        assert storage.read_tail(key, 2) == data[-2:]
        assert part(storage, key, 1, 2) == [data[1:3]]
        assert not storage.create(key, b"")
        assert storage.sizes() == {key: len(data)}
        storage.link(f"copy/{key}", storage, key)
        storage.delete(key)
        assert storage.sizes() == {f"copy/{key}": len(data)}
        assert storage.read(f"copy/{key}") == data
        storage.delete_all()
        assert storage.sizes() == {}

    # Of other characters (a space, a tilde, an asterisk) the tests' server misreads the signature.
    @pytest.mark.parametrize("name", ["per%cent/and+%20", "ünï(1)"])
    def test_places_with_odd_characters(self, at, name):
        at(name).write("folder/key", [b"data"])
        assert at(name).read("folder/key") == b"data"
        assert at(name).sizes() == {"folder/key": 4}
        assert at(name).folders() == ["folder"]

    def test_much_at_once(self, storage):
        """More than a request or a write of the system takes, and in a thousand pieces and more."""
        data = np.random.default_rng(0).integers(0, 256, 17 * 2**20 + 5, np.uint8).tobytes()
        step = 2**14
        storage.write("large", [data[first : first + step] for first in range(0, len(data), step)])
        assert storage.sizes() == {"large": len(data)}
        assert storage.read("large") == data
        assert part(storage, "large", 5 * 2**20 - 3, 3, 3) == [
            data[5 * 2**20 - 3 : 5 * 2**20],
            data[5 * 2**20 : 5 * 2**20 + 3],
        ]
        storage.link("copy", storage, "large")
        assert storage.read("copy") == data

    def test_threads_read_side_by_side(self, storage):
        data = np.arange(4096, dtype=np.uint16)
        storage.write("key", [data.tobytes()])
        with ThreadPoolExecutor(storage.parallel_reads) as threads:
            read = threads.map(lambda place: part(storage, "key", 2 * place, 2), range(0, 4096, 64))
            assert b"".join(found[0] for found in read) == data[::64].tobytes()

    def test_a_storage_is_found_again_by_its_location(self, storage):
        storage.write("key", [b"data"])
        again = storage_at(storage.location)
        assert again.location == storage.location
        assert again.read("key") == b"data"

    def test_what_a_writer_asks(self, storage):
        storage.write("key", [b"data"])
        with storage.exclusively():
            storage.write("key", [b"more"])
            storage.remove_leftovers()
        assert storage.sizes() == {"key": 4}
        free = storage.free_bytes()
        assert free is None or free > 0
        assert storage.parallel_reads >= 1


class TestFolder(StorageContract):
    @pytest.fixture
    def at(self, tmp_path):
        return lambda name: storage_at(tmp_path / "root" / name)

    @pytest.fixture
    def elsewhere(self, bucket):
        return bucket("elsewhere")

    def test_of_many_that_create_at_once_one_is_first(self, at):
        def create(number: int) -> bool:
            return at("store").create("key", str(number).encode())

        with ThreadPoolExecutor(8) as threads:
            created = list(threads.map(create, range(40)))
        assert sum(created) == 1
        assert at("store").read("key") == str(created.index(True)).encode()


class TestBucket(StorageContract):
    @pytest.fixture
    def at(self, bucket):
        return bucket

    @pytest.fixture
    def elsewhere(self, tmp_path):
        return storage_at(tmp_path / "elsewhere")


@pytest.fixture
def bucket(monkeypatch) -> Places:
    """Places in an empty bucket; the empty name is the bucket itself."""
    server = running_s3_server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    root = f"s3://{server.new_bucket()}"
    return lambda name: storage_at(f"{root}/{name}")
