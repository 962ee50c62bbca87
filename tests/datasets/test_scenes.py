"""Scenes of the layouts: the same for a photograph and all that was forged of it."""

from collections import Counter
from dataclasses import asdict

import pytest
from made_dataset import write_dataset
from published_trees import write_autosplice, write_dolos

from declip_pipeline.datasets.layouts import list_dataset
from declip_pipeline.datasets.samples import Sample
from declip_pipeline.datasets.scenes import scene_of_stored


@pytest.mark.parametrize("below", ["", "celebahq", "celebahq/fake", "celebahq/fake/ldm"])
def test_photograph_of_dolos_and_its_forgeries_are_one_scene(tmp_path, below):
    write_dolos(tmp_path / "dolos", sources=("celebahq", "ffhq"))
    dataset = list_dataset(tmp_path / "dolos" / below)
    found = dataset.samples.strings("scene")
    assert set(Counter(found).values()) == {len(dataset.generators)}
    assert {scene.split("/")[0] for scene in found} == {*dataset.samples.names("source")}
    assert found == [scene_of_stored(asdict(sample)) for sample in dataset.samples]


def test_all_qualities_and_both_forgeries_of_autosplice_are_one_scene(tmp_path):
    samples = list_dataset(write_autosplice(tmp_path / "AutoSplice")).samples
    assert max(Counter(samples.strings("scene")).values()) >= 4
    assert samples.strings("scene") == [scene_of_stored(asdict(sample)) for sample in samples]


def test_images_of_other_layouts_are_scenes_of_their_own(tmp_path):
    samples = list_dataset(write_dataset(tmp_path / "noisy")).samples
    assert samples.strings("scene") == samples.ids


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
    assert scene_of_stored(asdict(sample)) == "its id"
