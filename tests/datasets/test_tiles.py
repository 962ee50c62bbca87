"""Tables of tiles: a row a window, all else as their images have it."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from declip_pipeline.datasets.sample import Sample
from declip_pipeline.datasets.samples import PLACE, Samples
from declip_pipeline.datasets.tiles import image_ids, require_sound_tiles, tiled, whole_images
from declip_pipeline.errors import InputError
from declip_pipeline.images.tiles import Tiling, Window

HASHES = ("0a" * 32, "0b" * 32)
ROWS = [
    Sample("a", "a.png", "m/a.png", "train", "lama", 1, "set", "s", 90, 64, *HASHES),
    Sample("b@1", "b@1.png", None, "valid", "real", 0, "set", "s", 0, 0, HASHES[0]),
    Sample("c", "c.png", None, "valid", "real", 0, "set", "s", 40, 20, HASHES[0]),
]


@pytest.fixture
def samples() -> Samples:
    return tiled(Samples.from_rows(ROWS), Tiling(64, 0.5))


def test_each_window_is_a_row_and_an_unreadable_image_keeps_its_own(samples):
    assert samples.ids == ["a@0,0", "a@26,0", "b@1", "c@0,0"]
    assert [one.window for one in samples] == [
        Window(0, 0, 64, 64),
        Window(26, 0, 64, 64),
        None,
        Window(0, 0, 40, 20),
    ]
    assert samples[1] == replace(
        ROWS[0], id="a@26,0", top=26, left=0, tile_height=64, tile_width=64
    )
    assert samples.sizes.tolist() == [[90, 64], [90, 64], [0, 0], [40, 20]]
    assert samples.row_sizes.tolist() == [[64, 64], [64, 64], [0, 0], [40, 20]]
    assert samples.are_tiles
    assert samples.is_tile.tolist() == [True, True, False, True]


def test_the_images_of_tiles_are_those_they_were_made_of(samples):
    images, image_of = whole_images(samples)
    assert images == Samples.from_rows(ROWS)
    assert image_of.tolist() == [0, 0, 1, 2]
    assert image_ids(samples) == ["a", "a", "b@1", "c"]
    same, image_of = whole_images(images)
    assert same is images
    assert image_of.tolist() == [0, 1, 2]


def test_tiles_are_read_back_and_whole_images_have_no_more_columns_than_before(samples):
    assert Samples.from_parquet(samples.to_parquet()) == samples
    whole = Samples.from_rows(ROWS)
    content = whole.to_parquet()
    names = pa.parquet.read_schema(pa.BufferReader(content)).names
    assert not set(PLACE) & set(names)
    assert Samples.from_parquet(content) == whole


def test_the_content_of_a_tile_has_its_place(samples):
    content = samples.content().to_pylist()
    place = np.array([26, 0, 64, 64], "<i4").tobytes()
    assert content[1] == bytes.fromhex("".join(HASHES)) + place
    assert content[2] == bytes.fromhex(HASHES[0])
    assert len(set(content)) == len(content)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("top", [0, 27, None, 0], "outside of their images"),
        ("left", [-1, 0, None, 0], "outside of their images"),
        ("tile_height", [0, 64, None, 40], "outside of their images"),
        ("tile_width", [64, None, None, 20], "lacks values of tile_width"),
        ("id", ["a@0,0", "a", "b@1", "c@0,0"], "whose id does not end in their place"),
    ],
)
def test_tiles_that_no_image_has_are_refused(samples, column, values, message):
    require_sound_tiles(samples)
    with pytest.raises(InputError, match=message):
        require_sound_tiles(samples.replace(**{column: values}))
