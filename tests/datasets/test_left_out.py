"""What lies in a dataset's folder and is not taken: all of it is accounted for, by kind."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from declip_pipeline.datasets.layouts import list_dataset
from declip_pipeline.datasets.left_out import left_out_of
from declip_pipeline.datasets.listing import list_files
from declip_pipeline.errors import InputError

PIXELS = np.zeros((20, 30, 3), np.uint8)
LEFTOVERS = (
    ".DS_Store",
    "Thumbs.db",
    "images/desktop.ini",
    "__MACOSX/images/._a.png",
    "@eaDir/a.png/SYNOPHOTO_THUMB.jpg",
    "images/._a.png",
    ".git/objects/a.png",
    "lost+found/a.png",
)


def save(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS).save(root / path, "PNG")


def lines(root: Path, **options: object) -> list[str]:
    return [str(one) for one in list_dataset(root, **options).left_out]


def test_a_tidy_dataset_leaves_nothing_out(tmp_path: Path) -> None:
    save(tmp_path, "images/a.png", "masks/a.png")
    for path in LEFTOVERS:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    assert lines(tmp_path) == []


def test_casias_real_images_are_named(tmp_path: Path) -> None:
    root = tmp_path / "CASIA2"
    save(root, "Tp/a.tif", "Gt/a_gt.png", "Au/b.jpg", "Au/c.bmp")
    (root / "Au/list.txt").write_text("b")
    (root / "README").write_text("words")
    assert lines(root) == [
        "left out: 1 file .txt, such as Au/list.txt: of a type that is not read",
        "left out: 1 file without a suffix, such as README: of a type that is not read",
        "left out: folder Au (2 files), such as Au/b.jpg: no part of layout tp-gt",
    ]
    first = list_dataset(root).left_out[0]
    assert first.to_json() == {
        "what": "files .txt",
        "count": 1,
        "example": "Au/list.txt",
        "reason": "of a type that is not read",
    }


def test_names_that_do_not_pair_need_a_list(tmp_path: Path) -> None:
    save(tmp_path, "image/1.tif", "image/1t.tif", "mask/1made.tif")
    with pytest.raises(InputError, match="2 images .* without a mask and 1 mask .* without an im"):
        list_dataset(tmp_path)
    with pytest.raises(InputError) as caught:
        list_dataset(tmp_path, allow_unpaired=True)
    assert str(caught.value) == (
        f"no image under {tmp_path} has a mask of its name; it holds 3 files (image/1.tif, "
        "image/1t.tif, mask/1made.tif) without a partner; expected images/ and masks/ side by "
        "side, or a .csv or .json list of which mask belongs to which image"
    )
    (tmp_path / "list.csv").write_text(
        "image,mask\nimage/1t.tif,mask/1made.tif\nimage/1.tif,Negative\n"
    )
    assert len(list_dataset(tmp_path / "list.csv")) == 2


def test_masks_of_a_type_that_is_not_read_are_not_called_absent(tmp_path: Path) -> None:
    save(tmp_path, "image/1.tif", "image/2.tif", "mask/2.png")
    np.savez(tmp_path / "mask/1.npz", mask=PIXELS)
    with pytest.raises(InputError) as caught:
        list_dataset(tmp_path)
    assert (
        "holds 1 image (image/1.tif) without a mask and 1 file (mask/1.npz) beside the masks of a "
        "type that is not read; save such masks as PNG; a mask has its image's name"
    ) in str(caught.value)
    assert lines(tmp_path, allow_unpaired=True) == [
        "left out: 1 file .npz, such as mask/1.npz: of a type that is not read"
    ]


@pytest.mark.parametrize("inside", [True, False])
def test_usual_names_of_splits_are_known(tmp_path: Path, inside: bool) -> None:
    usual = {
        "train": ["train", "Training"],
        "valid": ["validation", "val", "dev"],
        "test": ["TEST", "testing", "test-dev", "test_dev"],
    }
    names = [name for folders in usual.values() for name in folders]
    for number, name in enumerate(names):
        for kind in ("images", "masks"):
            folder = f"{kind}/{name}" if inside else f"{name}/{kind}"
            save(tmp_path, f"{folder}/{number}.png")
    dataset = list_dataset(tmp_path)
    assert dataset.left_out == ()
    found: dict[str, set[str]] = {}
    for sample in dataset.samples:
        found.setdefault(sample.split, set()).add(sample.image.split("/")[inside])
    assert found == {split: set(folders) for split, folders in usual.items()}


def test_a_sibling_of_splits_that_is_none_is_named(tmp_path: Path) -> None:
    for split in ("train", "test", "extra"):
        save(tmp_path, f"{split}/images/{split}.png", f"{split}/masks/{split}.png")
    (line,) = lines(tmp_path)
    assert line == (
        "left out: folder extra (2 files), such as extra/images/extra.png: its name is no split; "
        "known: train, training, valid, validation, val, dev, test, testing, test-dev"
    )


def test_files_apart_from_the_two_folders_are_named(tmp_path: Path) -> None:
    save(tmp_path, "images/a.png", "masks/a.png", "overview.png", "old/b.png")
    assert lines(tmp_path) == [
        "left out: folder old (1 file), such as old/b.png: no part of layout folders",
        "left out: 1 image, such as overview.png: no part of layout folders",
    ]


def test_pipes_devices_and_broken_links_are_no_files(tmp_path: Path) -> None:
    save(tmp_path, "a.png", "folder.png/b.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "itself.png").symlink_to(tmp_path / "itself.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    found = list_files(tmp_path)
    assert found.images == ["a.png", "folder.png/b.png"]
    assert found.irregular == ["broken.png", "device.png", "itself.png", "pipe.png"]
    (line,) = left_out_of(tmp_path, found.images)
    assert str(line) == (
        "left out: 4 irregular files, such as broken.png: pipes, devices and links that lead "
        "nowhere are not read"
    )
