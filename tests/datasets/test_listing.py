import os
from pathlib import Path

import pytest
from PIL import Image

from declip_pipeline.datasets.listing import (
    IMAGE_SUFFIXES,
    list_images,
    stem_of,
    subfolders,
    unique_ids,
)
from declip_pipeline.errors import InputError
from declip_pipeline.images.decode import _formats


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def test_lists_pictures_of_any_case_below_a_folder_sorted(tmp_path: Path) -> None:
    wanted = ["A.PNG", "b.JPeG", "c/d.tif", "c/e/f.webp", "g.bmp", "h.jpg", "i.tiff"]
    touch(tmp_path, *wanted, "notes.txt", "c/list.csv", "png", "model.pt")
    assert list_images(tmp_path) == wanted


def test_pictures_are_all_that_can_be_decoded() -> None:
    decoded = {s for s, kind in Image.registered_extensions().items() if kind in _formats()}
    assert decoded <= IMAGE_SUFFIXES
    assert {".gif", ".ppm", ".jp2", ".avif"} <= IMAGE_SUFFIXES


def test_leaves_hidden_files_and_folders_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", ".b.png", ".cache/c.png", "__MACOSX/._d.png", "e/.git/f.png")
    assert list_images(tmp_path) == ["a.png"]
    assert list(subfolders(tmp_path)) == ["e"]


def test_follows_links_to_folders_but_not_in_a_circle(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/a.png", "data/b.png")
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")
    assert list_images(tmp_path / "data") == ["b.png", "link/a.png"]
    circle = tmp_path / "data" / "up"
    circle.symlink_to(tmp_path / "data")
    with pytest.raises(InputError, match="leads back to .*/data; remove the link") as caught:
        list_images(tmp_path / "data")
    assert str(caught.value).startswith(str(circle))


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "wb"):  # noqa: PTH123
        pass
    with pytest.raises(InputError, match=r"holds 'caf\\udce9.png', a name that is not UTF-8"):
        list_images(tmp_path)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"/no cannot be listed: No such file or directory"):
        list_images(tmp_path / "no")


def test_stem_drops_the_last_suffix_only() -> None:
    assert stem_of("a.b/c.d.PNG") == "a.b/c.d"
    assert [stem_of(path) for path in ("a.b/c", "a/.x", "x.png")] == ["a.b/c", "a/.x", "x"]


def test_ids_are_stems_unless_the_suffix_alone_tells_two_apart() -> None:
    ids = {
        "x/a.png": "x/a",
        "x/b.png": "x/b.png",
        "x/b.jpg": "x/b.jpg",
        "y/a.png": "y/a",
        "x/b.png.jpg": "x/b.png.jpg",
    }
    assert unique_ids(list(ids)) == list(ids.values())
    assert unique_ids(list(ids)[::-1]) == list(ids.values())[::-1]
