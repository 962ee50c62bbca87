"""A repaired store is, byte for byte, what it was, and only what was damaged was made again."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from support import damaged_store as by_hand
from support.s3_server import running_s3_server

from declip_pipeline.errors import IdentityMismatchError, StoreError
from declip_pipeline.extraction import maintenance, recorded_backbones
from declip_pipeline.extraction.maintenance import repair_store
from declip_pipeline.store import format as fmt
from declip_pipeline.store.reader import Store
from declip_pipeline.store.verify import verify_store
from declip_pipeline.store.writer import StoreWriter


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


@pytest.fixture
def opened_backbones(monkeypatch, tiny_backbone) -> list[str]:
    """The backbones that repair opens: the one that is open already, for speed."""
    opened = []

    def opening(arch, *, weights, image_size, device):
        size = tiny_backbone.preprocessing.height, tiny_backbone.preprocessing.width
        assert (weights, image_size, device) == ([str(by_hand.WEIGHTS)], size, "cpu")
        opened.append(arch)
        return tiny_backbone

    monkeypatch.setattr(recorded_backbones, "open_backbone", opening)
    return opened


def repaired(path, **options):
    problems = verify_store(path, deep=True).problems
    assert problems
    repair_store(path, problems, **options)
    return verify_store(path, deep=True).problems


@pytest.mark.slow
@pytest.mark.parametrize("name", by_hand.CASES)
def test_every_kind_of_damage_is_mended_byte_for_byte(name, made, store, opened_backbones):
    by_hand.CASES[name].damage(store)
    assert repaired(store) == []
    assert by_hand.files_of(store) == by_hand.files_of(made[1])


@pytest.mark.slow
def test_only_what_is_damaged_is_made_again(made, store, opened_backbones, monkeypatch):
    by_hand.flip(by_hand.shard("scales/layer3", 1), 3)(store)
    by_hand.remove(by_hand.shard("masks", 2))(store)
    written = []
    write_shard = StoreWriter.write_shard

    def noted(self, shard, rows, arrays, failures, stored):
        written.append((shard, sorted(arrays), len(stored)))
        write_shard(self, shard, rows, arrays, failures, stored)

    monkeypatch.setattr(StoreWriter, "write_shard", noted)
    # The inode alone will not do: one that is freed may come back.
    before = {file: _written_at(file) for file in store.rglob("*") if file.is_file()}
    # A location that ends in a slash is the same place: what is kept must not be linked to itself.
    assert repaired(f"{store}/") == []
    assert sorted(written) == [(1, ["layers/layer3", "scales/layer3"], 5), (2, ["masks"], 6)]
    changed = [
        file.relative_to(store).as_posix()
        for file, written_at in before.items()
        if _written_at(file) != written_at
    ]
    assert sorted(changed) == [
        "complete.json",
        by_hand.shard("layers/layer3", 1),
        "ledger/000001.json",
        "ledger/000002.json",
        by_hand.shard("scales/layer3", 1),
    ]
    assert by_hand.files_of(store) == by_hand.files_of(made[1])


def test_records_are_mended_without_backbone_and_pictures(store, opened_backbones, tmp_path):
    by_hand.flip("labels/c.0", 3)(store)
    by_hand.edit("targets/zarr.json", "256", "255")(store)
    assert repaired(store, data_root=tmp_path / "absent") == []
    assert opened_backbones == []


def test_everything_at_once_is_mended_byte_for_byte(made, store, opened_backbones):
    for name in ("flipped in a chunk", "truncated", "empty"):
        by_hand.SHARD_CASES[name].damage(store)
    by_hand.LEDGER_CASES["no JSON"].damage(store)
    for name in ("an array's shape", "labels", "sizes missing", "a shard of no rows"):
        by_hand.RECORD_CASES[name].damage(store)
    assert repaired(store) == []
    assert by_hand.files_of(store) == by_hand.files_of(made[1])
    assert opened_backbones == ["CLIP:from-file"]


def test_an_unfinished_store_is_finished(made, store, opened_backbones):
    for key in (fmt.COMPLETE, "ledger/000000.json", "ledger/000001.json"):
        by_hand.remove(key)(store)
    by_hand.cut(by_hand.shard("layers/layer0", 1), 9)(store)
    by_hand.flip(by_hand.shard("layers/layer0", 2), 9)(store)
    assert repaired(store) == []
    assert by_hand.files_of(store) == by_hand.files_of(made[1])


def test_an_interrupted_repair_goes_on(made, store, opened_backbones, monkeypatch):
    for number in (0, 2):
        by_hand.flip(by_hand.shard("layers/layer0", number), 9)(store)
    by_hand.flip("sizes/c.0.0", 9)(store)
    with monkeypatch.context() as patch:

        def interrupted(*arguments):
            raise KeyboardInterrupt

        patch.setattr(StoreWriter, "write_shard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            repaired(store)
    with pytest.raises(StoreError, match="incomplete: 2 of 4 shards"):
        Store(store)
    assert repaired(store) == []
    assert by_hand.files_of(store) == by_hand.files_of(made[1])


def damaged_dataset(made, tmp_path):
    """A copy of the dataset, of the test's own."""
    return Path(shutil.copytree(made[0], tmp_path / "moved"))


