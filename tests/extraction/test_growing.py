"""A store with more or fewer images or layers takes what earlier stores have, and is as good."""

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support.handmade_store import files_of
from support.made_dataset import forged_picture
from support.same_content import require_same_content, shared_files

from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.errors import StorageFullError, StoreError
from declip_pipeline.extraction.extract import extract_store
from declip_pipeline.store import format as fmt
from declip_pipeline.store.local import LocalStorage
from declip_pipeline.store.reader import Store
from declip_pipeline.store.writer import StoreWriter

ROWS_PER_SHARD = 4
OLD, NEW = ["layer0", "layer3"], ["layer0", "layer1", "layer3"]
PICTURES = ("targets", "thumbnails", "masks")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(fmt, "ROWS_PER_SHARD", ROWS_PER_SHARD)


def run(dataset, backbone, root, *, splits=None, fake_is_white=None, **changes):
    opened = open_dataset(dataset, splits=splits)
    if fake_is_white is not None:
        opened = replace(opened, fake_is_white=fake_is_white)
    options = {"layers": OLD, "root": root, "batch_size": 4}
    return extract_store(opened, backbone, **(options | changes))


@pytest.fixture
def forwards(monkeypatch, tiny_backbone):
    """What went through the backbone: (images, layers) of each time."""
    seen = []
    forward = type(tiny_backbone).features

    def counted(self, images, layers):
        seen.append((len(images), tuple(layers)))
        return forward(self, images, layers)

    monkeypatch.setattr(type(tiny_backbone), "features", counted)
    return seen


@pytest.fixture
def grown(tiny_backbone, tmp_path, forwards):
    """Grows a store: extracts `before`, then `after` something is done, then the latter afresh.

    Gives both stores, the fresh one, and what the growth sent through the backbone.
    """

    def grow(dataset, before, after, change=lambda: None):
        run(dataset, tiny_backbone, tmp_path / "cache", **before)
        change()
        forwards.clear()
        extraction = run(dataset, tiny_backbone, tmp_path / "cache", **after)
        computed = list(forwards)
        fresh = run(dataset, tiny_backbone, tmp_path / "fresh", **after)
        assert len(extraction.reused) == 1
        old, new = Path(extraction.reused[0]), Path(extraction.location)
        fresh = Path(fresh.location)
        assert new.relative_to(tmp_path / "cache") == fresh.relative_to(tmp_path / "fresh")
        assert Store(new).identity == Store(fresh).identity
        return SimpleNamespace(old=old, new=new, fresh=fresh, computed=computed)

    return grow


def shards(*arrays, numbers=range(4)):
    tails = {"thumbnails": ".0.0.0"}
    return {f"{name}/c.{n}{tails.get(name, '.0.0')}" for name in arrays for n in numbers}


def add_picture(dataset, name, number, split="train", size=(40, 56)):
    picture, mask = forged_picture(number, *size)
    Image.fromarray(picture).save(dataset / "images" / split / f"{name}.png")
    Image.fromarray(mask).save(dataset / "masks" / split / f"{name}.png")


@pytest.mark.slow
def test_a_layer_is_added(shared_dataset, grown):
    found = grown(shared_dataset, {}, {"layers": NEW})
    assert {layers for _, layers in found.computed} == {("layer1",)}
    assert sum(pictures for pictures, _ in found.computed) == 15
    expected = shards("layers/layer0", "layers/layer3", *PICTURES)
    assert shared_files(found.old, found.new) == expected
    assert files_of(found.new) == files_of(found.fresh)


@pytest.mark.slow
def test_a_layer_is_taken_away(shared_dataset, grown):
    found = grown(shared_dataset, {"layers": NEW}, {"layers": ["layer1"]})
    assert found.computed == []
    assert shared_files(found.old, found.new) == shards("layers/layer1", *PICTURES)
    assert files_of(found.new) == files_of(found.fresh)


