"""Features of several layers are joined on the finest grid, side by side or as a weighted sum."""

import pytest
import torch
import torch.nn.functional as F

from declip_pipeline.decoders import build_decoder, initialize
from declip_pipeline.decoders.decoder_file import load_decoder, save_decoder
from declip_pipeline.decoders.fusion import FeatureFusion
from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.features import FeatureShape

TOKENS = FeatureShape(8, 4, 4, prefix_tokens=1)
FINE = FeatureShape(6, 8, 8)


def features(*shapes):
    torch.manual_seed(0)
    return [torch.randn(3, *shape.array_shape) for shape in shapes]


def test_layers_of_one_vit_stay_tokens():
    fusion = FeatureFusion([TOKENS, TOKENS], "concat")
    assert fusion.shape == FeatureShape(16, 4, 4, prefix_tokens=1)
    one, other = features(TOKENS, TOKENS)
    assert torch.equal(fusion([one, other]), torch.cat([one, other], dim=2))


def test_other_grids_are_resampled_to_the_finest():
    fusion = FeatureFusion([TOKENS, FINE], "concat")
    assert fusion.shape == FeatureShape(14, 8, 8)
    tokens, grid = features(TOKENS, FINE)
    joined = fusion([tokens, grid])
    assert torch.equal(joined[:, 8:], grid)
    patches = tokens[:, 1:].transpose(1, 2).reshape(3, 8, 4, 4)
    expected = F.interpolate(patches, (8, 8), mode="bilinear", align_corners=False)
    assert torch.equal(joined[:, :8], expected)


@pytest.mark.parametrize("shape", [TOKENS, FINE])
def test_a_weighted_sum_begins_as_the_mean_of_normalized_features(shape):
    fusion = FeatureFusion([shape, shape], "weighted")
    assert fusion.weights == [0.5, 0.5]
    one, other = features(shape, shape)
    axis = 1 if shape.is_grid else 2

    def normalized(values):
        return F.layer_norm(values.movedim(axis, -1), [shape.channels]).movedim(-1, axis)

    expected = (normalized(one) + normalized(other * 100)) / 2
    torch.testing.assert_close(fusion([one, other * 100]), expected, rtol=0, atol=1e-5)
    with torch.no_grad():
        fusion.scores.copy_(torch.tensor([0.0, torch.log(torch.tensor(3.0))]))
    assert fusion.weights == pytest.approx([0.25, 0.75])


def test_a_decoder_of_several_layers_comes_back_from_its_file(tmp_path):
    decoder = build_decoder("attention", [TOKENS, TOKENS], fusion="weighted")
    initialize(decoder, "paper", 0)
    with torch.no_grad():
        decoder.fusion.scores.copy_(torch.tensor([0.5, -0.5]))
    save_decoder(tmp_path / "decoder", decoder, {"any": "identity"})
    again, _ = load_decoder(tmp_path / "decoder")
    assert again.input_shapes == (TOKENS, TOKENS)
    inputs = features(TOKENS, TOKENS)
    assert torch.equal(again(*inputs), decoder.eval()(*inputs))


def test_initial_weights_are_equal_whatever_the_scheme():
    decoder = build_decoder("linear", [TOKENS, TOKENS], fusion="weighted")
    with torch.no_grad():
        decoder.fusion.scores.fill_(1.0)
    initialize(decoder, "paper", 0)
    assert decoder.fusion.scores.tolist() == [0.0, 0.0]


def test_one_shape_is_no_fusion():
    assert build_decoder("linear", [TOKENS]).fusion is None


def test_what_cannot_be_joined_is_refused():
    with pytest.raises(InputError, match="a weighted sum of features of 8, 6 channels; expected"):
        build_decoder("linear", [TOKENS, FINE], fusion="weighted")
    with pytest.raises(UnknownNameError, match="unknown fusion 'sum'; known: concat, weighted"):
        build_decoder("linear", [TOKENS, TOKENS], fusion="sum")
    decoder = build_decoder("linear", [TOKENS, FINE])
    tokens, grid = features(TOKENS, FINE)
    with pytest.raises(InputError, match="got features of 1 layers, expected 2"):
        decoder(tokens)
    with pytest.raises(InputError, match=r"got features of shape \(3, 6, 8, 8\), expected \(N, 17"):
        decoder(grid, tokens)
