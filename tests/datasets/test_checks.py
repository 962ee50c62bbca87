from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.published_trees import write_dolos

from declip_pipeline.datasets import checks
from declip_pipeline.datasets.checks import (
    Duplicates,
    check_masks,
    check_usable,
    find_duplicates,
    read_some_masks,
)
from declip_pipeline.datasets.counterparts import Group
from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.layouts import list_dataset
from declip_pipeline.datasets.sample import Sample
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.datasets.scan import scan_dataset
from declip_pipeline.errors import InputError
from declip_pipeline.images.masks import Mask


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


def lines_of(dataset: Dataset, *, polarity_is_given: bool = False) -> list[str]:
    return check_masks(
        read_some_masks(dataset, most_per_group=50),
        fake_is_white=dataset.fake_is_white,
        polarity_is_given=polarity_is_given,
    )


def mask_error(dataset: Dataset) -> str:
    with pytest.raises(InputError) as caught:
        lines_of(dataset)
    return str(caught.value)


def test_unreadable_images_pass_and_are_left_to_extraction(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, 2, greys=[0], fake_is_white=True)
    (tmp_path / "images/1.png").write_bytes(b"")
    (tmp_path / "real.png").write_text("words")
    check_usable(scan_dataset(dataset))


def test_some_masks_that_cannot_be_used_pass_and_all_of_a_group_do_not(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, 4, greys=[0], fake_is_white=True)
    write(tmp_path / "masks/1.png", 30, 20)
    (tmp_path / "masks/3.png").write_bytes(b"")
    check_usable(scan_dataset(dataset))
    write(tmp_path / "masks/0.png", 30, 20)
    write(tmp_path / "masks/2.png", 30, 20)
    with pytest.raises(InputError) as caught:
        check_usable(scan_dataset(dataset))
    assert str(caught.value) == (
        f"own own all: none of its 4 masks can be used; mask {tmp_path / 'masks/0.png'}: has 20x30 "
        "pixels, its image 30x20; repair the masks, or choose others with "
        "`generators` and `splits`"
    )


def test_an_unreadable_mask_says_nothing_of_the_polarity(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, 3, greys=[0], fake_is_white=True)
    (tmp_path / "masks/0.png").write_bytes(b"")
    assert mask_error(dataset).startswith("all 2 masks are entirely real")
    for mask in (tmp_path / "masks").iterdir():
        mask.write_bytes(b"")
    assert lines_of(dataset) == []


@pytest.mark.parametrize(
    ("greys", "fake_is_white", "found"),
    [
        ([0], True, "all 12 masks are entirely real (no fake pixel)"),
        ([255], False, "all 12 masks are entirely real (no fake pixel)"),
        ([255], True, "all 12 masks are entirely fake (no real pixel)"),
        ([0], False, "all 12 masks are entirely fake (no real pixel)"),
        ([0, 0, 255], True, "no mask has both: 8 are entirely real and 4 entirely fake"),
    ],
)
def test_uniform_masks_are_refused_without_a_way_out_that_is_none(
    tmp_path: Path, greys: list[int], fake_is_white: bool, found: str
) -> None:
    message = mask_error(dataset_of(tmp_path, 12, greys=greys, fake_is_white=fake_is_white))
    colour = "white" if fake_is_white else "black"
    assert message == (
        f"{found}, reading {colour} as fake; expected masks that mark a part of their image"
    )


def test_a_few_masks_of_a_group_are_read_and_more_only_until_one_has_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = dataset_of(tmp_path, 200, greys=[0], fake_is_white=True)
    mask = np.zeros((20, 30), np.uint8)
    mask[:10] = 255
    Image.fromarray(mask).save(tmp_path / "masks/1.png")
    limits: list[float] = []
    plain = checks.read_mask

    def read(path: Path, **options: float) -> Mask:
        limits.append(options["max_megapixels"])
        return plain(path, **options)

    monkeypatch.setattr(checks, "read_mask", read)
    found = read_some_masks(dataset, most_per_group=3, max_megapixels=2.0)
    assert found[Group("own", "own", "all")].has_both
    assert set(limits) == {2.0}
    assert len(limits) < 100
    limits.clear()
    found = read_some_masks(dataset, most_per_group=200)
    assert len(found[Group("own", "own", "all")].shares) == len(limits) == 200


def test_real_pictures_alone_have_no_masks_to_check(tmp_path: Path) -> None:
    assert lines_of(dataset_of(tmp_path, 0, greys=[0], fake_is_white=True)) == []


def two_generators(root: Path, second: "list[np.ndarray]") -> Dataset:
    """Fakes of a generator with black and white masks, and of one with masks of its own."""
    half = np.zeros((20, 30), np.uint8)
    half[:10] = 255
    rows = []
    for generator, masks in (("one", [half] * 3), ("two", second)):
        for number, mask in enumerate(masks):
            row = {"image": f"{generator}{number}.png", "mask": f"{generator}{number}_m.png"}
            rows.append(row | {"generator": generator, "split": "train"})
            write(root / row["image"], 20, 30)
            Image.fromarray(mask).save(root / row["mask"])
    return Dataset.from_table(rows, root=root, name="own")


def test_masks_of_0_and_1_beside_others_are_read_at_their_own_middle(tmp_path: Path) -> None:
    ones = np.zeros((20, 30), np.uint8)
    ones[:5] = 1
    dataset = two_generators(tmp_path, [ones] * 3)
    shares = {
        group.generator: found.shares
        for group, found in read_some_masks(dataset, most_per_group=50).items()
    }
    assert shares == {"one": [0.5] * 3, "two": [0.25] * 3}
    assert lines_of(dataset) == [
        "note: own two train: 3 of 3 masks that were read hold the values 0 and 1, such as "
        "two0_m.png; of two values the larger is read as white"
    ]


def test_one_generators_masks_without_a_fake_pixel_are_refused(tmp_path: Path) -> None:
    dataset = two_generators(tmp_path, [np.zeros((20, 30), np.uint8)] * 3)
    assert mask_error(dataset).startswith("own two train: all 3 masks are entirely real (no fake")
    full = two_generators(tmp_path, [np.full((20, 30), 255, np.uint8)] * 3)
    (line,) = lines_of(full)
    assert line.startswith("problem: own two train: all 3 masks are entirely fake (no real pixel)")


def test_unclear_masks_are_refused_unless_the_polarity_is_given(tmp_path: Path) -> None:
    three = np.zeros((20, 30), np.uint8)
    three[:5], three[5:7] = 128, 255
    said = (
        "own two train: {} of 3 masks that were read hold areas of middle greys, most of them 128 "
        "(20.0% of the pixels), such as {}; grey values from 128 of 255 (colours by their luma) "
        "are read as white"
    )
    way_out = "; save the masks with two values, or pass `fake_is_white=True` if this reading is "
    way_out += "right"
    dataset = two_generators(tmp_path, [three] * 3)
    assert mask_error(dataset) == said.format(3, "two0_m.png") + way_out
    assert lines_of(dataset, polarity_is_given=True) == [f"problem: {said.format(3, 'two0_m.png')}"]
    half = np.zeros((20, 30), np.uint8)
    half[:10] = 255
    few = two_generators(tmp_path, [half, three, half])
    assert lines_of(few) == [f"problem: {said.format(1, 'two1_m.png')}{way_out}"]


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
