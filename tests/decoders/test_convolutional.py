import pytest
import torch
from torch import nn

from declip_pipeline.decoders.convolutional import ConvolutionalDecoder, skipped_upsamplings
from declip_pipeline.features import FeatureShape

NARROW = (4, 3, 2, 2)


@pytest.mark.parametrize(
    ("side", "skipped"),
    [
        *[(1, 0), (7, 0), (14, 0), (16, 0), (17, 1), (28, 1), (32, 1), (37, 2), (56, 2)],
        *[(112, 3), (128, 3), (129, 4), (256, 4), (300, 4), (5000, 4)],
    ],
)
def test_skipped_upsamplings(side: int, skipped: int) -> None:
    assert skipped_upsamplings(side, side) == skipped
    assert skipped_upsamplings(side, 1) == skipped
    assert skipped_upsamplings(1, side) == skipped


def kinds(decoder: ConvolutionalDecoder) -> str:
    """One letter a module: convolution, normalisation, ReLU, doubling, resize."""
    letters = {nn.Conv2d: "c", nn.BatchNorm2d: "n", nn.ReLU: "r"}
    return "".join(
        ("d" if module.scale_factor == 2 else "s")
        if isinstance(module, nn.Upsample)
        else letters[type(module)]
        for module in decoder.fc
    )


@pytest.mark.parametrize(
    ("shape", "depth", "expected"),
    [
        (FeatureShape(8, 16, 16, 1), 4, "cnrd cnrd cnrd cnrd c"),
        (FeatureShape(8, 16, 16, 1), 8, "cnrcnrd cnrcnrd cnrcnrd cnrcnrd c"),
        (FeatureShape(8, 32, 32, 5), 4, "cnr cnrd cnrd cnrd c"),
        (FeatureShape(8, 37, 37, 5), 4, "cnr cnr cnrd cnrd s c"),
        (FeatureShape(8, 16, 12, 1), 4, "cnrd cnrd cnrd cnrd s c"),
        (FeatureShape(8, 16, 16), 4, "cnrd cnrd cnrd cnrd s c"),
        (FeatureShape(8, 112, 112), 4, "cnr cnr cnr cnrd s c"),
        (FeatureShape(8, 300, 300), 4, "cnr cnr cnr cnr s c"),
    ],
)
def test_order_of_modules(shape: FeatureShape, depth: int, expected: str) -> None:
    assert kinds(ConvolutionalDecoder(depth, shape, NARROW)) == expected.replace(" ", "")


@pytest.mark.parametrize("shape", [FeatureShape(2, 300, 260), FeatureShape(2, 1, 1)])
def test_grids_larger_than_the_map_and_of_one_position(shape: FeatureShape) -> None:
    decoder = ConvolutionalDecoder(4, shape, NARROW).eval()
    assert decoder(torch.zeros(1, *shape.array_shape)).shape == (1, 256, 256)


def test_tokens_and_grids_of_the_same_numbers_give_the_same_map() -> None:
    """On 16x16 the grid's resize changes nothing, but the last convolution has another index."""
    grid = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    tokens = torch.cat([torch.full((2, 1, 8), 9.0), grid.flatten(2).transpose(1, 2)], dim=1)
    on_grid = ConvolutionalDecoder(4, FeatureShape(8, 16, 16), NARROW).eval()
    on_tokens = ConvolutionalDecoder(4, FeatureShape(8, 16, 16, 1), NARROW).eval()
    on_tokens.load_state_dict(
        {name.replace("fc.17.", "fc.16."): v for name, v in on_grid.state_dict().items()}
    )
    torch.testing.assert_close(on_tokens(tokens), on_grid(grid))
