"""Two data sets that are parallel folders under other names."""

from pathlib import Path

import pytest

from declip_pipeline.datasets.layouts import list_dataset, recognise_layout
from declip_pipeline.datasets.parallel import is_coco_sd, is_tp_gt
from declip_pipeline.errors import InputError


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


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
        "same names"
    )
    (root / "masks").mkdir()
    with pytest.raises(InputError, match=r"holds 1 picture \(images/train/9.jpg\) without a mask"):
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
        f"{root} holds 1 picture (Tp/a.jpg) without a mask and 1 mask (Gt/c.png) without a "
        "picture; a mask has its picture's name, or that name and _gt or _mask, "
        "pass `allow_unpaired=True` to leave these out"
    )
    (root / "Gt").rename(root / "truth")
    with pytest.raises(InputError, match="has no Gt/ folder; expected Tp/ and Gt/ side by side"):
        list_dataset(root)
