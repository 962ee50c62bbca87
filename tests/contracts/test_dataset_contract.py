"""Contract of the dataset of every layout; a new layout gets these tests by a line below."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from PIL import Image

from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.layouts import list_dataset, recognise_layout
from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.datasets.scan import scan_dataset
from declip_pipeline.testing.datasets import DatasetContract

GENERATORS = ("ldm", "lama", "pluralistic", "repaint-p2", "repaint-p2-9k")


def write_picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(list(path.as_posix().split("top/")[1].encode()))
    Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)


def write_mask(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((20, 24), np.uint8)
    mask[: 5 + len(path.stem) % 10] = 255
    Image.fromarray(mask).save(path)


def make_dolos(top: Path) -> None:
    for source in ("celebahq", "ffhq"):
        for split in ("train", "valid", "test"):
            for number in ("9", "10"):
                write_picture(top / f"dolos/{source}/real/{split}/{number}.PNG")
                for generator in GENERATORS:
                    branch = top / f"dolos/{source}/fake/{generator}"
                    write_picture(branch / "images" / split / f"{number}.png")
                    write_mask(branch / "masks" / split / f"{number}.png")
    write_picture(top / "dolos/ffhq/fake/p2/train/9.png")  # wholly generated: no images/, no masks/
    write_picture(top / "dolos/celebahq/fake/.thumbnails/images/train/1.png")
    write_picture(top / "dolos/celebahq/fake/ldm/images/.hidden/1.png")


def make_folders(top: Path, *folders: str) -> None:
    for folder in folders:
        for number in ("9", "10", "11"):
            write_picture(top / "own/Images" / folder / f"{number}.BMP")
            write_mask(top / "own/mask" / folder / f"{number}.Png")
    write_picture(top / "own/Images/.hidden/1.png")


def make_autosplice(top: Path) -> None:
    root = top / "AutoSplice"
    for number in ("9", "71695"):
        write_picture(root / f"Authentic/{number}.jpg")
        write_mask(root / f"Mask/{number}_mask.png")
        for quality in (75, 90, 100):
            for which in (0, 1):
                write_picture(root / f"Forged_JPEG{quality}/{number}_{which}.jpg")
    (root / "Caption").mkdir()
    (root / "Caption/9.txt").write_text("a boat")


def make_coco_sd(top: Path) -> None:
    for split in ("train", "val", "test"):
        for number in ("000000000009", "000000000030"):
            write_picture(top / f"COCO_SD/images/{split}/{number}.jpg")
            write_mask(top / f"COCO_SD/masks/{split}/{number}.png")


def make_tp_gt(top: Path) -> None:
    for number, ending in (("9", ""), ("10", "_gt"), ("11", "_mask")):
        write_picture(top / f"casia/Tp/{number}.JPG")
        write_mask(top / f"casia/Gt/{number}{ending}.png")


def make_splits_first(top: Path) -> None:
    for split in ("train", "valid", "test"):
        for number in ("9", "10"):
            write_picture(top / f"own/{split}/images/{number}.png")
            write_mask(top / f"own/{split}/masks/{number}.png")


def make_listed(top: Path) -> None:
    for number in ("9", "10"):
        write_picture(top / f"lists/tampered/{number}.tif")
        write_mask(top / f"lists/truth/{number}.png")
        write_picture(top / f"lists/real/{number}.png")
    pairs = [[f"tampered/{number}.tif", f"./truth/{number}.png"] for number in ("9", "10")]
    pairs += [["real/9.png", "Negative"], ["real/10.png", "Negative"]]
    (top / "lists/all.json").write_text(json.dumps(pairs))
    rows = [
        "image,mask,split,generator",
        "tampered/9.tif,truth/9.png,train,copied",
        "tampered/10.tif,truth/10.png,val,pasted",
        "real/9.png,,test,",
        "real/10.png,Negative,train,",
    ]
    (top / "lists/all.CSV").write_text("\r\n".join(rows))
    # A list beside the images, not above them.
    (top / "lists/elsewhere").mkdir()
    aside = [["../tampered/9.tif", "../truth/9.png"], ["../real/9.png", "Negative"]]
    (top / "lists/elsewhere/some.json").write_text(json.dumps(aside))


def make_unmasked(top: Path) -> None:
    for folder in ("train", "val/sea", "test"):
        write_picture(top / f"found/{folder}/9.png")
        write_picture(top / f"found/{folder}/10.JPG")


@dataclass(frozen=True)
class Layout:
    make: Callable[[Path], None]
    opened: str  # the folder given to list_dataset, below the top
    samples: int
    splits: tuple[str, ...]
    fake_is_white: bool
    options: dict[str, Any]
    unpaired: tuple[str, ...] = ()
    masks_per_image: float = 1
    mask_endings: tuple[str, ...] = ("",)
    image_endings: str = ""  # what an image's name has beyond its mask's, as a pattern
    recognised: str = "folders"


SPLIT = ("test", "train", "valid")
LAYOUTS = {
    "dolos": Layout(
        make_dolos, "dolos", 72, SPLIT, False, {}, ("ffhq/fake/p2",), recognised="dolos"
    ),
    "dolos source": Layout(
        make_dolos, "dolos/ffhq", 36, SPLIT, False, {}, ("fake/p2",), recognised="dolos"
    ),
    "dolos fake": Layout(
        make_dolos, "dolos/ffhq/fake", 30, SPLIT, False, {}, ("p2",), recognised="dolos"
    ),
    "dolos generator": Layout(
        make_dolos, "dolos/ffhq/fake/ldm", 6, SPLIT, False, {}, recognised="dolos"
    ),
    "autosplice": Layout(
        make_autosplice,
        "AutoSplice",
        14,
        ("all",),
        True,
        {},
        masks_per_image=1 / 6,
        mask_endings=("_mask",),
        image_endings="_[0-9]",
        recognised="autosplice",
    ),
    "coco-sd": Layout(make_coco_sd, "COCO_SD", 6, SPLIT, True, {}, recognised="coco-sd"),
    "tp-gt": Layout(
        make_tp_gt,
        "casia",
        3,
        ("all",),
        True,
        {},
        mask_endings=("", "_gt", "_mask"),
        recognised="tp-gt",
    ),
    "json": Layout(make_listed, "lists/all.json", 4, ("all",), True, {}, recognised="json"),
    "json aside": Layout(
        make_listed, "lists/elsewhere/some.json", 2, ("all",), True, {}, recognised="json"
    ),
    "csv": Layout(make_listed, "lists/all.CSV", 4, SPLIT, True, {}, recognised="csv"),
    "images": Layout(make_unmasked, "found", 6, SPLIT, True, {}, recognised="images"),
    "split folders first": Layout(make_splits_first, "own", 6, SPLIT, True, {}),
    "flat folders": Layout(lambda top: make_folders(top, "."), "own", 3, ("all",), True, {}),
    "split folders": Layout(
        lambda top: make_folders(top, "train", "val", "test"), "own", 9, SPLIT, True, {}
    ),
    "deep folders": Layout(
        lambda top: make_folders(top, "sea/north", "sky"), "own", 6, ("all",), True, {}
    ),
    "assigned splits": Layout(
        lambda top: make_folders(top, "a", "b", "c"),
        "own",
        9,
        SPLIT,
        True,
        {"assign_splits": (40, 30, 30)},
    ),
}


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Layout:
    return LAYOUTS[request.param]


@pytest.fixture
def top(layout: Layout, tmp_path: Path) -> Path:
    layout.make(tmp_path / "top")
    return tmp_path / "top"


@pytest.fixture
def dataset(layout: Layout, top: Path) -> Dataset:
    return list_dataset(top / layout.opened, **layout.options)


class TestLayout(DatasetContract):
    """Every layout passes the contract of datasets."""


def fingerprint(dataset: Dataset) -> str:
    return scan_dataset(dataset).dataset.samples.sha256()


@pytest.mark.slow
def test_finds_every_sample_once(layout: Layout, dataset: Dataset) -> None:
    assert len(dataset) == layout.samples
    masks = [sample.mask for sample in dataset.samples if sample.mask is not None]
    assert len(set(masks)) == len(masks) * layout.masks_per_image
    assert dataset.splits == layout.splits
    assert dataset.unpaired == layout.unpaired
    assert dataset.fake_is_white is layout.fake_is_white
    sizes = scan_dataset(dataset).dataset.samples.sizes
    assert sizes.tolist() == [[20, 24]] * layout.samples


@pytest.mark.slow
def test_is_recognised_by_itself_and_forced_by_name(
    layout: Layout, top: Path, dataset: Dataset
) -> None:
    path = top / layout.opened
    assert recognise_layout(path) == layout.recognised
    assert recognise_layout(path, layout.recognised) == layout.recognised
    assert list_dataset(path, layout=layout.recognised, **layout.options) == dataset


@pytest.mark.slow
def test_opened_dataset_is_the_listed_one_scanned(
    layout: Layout, top: Path, dataset: Dataset
) -> None:
    opened = open_dataset(str(top / layout.opened), fake_is_white=None, **layout.options)
    assert opened == scan_dataset(dataset).dataset


def test_a_real_picture_is_a_scene_of_its_own(dataset: Dataset) -> None:
    scenes = [(s.source, s.scene) for s in dataset.samples if s.label == 0]
    assert len(set(scenes)) == len(scenes)


def test_ids_are_the_images_path(dataset: Dataset) -> None:
    for sample in dataset.samples:
        assert sample.id == str(PurePosixPath(sample.image).with_suffix(""))


@pytest.mark.slow
def test_masks_are_named_as_their_images(layout: Layout, dataset: Dataset) -> None:
    for sample in dataset.samples:
        if sample.mask is not None:
            name = re.sub(f"{layout.image_endings}$", "", PurePosixPath(sample.image).stem)
            assert PurePosixPath(sample.mask).stem in {name + end for end in layout.mask_endings}


@pytest.mark.slow
def test_fingerprint_does_not_depend_on_the_place(
    layout: Layout, top: Path, dataset: Dataset, tmp_path: Path
) -> None:
    moved = tmp_path / "another place"
    shutil.copytree(top, moved)
    again = list_dataset(moved / layout.opened, **layout.options)
    assert again.root != dataset.root
    assert again.samples == dataset.samples
    assert fingerprint(again) == fingerprint(dataset)


@pytest.mark.slow
def test_fingerprint_does_not_depend_on_the_order_of_listing(
    layout: Layout, top: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    class Reversed:
        def __init__(self, folder: Path) -> None:
            with scandir(folder) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> Iterator[Any]:
            return iter(self.entries)

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Reversed)
    again = list_dataset(top / layout.opened, **layout.options)
    assert again == dataset
    assert fingerprint(again) == fingerprint(dataset)