@pytest.mark.slow
def test_pictures_are_added(dataset, grown):
    """Of 15 rows, three shards are whole; the fourth gets its first new image."""

    def change():
        for number, name in enumerate(("a", "p0003x", "zzz")):
            add_picture(dataset, name, 100 + number)

    found = grown(dataset, {}, {}, change)
    assert sum(pictures for pictures, _ in found.computed) == 3
    assert shared_files(found.old, found.new) == shards(
        "layers/layer0", "layers/layer3", *PICTURES, numbers=range(3)
    )
    old, new = Store(found.old), Store(found.new)
    assert new.samples[:15] == old.samples
    assert [s.id.split("/")[-1] for s in new.samples[15:]] == ["a", "p0003x", "zzz"]
    rows = np.arange(15)
    for layer in OLD:
        before, after = (s.read_layer(layer, rows).values.numpy() for s in (old, new))
        np.testing.assert_array_equal(before, after)
    require_same_content(found.new, found.fresh, tolerance=2e-3)


@pytest.mark.slow
def test_a_larger_picture_is_added(dataset, grown):
    """The masks' array has another shape then, and all else stays."""
    found = grown(dataset, {}, {}, lambda: add_picture(dataset, "zzz", 100, size=(90, 700)))
    assert found.computed == [(1, tuple(OLD))]
    assert not {name for name in shared_files(found.old, found.new) if name.startswith("masks/")}
    assert shards("layers/layer0", "targets", numbers=range(3)) <= shared_files(
        found.old, found.new
    )
    require_same_content(found.new, found.fresh, tolerance=2e-3)


@pytest.mark.slow
def test_pictures_and_a_layer_are_added(dataset, grown):
    """The old images go through the backbone for the new layer alone."""

    def change():
        add_picture(dataset, "a", 100)
        add_picture(dataset, "zzz", 101, split="test")

    found = grown(dataset, {}, {"layers": NEW}, change)
    counts = {}
    for pictures, layers in found.computed:
        counts[layers] = counts.get(layers, 0) + pictures
    assert counts == {("layer1",): 15, tuple(NEW): 2}
    require_same_content(found.new, found.fresh, tolerance=2e-3)


@pytest.mark.slow
def test_pictures_are_removed(dataset, grown):
    def change():
        for name in ("p0001", "p0006"):
            for kind in ("images", "masks"):
                (dataset / kind / "train" / f"{name}.png").unlink()

    found = grown(dataset, {}, {}, change)
    assert found.computed == []
    assert len(Store(found.new).samples) == 13
    require_same_content(found.new, found.fresh)


@pytest.mark.slow
def test_a_picture_changes(dataset, grown):
    found = grown(dataset, {}, {}, lambda: add_picture(dataset, "p0003", 100))
    assert found.computed == [(1, tuple(OLD))]
    assert Store(found.new).samples[-1].id == "images/train/p0003"
    require_same_content(found.new, found.fresh, tolerance=2e-3)


@pytest.mark.slow
def test_a_picture_gets_another_name_and_another_a_copy(dataset, grown):
    """What counts is the content."""

    def change():
        for kind in ("images", "masks"):
            folder = dataset / kind / "train"
            (folder / "p0003.png").rename(folder / "moved.png")
            shutil.copy(folder / "p0004.png", folder / "copy.png")

    found = grown(dataset, {}, {}, change)
    assert found.computed == []
    require_same_content(found.new, found.fresh)


@pytest.mark.slow
def test_failed_rows_keep_their_reasons(dataset, grown):
    image = dataset / "images" / "train" / "p0002.png"
    image.write_bytes(image.read_bytes()[:300])
    found = grown(dataset, {}, {"layers": NEW})
    assert sum(pictures for pictures, _ in found.computed) == 14
    [(row, reason)] = Store(found.new).failures.items()
    assert Store(found.new).samples[row].id == "images/train/p0002"
    assert Store(found.old).failures == {row: reason}
    assert "truncated or damaged" in reason
    expected = shards("layers/layer0", "layers/layer3", *PICTURES)
    assert shared_files(found.old, found.new) == expected, "a shard with a failed row is shared too"
    assert files_of(found.new) == files_of(found.fresh)


@pytest.mark.slow
def test_a_failed_picture_is_mended(dataset, grown):
    image = dataset / "images" / "train" / "p0002.png"
    whole = image.read_bytes()
    image.write_bytes(whole[:300])
    found = grown(dataset, {}, {}, lambda: image.write_bytes(whole))
    assert found.computed == [(1, tuple(OLD))]
    assert Store(found.new).failures == {}
    require_same_content(found.new, found.fresh, tolerance=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "int8-per-channel"])