def test_a_dataset_that_was_moved_is_named(made, store, opened_backbones, tmp_path):
    by_hand.remove(by_hand.shard("targets", 1))(store)
    moved = damaged_dataset(made, tmp_path)
    by_hand.change_json(
        store,
        fmt.GROUP,
        lambda group: group["attributes"][fmt.ATTRIBUTES]["provenance"].update(root="/nowhere"),
    )
    by_hand.seal_metadata(store)
    before = by_hand.files_of(store)
    with pytest.raises(
        StoreError,
        match=r"/nowhere/images/train/p0000\.png is needed again and cannot be read \(No such "
        r"file or directory\); name the folder .* with `data_root`",
    ):
        repaired(store)
    assert by_hand.files_of(store) == before
    assert repaired(store, data_root=moved) == []
    target = by_hand.shard("targets", 1)
    assert (store / target).read_bytes() == (made[1] / target).read_bytes()


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_picture_that_has_changed_since_is_named(made, store, opened_backbones, tmp_path, kind):
    by_hand.flip(by_hand.shard("layers/layer0", 1), 9)(store)
    before = by_hand.files_of(store)
    moved = damaged_dataset(made, tmp_path)
    # Of row 5, a part of the damaged shard.
    changed = moved / kind / "train" / "p0001.png"
    changed.write_bytes(changed.read_bytes() + b"\0")
    with pytest.raises(
        StoreError,
        match=rf"{kind}/train/p0001\.png has changed since the store was made: its SHA-256 is "
        r"\w{12}\.\.\., the manifest has \w{12}\.\.\.; bring the former file back "
        r".*`data_root`.*, or",
    ):
        repaired(store, data_root=moved)
    assert by_hand.files_of(store) == before


def test_pictures_that_are_not_needed_may_be_gone(made, store, opened_backbones, tmp_path):
    by_hand.flip(by_hand.shard("layers/layer0", 1), 9)(store)
    moved = damaged_dataset(made, tmp_path)
    shutil.rmtree(moved / "images" / "test")
    samples = Store(made[1]).samples
    (moved / samples[by_hand.UNREADABLE_ROW].image).unlink()
    assert repaired(store, data_root=moved) == []
    assert by_hand.files_of(store) == by_hand.files_of(made[1])


def test_a_picture_that_was_read_once_is_read_again(made, store, opened_backbones, monkeypatch):
    by_hand.flip(by_hand.shard("layers/layer0", 1), 9)(store)
    # Extraction may have had a higher `max_megapixels` than there is by default.
    monkeypatch.setattr(maintenance, "DEFAULT_MAX_MEGAPIXELS", 1e-6)
    by_hand.remove("ledger/000002.json")(store)
    assert repaired(store) == []
    assert by_hand.files_of(store) == by_hand.files_of(made[1])
    by_hand.flip(by_hand.shard("layers/layer0", 1), 9)(store)
    monkeypatch.setattr(
        "declip_pipeline.extraction.maintenance.SampleReader",
        lambda **options: lambda sample: "is truncated",
    )
    with pytest.raises(
        StoreError,
        match=r"could be read when the store was made, and cannot be now \(is truncated\)",
    ):
        repaired(store)


