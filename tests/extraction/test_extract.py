"""Extraction: what is stored is what the backbone gives, and an interruption costs nothing."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.errors import InputError, StorageFullError, StoreError
from declip_pipeline.extraction import shard_filling
from declip_pipeline.extraction.extract import extract_store
from declip_pipeline.images.decode import decode_image
from declip_pipeline.images.masks import decode_mask
from declip_pipeline.images.resize import resize_image
from declip_pipeline.store import format as fmt
from declip_pipeline.store.reader import Store
from declip_pipeline.store.writer import StoreWriter


def run(dataset, backbone, root, **changes):
    opened = open_dataset(dataset)
    options = {"layers": ["layer0", "layer3"], "root": root, "batch_size": 4}
    return extract_store(opened, backbone, **(options | changes))


def files_of(path):
    return {f.relative_to(path): f.read_bytes() for f in path.rglob("*") if f.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-3), ("float32", 1e-5)])
def test_the_store_holds_what_the_backbone_gives(
    shared_dataset, tiny_backbone, tmp_path, dtype, tolerance
):
    extraction = run(shared_dataset, tiny_backbone, tmp_path, dtype=dtype)
    assert not extraction.was_complete
    assert extraction.failures == {}
    store = Store(extraction.location)
    for row in (0, 5, 14):
        sample = store.samples[row]
        picture = decode_image(shared_dataset / sample.image)
        batch = torch.from_numpy(resize_image(picture, 224, 224)).permute(2, 0, 1)[None]
        for layer, values in tiny_backbone.features(batch, ["layer0", "layer3"]).items():
            stored = store.read_layer(layer, np.asarray([row]))
            assert stored.dtype == dtype
            np.testing.assert_allclose(
                stored.decoded(), values.numpy(), rtol=tolerance, atol=tolerance
            )
        mask = decode_mask(shared_dataset / sample.mask, fake_is_white=True)
        np.testing.assert_array_equal(store.read_masks(np.asarray([row]))[0], mask)
        assert store.sizes[row].tolist() == list(mask.shape)


def test_a_second_run_does_nothing(shared_dataset, tiny_backbone, tmp_path):
    first = run(shared_dataset, tiny_backbone, tmp_path)
    before = files_of(Path(first.location))
    second = run(shared_dataset, tiny_backbone, tmp_path)
    assert second.was_complete
    assert second.location == first.location
    assert files_of(Path(second.location)) == before


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_ends_byte_identical(
    shared_dataset, tiny_backbone, tmp_path, monkeypatch
):
    monkeypatch.setattr(fmt, "ROWS_PER_SHARD", 4)
    undisturbed = run(shared_dataset, tiny_backbone, tmp_path / "one")
    written = []
    write_shard = StoreWriter.write_shard

    def interrupted(self, shard, *arguments):
        if len(written) == 2:
            raise KeyboardInterrupt
        write_shard(self, shard, *arguments)
        written.append(shard)

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "write_shard", interrupted)
        # One after another, so that it is known how far it came.
        patch.setattr(shard_filling, "SHARDS_BEING_WRITTEN", 1)
        with pytest.raises(KeyboardInterrupt):
            run(shared_dataset, tiny_backbone, tmp_path / "two")
    path = tmp_path / "two" / Path(undisturbed.location).relative_to(tmp_path / "one")
    with pytest.raises(StoreError, match="incomplete: 2 of 4 shards"):
        Store(path)
    asked = []
    run(
        shared_dataset,
        tiny_backbone,
        tmp_path / "two",
        progress=lambda done, total: asked.append(done),
    )
    done = sum(min(4, 15 - 4 * shard) for shard in written)
    assert asked[0] == done, "the shards that were written are not computed again"
    assert files_of(path) == files_of(Path(undisturbed.location))


def test_moving_the_dataset_changes_no_identity_and_an_edit_does(dataset, tiny_backbone, tmp_path):
    first = run(dataset, tiny_backbone, tmp_path / "cache")
    moved = dataset.rename(tmp_path / "elsewhere")
    name = Path(first.location).name
    opened = open_dataset(moved, name="noisy")
    same = extract_store(
        opened, tiny_backbone, layers=["layer0", "layer3"], root=tmp_path / "cache"
    )
    assert same.was_complete
    assert Path(same.location).name == name
    image = next((moved / "images" / "train").iterdir())
    image.write_bytes(image.read_bytes() + b"\0")
    opened = open_dataset(moved, name="noisy")
    other = extract_store(
        opened, tiny_backbone, layers=["layer0", "layer3"], root=tmp_path / "cache"
    )
    assert Path(other.location).name != name


def test_a_file_that_changes_meanwhile_is_refused(dataset, tiny_backbone, tmp_path):
    opened = open_dataset(dataset)
    picture = dataset / opened.samples[2].image
    picture.write_bytes(picture.read_bytes() + b"\0")
    with pytest.raises(StoreError, match=r"p\d+\.png has changed since its dataset was first read"):
        extract_store(opened, tiny_backbone, layers=["layer0"], root=tmp_path / "cache")


def test_unreadable_pictures_are_rows_with_reasons(dataset, tiny_backbone, tmp_path):
    images = sorted((dataset / "images" / "train").iterdir())
    images[1].write_bytes(images[1].read_bytes()[:200])
    images[2].write_bytes(b"")
    mask = dataset / "masks" / "train" / images[4].name
    mask.write_bytes(mask.read_bytes()[:-30])
    extraction = run(dataset, tiny_backbone, tmp_path / "cache")
    store = Store(extraction.location)
    reasons = {store.samples[row].id: text for row, text in extraction.failures.items()}
    stems = [f"images/train/{images[place].stem}" for place in (1, 2, 4)]
    assert sorted(reasons) == stems
    assert "truncated or damaged" in reasons[stems[0]]
    assert "zero bytes" in reasons[stems[1]]
    assert reasons[stems[2]].startswith(f"its mask masks/train/{images[4].name}: ")
    assert len(store.fake_rows("train")) == 5


@pytest.mark.slow
def test_overwrite_extracts_again(shared_dataset, tiny_backbone, tmp_path):
    first = run(shared_dataset, tiny_backbone, tmp_path)
    (Path(first.location) / "note.txt").write_text("left by someone")
    second = run(shared_dataset, tiny_backbone, tmp_path, overwrite=True)
    assert not second.was_complete
    assert not (Path(second.location) / "note.txt").exists()


def test_a_full_disk_and_a_wrong_dtype_are_said_before_anything_is_computed(
    shared_dataset, tiny_backbone, tmp_path, monkeypatch
):
    with pytest.raises(InputError, match="dtype 'int4' is not known; expected one of float16"):
        run(shared_dataset, tiny_backbone, tmp_path, dtype="int4")
    monkeypatch.setattr("declip_pipeline.store.local.LocalStorage.free_bytes", lambda self: 10)
    with pytest.raises(StorageFullError, match="15 images"):
        run(shared_dataset, tiny_backbone, tmp_path)


@pytest.mark.slow
def test_values_beyond_float16_are_refused(shared_dataset, tiny_backbone, tmp_path, monkeypatch):
    forward = type(tiny_backbone).features

    def large(self, images, layers):
        return {name: values * 1e6 for name, values in forward(self, images, layers).items()}

    monkeypatch.setattr(type(tiny_backbone), "features", large)
    with pytest.raises(StoreError, match='non-finite value in row 0 as float16; use `dtype="float'):
        run(shared_dataset, tiny_backbone, tmp_path)
    shutil.rmtree(tmp_path)
    run(shared_dataset, tiny_backbone, tmp_path, dtype="float32")


def with_same_pictures(dataset):
    """Beside each training image, the same one with another mask."""
    images, masks = dataset / "images" / "train", dataset / "masks" / "train"
    for image in sorted(images.iterdir()):
        shutil.copy(image, images / f"a-{image.name}")
        mask = np.asarray(Image.open(masks / image.name))
        Image.fromarray(np.roll(mask, 7, axis=0)).save(masks / f"a-{image.name}")


def test_the_same_picture_is_computed_once(dataset, tiny_backbone, tmp_path, monkeypatch):
    with_same_pictures(dataset)
    seen = []
    forward = type(tiny_backbone).features

    def counted(self, images, layers):
        seen.append(len(images))
        return forward(self, images, layers)

    monkeypatch.setattr(type(tiny_backbone), "features", counted)
    store = Store(run(dataset, tiny_backbone, tmp_path / "cache").location)
    assert len(store.samples) == 23
    assert sum(seen) == 15
    row_of = {sample.image: row for row, sample in enumerate(store.samples)}
    for image, row in row_of.items():
        if "/a-" in image:
            rows = np.asarray([row, row_of[image.replace("/a-", "/")]])
            one, other = store.read_layer("layer3", rows).values
            assert torch.equal(one, other)
            first, second = store.read_targets(rows)
            assert (first != second).any()


@pytest.mark.slow
def test_a_device_too_small_halves_the_batch_and_says_so(
    shared_dataset, tiny_backbone, tmp_path, monkeypatch
):
    whole = run(shared_dataset, tiny_backbone, tmp_path / "whole", batch_size=2)
    forward = type(tiny_backbone).features
    said = []

    def small(self, images, layers):
        if len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, images, layers)

    monkeypatch.setattr(type(tiny_backbone), "features", small)
    halved = run(
        shared_dataset, tiny_backbone, tmp_path / "halved", batch_size=8, notice=said.append
    )
    assert said == ["the device's memory is too small for batches of 8; going on with 2"]
    one, other = Store(whole.location), Store(halved.location)
    rows = np.arange(15)
    assert torch.equal(
        one.read_layer("layer3", rows).values, other.read_layer("layer3", rows).values
    )


@pytest.mark.slow
def test_another_precision_is_another_store_of_nearly_the_same(
    shared_dataset, tiny_backbone, tmp_path
):
    exact = Store(run(shared_dataset, tiny_backbone, tmp_path).location)
    try:
        tiny_backbone.in_precision("bfloat16")
        extraction = run(shared_dataset, tiny_backbone, tmp_path)
    finally:
        tiny_backbone.in_precision("float32")
    rounded = Store(extraction.location)
    assert rounded.identity.precision == "bfloat16"
    assert rounded.identity.sha256 != exact.identity.sha256
    assert rounded.feature_identity("layer3") == exact.feature_identity("layer3")
    rows = np.arange(15)
    one = exact.read_layer("layer3", rows).decoded()
    other = rounded.read_layer("layer3", rows).decoded()
    error = float((one - other).norm() / one.norm())
    assert 1e-4 < error < 2e-2
    with pytest.raises(InputError, match=r"unknown precision 'int8'; known: float32, bfloat16"):
        tiny_backbone.in_precision("int8")


def test_a_picture_of_another_size_than_when_it_was_listed_is_refused(
    shared_dataset, tiny_backbone, tmp_path
):
    opened = open_dataset(shared_dataset)
    sizes = opened.samples.sizes
    # As when it could not be read for a moment, or was replaced right after.
    sizes[4] = 0
    samples = opened.samples.replace(height=sizes[:, 0], width=sizes[:, 1])
    opened = replace(opened, samples=samples)
    with pytest.raises(
        StoreError, match=r"has \d+x\d+ pixels, and had 0x0 when .* `overwrite=True`"
    ):
        extract_store(opened, tiny_backbone, layers=["layer0"], root=tmp_path)


def test_a_table_of_ones_own_makes_the_same_store_as_the_folders(
    shared_dataset, tiny_backbone, tmp_path
):
    opened = open_dataset(shared_dataset)
    columns = ("image", "mask", "split", "generator", "source", "label", "scene", "id")
    table = opened.samples.table.select(columns)
    own = Dataset.from_table(table, root=shared_dataset, name="noisy")
    assert not own.is_scanned
    options = {"layers": ["layer0"], "root": tmp_path}
    made = extract_store(opened, tiny_backbone, **options)
    again = extract_store(own, tiny_backbone, **options)
    assert again.was_complete
    assert again.location == made.location


def test_images_without_masks_have_features_in_a_store(shared_dataset, tiny_backbone, tmp_path):
    opened = open_dataset(shared_dataset / "images", name="found")
    assert opened.splits == ("test", "train", "valid")
    store = Store(extract_store(opened, tiny_backbone, layers=["layer0"], root=tmp_path).location)
    assert store.samples == opened.samples
    assert not store.samples.have_masks
    masked = open_dataset(shared_dataset)
    other = Store(extract_store(masked, tiny_backbone, layers=["layer0"], root=tmp_path).location)
    rows = np.arange(len(opened))
    ids = [f"images/{one}" for one in opened.samples.ids]
    assert other.samples.find(ids).tolist() == rows.tolist()
    assert torch.equal(
        store.read_layer("layer0", rows).decoded(), other.read_layer("layer0", rows).decoded()
    )
