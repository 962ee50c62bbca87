"""Scenes of the layouts: the same for a photograph and all that was forged of it."""

from collections import Counter

import pytest
from support.made_dataset import write_dataset
from support.published_trees import write_autosplice, write_dolos

from declip_pipeline.datasets.layouts import list_dataset


@pytest.mark.slow
@pytest.mark.parametrize("below", ["", "celebahq", "celebahq/fake", "celebahq/fake/ldm"])
def test_photograph_of_dolos_and_its_forgeries_are_one_scene(tmp_path, below):
    write_dolos(tmp_path / "dolos", sources=("celebahq", "ffhq"))
    dataset = list_dataset(tmp_path / "dolos" / below)
    found = dataset.samples.strings("scene")
    assert set(Counter(found).values()) == {len(dataset.generators)}
    assert {scene.split("/")[0] for scene in found} == {*dataset.samples.names("source")}
    assert f"{dataset.samples[0].source}/test/20000" in found


def test_all_qualities_and_both_forgeries_of_autosplice_are_one_scene(tmp_path):
    samples = list_dataset(write_autosplice(tmp_path / "AutoSplice")).samples
    assert max(Counter(samples.strings("scene")).values()) >= 4
    forged = [sample for sample in samples if sample.label]
    assert all(f"/{sample.scene}_" in sample.image for sample in forged)
    assert {s.scene for s in samples if not s.label} == {s.scene for s in forged}


def test_images_of_other_layouts_are_scenes_of_their_own(tmp_path):
    samples = list_dataset(write_dataset(tmp_path / "noisy")).samples
    assert samples.strings("scene") == samples.ids
