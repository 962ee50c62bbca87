"""Extraction into a store that is there: overwritten, interrupted, or with failures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.errors import ImageError, InputError, StoreError
from declip_pipeline.extraction import sample_reading, shard_filling
from declip_pipeline.extraction.extract import Extraction, extract_store
from declip_pipeline.images.views import parse_view
from declip_pipeline.store import format as fmt
from declip_pipeline.store.generations import OVERWRITE, RETRY, beside
from declip_pipeline.store.reader import Store
from declip_pipeline.store.verify import verify_store
from declip_pipeline.store.writer import StoreWriter


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(fmt, "ROWS_PER_SHARD", 4)


@pytest.fixture(scope="module")
def pixels():
    return open_backbone("pixels:32")


def run(dataset: Path, backbone, root: Path, **changes) -> Extraction:
    return extract_store(
        open_dataset(dataset),
        backbone,
        layers=["pixels"],
        root=root,
        **({"batch_size": 4} | changes),
    )


def features(location: str) -> dict[str, np.ndarray]:
    store = Store(location)
    rows = np.setdiff1d(np.arange(len(store)), list(store.failures))
    values = store.read_layer("pixels", rows).values.numpy()
    return dict(zip(store.samples.take(rows).ids, values, strict=True))


def inodes(location: str, name: str) -> list[int]:
    return [file.stat().st_ino for file in sorted(Path(location, name).glob("c.*"))]


def interrupt(monkeypatch, after: int) -> None:
    written = []
    write_shard = StoreWriter.write_shard

    def interrupted(self, shard, *arguments):
        if len(written) == after:
            raise KeyboardInterrupt
        write_shard(self, shard, *arguments)
        written.append(shard)

    monkeypatch.setattr(StoreWriter, "write_shard", interrupted)
    # One after another, so that it is known how far it came.
    monkeypatch.setattr(shard_filling, "SHARDS_BEING_WRITTEN", 1)


def test_an_interrupted_overwrite_leaves_the_store_and_goes_on(
    shared_dataset, pixels, tmp_path, monkeypatch
):
    first = run(shared_dataset, pixels, tmp_path)
    expected, before = features(first.location), inodes(first.location, "layers/pixels")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, 2)
        run(shared_dataset, pixels, tmp_path, overwrite=True)
    assert run(shared_dataset, pixels, tmp_path).was_complete
    assert inodes(first.location, "layers/pixels") == before
    half = beside(first.location, OVERWRITE)
    with pytest.raises(StoreError, match="is incomplete: 2 of 4 shards"):
        Store(half)
    kept = inodes(half, "layers/pixels")
    second = run(shared_dataset, pixels, tmp_path, overwrite=True)
    assert second.location == first.location
    assert not second.was_complete
    assert set(kept) <= set(inodes(second.location, "layers/pixels"))
    assert not set(before) & set(inodes(second.location, "layers/pixels"))
    np.testing.assert_equal(features(second.location), expected)
    assert [place.name for place in Path(first.location).parent.iterdir()] == [
        Path(first.location).name
    ]


def test_a_reader_stays_with_its_rows_while_a_store_is_overwritten(
    shared_dataset, pixels, tmp_path
):
    """In another order: the store grew from one of the train split, which overwriting forgets."""
    opened = open_dataset(shared_dataset)
    extract_store(opened.select(splits=["train"]), pixels, layers=["pixels"], root=tmp_path)
    grown = run(shared_dataset, pixels, tmp_path)
    reader = Store(grown.location)
    masks = {row: reader.read_masks(np.asarray([row]))[0] for row in range(0, 15, 5)}
    run(shared_dataset, pixels, tmp_path, overwrite=True)
    assert Store(grown.location).samples != reader.samples
    for row in range(15):
        try:
            found = reader.read_masks(np.asarray([row]))[0]
        except StoreError as error:
            assert row not in masks
            assert "was replaced or removed since its store was opened" in str(error)
            continue
        mask = Image.open(shared_dataset / str(reader.samples[row].mask))
        np.testing.assert_array_equal(found, np.asarray(mask) > 127)


def test_a_failure_for_lack_of_memory_is_tried_again(shared_dataset, pixels, tmp_path, monkeypatch):
    expected = features(run(shared_dataset, pixels, tmp_path / "undisturbed").location)
    asked = []

    def lacking(*arguments):
        asked.append(arguments)
        if len(asked) in (2, 3):
            raise MemoryError
        return resize(*arguments)

    resize = sample_reading.resize_mask
    with monkeypatch.context() as patch:
        patch.setattr(sample_reading, "resize_mask", lacking)
        first = run(shared_dataset, pixels, tmp_path, decode_threads=1)
    assert set(first.failures.values()) == {"does not fit in memory; shrink it"}
    before = inodes(first.location, "layers/pixels")
    notes = []
    second = run(shared_dataset, pixels, tmp_path, notice=notes.append)
    assert notes == [
        "2 of 2 images that failed when the store was made can be read now; they are added"
    ]
    assert (second.location, second.failures, second.was_complete) == (first.location, {}, False)
    np.testing.assert_equal(features(second.location), expected)
    assert verify_store(second.location, deep=True).problems == []
    shared = set(before) & set(inodes(second.location, "layers/pixels"))
    assert len(shared) >= 2, "shards without a failure are shared"
    assert run(shared_dataset, pixels, tmp_path).was_complete


def test_another_limit_of_size_adds_the_images_that_it_allows(shared_dataset, pixels, tmp_path):
    few = run(shared_dataset, pixels, tmp_path, max_megapixels=0.0035)
    assert len(few.failures) == 10
    more = run(shared_dataset, pixels, tmp_path, max_megapixels=0.0042)
    assert len(more.failures) == 5
    assert more.location == few.location
    still = run(shared_dataset, pixels, tmp_path, max_megapixels=0.0042)
    assert still.was_complete
    assert still.failures == more.failures
    every = run(shared_dataset, pixels, tmp_path)
    assert every.failures == {}
    np.testing.assert_equal(
        features(every.location), features(run(shared_dataset, pixels, tmp_path / "new").location)
    )


def test_an_interrupted_second_try_goes_on(shared_dataset, pixels, tmp_path, monkeypatch):
    few = run(shared_dataset, pixels, tmp_path, max_megapixels=0.0035)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, 2)
        run(shared_dataset, pixels, tmp_path)
    assert Store(few.location).failures == few.failures
    assert Path(beside(few.location, RETRY)).exists()
    assert run(shared_dataset, pixels, tmp_path).failures == {}
    assert not Path(beside(few.location, RETRY)).exists()


def test_an_image_that_jpeg_cannot_hold_fails_its_row_alone(pixels, tmp_path):
    for name, size in (("a", (64, 64)), ("b", (66_000, 16)), ("c", (64, 64))):
        for kind in ("images", "masks"):
            path = tmp_path / "set" / kind / "train" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.new("L" if kind == "masks" else "RGB", size)
            picture.paste(255 if kind == "masks" else (9, 9, 9), (0, 0, 8, 8))
            picture.save(path)
    clean = run(tmp_path / "set", pixels, tmp_path / "cache")
    assert clean.failures == {}
    jpeg = run(tmp_path / "set", pixels, tmp_path / "cache", view=parse_view("jpeg:70"))
    assert list(jpeg.failures.values()) == [
        "66000x16 pixels; a JPEG holds at most 65535 a side, so the image has no jpeg view"
    ]
    assert jpeg.samples[next(iter(jpeg.failures))].id == "images/train/b"


def test_a_jpeg_view_has_no_limit_of_its_own(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    image = np.full((100, 100, 3), 90, np.uint8)
    np.testing.assert_array_equal(parse_view("jpeg:90").render(image, ""), image)
    with pytest.raises(ImageError, match="70000x16 pixels; a JPEG holds at most 65535 a side"):
        parse_view("jpeg:90").render(np.zeros((16, 70_000, 3), np.uint8), "")


def test_a_store_begun_with_other_versions_is_remarked_on(
    shared_dataset, pixels, tmp_path, monkeypatch
):
    notes = []
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("declip_pipeline.extraction.extract.versions", lambda: {"pillow": "1.0"})
        interrupt(patch, 2)
        run(shared_dataset, pixels, tmp_path)
    finished = run(shared_dataset, pixels, tmp_path, notice=notes.append)
    (note,) = notes
    assert note.startswith("the store was begun with pillow 1.0 (here ")
    assert note.endswith("); features may differ in their last bits")
    assert Store(finished.location).provenance["versions"] == {"pillow": "1.0"}
    again = run(shared_dataset, pixels, tmp_path / "other", notice=notes.append)
    recorded = Store(again.location).provenance["versions"]
    assert {"pillow", "torch", "timm", "open_clip_torch", "numpy"} <= set(recorded)
    assert len(notes) == 1


def test_none_usable_leaves_the_store_that_is_there(shared_dataset, pixels, tmp_path):
    first = run(shared_dataset, pixels, tmp_path)
    with pytest.raises((InputError, StoreError), match="none of the 15 images could be used"):
        run(shared_dataset, pixels, tmp_path, overwrite=True, max_megapixels=0.0001)
    assert run(shared_dataset, pixels, tmp_path).was_complete
    assert features(first.location)