def test_float32_gives_every_dtype(shared_dataset, grown, dtype):
    found = grown(shared_dataset, {"dtype": "float32"}, {"dtype": dtype})
    assert found.computed == []
    assert shared_files(found.old, found.new) == shards(*PICTURES)
    assert files_of(found.new) == files_of(found.fresh)


@pytest.mark.slow
@pytest.mark.parametrize("before", ["float16", "int8"])
def test_a_rounded_dtype_gives_masks_alone(shared_dataset, grown, before):
    found = grown(shared_dataset, {"dtype": before}, {"dtype": "float32"})
    assert sum(pictures for pictures, _ in found.computed) == 15
    assert shared_files(found.old, found.new) == shards(*PICTURES)
    assert files_of(found.new) == files_of(found.fresh)


@pytest.mark.slow
def test_the_same_dtype_comes_before_float32(shared_dataset, tiny_backbone, forwards, tmp_path):
    run(shared_dataset, tiny_backbone, tmp_path, dtype="float32", layers=NEW)
    half = run(shared_dataset, tiny_backbone, tmp_path, layers=["layer0"])
    forwards.clear()
    both = run(shared_dataset, tiny_backbone, tmp_path)
    assert forwards == []
    assert [Path(location).name.split("-")[1] for location in both.reused] == ["float16", "float32"]
    assert shards("layers/layer0") <= shared_files(Path(half.location), Path(both.location))


@pytest.mark.slow
def test_two_halves_make_a_whole(shared_dataset, tiny_backbone, forwards, tmp_path):
    """Images of one store and of another, and layers too: none is computed again."""
    run(shared_dataset, tiny_backbone, tmp_path / "cache", splits=["train", "test"])
    run(shared_dataset, tiny_backbone, tmp_path / "cache", splits=["valid"], layers=["layer3"])
    run(shared_dataset, tiny_backbone, tmp_path / "cache", splits=["valid"], layers=["layer0"])
    forwards.clear()
    whole = run(shared_dataset, tiny_backbone, tmp_path / "cache")
    assert forwards == []
    assert len(whole.reused) == 3
    fresh = run(shared_dataset, tiny_backbone, tmp_path / "fresh")
    require_same_content(whole.location, fresh.location, tolerance=2e-3)


@pytest.mark.slow
def test_another_batch_size_takes_them_all_the_same(shared_dataset, grown):
    found = grown(shared_dataset, {"batch_size": 1}, {"layers": NEW, "batch_size": 5})
    assert {layers for _, layers in found.computed} == {("layer1",)}
    assert Store(found.old).provenance["batch_size"] == 1
    assert Store(found.new).provenance["batch_size"] == 5
    require_same_content(found.new, found.fresh, tolerance=2e-3)


@pytest.mark.slow
def test_other_weights_take_nothing(shared_dataset, tiny_backbone, forwards, tmp_path, monkeypatch):
    run(shared_dataset, tiny_backbone, tmp_path)
    forwards.clear()
    monkeypatch.setattr(tiny_backbone, "weights_sha256", "f" * 64)
    extraction = run(shared_dataset, tiny_backbone, tmp_path, layers=NEW)
    assert extraction.reused == []
    assert sum(pictures for pictures, _ in forwards) == 15


@pytest.mark.slow
def test_the_other_polarity_takes_nothing(shared_dataset, tiny_backbone, tmp_path):
    first = run(shared_dataset, tiny_backbone, tmp_path)
    extraction = run(shared_dataset, tiny_backbone, tmp_path, fake_is_white=False)
    assert extraction.reused == []
    one, other = (Store(e.location).read_masks(np.asarray([0])) for e in (first, extraction))
    np.testing.assert_array_equal(one, ~other)


