import pytest
import torch

from declip_pipeline.decoders.building import build_decoder
from declip_pipeline.decoders.names import DECODER_TYPES
from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.features import FeatureShape

VIT_LARGE = FeatureShape(1024, 16, 16, prefix_tokens=1)
FUSION = FeatureShape(2048, 16, 16)
TINY = FeatureShape(8, 4, 4, prefix_tokens=1)


@pytest.mark.parametrize(
    ("decoder_type", "shape", "millions"),
    [
        ("conv-4", VIT_LARGE, 17.41),
        ("conv-12", VIT_LARGE, 34.83),
        ("conv-20", VIT_LARGE, 52.24),
        ("conv-20", FUSION, 65.35),
    ],
)
def test_parameter_counts_are_the_papers(
    decoder_type: str, shape: FeatureShape, millions: float
) -> None:
    with torch.device("meta"):
        decoder = build_decoder(decoder_type, shape)
    count = sum(parameter.numel() for parameter in decoder.parameters())
    assert round(count / 1e6, 2) == millions


def test_the_papers_five_types_and_the_baseline() -> None:
    papers = {"linear", "attention", "conv-4", "conv-12", "conv-20", "patch-forensics"}
    assert papers <= set(DECODER_TYPES)


def test_conv_n_takes_any_multiple_of_four() -> None:
    decoder = build_decoder("conv-8", TINY, widths=(4, 3, 2, 1))
    convolutions = [m for m in decoder.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [4, 4, 3, 3, 2, 2, 1, 1, 1]
    assert decoder.decoder_type == "conv-8"


@pytest.mark.parametrize(
    "decoder_type", ["conv-6", "conv-0", "conv-04", "conv-400", "conv-", "cov-4", ""]
)
def test_unknown_type_lists_the_known_ones(decoder_type: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        build_decoder(decoder_type, TINY)
    assert str(caught.value).startswith(f"unknown decoder type {decoder_type!r}; ")
    assert str(caught.value).endswith(
        "known: linear, attention, conv-4, conv-12, conv-20, mlp, fcn, pup, patch-forensics, "
        "probe, probe-pca-64, lda"
    )


@pytest.mark.parametrize("decoder_type", ["linear", "attention"])
def test_widths_are_for_decoders_of_stages_only(decoder_type: str) -> None:
    message = (
        rf"{decoder_type} decoder got widths \[8, 4, 2, 1\], expected none; "
        "leave them out or choose conv-N, mlp, fcn or pup"
    )
    with pytest.raises(InputError, match=message):
        build_decoder(decoder_type, TINY, widths=(8, 4, 2, 1))


@pytest.mark.parametrize(
    "widths", [(), (8, 4, 2), (8, 4, 2, 0), (8, 4, 2, -1), (8, 4, 2, 1.5), (4097, 4, 2, 1)]
)
def test_widths_are_four_positive_whole_numbers(widths: tuple) -> None:
    with pytest.raises(InputError, match="expected four positive whole numbers") as caught:
        build_decoder("conv-4", TINY, widths=widths)
    assert str(list(widths)) in str(caught.value)


@pytest.mark.parametrize(
    ("decoder_type", "expected"),
    [("mlp", "one positive whole number, "), ("fcn", "two "), ("pup", "three ")],
)
@pytest.mark.parametrize("widths", [(8, 4, 2, 1), (0,), (0, 4), (0, 4, 2), (5000,), ()])
def test_light_decoders_take_a_width_for_each_stage(
    decoder_type: str, expected: str, widths: tuple
) -> None:
    with pytest.raises(InputError, match=f"for {decoder_type}, expected {expected}"):
        build_decoder(decoder_type, TINY, widths=widths)


@pytest.mark.parametrize("decoder_type", ["linear", "attention", "conv-4", "mlp", "fcn", "pup"])
def test_another_output_size(decoder_type: str) -> None:
    widths = (4, 4, 4, 4) if decoder_type == "conv-4" else None
    decoder = build_decoder(decoder_type, TINY, widths=widths, output_size=100)
    assert decoder(torch.zeros(3, 17, 8)).shape == (3, 100, 100)


@pytest.mark.parametrize("output_size", [0, -256, 256.0])
def test_output_size_is_a_positive_whole_number(output_size: int) -> None:
    with pytest.raises(InputError, match=f"got output size {output_size}, expected a positive"):
        build_decoder("linear", TINY, output_size=output_size)
