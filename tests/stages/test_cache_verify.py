"""`cache verify`: what is wrong line by line, exit codes, and the repair."""

import shutil
from pathlib import Path

import pytest
from support import damaged_store as by_hand

from declip_pipeline.store import format as fmt


@pytest.fixture(scope="module")
def made(tiny_backbone, tmp_path_factory) -> tuple[Path, Path]:
    """A dataset and its store, which no test changes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fmt, "ROWS_PER_SHARD", by_hand.ROWS_PER_SHARD)
        return by_hand.make_store(tmp_path_factory.mktemp("made"), tiny_backbone)


@pytest.fixture
def store(made, tmp_path) -> Path:
    """A copy of the store."""
    return Path(shutil.copytree(made[1], tmp_path / "store"))


@pytest.mark.slow
def test_a_good_store(program, made):
    shallow = program("cache", "verify", made[1])
    assert (shallow.code, shallow.out) == (
        0,
        "ok: 7 arrays, 4 shards, 15 rows, 1.6 MB by size; --deep reads them\n",
    )
    deep = program("cache", "verify", made[1], "--deep")
    assert (deep.code, deep.out) == (0, "ok: 7 arrays, 4 shards, 15 rows, 1.6 MB read\n")
    assert "28/28" in deep.err
    nothing_to_do = program("cache", "verify", made[1], "--repair")
    assert (nothing_to_do.code, nothing_to_do.out) == (deep.code, deep.out)


@pytest.mark.slow
def test_problems_are_listed_and_mended(program, made, store):
    by_hand.flip(by_hand.shard("layers/layer3", 0), 9)(store)
    by_hand.remove(by_hand.shard("targets", 2))(store)
    by_hand.copy("ledger/000002.json", "ledger/000003.json")(store)
    by_hand.edit("layers/layer0/zarr.json", "257", "256")(store)
    assert program("cache", "verify", store).last_line == "3 problems"
    deep = program("cache", "verify", store, "--deep")
    lines = [
        "layers/layer0/zarr.json: was edited or damaged, its SHA-256 is not that in complete.json",
        "ledger/000003.json, shard 3: is that of shard 2 with rows [8, 12], expected shard 3 with "
        "rows [12, 15] (images/valid/p0008.png, images/valid/p0009.png, images/valid/p0010.png)",
        "layers/layer3, shard 0: a chunk's checksum differs (images/test/p0011.png)",
        "targets, shard 2: its file is missing "
        "(images/train/p0004.png, images/train/p0005.png, images/train/p0006.png and 1 more)",
    ]
    assert deep.code == 1
    assert deep.out.splitlines() == [*lines, "4 problems"]
    assert "--repair can repair 4 of 4 problems" in deep.err

    mended = program("cache", "verify", store, "--repair")
    assert mended.code == 0
    assert mended.out.splitlines()[:-1] == lines
    assert mended.last_line == "ok: 7 arrays, 4 shards, 15 rows, 1.6 MB read"
    assert "repaired 4 problems; verifying again" in mended.err
    assert by_hand.files_of(store) == by_hand.files_of(made[1])


@pytest.mark.slow
def test_what_remains_is_an_exit_code(program, store):
    by_hand.write("notes.txt", "mine")(store)
    by_hand.remove("labels/c.0")(store)
    outcome = program("cache", "verify", store, "--repair")
    assert outcome.code == 1
    assert outcome.out.splitlines() == [
        "labels/c.0: is missing",
        "notes.txt: is no part of a store; move it elsewhere",
        "remains: notes.txt: is no part of a store; move it elsewhere",
        "1 problem",
    ]
    again = program("cache", "verify", store, "--repair")
    assert (again.code, again.out.splitlines()[1:]) == (1, ["1 problem"])
    assert "repaired" not in again.err


@pytest.mark.slow
def test_a_dataset_that_was_moved(program, refused, made, store, tmp_path):
    by_hand.remove(by_hand.shard("masks", 0))(store)
    moved = Path(shutil.copytree(made[0], tmp_path / "moved"))
    made[0].rename(tmp_path / "hidden")
    try:
        message = refused("cache", "verify", store, "--repair", code=1)
        assert "images/test/p0011.png is needed again and cannot be read" in message
        assert message.endswith("name the folder that has the dataset's images now with --data")
        outcome = program("cache", "verify", store, "--repair", "--data", moved)
        assert outcome.code == 0, outcome
    finally:
        (tmp_path / "hidden").rename(made[0])
    assert by_hand.files_of(store) == by_hand.files_of(made[1])


def test_a_picture_that_has_changed(refused, made, store, tmp_path):
    by_hand.flip(by_hand.shard("layers/layer0", 0), 9)(store)
    changed = Path(shutil.copytree(made[0], tmp_path / "changed"))
    picture = changed / "images" / "test" / "p0012.png"
    picture.write_bytes(b"")
    message = refused("cache", "verify", store, "--repair", "--data", changed, code=1)
    assert f"{picture} has changed since the store was made: its SHA-256 is e3b0c442" in message


@pytest.mark.slow
def test_weights_that_have_moved(program, refused, store, tmp_path):
    def forget(group):
        group["attributes"][fmt.ATTRIBUTES]["provenance"]["weights"] = ["absent.pt"]

    by_hand.change_json(store, fmt.GROUP, forget)
    by_hand.seal_metadata(store)
    by_hand.flip(by_hand.shard("layers/layer0", 0), 9)(store)
    assert "absent.pt: no such file" in refused("cache", "verify", store, "--repair", code=1)
    moved = shutil.copy(by_hand.WEIGHTS, tmp_path / "moved.pt")
    outcome = program("cache", "verify", store, "--repair", "--weights", moved)
    assert (outcome.code, outcome.last_line[:3]) == (0, "ok:")


def test_what_cannot_be_verified_is_one_line(refused, store, tmp_path):
    (tmp_path / "store.h5").write_bytes(b"\x89HDF")
    assert "import it first" in refused("cache", "verify", tmp_path / "store.h5")
    assert "is not a feature store" in refused("cache", "verify", tmp_path, code=1)
    assert "pass --repair too" in refused("cache", "verify", store, "--data", tmp_path)
    by_hand.edit("zarr.json", '"format_version": 4', '"format_version": 5')(store)
    message = refused("cache", "verify", store, code=1)
    assert "has store format version 5, this program reads 4; upgrade declip-pipe" in message
    by_hand.remove("zarr.json")(store)
    assert "remove it and run the same" in refused("cache", "verify", store, code=1)
