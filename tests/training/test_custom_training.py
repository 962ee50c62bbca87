"""Runs of a decoder of one's own train, resume and are opened again as others are."""

from functools import partial

import pytest
import torch
import yaml
from torch import nn

from declip_pipeline.decoders.factories import _passed, name_factory
from declip_pipeline.errors import DecoderError, InputError
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.run import Run
from declip_pipeline.training.runs import train_run

CPU = torch.device("cpu")


class Own(nn.Module):
    """A light head with what others may bring along: a frozen, an unused and a tied parameter."""

    def __init__(self, shape, hidden=4):
        super().__init__()
        self.shape = shape
        self.layers = nn.Sequential(
            nn.Conv2d(shape.channels, hidden, 1), nn.BatchNorm2d(hidden), nn.Conv2d(hidden, 1, 1)
        )
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(1))
        self.tied = self.layers[0].bias

    def forward(self, features):
        patches = features[:, self.shape.prefix_tokens :].transpose(1, 2)
        grid = patches.unflatten(2, (self.shape.height, self.shape.width))
        logits = self.layers(grid) * self.frozen
        return nn.functional.interpolate(logits, 256, mode="bilinear")[:, 0]


def run(store, runs, decoder=Own, on_epoch=lambda epoch: None, **changes):
    name, options = name_factory(decoder)
    recipe = Recipe(
        name, decoder_options=options, epochs=3, batch_size=3, learning_rate=1e-2, **changes
    )
    return train_run(
        TrainingData([store], device=CPU), runs, layer="layer1", recipe=recipe, on_epoch=on_epoch
    )


def without_seconds(folder):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in folder.epochs()]


def test_it_learns_resumes_and_is_opened_again(tiny_store, tmp_path):
    undisturbed = run(tiny_store, tmp_path / "one")
    records = undisturbed.epochs()
    assert records[-1]["train_loss"] < records[0]["train_loss"]

    def interrupt(epoch):
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny_store, tmp_path / "two", on_epoch=interrupt)
    resumed = run(tiny_store, tmp_path / "two")
    assert resumed.path.name == undisturbed.path.name
    assert resumed.path.name.startswith(f"{Own.__module__}-Own_layer1_all_seed0_")
    assert without_seconds(resumed) == without_seconds(undisturbed)
    assert resumed.best_checkpoint.read_bytes() == undisturbed.best_checkpoint.read_bytes()
    _passed.clear()
    decoder, features = Run(resumed.path).best_decoder()
    assert features == tiny_store.feature_identity("layer1")
    with torch.inference_mode():
        maps = decoder(torch.zeros(2, *decoder.shape.array_shape))
    assert maps.shape == (2, 256, 256)


def test_options_are_part_of_what_a_run_is(tiny_store, tmp_path):
    narrow, wide = run(tiny_store, tmp_path), run(tiny_store, tmp_path, partial(Own, hidden=8))
    assert narrow.path != wide.path
    config = yaml.safe_load((wide.path / "config.yaml").read_text())
    assert config["decoder_type"] == f"{Own.__module__}:Own"
    assert config["decoder_options"] == {"hidden": 8}
    assert wide.best_decoder()[0].options == {"hidden": 8}
    assert "decoder_options" not in narrow.config()


def test_detection_takes_it_too(mixed_store, tmp_path):
    folder = run(mixed_store, tmp_path, pooling="learned")
    assert folder.best_decoder()[0].pooling.name == "learned"


def test_a_run_of_a_class_that_is_missing_says_which(tiny_store, tmp_path, monkeypatch):
    class Hidden(Own):
        pass

    folder = run(tiny_store, tmp_path, Hidden)
    _passed.clear()
    with pytest.raises(DecoderError, match=r"<locals>\.Hidden cannot be imported"):
        folder.best_decoder()
    decoder, _ = Run(folder.path, Hidden).best_decoder()
    assert isinstance(decoder.module, Hidden)


def test_a_decoder_of_another_size_is_refused_before_a_folder_is_made(tiny_store, tmp_path):
    with pytest.raises(InputError, match=r"returned shape \(2, 224, 224\).*\(2, 256, 256\)"):
        run(tiny_store, tmp_path, Small)
    assert not list(tmp_path.iterdir())


class Small(Own):
    def forward(self, features):
        return super().forward(features)[:, :224, :224]
