from pathlib import Path

import pytest

from declip_pipeline.datasets.layouts import _LAYOUTS, AUTO, LAYOUTS, list_dataset
from declip_pipeline.datasets.sample import Sample
from declip_pipeline.errors import InputError, UnknownNameError

EXPECTED = (
    "Tp/ and Gt/ side by side, or images/ and masks/ side by side, "
    "or .parquet files with a column of images and one of masks, as bytes, "
    "or a folder of images without masks, or the published tree of one of dolos, autosplice, "
    "casia1, casia2, columbia, coverage, tgif, cocoglide, defacto, imd2020, nist16, sagi-d, "
    "coco-sd, opensdi"
)
LISTS = (
    ".parquet files with a column of images and one of masks, as bytes, or "
    'a .json file with a list of [image, mask | "Negative"], or a .csv file whose first line is '
    "image,mask (or more of image,mask,split,generator,source,label,scene)"
)


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return touch(tmp_path / "own", "images/a.png", "masks/a.png")


@pytest.fixture
def generator(tmp_path: Path) -> Path:
    root = tmp_path / "celebahq" / "fake" / "ldm"
    return touch(root, "images/train/a.png", "masks/train/a.png")


def error(path: Path, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        list_dataset(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_recognises_parallel_folders_with_white_for_fake(own: Path) -> None:
    dataset = list_dataset(own)
    assert (dataset.name, dataset.root, dataset.fake_is_white) == ("own", own, True)
    assert dataset.generators == ("own",)


def test_recognises_every_part_of_a_dolos_tree_with_black_for_fake(generator: Path) -> None:
    for root in (generator, *generator.parents[:3]):
        dataset = list_dataset(root)
        assert dataset.fake_is_white is False
        assert dataset.name == root.name
        (sample,) = dataset.samples
        assert (sample.source, sample.generator, sample.split) == ("celebahq", "ldm", "train")


def test_layout_polarity_and_name_can_be_said(generator: Path) -> None:
    dataset = list_dataset(generator, layout="folders", name="mine")
    assert (dataset.fake_is_white, dataset.name, dataset.generators) == (True, "mine", ("mine",))
    assert list_dataset(generator, fake_is_white=True).fake_is_white is True
    assert list_dataset(generator, layout="folders", fake_is_white=False).fake_is_white is False


def test_a_path_without_a_name_and_a_link_get_one(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own / "images")
    assert list_dataset(Path("..")).name == "own"
    monkeypatch.chdir(own)
    assert list_dataset(Path()).name == "own"
    link = own.parent / "ldm"
    link.symlink_to(own)
    assert list_dataset(link).generators == ("ldm",)


def test_assigns_splits(own: Path) -> None:
    touch(own, *(f"{kind}/{n}.png" for kind in ("images", "masks") for n in range(60)))
    dataset = list_dataset(own, assign_splits=(60, 20, 20))
    assert dataset.splits == ("test", "train", "valid")
    assert dataset == list_dataset(own, assign_splits=(60, 20, 20))


def test_does_not_overrule_existing_splits(generator: Path) -> None:
    assert error(generator, assign_splits=(60, 20, 20)) == (
        "the dataset has splits already (train); leave the percents out, or draw valid from train "
        "with none for test"
    )


def test_a_missing_path_and_a_file(tmp_path: Path) -> None:
    path = tmp_path / "no"
    message = f"{path} does not exist; expected the folder of a dataset, or its list"
    assert error(path) == message
    path.touch()
    message = f"{path} is not a folder; expected {LISTS}, or a dataset's folder"
    assert error(path) == message


def test_a_layout_of_files_for_a_folder_and_the_reverse(own: Path) -> None:
    assert error(own, layout="csv").startswith(f"{own} is a folder; layout csv is a .csv file who")
    message = f"{own}/a.png is a file; layout tp-gt is Tp/ and Gt/ side by side"
    assert error(touch(own, "a.png") / "a.png", layout="tp-gt") == message


def test_pictures_made_of_one_stay_together_when_splits_are_assigned(tmp_path: Path) -> None:
    for number in range(40):
        forged = (f"Forged_JPEG{quality}/{number}_{n}.jpg" for quality in (75, 90) for n in (0, 1))
        touch(tmp_path, f"Authentic/{number}.jpg", f"Mask/{number}_mask.png", *forged)
    dataset = list_dataset(tmp_path, assign_splits=(50, 25, 25))
    splits_of: dict[str, set[str]] = {}
    for sample in dataset.samples:
        splits_of.setdefault(sample.scene, set()).add(sample.split)
    assert dataset.splits == ("test", "train", "valid")
    assert {len(splits) for splits in splits_of.values()} == {1}
    assert len(splits_of) == 40


def test_every_name_of_a_layout_has_one() -> None:
    assert (AUTO, *_LAYOUTS) == LAYOUTS


def test_an_unknown_layout_lists_the_known_ones(own: Path) -> None:
    assert " ".join(LAYOUTS) == (
        "auto dolos autosplice casia1 casia2 columbia coverage tgif cocoglide defacto imd2020 "
        "nist16 sagi-d coco-sd tp-gt folders opensdi parquet images json csv"
    )
    with pytest.raises(UnknownNameError) as caught:
        list_dataset(own, layout="dolls")
    expected = "unknown layout 'dolls'; did you mean 'dolos'? known: auto, dolos, autosplice, cas"
    assert str(caught.value).startswith(expected)


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt", ".hidden/a.png")
    assert error(tmp_path) == f"no images found under {tmp_path}; expected {EXPECTED}"


def test_pictures_in_no_known_layout(tmp_path: Path) -> None:
    touch(tmp_path, "a_mask.png")
    message = error(tmp_path)
    assert message == f"{tmp_path} holds 1 image in no known layout; expected {EXPECTED}"
    touch(tmp_path, "sea/b.jpg")
    assert " holds 2 images in no known layout; " in error(tmp_path)


@pytest.mark.parametrize(
    "mask", ["a_mask.png", "truth/GT/a.png", "Ground Truth/a.png", "masks-2/a.png", "sea/a_gt.tif"]
)
def test_images_beside_what_may_be_masks_are_in_no_layout(tmp_path: Path, mask: str) -> None:
    touch(tmp_path, "a.png", mask)
    assert " holds 2 images in no known layout; " in error(tmp_path)
    assert len(list_dataset(tmp_path, layout="images")) == 2


def test_a_folder_of_images_alone_is_a_dataset_of_unknown_ones(tmp_path: Path) -> None:
    root = touch(tmp_path / "found", "a.png", "sea/b.JPG", "unmasked/gtx.png", "sea/.hidden.png")
    dataset = list_dataset(str(root))
    assert (dataset.name, dataset.root, dataset.splits) == ("found", root, ("all",))
    assert dataset.samples[1] == Sample(
        "sea/b", "sea/b.JPG", None, "all", "unknown", -1, "found", "sea/b"
    )
    assert {(s.label, s.generator, s.mask) for s in dataset.samples} == {(-1, "unknown", None)}


def test_a_folder_of_images_may_have_splits(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.png", "val/b.png", "Test/sea/c.png")
    assert list_dataset(tmp_path).splits == ("test", "train", "valid")
    touch(tmp_path, "d.png")
    assert "1 of 4 images lie outside the folders train, valid and test" in error(tmp_path)
    assert "no images found under" in error(touch(tmp_path / "empty", "a.txt"), layout="images")


def test_images_without_masks_is_a_missing_folder(tmp_path: Path) -> None:
    assert " has no masks/ folder; " in error(touch(tmp_path, "images/a.png"))


def test_a_layout_said_wrongly(own: Path) -> None:
    assert f"{own} is not a Dolos tree; expected the tree of Dolos" in error(own, layout="dolos")


def test_allow_unpaired_leaves_out_but_does_not_accept_nothing(own: Path) -> None:
    touch(own, "images/b.png")
    assert "1 image (images/b.png) without a mask" in error(own)
    assert list_dataset(own, allow_unpaired=True).unpaired == ("images/b.png",)
    (own / "masks/a.png").unlink()
    assert error(own, allow_unpaired=True) == (
        f"no image under {own} has a mask of its name; it holds 2 files (images/a.png, "
        "images/b.png) without a partner; expected images/ and masks/ side by side, or a .csv or "
        ".json list of which mask belongs to which image"
    )
