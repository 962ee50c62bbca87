"""Backbones of runs, opened again from what the runs record."""

import pytest
from conftest import TINY_RESNET, TINY_VIT

from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.errors import InputError, WeightsError
from declip_pipeline.extraction.recorded_backbones import open_run_backbones

SIZE = {"preprocessing": {"height": 224, "width": 224}}
VIT = {"backbone": "CLIP:from-file", "weights_sha256": "0", **SIZE}
RESNET = {"backbone": "CLIP:from-file", "weights_sha256": "1", **SIZE}


def recorded(*weights: object) -> dict[str, object]:
    return {"provenance": {"weights": [str(file) for file in weights]}}


def test_the_recorded_weights_are_opened_once_for_all_layers():
    inputs = [recorded(TINY_VIT), recorded(TINY_RESNET), recorded(TINY_VIT)]
    first, second, third = open_run_backbones([VIT, RESNET, VIT], inputs, device="cpu")
    assert first is third
    assert "layer0" in first.layers
    assert "layer0" not in second.layers


def test_given_weights_are_taken_in_order():
    parts = [VIT, {"backbone": "CLIP:from-file,CLIP:from-file", "weights_sha256": "2", **SIZE}]
    weights = [str(TINY_RESNET), str(TINY_VIT), str(TINY_RESNET)]
    one, fusion = open_run_backbones(parts, [recorded()] * 2, weights=weights, device="cpu")
    assert list(one.layers) == [f"layer{stage}" for stage in range(1, 5)]
    assert fusion.name == "CLIP:from-file,CLIP:from-file"
    with pytest.raises(InputError, match="2 weights for the 1 parts"):
        open_run_backbones([VIT], [recorded()], weights=weights[:2], device="cpu")


def test_an_opened_backbone_is_used_for_its_name():
    own = open_backbone("CLIP:from-file", weights=TINY_VIT, device="cpu")
    inputs = [recorded("gone.pt")]
    assert open_run_backbones([VIT], inputs, device="cpu", backbones=[own]) == [own]


def test_missing_recorded_weights_are_named():
    with pytest.raises(WeightsError, match="the run was trained with gone.pt, which is not there"):
        open_run_backbones([VIT], [recorded("gone.pt")], device="cpu")
