from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from published_trees import write_autosplice, write_coco_sd, write_dolos

from declip_pipeline.datasets.duplicates import find_duplicates
from declip_pipeline.datasets.layouts import open_dataset
from declip_pipeline.datasets.samples import Sample
from declip_pipeline.datasets.survey import Group, Survey, survey_dataset
from declip_pipeline.images.decode import image_size
from declip_pipeline.images.masks import decode_mask


def look(root: Path) -> Survey:
    manifest = open_dataset(root)
    read_mask = partial(decode_mask, fake_is_white=manifest.fake_is_white)
    return survey_dataset(manifest, read_size=image_size, read_mask=read_mask)


def test_groups_sizes_and_shares_in_either_polarity(tmp_path: Path) -> None:
    dolos = look(write_dolos(tmp_path / "dolos", sources=("celebahq", "ffhq")))
    assert len(dolos.groups) == 2 * 3 * 6
    facts = dolos.groups[Group("ffhq", "repaint-p2-9k", "valid")]
    assert (facts.pictures, dict(facts.sizes)) == (3, {(40, 48): 3})
    assert facts.fake_shares == [400 / 1920] * 3
    assert dolos.groups[Group("ffhq", "real", "valid")].mean_fake_share is None
    autosplice = look(write_autosplice(tmp_path / "AutoSplice"))
    facts = autosplice.groups[Group("autosplice", "autosplice-75", "all")]
    assert (facts.pictures, facts.mean_fake_share) == (6, 400 / 1920)
    assert dolos.unreadable == dolos.other_sizes == autosplice.unreadable == {}


def test_what_is_not_as_it_should_be_is_named(tmp_path: Path) -> None:
    root = write_coco_sd(tmp_path / "coco-sd")
    (root / "images/test/000000000200.jpg").write_bytes(b"")
    (root / "masks/test/000000000201.png").write_text("no mask")
    Image.fromarray(np.zeros((20, 21), np.uint8)).save(root / "masks/train/000000000000.png")
    survey = look(root)
    assert survey.unreadable["images/test/000000000200.jpg"].startswith("empty file, zero bytes")
    assert survey.unreadable["masks/test/000000000201.png"].startswith("is not a picture PIL can")
    assert survey.other_sizes == {"images/train/000000000000.jpg": ((40, 48), (20, 21))}
    facts = survey.groups[Group("coco-sd", "coco-sd", "test")]
    assert (facts.pictures, sum(facts.sizes.values()), len(facts.fake_shares)) == (2, 1, 1)


def test_progress_counts_up(tmp_path: Path) -> None:
    manifest = open_dataset(write_coco_sd(tmp_path / "coco-sd", count=1))
    calls: list[tuple[int, int]] = []
    survey_dataset(
        manifest,
        read_size=image_size,
        read_mask=partial(decode_mask, fake_is_white=True),
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_duplicates_are_told_apart_by_what_they_spoil(tmp_path: Path) -> None:
    root = write_dolos(tmp_path / "dolos")
    fakes, real = root / "celebahq/fake", root / "celebahq/real"

    def copy(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes())

    copy(fakes / "ldm/images/train/00000.png", fakes / "lama/images/test/20000.png")
    copy(fakes / "ldm/images/train/00001.png", fakes / "ldm/images/train/00002.png")
    copy(real / "valid/10000.png", fakes / "ldm/images/valid/10000.png")
    manifest = open_dataset(root)
    duplicates = find_duplicates(manifest, manifest.content_hashes())

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
