"""Extraction in tiles: a row is a crop of its image, which is decoded once."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import TILES
from PIL import Image
from support.handmade_store import files_of
from support.same_content import require_same_content

from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.datasets.tiles import whole_images
from declip_pipeline.errors import InputError, StoreError
from declip_pipeline.extraction import sample_reading
from declip_pipeline.extraction.extract import extract, extract_store
from declip_pipeline.extraction.maintenance import prune_store, repair_store
from declip_pipeline.images.decode import decode_image
from declip_pipeline.images.masks import decode_mask
from declip_pipeline.images.resize import resize_mask, thumbnail
from declip_pipeline.images.tiles import Tiling
from declip_pipeline.images.views import parse_view
from declip_pipeline.store import format as fmt
from declip_pipeline.store.hdf5 import export_store, import_store
from declip_pipeline.store.header import StoreHeader
from declip_pipeline.store.reader import Store
from declip_pipeline.store.verify import verify_store


def run(dataset, backbone, root, **changes):
    options = {"layers": ["layer1"], "root": root, "batch_size": 4, "tiles": TILES}
    return extract_store(open_dataset(dataset), backbone, **(options | changes))


@pytest.fixture
def decoded(monkeypatch):
    """Paths of images that are decoded, in order."""
    seen = []
    content = sample_reading._content

    def counted(root, relative, expected):
        if relative.startswith("images/"):
            seen.append(relative)
        return content(root, relative, expected)

    monkeypatch.setattr(sample_reading, "_content", counted)
    return seen


def test_rows_are_the_windows_of_each_image(tiled_store, shared_dataset):
    images, image_of = whole_images(tiled_store.samples)
    assert sorted(images.ids) == open_dataset(shared_dataset).samples.ids
    for number, image in enumerate(images):
        own = tiled_store.samples.take(np.flatnonzero(image_of == number))
        assert {one.window for one in own} == set(TILES.windows(image.height, image.width))
        assert {(one.split, one.scene, one.image_sha256) for one in own} == {
            (image.split, image.scene, image.image_sha256)
        }
    assert tiled_store.tiling == TILES
    assert tiled_store.feature_identity("layer1")["tiles"] == 56


def test_a_row_is_what_its_crop_is_as_an_image_of_its_own(
    tiled_store, shared_dataset, tile_backbone, tmp_path
):
    crops = tmp_path / "crops"
    (crops / "images").mkdir(parents=True)
    (crops / "masks").mkdir()
    for row, sample in enumerate(tiled_store.samples):
        image = decode_image(shared_dataset / sample.image)
        Image.fromarray(sample.window.of(image)).save(crops / "images" / f"{row:03d}.png")
        mask = decode_mask(shared_dataset / sample.mask, fake_is_white=True)
        Image.fromarray(sample.window.of(mask)).save(crops / "masks" / f"{row:03d}.png")
    alone = Store(
        run(
            crops, tile_backbone, tmp_path, tiles=None, dtype="float32", layers=["layer1", "layer2"]
        ).location
    )
    order = np.argsort([int(Path(name).stem) for name in alone.samples.strings("image")])
    rows = np.arange(len(tiled_store))
    for layer in ("layer1", "layer2"):
        np.testing.assert_allclose(
            tiled_store.read_layer(layer, rows).decoded(),
            alone.read_layer(layer, order).decoded(),
            atol=1e-5,
        )
    for name in ("targets", "thumbnails"):
        np.testing.assert_array_equal(
            tiled_store.read_array(name, rows), alone.read_array(name, order)
        )
    for row in rows:
        np.testing.assert_array_equal(tiled_store.read_masks([row]), alone.read_masks(order[[row]]))


def test_an_image_is_decoded_once_for_its_tiles(shared_dataset, tile_backbone, tmp_path, decoded):
    run(shared_dataset, tile_backbone, tmp_path)
    assert len(decoded) == len(set(decoded)) == 15


def test_images_are_kept_in_bounded_memory(
    shared_dataset, tile_backbone, tmp_path, decoded, monkeypatch
):
    kept = run(shared_dataset, tile_backbone, tmp_path / "kept")
    decoded.clear()
    # Each image takes more, so only the last one is kept.
    monkeypatch.setattr(sample_reading, "KEPT_BYTES", 1000)
    others = run(shared_dataset, tile_backbone, tmp_path / "others", decode_threads=1)
    assert len(decoded) == 15
    assert files_of(Path(kept.location)) == files_of(Path(others.location))


def test_a_view_is_rendered_of_the_whole_image_before_it_is_cut(
    shared_dataset, tile_backbone, tmp_path
):
    view = parse_view("blur:2")
    plan_reader = sample_reading.SampleReader(
        root=shared_dataset,
        view=view,
        fake_is_white=True,
        preprocessing=tile_backbone.preprocessing,
        max_megapixels=1,
    )
    store = Store(run(shared_dataset, tile_backbone, tmp_path, view=view).location)
    sample = next(one for one in store.samples if one.window.height == one.window.width == 56)
    image = decode_image(shared_dataset / sample.image)
    expected = sample.window.of(view.render(image, sample.image_sha256))
    found = plan_reader(sample)
    np.testing.assert_array_equal(found.picture, expected)
    np.testing.assert_array_equal(found.thumbnail, thumbnail(sample.window.of(image)))
    np.testing.assert_array_equal(found.target, resize_mask(found.mask))


def test_the_tiles_of_an_image_that_cannot_be_read_are_rows_with_its_reason(
    dataset, tile_backbone, tmp_path
):
    images = sorted((dataset / "images" / "train").iterdir())
    whole = images[1].read_bytes()
    images[1].write_bytes(whole[:200])
    mask = dataset / "masks" / "train" / images[2].name
    mask.write_bytes(mask.read_bytes()[:-30])
    extraction = run(dataset, tile_backbone, tmp_path / "cache")
    names = [f"images/train/{image.name}" for image in images[1:3]]
    assert sorted(extraction.failed_images) == names
    assert "truncated" in extraction.failed_images[names[0]]
    assert "its mask" in extraction.failed_images[names[1]]
    rows = [extraction.samples[row] for row in extraction.failures]
    # The headers still say the images' sizes, so each of their tiles is a failed row.
    expected = [one for one in extraction.samples if one.image in names]
    assert rows == expected and all(one.window is not None for one in rows)
    with pytest.raises(InputError, match="2 of 15 images could not be read, such as images/train"):
        extract(dataset, tile_backbone, layers=["layer1"], cache=tmp_path / "cache", tiles=TILES)


def test_an_image_beyond_the_limit_is_added_when_the_limit_is_raised(
    dataset, tile_backbone, tmp_path
):
    refused = run(dataset, tile_backbone, tmp_path / "cache", max_megapixels=0.0042)
    assert refused.failures
    added = run(dataset, tile_backbone, tmp_path / "cache")
    assert added.failures == {}
    assert added.location == refused.location
    afresh = run(dataset, tile_backbone, tmp_path / "afresh")
    require_same_content(added.location, afresh.location, tolerance=2e-3)


def test_another_overlap_takes_what_it_shares_and_whole_images_take_nothing(
    shared_dataset, tile_backbone, tmp_path, monkeypatch
):
    run(shared_dataset, tile_backbone, tmp_path)
    seen = []
    forward = type(tile_backbone).features

    def counted(self, images, layers):
        seen.append(len(images))
        return forward(self, images, layers)

    monkeypatch.setattr(type(tile_backbone), "features", counted)
    other = run(shared_dataset, tile_backbone, tmp_path, tiles=Tiling(56, 0.7))
    assert other.reused
    assert sum(seen) < len(other.samples)
    afresh = run(shared_dataset, tile_backbone, tmp_path / "afresh", tiles=Tiling(56, 0.7))
    require_same_content(other.location, afresh.location, tolerance=2e-3)
    seen.clear()
    whole = run(shared_dataset, tile_backbone, tmp_path, tiles=None)
    assert not whole.reused
    assert sum(seen) == 15


def test_stores_of_tiles_and_of_whole_images_have_other_identities(
    tiled_store, shared_dataset, tile_backbone, tmp_path
):
    whole = Store(run(shared_dataset, tile_backbone, tmp_path, tiles=None).location)
    assert whole.identity.manifest_sha256 == tiled_store.identity.manifest_sha256
    assert "tiles" not in whole.identity.to_json()
    assert tiled_store.identity.to_json()["tiles"] == "56:0.25"
    assert whole.identity.sha256 != tiled_store.identity.sha256


def test_a_shard_of_other_tiles_of_the_same_images_is_refused(tiled_store):
    header: StoreHeader = tiled_store.header
    samples = tiled_store.samples
    array = tiled_store.arrays["layers/layer1"]
    moved = samples.replace(top=np.roll(samples.places[:, 0], 1))
    assert header.shard_mark(array, 0, samples) != header.shard_mark(array, 0, moved)


def test_a_store_of_tiles_is_verified(tiled_store):
    assert verify_store(tiled_store.location, deep=True).problems == []


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_ends_byte_identical(
    shared_dataset, tile_backbone, tmp_path, monkeypatch
):
    monkeypatch.setattr(fmt, "ROWS_PER_SHARD", 4)
    undisturbed = run(shared_dataset, tile_backbone, tmp_path / "one")
    monkeypatch.setattr("declip_pipeline.extraction.shard_filling.random.shuffle", reversed)
    again = run(shared_dataset, tile_backbone, tmp_path / "two", decode_threads=3)
    assert files_of(Path(undisturbed.location)) == files_of(Path(again.location))


def test_what_cannot_be_cut_is_refused(shared_dataset, tile_backbone, tiny_backbone, tmp_path):
    with pytest.raises(
        InputError,
        match=r"`tiles` are 56 pixels wide and high, .* takes images of 224x224; open it with "
        "`image_size=56`",
    ):
        run(shared_dataset, tiny_backbone, tmp_path)
    with pytest.raises(
        InputError,
        match="`tiles` of 224 pixels are larger than all images, of which the largest has 50x90; "
        "take smaller ones, or whole images with `image_size`",
    ):
        run(shared_dataset, tiny_backbone, tmp_path, tiles=Tiling(224))
    with pytest.raises(InputError, match="leave out `image_size`"):
        extract(shared_dataset, "efficientnet-lite0", tiles=224, image_size=448, cache=tmp_path)
    assert not any(tmp_path.iterdir())


def test_the_number_of_small_images_is_said(shared_dataset, tile_backbone, tmp_path):
    said = []
    run(shared_dataset, tile_backbone, tmp_path, notice=said.append)
    assert said == [
        "10 of 15 images are smaller than a tile of 56 pixels on a side; such a side is enlarged "
        "to it"
    ]


def test_a_file_that_changes_meanwhile_is_refused(dataset, tile_backbone, tmp_path):
    opened = open_dataset(dataset)
    picture = dataset / opened.samples[2].image
    picture.write_bytes(picture.read_bytes() + b"\0")
    with pytest.raises(StoreError, match=r"p\d+\.png has changed since its dataset was first read"):
        extract_store(
            replace(opened), tile_backbone, layers=["layer0"], root=tmp_path / "c", tiles=TILES
        )


@pytest.fixture
def copied(tiled_store, tmp_path):
    """A copy of the store of tiles, to be changed."""
    path = tmp_path / "copy" / Path(tiled_store.location).name
    shutil.copytree(tiled_store.location, path)
    return path


def test_a_damaged_shard_of_tiles_is_repaired_byte_for_byte(copied):
    before = files_of(copied)
    for name in ("layers/layer1/c.0.0.0", "masks/c.0.0.0"):
        shard = copied / name
        shard.write_bytes(shard.read_bytes()[:-40])
    problems = verify_store(copied, deep=True).problems
    assert len(problems) == 2
    repair_store(copied, problems)
    assert files_of(copied) == before


def test_a_store_of_tiles_goes_into_one_file_and_comes_back(tiled_store, tmp_path):
    export_store(tiled_store, tmp_path / "tiles.h5")
    exported = Store(tmp_path / "tiles.h5")
    assert exported.samples == tiled_store.samples
    rows = exported.fake_rows("train")[:1]
    np.testing.assert_array_equal(exported.read_masks(rows), tiled_store.read_masks(rows))
    imported = import_store(tmp_path / "tiles.h5", tmp_path / "cache")
    assert files_of(Path(imported.location)) == files_of(Path(tiled_store.location))


def test_a_split_is_pruned_from_a_store_of_tiles(copied, shared_dataset, tile_backbone, tmp_path):
    smaller = Store(prune_store(Store(copied), splits=["train"], layers=["layer2"]))
    assert set(smaller.splits) == {"valid", "test"}
    opened = open_dataset(shared_dataset, splits=("valid", "test"))
    afresh = extract_store(
        opened, tile_backbone, layers=["layer1"], root=tmp_path, tiles=TILES, dtype="float32"
    )
    assert smaller.identity == Store(afresh.location).identity
