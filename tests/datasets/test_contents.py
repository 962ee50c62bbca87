"""Contents by address: files, cells, and masks that are derived."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from support.benchmark_trees import encoded, write_shard

from declip_pipeline.datasets.contents import (
    are_whole,
    cell_address,
    decodable,
    file_of,
    green_of,
    read_content,
    whole_of,
)
from declip_pipeline.errors import ImageError
from declip_pipeline.images.decode import decode_image
from declip_pipeline.images.masks import decode_mask, read_mask


def test_an_address_leads_to_its_file() -> None:
    cell = cell_address("data/a.parquet", 17, "my image/1")
    assert cell == "data/a.parquet#17/my%20image%2F1"
    assert file_of(cell) == file_of(whole_of(cell, fake_is_white=True)) == "data/a.parquet"
    assert file_of(green_of("sea/b.jpg")) == "sea/b.jpg"
    for path in ("a.png", "a#3.png", "x.parquet", "a.parquet#b/c", "a#green/b.png"):
        assert file_of(path) == path


def test_cells_and_files_have_their_bytes(tmp_path: Path) -> None:
    picture = encoded(np.full((20, 30, 3), 7, np.uint8))
    write_shard(tmp_path / "s.parquet", [{"image": picture}, {"image": None}])
    (tmp_path / "a.png").write_bytes(picture)
    assert read_content(tmp_path, "a.png") == picture
    assert read_content(tmp_path, cell_address("s.parquet", 0, "image")) == picture
    assert read_content(tmp_path, cell_address("s.parquet", 1, "image")) == b""
    assert decodable(tmp_path, "a.png") == tmp_path / "a.png"
    assert decode_image(decodable(tmp_path, "s.parquet#0/image")).shape == (20, 30, 3)
    with pytest.raises(ImageError, match="cannot be opened: it has 2 rows, and no row 2"):
        decodable(tmp_path, "s.parquet#2/image")


@pytest.mark.parametrize("fake_is_white", [True, False])
def test_an_image_that_is_generated_as_a_whole_is_all_fake(
    tmp_path: Path, fake_is_white: bool
) -> None:
    (tmp_path / "a.png").write_bytes(encoded(np.zeros((21, 35, 3), np.uint8)))
    address = whole_of("a.png", fake_is_white=fake_is_white)
    mask = decode_mask(read_content(tmp_path, address), fake_is_white=fake_is_white)
    assert mask.shape == (21, 35) and mask.all()
    masks = pa.chunked_array([[address, "a.png", None]])
    assert are_whole(masks).tolist() == [True, False, False]
    # Of an unreadable image the content is handed on: the reason is the image's.
    (tmp_path / "b.png").write_bytes(b"words")
    assert read_content(tmp_path, whole_of("b.png", fake_is_white=fake_is_white)) == b"words"


def test_green_is_fake_whatever_its_brightness(tmp_path: Path) -> None:
    colours = np.zeros((32, 48, 3), np.uint8)
    colours[:, :24, 0] = 255
    colours[:, 24:, 1] = 255
    colours[16:] = colours[16:] // 255 * 200
    Image.fromarray(colours).save(tmp_path / "m.jpg", quality=90, subsampling=0)
    found = read_mask(read_content(tmp_path, green_of("m.jpg")), fake_is_white=True)
    assert found.is_clear and not found.values
    expected = np.arange(48)[None] >= 24
    assert (found.fake == np.broadcast_to(expected, (32, 48))).mean() > 0.95
    assert (found.fake[:, :20] == 0).all() and found.fake[:, 28:].all()
