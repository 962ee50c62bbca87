from collections import Counter
from pathlib import Path

import pytest

from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.dolos import is_dolos, read_dolos
from declip_pipeline.datasets.sample import Sample
from declip_pipeline.errors import InputError

GENERATORS = ("lama", "ldm", "pluralistic", "repaint-p2", "repaint-p2-9k")
SPLITS = ("train", "valid", "test")


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


@pytest.fixture
def dolos(tmp_path: Path) -> Path:
    """Two sources, five generators, three splits of two images; real ones for celebahq."""
    root = tmp_path / "dolos"
    for source in ("celebahq", "ffhq"):
        for split in SPLITS:
            for number in (9, 10):
                for generator in GENERATORS:
                    branch = f"{source}/fake/{generator}"
                    touch(root, f"{branch}/images/{split}/{number}.PNG")
                    touch(root, f"{branch}/masks/{split}/{number}.png")
                if source == "celebahq":
                    touch(root, f"{source}/real/{split}/{number}.jpg")
    hidden = "celebahq/fake/.trash/images/train/1.png"
    return touch(root, hidden, "celebahq/fake/ldm/images/train/.hidden.png", "README.md", "code/a")


def read(root: Path, *, allow_unpaired: bool = False) -> Dataset:
    return read_dolos(root, name="dolos", fake_is_white=False, allow_unpaired=allow_unpaired)


def test_reads_a_folder_of_sources(dolos: Path) -> None:
    dataset = read(dolos)
    assert dataset.generators == (*GENERATORS[:3], "real", *GENERATORS[3:])
    assert dataset.splits == ("test", "train", "valid")
    counts = Counter((s.source, s.label) for s in dataset.samples)
    assert counts == {("celebahq", 1): 30, ("ffhq", 1): 30, ("celebahq", 0): 6}
    by_id = {sample.id: sample for sample in dataset.samples}
    assert by_id["ffhq/fake/repaint-p2/images/valid/10"] == Sample(
        id="ffhq/fake/repaint-p2/images/valid/10",
        image="ffhq/fake/repaint-p2/images/valid/10.PNG",
        mask="ffhq/fake/repaint-p2/masks/valid/10.png",
        split="valid",
        generator="repaint-p2",
        label=1,
        source="ffhq",
        scene="ffhq/valid/10",
    )
    assert by_id["celebahq/real/test/9"] == Sample(
        id="celebahq/real/test/9",
        image="celebahq/real/test/9.jpg",
        mask=None,
        split="test",
        generator="real",
        label=0,
        source="celebahq",
        scene="celebahq/test/9",
    )


@pytest.mark.parametrize(
    ("below", "count", "first"),
    [
        ("celebahq", 36, "fake/lama/images/test/10"),
        ("ffhq", 30, "fake/lama/images/test/10"),
        ("ffhq/fake", 30, "lama/images/test/10"),
        ("ffhq/fake/ldm", 6, "images/test/10"),
    ],
)
def test_reads_each_part_of_the_tree(dolos: Path, below: str, count: int, first: str) -> None:
    assert is_dolos(dolos / below)
    dataset = read(dolos / below)
    assert len(dataset.samples) == count
    assert dataset.samples[0].id == first
    assert {s.source for s in dataset.samples} == {below.partition("/")[0]}
    expected = {"ldm"} if below.endswith("ldm") else {*GENERATORS}
    assert {s.generator for s in dataset.samples if s.label == 1} == expected


def test_other_folders_are_not_a_tree(dolos: Path, tmp_path: Path) -> None:
    assert not is_dolos(dolos / "code")
    assert not is_dolos(touch(tmp_path / "own", "images/a.png", "masks/a.png"))
    with pytest.raises(InputError) as caught:
        read(dolos / "code")
    assert str(caught.value) == (
        f"{dolos / 'code'} is not a Dolos tree; expected the tree of Dolos, "
        "SOURCE/fake/GENERATOR/{images,masks}/{train,valid,test}"
    )


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_generator_without_images_or_masks_is_named(dolos: Path, kind: str) -> None:
    lama = dolos / "ffhq/fake/lama"
    (lama / kind).rename(dolos / "aside")
    for root in (dolos, dolos / "ffhq", dolos / "ffhq/fake", lama):
        with pytest.raises(InputError, match=f"^{lama} has no {kind}/ folder; expected the tree"):
            read(root)


def test_unpaired_of_all_generators_are_listed_together(dolos: Path) -> None:
    (dolos / "ffhq/fake/lama/masks/test/9.png").unlink()
    (dolos / "celebahq/fake/ldm/images/train/10.PNG").unlink()
    lonely = "ffhq/fake/lama/images/test/9.PNG", "celebahq/fake/ldm/masks/train/10.png"
    with pytest.raises(InputError) as caught:
        read(dolos)
    assert str(caught.value).startswith(
        f"{dolos} holds 1 image ({lonely[0]}) without a mask and 1 mask ({lonely[1]}) without an"
    )
    dataset = read(dolos, allow_unpaired=True)
    assert dataset.unpaired == (lonely[1], lonely[0])
    assert len(dataset.samples) == 64


def test_real_pictures_that_differ_in_the_suffix_keep_it(dolos: Path) -> None:
    touch(dolos, "celebahq/real/test/9.png")
    ids = [s.id for s in read(dolos).samples if s.label == 0 and s.split == "test"]
    assert ids == [f"celebahq/real/test/{name}" for name in ("10", "9.jpg", "9.png")]


def test_a_picture_outside_the_splits_is_refused(dolos: Path) -> None:
    touch(dolos, "ffhq/fake/lama/images/9.png", "ffhq/fake/lama/masks/9.png")
    with pytest.raises(InputError, match=r"1 of 67 .* \(the first is ffhq/fake/lama/images/9.png"):
        read(dolos)


def test_no_pictures(tmp_path: Path) -> None:
    touch(tmp_path, "ffhq/fake/ldm/images/train/a.txt", "ffhq/fake/ldm/masks/train/a.txt")
    with pytest.raises(InputError, match=f"^no images found under {tmp_path}; expected the tree"):
        read(tmp_path)


def test_wholly_generated_pictures_are_left_out_by_name(dolos: Path) -> None:
    before = read(dolos).samples
    touch(dolos, *(f"{source}/fake/p2/train/9.png" for source in ("celebahq", "ffhq")))
    dataset = read(dolos)
    assert dataset.samples == before
    assert dataset.unpaired == ("celebahq/fake/p2", "ffhq/fake/p2")
    assert read(dolos / "ffhq").unpaired == ("fake/p2",)
    assert read(dolos / "ffhq/fake").unpaired == ("p2",)


def test_a_generator_with_folders_of_other_names_is_not_passed_over(dolos: Path) -> None:
    touch(dolos, "ffhq/fake/mine/pictures/train/9.png", "ffhq/fake/mine/truth/train/9.png")
    with pytest.raises(InputError, match="fake/mine has no images/ folder; expected the tree"):
        read(dolos)


def test_a_fake_has_the_scene_of_its_real_picture(dolos: Path) -> None:
    for root in (dolos, dolos / "celebahq"):
        samples = read(root).samples
        found = [s.generator for s in samples if s.scene == "celebahq/test/9"]
        assert sorted(found) == sorted([*GENERATORS, "real"])
