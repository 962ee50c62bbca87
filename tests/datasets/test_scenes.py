"""Scenes of stored samples are those of their layouts, told by paths alone."""

from collections import Counter
from pathlib import Path

import pytest
from made_dataset import write_dataset
from published_trees import write_autosplice, write_dolos

from declip_pipeline.datasets.layouts import open_dataset, recognise_layout, scene_of
from declip_pipeline.datasets.samples import Sample
from declip_pipeline.datasets.scenes import scene_of_stored


def scenes(root: Path) -> dict[str, str]:
    manifest = open_dataset(root)
    return {sample.id: scene_of_stored(sample.to_json()) for sample in manifest.samples}


@pytest.mark.parametrize("below", ["", "celebahq", "celebahq/fake", "celebahq/fake/ldm"])
def test_of_dolos_a_photograph_and_its_forgeries_are_one(tmp_path, below):
    write_dolos(tmp_path / "dolos", sources=("celebahq", "ffhq"))
    root = tmp_path / "dolos" / below
    manifest, of_layout = open_dataset(root), scene_of(recognise_layout(root))
    found = scenes(root)
    assert found == {sample.id: of_layout(sample) for sample in manifest.samples}
    assert set(Counter(found.values()).values()) == {len(manifest.generators)}
    assert {scene.split("/")[0] for scene in found.values()} == {s.source for s in manifest.samples}


def test_of_autosplice_all_qualities_and_both_forgeries_are_one(tmp_path):
    root = write_autosplice(tmp_path / "AutoSplice")
    manifest = open_dataset(root)
    of_layout = scene_of("autosplice")
    found = scenes(root)
    assert found == {sample.id: of_layout(sample) for sample in manifest.samples}
    assert max(Counter(found.values()).values()) >= 4


def test_elsewhere_every_picture_is_a_scene_of_its_own(tmp_path):
    found = scenes(write_dataset(tmp_path / "noisy"))
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize(
    ("image", "mask", "generator"),
    [
        ("a/ldm/images/1.png", "elsewhere/1.png", "ldm"),
        ("a/one/images/1.png", "a/one/masks/1.png", "two"),
        ("pictures/1.png", "masks/1.png", "ldm"),
        ("real/1.png", None, "camera"),
        ("Forged_JPEG75/1_0.jpg", "Mask/1_mask.png", "ldm"),
    ],
)
def test_a_path_that_only_resembles_one_does_not_join_pictures(image, mask, generator):
    sample = Sample("its id", image, mask, "test", generator, int(mask is not None), "listed")
    assert scene_of_stored(sample.to_json()) == "its id"
