import pytest
import torch

from declip_pipeline.decoders import Decoder, build_decoder, initialize
from declip_pipeline.errors import UnknownNameError
from declip_pipeline.features import FeatureShape

SHAPE = FeatureShape(128, 4, 4, prefix_tokens=1)


def decoder_of(decoder_type: str) -> Decoder:
    widths = (64, 64, 64, 64) if decoder_type.startswith("conv") else None
    return build_decoder(decoder_type, SHAPE, widths=widths)


@pytest.mark.parametrize("decoder_type", ["linear", "attention", "conv-4"])
def test_paper_draws_every_weight_from_a_narrow_normal(decoder_type: str) -> None:
    decoder = decoder_of(decoder_type)
    initialize(decoder, "paper", seed=0)
    for name, parameter in decoder.named_parameters():
        if name.endswith("weight"):
            # Six standard errors of the mean and of the deviation, at this many numbers.
            assert parameter.mean().abs() < 6 * 0.02 / parameter.numel() ** 0.5, name
            error = 6 * 0.02 / (2 * parameter.numel()) ** 0.5
            assert parameter.std().item() == pytest.approx(0.02, abs=error), name


def test_paper_draws_the_scales_too_and_keeps_zero_biases() -> None:
    conv, attention = decoder_of("conv-4"), decoder_of("attention")
    initialize(conv, "paper", seed=0)
    initialize(attention, "paper", seed=0)
    state = conv.state_dict() | attention.state_dict()
    for name in ("fc.1.weight", "att1.ln_1.weight", "att2.attn.in_proj_weight"):
        assert 0 < state[name].abs().max() < 0.12
    for name in ("fc.1.bias", "att1.ln_1.bias", "att1.attn.in_proj_bias"):
        assert not state[name].any()
    assert not state["att1.attn.out_proj.bias"].any()


def test_pytorch_is_what_the_modules_draw_by_themselves() -> None:
    decoder = decoder_of("conv-4")
    initialize(decoder, "pytorch", seed=0)
    state = decoder.state_dict()
    assert torch.equal(state["fc.1.weight"], torch.ones(64))
    bound = (128 * 25) ** -0.5
    assert 0.99 * bound < state["fc.0.weight"].abs().max() <= bound
    assert 0.8 * bound < state["fc.0.bias"].abs().max() <= bound


def test_pytorch_draws_attention_as_multihead_attention_does() -> None:
    decoder = decoder_of("attention")
    initialize(decoder, "pytorch", seed=0)
    state = decoder.state_dict()
    xavier = (6 / (4 * 128)) ** 0.5
    assert 0.99 * xavier < state["att1.attn.in_proj_weight"].abs().max() <= xavier
    assert not state["att1.attn.in_proj_bias"].any()
    assert not state["att1.attn.out_proj.bias"].any()
    assert state["att1.mlp.c_fc.bias"].any()


def test_running_statistics_are_reset() -> None:
    decoder = decoder_of("conv-4")
    decoder(torch.ones(2, *SHAPE.array_shape))
    initialize(decoder, "paper", seed=0)
    assert not decoder.state_dict()["fc.1.running_mean"].any()
    assert decoder.state_dict()["fc.1.num_batches_tracked"] == 0


def test_parameters_are_filled_in_place() -> None:
    """An optimizer made before keeps its parameters."""
    decoder = decoder_of("linear")
    before = list(decoder.parameters())
    initialize(decoder, "paper", seed=0)
    after = list(decoder.parameters())
    assert all(one is other for one, other in zip(before, after, strict=True))
    assert all(parameter.requires_grad for parameter in after)


def test_schemes_differ_and_another_is_refused() -> None:
    one, other = decoder_of("linear"), decoder_of("linear")
    initialize(one, "paper", seed=0)
    initialize(other, "pytorch", seed=0)
    assert not torch.equal(one.state_dict()["fc.0.weight"], other.state_dict()["fc.0.weight"])
    with pytest.raises(UnknownNameError, match="initialization 'zeros'; known: paper, pytorch"):
        initialize(one, "zeros", seed=0)
