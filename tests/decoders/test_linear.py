import torch
import torch.nn.functional as F

from declip_pipeline.decoders import build_decoder
from declip_pipeline.features import FeatureShape


def test_tokens_and_grids_of_the_same_numbers_give_the_same_map() -> None:
    grid = torch.randn(2, 8, 3, 5, generator=torch.Generator().manual_seed(0))
    tokens = torch.cat([torch.full((2, 1, 8), 9.0), grid.flatten(2).transpose(1, 2)], dim=1)
    on_grid = build_decoder("linear", FeatureShape(8, 3, 5))
    on_tokens = build_decoder("linear", FeatureShape(8, 3, 5, prefix_tokens=1))
    on_tokens.load_state_dict(on_grid.state_dict())
    torch.testing.assert_close(on_tokens(tokens), on_grid(grid))


def test_map_is_the_enlarged_weighted_sum_of_channels() -> None:
    grid = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    decoder = build_decoder("linear", FeatureShape(3, 4, 4))
    weights = {"fc.0.weight": torch.tensor([[1.0, -2.0, 0.5]]), "fc.0.bias": torch.tensor([0.25])}
    decoder.load_state_dict(weights)
    small = grid[:, :1] - 2 * grid[:, 1:2] + 0.5 * grid[:, 2:] + 0.25
    expected = F.interpolate(small, (256, 256), mode="bicubic", align_corners=False)[:, 0]
    torch.testing.assert_close(decoder(grid), expected)
