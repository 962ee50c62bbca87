"""How maps of logits become one logit of each image."""

import math
from itertools import pairwise

import pytest
import torch

from declip_pipeline.decoders.building import build_decoder, initialize
from declip_pipeline.decoders.file import load_decoder, save_decoder
from declip_pipeline.decoders.pooling import build_pooling
from declip_pipeline.errors import UnknownNameError
from declip_pipeline.features import FeatureShape

SHAPE = FeatureShape(4, 2, 2)


@pytest.fixture
def maps():
    return torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0)) * 3


def test_mean_and_max(maps):
    assert torch.equal(build_pooling("mean")(maps), maps.mean(dim=(1, 2)))
    assert torch.equal(build_pooling("max")(maps), maps.amax(dim=(1, 2)))


def test_the_gradient_of_max_goes_to_one_pixel(maps):
    maps[0, 3, 4] = maps[0, 5, 6] = 20  # equal ones: the first
    maps.requires_grad_()
    build_pooling("max")(maps).sum().backward()
    assert (maps.grad != 0).sum(dim=(1, 2)).tolist() == [1, 1, 1]
    assert maps.grad[0, 3, 4] == 1


def test_learned_is_log_mean_exp_between_mean_and_max(maps):
    pooling = build_pooling("learned")
    expected = maps.double().exp().mean(dim=(1, 2)).log().float()
    torch.testing.assert_close(pooling(maps), expected)
    found = []
    for sharpness in (1e-3, 0.1, 1, 10, 1000):
        torch.nn.init.constant_(pooling.log_sharpness, math.log(sharpness))
        found.append(pooling(maps).detach())
    torch.testing.assert_close(found[0], maps.mean(dim=(1, 2)), rtol=0, atol=2e-2)
    torch.testing.assert_close(found[-1], maps.amax(dim=(1, 2)), rtol=0, atol=1e-2)
    assert all((low < high).all() for low, high in pairwise(found))
    pooling.reset_parameters()
    pooling(maps).sum().backward()
    assert pooling.log_sharpness.grad > 0, "sharper is higher"


def test_it_is_kept_in_the_decoders_file(tmp_path):
    decoder = build_decoder("linear", SHAPE, pooling="learned")
    torch.nn.init.constant_(decoder.pooling.log_sharpness, 0.5)
    save_decoder(tmp_path / "decoder", decoder, {"shape": SHAPE.to_json()})
    loaded, _ = load_decoder(tmp_path / "decoder")
    assert loaded.pooling.name == "learned"
    assert loaded.pooling.log_sharpness.item() == 0.5
    plain = build_decoder("linear", SHAPE)
    save_decoder(tmp_path / "plain", plain, {"shape": SHAPE.to_json()})
    assert load_decoder(tmp_path / "plain")[0].pooling is None


def test_it_changes_neither_the_map_nor_the_initial_weights():
    plain, pooled = (build_decoder("linear", SHAPE, pooling=name) for name in (None, "learned"))
    for decoder in (plain, pooled):
        initialize(decoder, "paper", seed=3)
    features = torch.randn(2, *SHAPE.array_shape)
    assert torch.equal(plain(features), pooled(features))
    assert pooled.pooling.log_sharpness == 0


def test_another_name_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match="unknown pooling 'men'; did you mean 'mean'"):
        build_decoder("linear", SHAPE, pooling="men")
