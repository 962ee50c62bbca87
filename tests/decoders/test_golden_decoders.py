"""Decoders equal to the published implementation, on weights and features made from a recipe."""

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from declip_pipeline.decoders.building import build_decoder
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.features import FeatureShape

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = {case["case"]: case for case in json.loads((GOLDEN / "decoders.json").read_text())}


def shape_of(case: dict) -> FeatureShape:
    """ViT features are (N, 257, 1024), all others grids."""
    if len(case["features_shape"]) == 4:
        return FeatureShape(*case["features_shape"][1:])
    return FeatureShape(1024, 16, 16, prefix_tokens=1)


def decoder_without_memory(case: dict) -> Decoder:
    """The decoder on the meta device: names and shapes, no numbers."""
    with torch.device("meta"):
        return build_decoder(case["case"].rsplit("|", 1)[1], shape_of(case))


def test_every_published_case_is_here() -> None:
    assert len(CASES) == 10


@pytest.mark.parametrize("name", CASES)
def test_parameters_have_the_published_names_and_shapes(name: str) -> None:
    state = decoder_without_memory(CASES[name]).state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == CASES[name]["parameters"]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_output_is_the_published_one(
    name: str, recipe: ModuleType, device: torch.device, tolerance: float
) -> None:
    case = CASES[name]
    decoder = decoder_without_memory(case)
    weights = {key: torch.tensor(v) for key, v in recipe.fill(case["parameters"]).items()}
    decoder.load_state_dict(weights, assign=True)
    features = torch.from_numpy(recipe.features(case["features_seed"], case["features_shape"]))
    with torch.inference_mode():
        output = decoder.to(device).eval()(features.to(device)).cpu()
    assert output.shape == (2, 256, 256)
    assert output.dtype == torch.float32
    expected = np.load(GOLDEN / "decoders.npz")[name]
    np.testing.assert_allclose(output[:, ::4, ::4].numpy(), expected, rtol=0, atol=tolerance)
    assert output.mean().item() == pytest.approx(case["output_mean"], abs=tolerance)
    assert output.std().item() == pytest.approx(case["output_std"], abs=tolerance)
