import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.published_trees import GENERATORS, SPLITS, flip, forge, photograph, save, write_dolos

from declip_pipeline.datasets.counterparts import (
    Comparison,
    Group,
    Verdict,
    compare_with_real,
    is_flipped,
    verdict_of,
    votes,
)
from declip_pipeline.datasets.layouts import list_dataset
from declip_pipeline.datasets.sample import Sample

REAL = photograph([1])
FAKE, MASK = forge(REAL, [2])


def compare(root: Path, *, most: int = 50, fake_is_white: bool | None = None):
    return compare_with_real(list_dataset(root, fake_is_white=fake_is_white), most_per_group=most)


def jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def test_what_differs_must_be_called_fake() -> None:
    assert verdict_of(FAKE, REAL, MASK) is Verdict.AGREES
    assert verdict_of(FAKE, REAL, ~MASK) is Verdict.FLIPPED


@pytest.mark.parametrize("quality", [75, 90, 100])
def test_jpeg_of_the_whole_picture_changes_nothing(quality: int) -> None:
    assert verdict_of(jpeg(FAKE, quality), jpeg(REAL, 95), MASK) is Verdict.AGREES
    assert verdict_of(jpeg(FAKE, quality), jpeg(REAL, 95), ~MASK) is Verdict.FLIPPED


def test_a_generator_that_touches_the_whole_picture_a_little() -> None:
    rng = np.random.default_rng(0)
    touched = np.clip(FAKE + rng.normal(0, 15, FAKE.shape), 0, 255).astype(np.uint8)
    assert verdict_of(touched, REAL, MASK) is Verdict.AGREES
    assert verdict_of(touched, REAL, ~MASK) is Verdict.FLIPPED


def test_what_says_nothing() -> None:
    assert verdict_of(REAL, REAL, MASK) is Verdict.UNCLEAR
    assert verdict_of(FAKE, REAL, np.ones_like(MASK)) is Verdict.UNCLEAR
    assert verdict_of(FAKE, REAL, np.zeros_like(MASK)) is Verdict.UNCLEAR
    assert verdict_of(FAKE, 255 - REAL, MASK) is Verdict.NO_COUNTERPART
    assert verdict_of(FAKE, REAL[:-1], MASK) is Verdict.NO_COUNTERPART


def test_every_group_of_a_tree_is_compared(tmp_path: Path) -> None:
    found = compare(write_dolos(tmp_path / "dolos"))
    assert set(found) == {Group("celebahq", g, split) for g in GENERATORS for split in SPLITS}
    for comparisons in found.values():
        assert [one.verdict for one in comparisons] == [Verdict.AGREES] * 3


def test_a_flipped_tree_and_a_wrong_word_are_caught(tmp_path: Path) -> None:
    root = write_dolos(tmp_path / "dolos", count=1)
    said_wrongly = compare(root, fake_is_white=True)
    flip(root / "celebahq/fake/lama/masks/valid")
    flipped = compare(root)
    assert len(said_wrongly) == len(flipped) == 15
    assert {one.verdict for found in said_wrongly.values() for one in found} == {Verdict.FLIPPED}
    wrong = {
        str(group)
        for group, found in flipped.items()
        if any(one.verdict is Verdict.FLIPPED for one in found)
    }
    assert wrong == {"celebahq lama valid"}


def test_some_of_each_group_are_enough_and_they_are_spread(tmp_path: Path) -> None:
    root = write_dolos(tmp_path / "dolos", count=4)
    found = compare(root, most=2)[Group("celebahq", "ldm", "test")]
    assert [one.sample.id.rpartition("/")[2] for one in found] == ["20000", "20002"]


def test_what_cannot_be_read_or_has_no_counterpart_is_left_out(tmp_path: Path) -> None:
    root = write_dolos(tmp_path / "dolos", count=2)
    (root / "celebahq/real/test/20000.png").unlink()
    (root / "celebahq/real/test/20001.png").write_bytes(b"")
    save(root / "celebahq/real/test/other.png", REAL)
    assert {group.split for group in compare(root)} == {"train", "valid"}


def test_a_few_that_happen_to_be_alike_have_no_vote() -> None:
    sample = Sample("a", "a.png", "m.png", "test", "ldm", 1, "faces")
    flipped, unlike = (
        Comparison(sample, verdict) for verdict in (Verdict.FLIPPED, Verdict.NO_COUNTERPART)
    )
    assert votes([flipped, unlike]) == (0, 1)
    assert is_flipped([flipped, unlike])
    assert votes([flipped, unlike, unlike]) == (0, 0)
    assert not is_flipped([flipped, unlike, unlike])
    assert votes([]) == (0, 0)