def test_another_backbone_is_refused(store, golden):
    by_hand.flip(by_hand.shard("layers/layer0", 1), 9)(store)
    before = by_hand.files_of(store)
    with pytest.raises(
        IdentityMismatchError,
        match=r"weights_sha256 differs: .*store was made with '5b34\w+', CLIP:from-file opened "
        r"here has '\w{64}'; name the weights that made it with `weights`",
    ):
        repaired(store, weights=[str(golden / "tiny_rn_openai.pt")])
    assert by_hand.files_of(store) == before


def test_the_recorded_backbone_is_opened(made, store):
    by_hand.flip(by_hand.shard("layers/layer0", 1), 9)(store)
    assert repaired(store) == []
    assert by_hand.files_of(store) == by_hand.files_of(made[1])


def test_what_is_no_part_of_a_store_stays(made, store, opened_backbones):
    by_hand.write("notes.txt", "mine")(store)
    by_hand.flip(by_hand.shard("layers/layer0", 1), 9)(store)
    (problem,) = repaired(store)
    assert (problem.key, problem.is_repairable) == ("notes.txt", False)
    assert by_hand.files_of(store) == by_hand.files_of(made[1]) | {"notes.txt": b"mine"}


@pytest.mark.slow
def test_a_lost_group_is_written_again_by_extraction(tiny_backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(fmt, "ROWS_PER_SHARD", by_hand.ROWS_PER_SHARD)
    store = by_hand.make_store(tmp_path, tiny_backbone)[1]
    before = by_hand.files_of(store)
    by_hand.remove(fmt.GROUP)(store)
    shutil.rmtree(tmp_path / "noisy")
    assert by_hand.make_store(tmp_path, tiny_backbone)[1] == store
    assert by_hand.files_of(store) == before


def test_a_damaged_manifest_cannot_be_mended(store):
    by_hand.flip(fmt.MANIFEST, 99)(store)
    before = by_hand.files_of(store)
    with pytest.raises(
        StoreError,
        match=r"store cannot be repaired: manifest.parquet was edited or damaged, "
        ".*`overwrite=True`",
    ):
        repaired(store)
    assert by_hand.files_of(store) == before


def test_what_nothing_else_records_stays_as_it_is(store, opened_backbones):
    by_hand.edit("zarr.json", '"dataset": "noisy"', '"dataset": "noisier"')(store)
    assert repaired(store) == []
    assert Store(store).dataset == "noisier"


@pytest.mark.slow
def test_rows_in_another_order_are_made_to_fit(made, store, opened_backbones):
    by_hand.exchange_rows(store, 0, 5)
    by_hand.seal_metadata(store)
    assert repaired(store) == []
    before, after = Store(made[1]), Store(store)
    for row, other in ((0, 5), (5, 0), (1, 1)):
        assert after.samples[row] == before.samples[other]
        assert after.sizes[row].tolist() == before.sizes[other].tolist()
        masks = [s.read_masks(np.asarray([r])) for s, r in ((after, row), (before, other))]
        np.testing.assert_array_equal(*masks)
        layers = [
            s.read_layer("layer3", np.asarray([r])).decoded()
            for s, r in ((after, row), (before, other))
        ]
        np.testing.assert_allclose(*layers, rtol=0, atol=0.05)


@pytest.mark.slow
def test_a_store_in_a_bucket_is_mended_too(made, opened_backbones, monkeypatch):
    server = running_s3_server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = server.new_bucket()
    client = server.client()
    files = by_hand.files_of(made[1])
    for key, data in files.items():
        client.put_object(Bucket=bucket, Key=f"cache/store/{key}", Body=data)
    location = f"s3://{bucket}/cache/store"
    assert verify_store(location, deep=True).problems == []
    flipped, lost = by_hand.shard("layers/layer0", 1), by_hand.shard("masks", 3)
    data = bytearray(files[flipped])
    data[9] ^= 4
    client.put_object(Bucket=bucket, Key=f"cache/store/{flipped}", Body=bytes(data))
    client.delete_object(Bucket=bucket, Key=f"cache/store/{lost}")
    problems = verify_store(location, deep=True).problems
    assert [(problem.key, problem.rows) for problem in problems] == [
        (flipped, (4,)),
        (lost, (12, 13, 14)),
    ]
    assert repaired(location) == []
    assert server.objects(bucket, "cache/store/") == files


def _written_at(file: Path) -> tuple[int, int]:
    return file.stat().st_ino, file.stat().st_mtime_ns