@pytest.mark.slow
def test_an_interrupted_growth_goes_on(dataset, tiny_backbone, forwards, tmp_path, monkeypatch):
    run(dataset, tiny_backbone, tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    add_picture(dataset, "a", 100)
    undisturbed = run(dataset, tiny_backbone, tmp_path / "one", layers=NEW)
    write_shard, left = StoreWriter.write_shard, [2]

    def interrupted(self, shard, *arguments):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write_shard(self, shard, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "write_shard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(dataset, tiny_backbone, tmp_path / "two", layers=NEW)
    forwards.clear()
    again = run(dataset, tiny_backbone, tmp_path / "two", layers=NEW)
    assert sum(pictures for pictures, _ in forwards) <= 2 * ROWS_PER_SHARD
    assert files_of(Path(again.location)) == files_of(Path(undisturbed.location))


@pytest.mark.slow
def test_the_earlier_store_may_go(dataset, grown):
    found = grown(dataset, {}, {"layers": NEW}, lambda: add_picture(dataset, "a", 100))
    shutil.rmtree(found.old)
    require_same_content(found.new, found.fresh, tolerance=2e-3)


@pytest.mark.slow
def test_the_earlier_store_may_go_before_the_new_one_is_finished(
    dataset, tiny_backbone, tmp_path, monkeypatch
):
    """Its order of rows stays, the rest is computed."""
    old = run(dataset, tiny_backbone, tmp_path / "cache")
    add_picture(dataset, "a", 100)
    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(dataset, tiny_backbone, tmp_path / "cache", layers=NEW)
    shutil.rmtree(old.location)
    [unfinished] = (tmp_path / "cache").glob("*/*/*")
    for number in (0, 2):
        (unfinished / fmt.ledger_key(number)).unlink()
    again = run(dataset, tiny_backbone, tmp_path / "cache", layers=NEW)
    assert Path(again.location) == unfinished
    assert again.samples[-1].id == "images/train/a"
    fresh = run(dataset, tiny_backbone, tmp_path / "fresh", layers=NEW)
    require_same_content(again.location, fresh.location, tolerance=2e-3)


@pytest.mark.slow
def test_an_unfinished_store_gives_nothing(shared_dataset, tiny_backbone, forwards, tmp_path):
    first = run(shared_dataset, tiny_backbone, tmp_path)
    (Path(first.location) / fmt.COMPLETE).unlink()
    forwards.clear()
    extraction = run(shared_dataset, tiny_backbone, tmp_path, layers=NEW)
    assert extraction.reused == []
    assert sum(pictures for pictures, _ in forwards) == 15


@pytest.mark.slow
def test_overwrite_takes_nothing(shared_dataset, tiny_backbone, forwards, tmp_path):
    run(shared_dataset, tiny_backbone, tmp_path)
    before = run(shared_dataset, tiny_backbone, tmp_path, layers=NEW)
    forwards.clear()
    files = files_of(Path(before.location))
    again = run(shared_dataset, tiny_backbone, tmp_path, layers=NEW, overwrite=True)
    assert again.reused == []
    assert {layers for _, layers in forwards} == {tuple(NEW)}
    assert sum(pictures for pictures, _ in forwards) == 15
    assert files_of(Path(again.location)) == files


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.EPERM, errno.EXDEV, errno.EMLINK])
def test_without_hard_links_files_are_copied(shared_dataset, grown, monkeypatch, code):
    def refused(self, target):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "hardlink_to", refused)
    found = grown(shared_dataset, {}, {"layers": NEW})
    assert {layers for _, layers in found.computed} == {("layer1",)}
    assert shared_files(found.old, found.new) == set()
    assert files_of(found.new) == files_of(found.fresh)


@pytest.mark.slow
def test_room_is_asked_for_what_is_new_alone(shared_dataset, tiny_backbone, tmp_path, monkeypatch):
    """A layer of 15 images is 1 MB, and three are in all."""
    run(shared_dataset, tiny_backbone, tmp_path)
    monkeypatch.setattr(LocalStorage, "free_bytes", lambda self: 900_000)
    with pytest.raises(StorageFullError, match="needs 2 MB for 15 images, 1 MB are free"):
        run(shared_dataset, tiny_backbone, tmp_path, layers=["layer0", "layer1", "layer2"])
    monkeypatch.setattr(LocalStorage, "free_bytes", lambda self: 2_000_000)
    extraction = run(shared_dataset, tiny_backbone, tmp_path, layers=NEW)
    assert len(extraction.reused) == 1


@pytest.mark.slow
def test_an_earlier_store_that_lost_a_file_is_named(shared_dataset, tiny_backbone, tmp_path):
    old = Path(run(shared_dataset, tiny_backbone, tmp_path).location)
    (old / "targets" / "c.1.0.0").unlink()
    with pytest.raises(StoreError, match=rf"{old} lacks its targets/c\.1\.0\.0; .*verify"):
        run(shared_dataset, tiny_backbone, tmp_path, layers=NEW)
