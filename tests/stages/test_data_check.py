"""`data check`: what is printed of each published layout, and what makes it fail."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.published_trees import flip, save, write_autosplice, write_coco_sd, write_dolos


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return write_dolos(tmp_path_factory.mktemp("made") / "dolos", sources=("celebahq", "ffhq"))


@pytest.fixture
def dolos(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "dolos"))


@pytest.fixture
def check(program):
    """Runs the command; returns the exit code, and stdout's lines but the table's."""

    def run(path, *options):
        outcome = program("data", "check", path, *options)
        lines = outcome.out.splitlines()
        marks = ("note: ", "problem: ", "ok: ")
        return outcome.code, [line for line in lines if line.startswith(marks) or line == lines[-1]]

    return run


P2 = (
    "note: 2 folders (celebahq/fake/p2, ffhq/fake/p2) of wholly generated images, without "
    "masks, left out"
)


def test_a_whole_dolos_tree(program, made):
    outcome = program("data", "check", made)
    first, use, header, *rows = outcome.out.splitlines()
    assert outcome.code == 0
    assert use == "taken as: split test, train, valid; trained and tested on in DeCLIP's tables"
    assert first == "dolos: layout dolos, 108 images; black is fake, as in layout dolos"
    squeezed = [" ".join(row.split()) for row in (header, *rows)]
    assert squeezed[0] == "source generator split images sizes fake % differ as masked"
    assert squeezed[1] == "celebahq lama test 3 48x40 20.8 3 of 3"
    assert "ffhq repaint-p2-9k valid 3 48x40 20.8 3 of 3" in squeezed
    assert "ffhq real valid 3 48x40 - -" in squeezed
    assert len(rows) == 2 * 6 * 3 + 2
    assert rows[-2:] == [P2, "ok: no problem found"]


def test_json_says_the_same(program, made):
    outcome = program("data", "check", made / "ffhq", "--json")
    value = json.loads(outcome.out)
    assert (outcome.code, value["layout"], value["fake_is_white"]) == (0, "dolos", False)
    assert value["unpaired"] == ["fake/p2"]
    assert len(value["groups"]) == 18
    assert value["groups"][0] == {
        "source": "ffhq",
        "generator": "lama",
        "split": "test",
        "images": 3,
        "sizes": "48x40",
        "fake_share": 400 / 1920,
        "decided": {"agree": 3, "flipped": 0},
        "compared": {"agrees": 3, "flipped": 0, "unclear": 0, "no counterpart": 0},
    }


def test_autosplice_at_three_qualities(program, tmp_path):
    outcome = program("data", "check", write_autosplice(tmp_path / "AutoSplice"))
    assert outcome.code == 0
    rows = [line.split() for line in outcome.out.splitlines()]
    for quality in (75, 90, 100):
        row = f"autosplice autosplice-{quality} all 6 48x40 20.8 6 of 6"
        assert row.split() in rows
    assert "white is fake, as in layout autosplice" in outcome.out
    assert "note: no splits; --assign-splits draws them" in outcome.out


@pytest.mark.slow
def test_a_flipped_dolos_is_caught_and_the_way_out_is_right(check, dolos):
    for masks in dolos.glob("*/fake/*/masks"):
        flip(masks)
    code, lines = check(dolos)
    assert code == 1
    assert lines == [
        P2,
        "problem: masks of the opposite polarity: black is read as fake, but in 90 of 90 compared "
        "with real images what differs is white; pass --polarity white-is-fake",
        "1 problem",
    ]
    assert check(dolos, "--polarity", "white-is-fake") == (0, [P2, "ok: no problem found"])


def test_a_flipped_autosplice_is_caught(check, tmp_path):
    root = write_autosplice(tmp_path / "AutoSplice")
    flip(root / "Mask")
    code, lines = check(root)
    assert code == 1
    assert "white is read as fake, but in 18 of 18 compared with real images" in lines[1]
    assert lines[1].endswith("what differs is black; pass --polarity black-is-fake")
    assert check(root, "--polarity", "black-is-fake")[0] == 0


def test_a_wrong_word_on_the_polarity_is_caught(check, made):
    code, lines = check(made, "--polarity", "white-is-fake")
    assert code == 1
    assert "in 90 of 90 compared" in lines[1]
    assert lines[1].endswith("pass --polarity black-is-fake")


def test_one_flipped_split_is_named(check, dolos):
    flip(dolos / "ffhq/fake/ldm/masks/test")
    code, lines = check(dolos)
    assert code == 1
    assert lines[1] == (
        "problem: masks of the opposite polarity in ffhq ldm test: in 3 of 3 compared with real "
        "images what differs is called real; invert these masks"
    )


def test_one_flipped_mask_is_shown_without_failing(check, dolos):
    mask = dolos / "ffhq/fake/ldm/masks/test/20001.png"
    Image.fromarray(255 - np.asarray(Image.open(mask))).save(mask)
    code, lines = check(dolos)
    assert code == 0
    assert lines[1] == (
        "note: 1 fake (ffhq/fake/ldm/images/test/20001.png) where the real image differs more "
        "outside the mask than inside; look at them"
    )


def test_real_pictures_of_the_same_names_that_show_something_else_prove_nothing(check, dolos):
    for number, file in enumerate(sorted(dolos.glob("*/real/*/*.png"))):
        noise = np.random.default_rng(number).integers(0, 256, (40, 48, 3), np.uint8)
        save(file, noise)
    code, lines = check(dolos)
    assert code == 0
    assert lines[1] == (
        "note: no fake could be compared with the real image that it was made from, so nothing "
        "proves the polarity of the masks; look at some"
    )


def test_without_real_pictures_most_pixels_fake_is_a_problem_until_it_is_said(check, tmp_path):
    root = write_coco_sd(tmp_path / "coco-sd")
    assert check(root)[0] == 0
    flip(root / "masks")
    code, lines = check(root)
    assert code == 1
    assert lines[-2] == (
        "problem: coco-sd coco-sd: its 6 masks call 79.2% of the pixels fake, and no real images "
        "tell whether that is so; if black marks fake pixels pass --polarity black-is-fake, if "
        "not, --polarity white-is-fake"
    )
    assert check(root, "--polarity", "white-is-fake")[0] == 0
    assert check(root, "--polarity", "black-is-fake")[0] == 0


def test_coco_sd_without_masks_is_refused(refused, tmp_path):
    root = write_coco_sd(tmp_path / "coco-sd")
    shutil.rmtree(root / "masks")
    assert refused("data", "check", root) == (
        f"{root} has no masks/ folder; expected the tree of COCO-SD, images/ and masks/ with the "
        "same names; found images"
    )


def test_a_missing_split(check, dolos):
    for kind in ("images", "masks"):
        shutil.rmtree(dolos / "celebahq/fake/lama" / kind / "valid")
    code, lines = check(dolos)
    assert code == 1
    assert lines[1:] == [
        "problem: celebahq lama has no valid split; each generator needs train, valid and test",
        "1 problem",
    ]


def test_a_set_of_test_pictures_alone_is_fit_for_evaluation(check, tmp_path):
    root = write_coco_sd(tmp_path / "coco-sd")
    for kind in ("images", "masks"):
        for split in ("train", "valid"):
            shutil.rmtree(root / kind / split)
    code, lines = check(root)
    assert code == 0
    assert "note: test is the only split: fit to evaluate on, not to train on" in lines


@pytest.mark.slow
def test_a_mask_missing_for_one_picture(check, dolos):
    (dolos / "ffhq/fake/ldm/masks/test/20001.png").unlink()
    code, lines = check(dolos)
    line = "1 file (ffhq/fake/ldm/images/test/20001.png) without a partner"
    assert code == 1
    assert f"problem: {line}" in lines
    code, lines = check(dolos, "--allow-unpaired")
    assert code == 0
    assert f"note: {line}" in lines


@pytest.mark.slow
def test_mixed_sizes_are_told_and_a_mask_of_another_size_is_a_problem(check, dolos):
    branch = dolos / "ffhq/fake/ldm"
    picture, mask = np.zeros((60, 50, 3), np.uint8), np.full((60, 50), 255, np.uint8)
    mask[:9] = 0
    save(branch / "images/test/new.png", picture)
    save(branch / "masks/test/new.png", mask)
    code, lines = check(dolos)
    assert code == 0
    assert "note: images of 2 sizes, 48x40 to 50x60; each is resized for itself" in lines
    save(branch / "masks/test/new.png", mask[1:])
    code, lines = check(dolos)
    assert code == 1
    assert lines[-2] == (
        "problem: 1 image (ffhq/fake/ldm/images/test/new.png) of another size than the mask; "
        "ffhq/fake/ldm/masks/test/new.png has 50x59 pixels, its image 50x60; resize these masks, "
        "or leave them out as failures with --max-failures 1"
    )


def test_real_pictures_of_another_size_than_all_fakes(check, made, tmp_path):
    root = Path(shutil.copytree(made / "ffhq", tmp_path / "ffhq"))
    for file in (root / "real").rglob("*.png"):
        save(file, np.random.default_rng(len(file.name)).integers(0, 255, (30, 30, 3), np.uint8))
    _, lines = check(root)
    note = "note: no real image has the size of a fake: detection may learn sizes, not forgeries"
    assert note in lines


def test_duplicates_across_splits(check, dolos):
    images = dolos / "celebahq/fake/lama/images"
    (images / "test/20000.png").write_bytes((images / "train/00000.png").read_bytes())
    code, lines = check(dolos)
    assert code == 1
    assert lines[-2] == (
        "problem: 1 duplicate (celebahq/fake/lama/images/test/20000.png = "
        "celebahq/fake/lama/images/train/00000.png): the same content is in several splits, so "
        "what is tested on was learned"
    )


def test_a_fake_that_is_a_real_picture(check, dolos):
    real = dolos / "ffhq/real/test/20000.png"
    (dolos / "ffhq/fake/ldm/images/test/20000.png").write_bytes(real.read_bytes())
    code, lines = check(dolos)
    assert code == 1
    assert lines[-2].endswith("the same content is real here and fake there")


def test_unreadable_files_and_masks_of_one_colour(check, tmp_path):
    root = write_coco_sd(tmp_path / "coco-sd")
    for file in (root / "masks").rglob("*.png"):
        save(file, np.zeros((40, 48), np.uint8))
    (root / "images/test/000000000200.jpg").write_bytes(b"")
    code, lines = check(root)
    assert code == 1
    assert lines[-5:] == [
        "problem: 1 file (images/test/000000000200.jpg) cannot be used; "
        "images/test/000000000200.jpg: empty file, zero bytes; an image was expected",
        *(
            f"problem: coco-sd coco-sd {split}: none of its 2 masks has both fake and real "
            "pixels, reading white as fake"
            for split in ("test", "train", "valid")
        ),
        "4 problems",
    ]


def test_masks_without_a_fake_pixel_are_counted(check, dolos):
    save(dolos / "ffhq/fake/ldm/masks/test/20000.png", np.full((40, 48), 255, np.uint8))
    code, lines = check(dolos)
    assert code == 0
    assert "note: ffhq ldm test: 1 of 3 masks have no fake pixel" in lines


def test_layout_can_be_forced_and_bad_input_is_one_line(program, refused, tmp_path):
    root = write_coco_sd(tmp_path / "mine")
    assert "mine: layout folders, 6 images" in program("data", "check", root).out
    forced = program("data", "check", root, "--layout", "coco-sd")
    assert "mine: layout coco-sd, 6 images" in forced.out
    assert "is not a Dolos tree" in refused("data", "check", root, "--layout", "dolos")
    assert "does not exist" in refused("data", "check", root / "no")
    assert "expected three whole percents" in refused("data", "check", root, "--assign-splits", "a")


def test_lists_are_checked_too(program, tmp_path):
    write_coco_sd(tmp_path / "mine")
    rows = ["image,mask,split"]
    for image in sorted((tmp_path / "mine/images").rglob("*.jpg")):
        split, stem = image.parent.name, image.stem
        rows.append(f"mine/images/{split}/{stem}.jpg,mine/masks/{split}/{stem}.png,{split}")
    (tmp_path / "all.csv").write_text("\n".join(rows))
    outcome = program("data", "check", tmp_path / "all.csv")
    assert outcome.code == 0
    assert outcome.out.startswith("all: layout csv, 6 images; white is fake, as in layout csv")


def test_a_list_of_files_that_are_not_there_is_refused_with_their_names(refused, tmp_path):
    (tmp_path / "list.json").write_text('[["a.png", "b.png"], ["c.png", "Negative"]]')
    assert "lists 3 files (a.png, b.png, c.png) that cannot be found; paths" in refused(
        "data", "check", tmp_path / "list.json"
    )


def test_images_without_masks_are_no_problem(check, program, tmp_path):
    root = tmp_path / "found"
    for place, split in enumerate(("train", "test", "test/sea")):
        noise = np.random.default_rng(place).integers(0, 256, (40, 48, 3), np.uint8)
        save(root / split / "a.png", noise)
    code, lines = check(root)
    assert code == 0
    assert lines == [
        "note: images without masks: their features can be extracted, nothing can be learned from "
        "them or tested on them",
        "ok: no problem found",
    ]
    out = program("data", "check", root).out
    assert out.startswith("found: layout images, 3 images; ")
    assert ["found", "unknown", "test", "2", "48x40", "-", "-"] in [
        line.split() for line in out.splitlines()
    ]
