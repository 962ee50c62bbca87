from pathlib import Path

import pytest

from declip_pipeline.datasets.autosplice import is_autosplice, read_autosplice
from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.sample import Sample
from declip_pipeline.errors import InputError


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


@pytest.fixture
def autosplice(tmp_path: Path) -> Path:
    """As published: forgeries of two photographs, one of them forged twice, at three qualities."""
    root = touch(tmp_path / "AutoSplice", "Caption/71695.txt", "Mask/71695_mask.png")
    touch(root, "Mask/9_mask.png", "Authentic/71695.jpg", "Authentic/9.jpg")
    for quality in (75, 90, 100):
        touch(root, *(f"Forged_JPEG{quality}/{name}.jpg" for name in ("71695_0", "71695_1", "9_0")))
    return root


def read(root: Path, *, allow_unpaired: bool = False) -> Dataset:
    return read_autosplice(root, name="x", fake_is_white=True, allow_unpaired=allow_unpaired)


def test_each_quality_is_a_generator_and_one_mask_serves_many(autosplice: Path) -> None:
    dataset = read(autosplice)
    names = ("autosplice-100", "autosplice-75", "autosplice-90", "real")
    assert dataset.generators == names
    assert dataset.splits == ("all",)
    by_id = {sample.id: sample for sample in dataset.samples}
    assert len(by_id) == 11
    assert by_id["Forged_JPEG90/71695_1"] == Sample(
        id="Forged_JPEG90/71695_1",
        image="Forged_JPEG90/71695_1.jpg",
        mask="Mask/71695_mask.png",
        split="all",
        generator="autosplice-90",
        label=1,
        source="autosplice",
        scene="71695",
    )
    assert by_id["Authentic/71695"].generator == "real"
    masks = [s.mask for s in dataset.samples if s.generator == "autosplice-75"]
    assert masks == ["Mask/71695_mask.png", "Mask/71695_mask.png", "Mask/9_mask.png"]


def test_one_quality_without_authentic_pictures_is_enough(autosplice: Path, tmp_path: Path) -> None:
    part = touch(tmp_path / "part", "Mask/9_mask.PNG", "Forged_JPEG75/9_0.JPG")
    assert is_autosplice(part)
    assert [s.id for s in read(part).samples] == ["Forged_JPEG75/9_0"]


def test_another_tree_and_a_missing_mask_folder(autosplice: Path, tmp_path: Path) -> None:
    expected = (
        "expected the tree of AutoSplice, Forged_JPEG75, Forged_JPEG90 or Forged_JPEG100 "
        "beside Mask"
    )
    assert not is_autosplice(tmp_path)
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    assert str(caught.value) == f"{tmp_path} is not AutoSplice; {expected}"
    (autosplice / "Mask").rename(tmp_path / "aside")
    with pytest.raises(InputError) as caught:
        read(autosplice)
    assert str(caught.value) == f"{autosplice} has no Mask/ folder; {expected}"


def test_a_mask_missing_for_one_photograph_names_its_pictures(autosplice: Path) -> None:
    (autosplice / "Mask/9_mask.png").unlink()
    touch(autosplice, "Mask/8_mask.png")
    with pytest.raises(InputError) as caught:
        read(autosplice)
    assert str(caught.value) == (
        f"{autosplice} holds 3 images (Forged_JPEG75/9_0.jpg, Forged_JPEG90/9_0.jpg, "
        "Forged_JPEG100/9_0.jpg) without a mask and 1 mask (Mask/8_mask.png) without an image; "
        "the mask of 71695_0.jpg is Mask/71695_mask.png, pass `allow_unpaired=True` to leave "
        "these out"
    )
    dataset = read(autosplice, allow_unpaired=True)
    assert len(dataset.samples) == 8
    assert dataset.unpaired[-1] == "Mask/8_mask.png"


def test_two_masks_of_one_photograph_and_no_pictures(autosplice: Path, tmp_path: Path) -> None:
    touch(autosplice, "Mask/9.png")
    with pytest.raises(InputError, match=r"^two masks share one name, Mask/9.png and Mask/9_mask"):
        read(autosplice)
    empty = touch(tmp_path / "empty", "Mask/readme.txt", "Forged_JPEG75/readme.txt")
    with pytest.raises(InputError, match=f"^no images found under {empty}; expected the tree of"):
        read(empty)
