"""What `extract` says of a dataset that would spoil a result, in the words of `data check`."""

from pathlib import Path

import pytest
from support.published_trees import flip, write_coco_sd, write_dolos

from declip_pipeline.datasets import opening


@pytest.fixture
def said(program, tiny_arch, tmp_path):
    """Extracts one layer with the tiny ViT; returns the lines of stderr."""

    def run(data: Path, *options: object) -> list[str]:
        cache = ("--cache", tmp_path / "cache")
        outcome = program("extract", data, *tiny_arch, "--layers", "layer0", *cache, *options)
        assert outcome.code == 0, outcome
        return outcome.err.splitlines()

    return run


def problems(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("problem: ")]


@pytest.mark.slow
def test_a_picture_that_is_learned_and_tested_is_remarked_once(program, said, tmp_path):
    data = write_coco_sd(tmp_path / "coco-sd")
    learned = data / "images/train/000000000000.jpg"
    (data / "images/test/000000000200.jpg").write_bytes(learned.read_bytes())
    line = (
        "problem: 1 duplicate (images/test/000000000200.jpg = images/train/000000000000.jpg): the "
        "same content is in several splits, so what is tested on was learned"
    )
    assert problems(said(data, "--views", "clean,jpeg:70")) == [line]
    assert problems(said(data, "--dry-run")) == [line]
    assert problems(said(data, "--split", "test")) == []
    assert line in program("data", "check", data).out.splitlines()


def test_a_fake_that_is_a_real_picture_is_remarked(said, tmp_path):
    data = write_dolos(tmp_path / "dolos", count=1)
    real = data / "celebahq/real/test/20000.png"
    (data / "celebahq/fake/ldm/images/test/20000.png").write_bytes(real.read_bytes())
    (line,) = problems(said(data, "--generators", "ldm,real"))
    assert line.endswith("the same content is real here and fake there")


def test_real_images_that_are_left_out_are_remarked(said, tmp_path):
    data = write_dolos(tmp_path / "dolos", count=1)
    note = (
        "note: --generators leaves out the 3 real images, which detection, verdicts and false "
        "alarms need; to have them name real too, as in --generators ldm,real"
    )
    assert note in said(data, "--generators", "ldm")
    others = (
        *(said(data, "--generators", "ldm,real"), said(data, "--generators", "real")),
        said(data, "--split", "valid"),
    )
    assert not any("leaves out" in line for lines in others for line in lines)
    few = said(data, "--generators", "ldm", "--split", "valid")
    assert "note: --generators leaves out the 1 real images" in "\n".join(few)


@pytest.mark.slow
def test_masks_that_call_most_of_the_pixels_fake_are_remarked_until_it_is_said(
    program, said, tmp_path
):
    data = write_coco_sd(tmp_path / "coco-sd")
    assert problems(said(data)) == []
    flip(data / "masks")
    line = (
        "problem: coco-sd coco-sd: its 6 masks call 79.2% of the pixels fake, and no real images "
        "tell whether that is so; if black marks fake pixels pass --polarity black-is-fake, if "
        "not, --polarity white-is-fake"
    )
    assert problems(said(data)) == [line]
    assert line in program("data", "check", data).out.splitlines()
    assert problems(said(data, "--polarity", "white-is-fake")) == []
    assert problems(said(data, "--polarity", "black-is-fake")) == []


def test_of_many_masks_some_are_looked_at(monkeypatch, tmp_path):
    monkeypatch.setattr(opening, "MASKS_PER_GROUP", 1)
    data = write_coco_sd(tmp_path / "coco-sd")
    flip(data / "masks")
    lines: list[str] = []
    opening.open_dataset(data, notice=lines.append)
    (line,) = lines
    assert line.startswith("problem: coco-sd coco-sd: 3 of its 6 masks call 79.2% of the pixels")


def test_folders_of_wholly_generated_pictures_are_no_files_without_a_partner(said, tmp_path):
    data = write_dolos(tmp_path / "dolos", count=1, sources=("celebahq", "ffhq"))
    lines = said(data, "--generators", "lama")
    assert (
        "2 folders (celebahq/fake/p2, ffhq/fake/p2) of wholly generated images, without masks, "
        "left out"
    ) in lines
    assert not any("no partner" in line for line in lines)
