"""Files of published checkpoints: read as data alone, refused by name of what is wrong."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from declip_pipeline.errors import InputError
from declip_pipeline.exchange.published_file import read_published, write_published

LINEAR = {"fc.0.weight": torch.ones(1, 4), "fc.0.bias": torch.zeros(1)}


class Bomb:
    """Makes a file when it is loaded as a pickle."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch '{self.target}'",)


def saved(path: Path, content: object, **options: object) -> Path:
    torch.save(content, path, **options)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_published(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_in_the_published_format_is_read(tmp_path, legacy):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))])
    model = LINEAR | {"model.visual.proj": torch.ones(2, 2), "model.logit_scale": torch.ones(())}
    path = saved(
        tmp_path / "model_epoch_best.pth",
        {
            "model": model,
            "optimizer": optimizer.state_dict(),
            "total_steps": 812,
            "feature_layer": "layer20",
            "decoder_type": "linear",
        },
        _use_new_zipfile_serialization=not legacy,
    )
    checkpoint = read_published(path)
    assert set(checkpoint.decoder) == {"fc.0.weight", "fc.0.bias"}
    assert set(checkpoint.visual) == {"proj"}
    assert checkpoint.feature_layer == "layer20"
    assert checkpoint.decoder_type == "linear"
    assert checkpoint.total_steps == 812


def test_what_the_file_does_not_say_is_none(tmp_path):
    checkpoint = read_published(saved(tmp_path / "a.pth", {"model": LINEAR}))
    assert checkpoint.feature_layer is None
    assert checkpoint.decoder_type is None
    assert checkpoint.total_steps is None
    assert checkpoint.visual == {}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_that_wrappers_give_all_names_are_dropped(tmp_path, prefix):
    model = LINEAR | {"model.visual.proj": torch.ones(2, 2)}
    wrapped = {f"{prefix}{name}": tensor for name, tensor in model.items()}
    checkpoint = read_published(saved(tmp_path / "a.pth", {"model": wrapped}))
    assert set(checkpoint.decoder) == {"fc.0.weight", "fc.0.bias"}
    assert set(checkpoint.visual) == {"proj"}


def test_numpy_scalars_are_named(tmp_path):
    path = saved(tmp_path / "a.pth", {"model": LINEAR, "best": np.float64(0.5)})
    assert refusal(path).startswith(f"{path} asks to run numpy._core.multiarray.scalar when it is")


def test_what_is_written_is_read_again(tmp_path):
    path = tmp_path / "a.pth"
    write_published(path, LINEAR, feature_layer="layer3", decoder_type="linear", total_steps=7)
    content = torch.load(path, weights_only=True)
    assert list(content) == ["model", "optimizer", "total_steps", "feature_layer", "decoder_type"]
    checkpoint = read_published(path)
    assert torch.equal(checkpoint.decoder["fc.0.weight"], LINEAR["fc.0.weight"])
    assert (checkpoint.feature_layer, checkpoint.decoder_type) == ("layer3", "linear")
    assert checkpoint.total_steps == 7


@pytest.mark.parametrize("kind", ["zip", "legacy", "plain pickle", "in the optimizer"])
def test_a_malicious_pickle_is_refused_and_nothing_is_run(tmp_path, kind):
    target = tmp_path / "executed"
    path = tmp_path / "bad.pth"
    bomb = {"model": LINEAR, "optimizer": {}, "feature_layer": Bomb(target)}
    if kind == "in the optimizer":
        bomb = {"model": LINEAR, "optimizer": {"state": Bomb(target)}}
    if kind == "plain pickle":
        # Tensors are code, too, in a plain pickle.
        path.write_bytes(pickle.dumps(bomb | {"model": {}}, protocol=2))
    else:
        saved(path, bomb, _use_new_zipfile_serialization=kind != "legacy")
    text = refusal(path)
    assert not target.exists()
    assert "asks to run" in text
    assert ".system when it is loaded; refused, nothing of it was run" in text
    # The charge was live: whoever loads it in good faith runs it.
    if kind == "plain pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert target.exists()


@pytest.mark.parametrize("form", ["plain", "torch"])
@pytest.mark.parametrize("protocol", range(6))
def test_what_a_pickle_asks_for_is_named_in_every_protocol(tmp_path, form, protocol):
    target = tmp_path / "executed"
    path = tmp_path / "bad.pth"
    content = {"model": {}, "again": ["posix", "system"], "feature_layer": Bomb(target)}
    if form == "plain":
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    else:
        torch.save(content | {"model": LINEAR}, path, pickle_protocol=protocol)
    assert refusal(path) == (
        f"{path} asks to run {os.name}.system when it is loaded; refused, nothing of it was run; "
        "expected tensors and plain values alone, such as its `state_dict()`"
    )
    assert not target.exists()


def test_tensors_alone_in_another_protocol_ask_for_nothing(tmp_path):
    path = saved(tmp_path / "newer.pth", {"model": LINEAR}, pickle_protocol=4)
    assert refusal(path).startswith(
        f"{path}: not a weights file, or damaged (Unsupported operand 149); expected a DeCLIP"
    )


def test_other_files_are_no_checkpoints(tmp_path):
    assert "no such file; expected a DeCLIP checkpoint" in refusal(tmp_path / "absent.pth")
    assert "a folder; expected" in refusal(tmp_path)
    empty = tmp_path / "empty.pth"
    empty.touch()
    assert "the file is empty; expected a DeCLIP checkpoint" in refusal(empty)
    noise = tmp_path / "noise.pth"
    noise.write_bytes(b"not a pickle at all")
    assert "not a weights file, or damaged" in refusal(noise)
    whole = saved(tmp_path / "whole.pth", {"model": LINEAR})
    whole.write_bytes(whole.read_bytes()[:-200])
    assert "not a weights file, or damaged" in refusal(whole)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "it holds list; expected a DeCLIP checkpoint (.pth): a dict of model"),
        (LINEAR, "it holds a dict of fc.0.weight, fc.0.bias; expected"),
        ({"model": {}}, "no tensor is named fc.* (it has nothing)"),
        ({"model": {"head.weight": torch.ones(1)}}, "no tensor is named fc.* (it has head.weight)"),
        ({"model": {"fc.0.weight": 3}}, "'fc.0.weight' of its model is int, expected a tensor"),
        (
            {"model": LINEAR | {"model.block1.weight": torch.ones(1)}},
            "the backbone in its model is no CLIP, it has model.block1.weight; expected",
        ),
        ({"model": LINEAR, "feature_layer": 20}, "its feature_layer is int, expected text"),
        ({"model": LINEAR, "total_steps": "x"}, "its total_steps is str, expected a whole number"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_what_it_holds(tmp_path, content, words):
    assert words in refusal(saved(tmp_path / "other.pth", content))
