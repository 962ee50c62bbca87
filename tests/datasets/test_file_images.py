"""Images of a dataset that are evaluated without a store."""

import numpy as np
import pytest
from PIL import Image

from declip_pipeline.datasets.file_images import DatasetImages
from declip_pipeline.datasets.labelled import OtherView
from declip_pipeline.datasets.layouts import list_dataset
from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.errors import ImageError, InputError, UnknownNameError


def test_they_have_the_rows_and_masks_of_a_store(mixed_store):
    images = DatasetImages(open_dataset(mixed_store.provenance["root"]))
    assert (images.dataset, images.view) == (mixed_store.dataset, mixed_store.view)
    assert (images.generators, images.splits) == (mixed_store.generators, mixed_store.splits)
    for rows_of in ("fake_rows", "fake_and_real_rows"):
        own, others = (getattr(one, rows_of)("test", ["ldm"]) for one in (images, mixed_store))
        assert len(own) > 3
        ids = [one.samples.take(rows).ids for one, rows in ((images, own), (mixed_store, others))]
        assert ids[0] == ids[1]
        for row, other in zip(own, others, strict=True):
            mask = images.image_mask(np.array([row]))
            np.testing.assert_array_equal(mask, mixed_store.image_mask(np.array([other])))
    with pytest.raises(UnknownNameError, match="unknown split in .*mixed 'tset'; did you mean"):
        images.fake_rows("tset")


def test_the_mask_of_an_image_of_tiles_is_joined(tiled_store, shared_dataset):
    images = DatasetImages(open_dataset(shared_dataset))
    row = images.fake_rows("test")[0]
    own = images.samples[int(row)]
    tiles = [n for n, one in enumerate(tiled_store.samples) if one.image == own.image]
    assert len(tiles) > 1
    np.testing.assert_array_equal(
        tiled_store.image_mask(np.array(tiles)), images.image_mask(np.array([row]))
    )


def test_identity_follows_from_content(dataset):
    first = DatasetImages(open_dataset(dataset)).sha256
    assert DatasetImages(open_dataset(dataset)).sha256 == first
    path = next((dataset / "images" / "test").iterdir())
    with Image.open(path) as image:
        size = image.size
    Image.new("RGB", size).save(path)
    changed = DatasetImages(open_dataset(dataset))
    assert changed.sha256 != first
    other = OtherView(changed, "jpeg-70")
    assert (other.view, other.location) == ("jpeg-70", changed.location)
    assert other.sha256 != changed.sha256


def test_an_unreadable_image_is_left_out_and_a_mask_is_an_error(dataset):
    paths = sorted((dataset / "images" / "test").iterdir())
    paths[0].write_bytes(b"no image")
    mask = dataset / "masks" / "test" / paths[1].name
    Image.fromarray(np.eye(8, dtype=np.uint8).repeat(4, 0).repeat(4, 1) * 255).save(mask)
    images = DatasetImages(open_dataset(dataset))
    rows = images.fake_rows("test")
    assert len(rows) == 3
    with pytest.raises(ImageError, match=f"masks/test/{mask.name} .*32x32"):
        images.image_mask(rows[:1])


def test_files_are_read_beforehand(dataset):
    with pytest.raises(InputError, match="were not read yet; expected a dataset of open_dataset"):
        DatasetImages(list_dataset(dataset))
