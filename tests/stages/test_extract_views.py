"""Views are stores beside the clean one: they share its rows and masks, and hold other features."""

from pathlib import Path

import numpy as np
import pytest
import torch

from declip_pipeline.images.decode import decode_image
from declip_pipeline.images.resize import resize_image
from declip_pipeline.images.views import parse_view, view_named
from declip_pipeline.store.reader import Store


def features_of(sample, root, backbone, view):
    picture = view.render(decode_image(root / sample.image), sample.image_sha256)
    batch = torch.from_numpy(resize_image(picture, 224, 224)).permute(2, 0, 1)[None]
    return backbone.features(batch, ["layer2"])["layer2"]


def inodes(store, array):
    return {file.stat().st_ino for file in (Path(store.location) / array).glob("c.*")}


@pytest.mark.slow
def test_views_and_augmentations(
    program, refused, shared_dataset, tiny_arch, tiny_backbone, tmp_path
):
    command = ("extract", shared_dataset, *tiny_arch, "--layers", 2, "--cache", tmp_path / "cache")
    outcome = program(
        *(*command, "--views", "clean,jpeg:50,blur:1.5+noise:4"),
        *("--augment", "jpeg+blur+jitter:2", "--dtype", "float32"),
    )
    assert outcome.code == 0, outcome.err
    stores = [Store(path) for path in outcome.out.split()]
    assert [store.identity.view for store in stores] == [
        *("clean", "jpeg-50", "blur-1.5+noise-4"),
        *("jpeg+blur+jitter.random0", "jpeg+blur+jitter.random1"),
    ]
    clean, *others = stores
    assert len({store.identity.sha256 for store in stores}) == 5
    for store in others:
        view = view_named(store.identity.view)
        for row in (0, 5):
            found = store.read_layer("layer2", np.asarray([row])).decoded()
            expected = features_of(store.samples[row], shared_dataset, tiny_backbone, view)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
            plain = features_of(
                store.samples[row], shared_dataset, tiny_backbone, parse_view("clean")
            )
            assert (found - plain).abs().max() > 1e-2
    for store in others[:2]:
        assert store.identity.manifest_sha256 == clean.identity.manifest_sha256
        for array in ("targets", "masks", "thumbnails"):
            assert inodes(store, array) == inodes(clean, array)
    for store in others[2:]:
        assert store.splits == ["train"]
        assert len(store.samples) == 8

    # Augmented images are learned from, and judged on are the clean ones.
    training = ("--feature-layer", "layer2", "--decoder-type", "linear", "--epochs", 1)
    training += ("--batch-size", 8)
    run = program(
        *("train", clean.location, *(store.location for store in others[2:])),
        *(*training, "-o", tmp_path / "runs"),
    )
    assert run.code == 0, run.err
    # Alone they are refused: there is nothing to validate on.
    line = refused("train", others[2].location, *training, "-o", tmp_path / "runs")
    assert "has the split train; training needs the splits train and valid" in line
    # A view is judged like any store.
    assert program("evaluate", run.last_line, "--on", others[0].location).code == 0


def test_a_view_that_cannot_be_is_refused_before_anything(
    refused, shared_dataset, tiny_arch, tmp_path
):
    command = ("extract", shared_dataset, *tiny_arch, "--cache", tmp_path / "cache")
    assert "'sepia' is not known; known: clean, jpeg" in refused(
        *command, "--views", "clean,sepia:1"
    )
    assert "expected kinds and how many views" in refused(*command, "--augment", "jpeg")
    for option, text in {"--views": "clean,clean", "--split": "test,test"}.items():
        assert f"is given twice in '{text}'; give each once" in refused(*command, option, text)
    line = refused(*command, "--views", "jpeg:70,jpeg:70.0")
    assert "view 'jpeg:70.0' is given twice; give each view once" in line
    assert not (tmp_path / "cache").exists()
