"""Parallel folders of images and masks, and two datasets that are such under other names."""

from pathlib import Path

import pytest

from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.layouts import list_dataset, recognise_layout
from declip_pipeline.datasets.parallel import is_coco_sd, is_folders, is_tp_gt, read_folders
from declip_pipeline.datasets.sample import Sample
from declip_pipeline.errors import InputError


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def read(root: Path, *, allow_unpaired: bool = False) -> Dataset:
    return read_folders(root, name="own", fake_is_white=True, allow_unpaired=allow_unpaired)


def test_reads_flat_folders_of_any_case(tmp_path: Path) -> None:
    touch(tmp_path, "Image/a.JPG", "Image/.DS_Store", "Image/notes.txt", "MASKS/a.png")
    assert is_folders(tmp_path)
    dataset = read(tmp_path)
    (sample,) = dataset.samples
    assert sample == Sample(
        id="Image/a",
        image="Image/a.JPG",
        mask="MASKS/a.png",
        split="all",
        generator="own",
        label=1,
        source="own",
        scene="Image/a",
    )
    assert (dataset.name, dataset.root, dataset.fake_is_white) == ("own", tmp_path, True)


def test_reads_splits_and_deeper_mirrored_folders(tmp_path: Path) -> None:
    names = ["train/1", "val/1", "test/sea/1"]
    touch(tmp_path, *(f"images/{n}.png" for n in names), *(f"masks/{n}.png" for n in names))
    found = {s.id: (s.mask, s.split) for s in read(tmp_path).samples}
    assert found == {
        "images/train/1": ("masks/train/1.png", "train"),
        "images/val/1": ("masks/val/1.png", "valid"),
        "images/test/sea/1": ("masks/test/sea/1.png", "test"),
    }


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png")
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    expected = f"{tmp_path} has no masks/ folder; expected images/ and masks/ side by side"
    assert str(caught.value) == f"{expected}; found images"


def test_two_folders_for_one_purpose_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png", "image/b.png", "masks/a.png")
    with pytest.raises(InputError, match="holds image and images; one folder of images expected"):
        read(tmp_path)


def test_folders_without_pictures(tmp_path: Path) -> None:
    touch(tmp_path, "images/readme.txt", "masks/a.png")
    with pytest.raises(InputError, match=f"^no images found under {tmp_path}/images; expected"):
        read(tmp_path)


def test_unpaired_is_an_error_or_listed(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png", "images/b.png", "masks/a.png", "masks/c.png")
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} holds 1 image (images/b.png) without a mask and 1 mask (masks/c.png) "
        "without an image; a mask has its image's name, pass `allow_unpaired=True` to leave "
        "these out"
    )
    dataset = read(tmp_path, allow_unpaired=True)
    assert [s.id for s in dataset.samples] == ["images/a"]
    assert dataset.unpaired == ("images/b.png", "masks/c.png")


def test_a_folder_without_either_is_not_this_layout(tmp_path: Path) -> None:
    assert not is_folders(touch(tmp_path, "pictures/a.png"))


@pytest.mark.parametrize("name", ["COCO-SD", "coco_sd", "cocosd_2024"])
def test_coco_sd_is_known_by_its_name(tmp_path: Path, name: str) -> None:
    root = touch(tmp_path / name, "images/train/9.jpg", "masks/train/9.png")
    assert is_coco_sd(root)
    (sample,) = list_dataset(root).samples
    assert (sample.generator, sample.source, sample.mask) == ("coco-sd", name, "masks/train/9.png")


def test_coco_sd_of_another_name_is_forced(tmp_path: Path) -> None:
    root = touch(tmp_path / "mine", "images/9.jpg", "masks/9.png")
    assert recognise_layout(root) == "folders"
    assert list_dataset(root).generators == ("mine",)
    assert list_dataset(root, layout="coco-sd").generators == ("coco-sd",)


def test_coco_sd_without_masks(tmp_path: Path) -> None:
    root = touch(tmp_path / "COCO-SD", "images/train/9.jpg")
    with pytest.raises(InputError) as caught:
        list_dataset(root)
    assert str(caught.value) == (
        f"{root} has no masks/ folder; expected the tree of COCO-SD, images/ and masks/ with the "
        "same names; found images"
    )
    (root / "masks").mkdir()
    with pytest.raises(InputError, match=r"holds 1 image \(images/train/9.jpg\) without a mask"):
        list_dataset(root)


def test_a_split_without_masks_is_named(tmp_path: Path) -> None:
    root = touch(
        tmp_path / "COCO-SD", "train/images/9.jpg", "train/masks/9.png", "test/images/9.jpg"
    )
    with pytest.raises(
        InputError, match=f"^{root}/test has no masks/ folder; expected the tree of"
    ):
        list_dataset(root)


def test_tp_gt_pairs_by_name_and_not_by_order(tmp_path: Path) -> None:
    root = touch(tmp_path / "casia", "Tp/9.JPG", "Tp/10.tif", "gt/10_gt.png", "gt/9.png")
    assert is_tp_gt(root)
    assert {s.image: s.mask for s in list_dataset(root).samples} == {
        "Tp/9.JPG": "gt/9.png",
        "Tp/10.tif": "gt/10_gt.png",
    }


def test_tp_gt_of_other_names_is_refused(tmp_path: Path) -> None:
    root = touch(tmp_path / "casia", "Tp/a.jpg", "Tp/b.jpg", "Gt/b.png", "Gt/c.png")
    with pytest.raises(InputError) as caught:
        list_dataset(root)
    assert str(caught.value) == (
        f"{root} holds 1 image (Tp/a.jpg) without a mask and 1 mask (Gt/c.png) without an "
        "image; a mask has its image's name, or that name and _gt or _mask, "
        "pass `allow_unpaired=True` to leave these out"
    )
    (root / "Gt").rename(root / "truth")
    with pytest.raises(InputError, match="has no Gt/ folder; expected Tp/ and Gt/ side by side"):
        list_dataset(root)
