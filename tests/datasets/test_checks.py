from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.published_trees import write_dolos

from declip_pipeline.datasets import checks
from declip_pipeline.datasets.checks import Duplicates, check_polarity, check_sizes, find_duplicates
from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.layouts import list_dataset
from declip_pipeline.datasets.samples import Sample, Samples
from declip_pipeline.datasets.scan import scan_dataset
from declip_pipeline.errors import InputError


def write(path: Path, height: int, width: int, grey: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width), grey, np.uint8)).save(path)


def dataset_of(root: Path, count: int, *, greys: list[int], fake_is_white: bool) -> Dataset:
    """Fakes of 20x30 pixels with uniform masks, and one real image."""
    samples = [Sample("real", "real.png", None, "all", "real", 0, "own")]
    write(root / "real.png", 40, 50)
    for number in range(count):
        image, mask = f"images/{number}.png", f"masks/{number}.png"
        samples.append(Sample(str(number), image, mask, "all", "own", 1, "own"))
        write(root / image, 20, 30)
        write(root / mask, 20, 30, greys[number % len(greys)])
    return Dataset("own", root, fake_is_white, Samples.from_rows(samples))


def polarity_error(dataset: Dataset) -> str:
    with pytest.raises(InputError) as caught:
        check_polarity(dataset)
    return str(caught.value)


def test_unreadable_images_pass_and_are_left_to_extraction(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, 2, greys=[0], fake_is_white=True)
    (tmp_path / "images/1.png").write_bytes(b"")
    (tmp_path / "real.png").write_text("words")
    check_sizes(scan_dataset(dataset))


def test_a_mask_of_another_size_is_named_with_both_sizes(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, 4, greys=[0], fake_is_white=True)
    write(tmp_path / "masks/1.png", 30, 20)
    write(tmp_path / "masks/3.png", 40, 60)
    with pytest.raises(InputError) as caught:
        check_sizes(scan_dataset(dataset))
    assert str(caught.value) == (
        "images/1.png has 30x20 pixels and its mask masks/1.png 20x30 "
        "(2 of 5 samples differ so); a mask must have the size of its image, resize one of them"
    )


def test_an_unreadable_mask_is_named(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, 3, greys=[0], fake_is_white=True)
    mask = tmp_path / "masks/1.png"
    mask.write_bytes(b"")
    expected = f"mask {mask}: empty file, zero bytes; an image was expected; repair or remove it"
    with pytest.raises(InputError) as caught:
        check_sizes(scan_dataset(dataset))
    assert str(caught.value) == expected


def test_an_unreadable_mask_says_nothing_of_the_polarity(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, 3, greys=[0], fake_is_white=True)
    (tmp_path / "masks/0.png").write_bytes(b"")
    assert polarity_error(dataset).startswith("all 2 masks are entirely real")
    for mask in (tmp_path / "masks").iterdir():
        mask.write_bytes(b"")
    check_polarity(dataset)


@pytest.mark.parametrize(
    ("greys", "fake_is_white", "found", "hint"),
    [
        ([0], True, "all 12 masks are entirely real (no fake pixel)", ("white", "black")),
        ([255], False, "all 12 masks are entirely real (no fake pixel)", ("black", "white")),
        ([255], True, "all 12 masks are entirely fake (no real pixel)", ("white", "black")),
        ([0], False, "all 12 masks are entirely fake (no real pixel)", ("black", "white")),
        ([0, 0, 255], True, "no mask has both: 8 are entirely real and 4 entirely fake", None),
    ],
)
def test_uniform_masks_hint_at_the_polarity(
    tmp_path: Path,
    greys: list[int],
    fake_is_white: bool,
    found: str,
    hint: tuple[str, str] | None,
) -> None:
    message = polarity_error(dataset_of(tmp_path, 12, greys=greys, fake_is_white=fake_is_white))
    colour, other = hint or ("white", "black")
    assert message == (
        f"{found}, reading {colour} as fake and grey values from 128 as white; "
        f"if {other} marks fake pixels here pass `fake_is_white={other == 'white'}`"
    )


def test_masks_are_read_only_until_one_has_both_kinds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = dataset_of(tmp_path, 4, greys=[0], fake_is_white=True)
    both = np.zeros((20, 30), bool)
    both[:10] = True
    masks = {"0.png": np.zeros((20, 30), bool), "1.png": both}
    read: list[tuple[str, float]] = []

    def decode(path: Path, *, fake_is_white: bool, max_megapixels: float) -> np.ndarray:
        read.append((path.name, max_megapixels))
        return masks[path.name]

    monkeypatch.setattr(checks, "decode_mask", decode)
    check_polarity(dataset, max_megapixels=2.0)
    assert read == [("0.png", 2.0), ("1.png", 2.0)]


def test_real_pictures_alone_have_no_polarity(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, 0, greys=[0], fake_is_white=True)
    check_polarity(dataset)


def test_duplicates_are_told_apart_by_what_they_spoil(tmp_path: Path) -> None:
    root = write_dolos(tmp_path / "dolos")
    fakes, real = root / "celebahq/fake", root / "celebahq/real"

    def copy(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes())

    copy(fakes / "ldm/images/train/00000.png", fakes / "lama/images/test/20000.png")
    copy(fakes / "ldm/images/train/00001.png", fakes / "ldm/images/train/00002.png")
    copy(real / "valid/10000.png", fakes / "ldm/images/valid/10000.png")
    duplicates = find_duplicates(scan_dataset(list_dataset(root)).dataset.samples)

    def names(sets: tuple[tuple[Sample, ...], ...]) -> list[list[str]]:
        return [[s.image.removeprefix("celebahq/") for s in samples] for samples in sets]

    assert names(duplicates.across_splits) == [
        ["fake/lama/images/test/20000.png", "fake/ldm/images/train/00000.png"]
    ]
    assert names(duplicates.within_split) == [
        ["fake/ldm/images/train/00001.png", "fake/ldm/images/train/00002.png"]
    ]
    assert names(duplicates.across_labels) == [
        ["fake/ldm/images/valid/10000.png", "real/valid/10000.png"]
    ]


def test_a_dataset_without_duplicates_has_none(tmp_path: Path) -> None:
    samples = scan_dataset(list_dataset(write_dolos(tmp_path / "dolos"))).dataset.samples
    assert find_duplicates(samples) == Duplicates((), (), ())
