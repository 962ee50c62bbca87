"""Features of a whole image at a window of it."""

import numpy as np
import pytest
import torch

from declip_pipeline.decoders.at_windows import features_at_windows
from declip_pipeline.features import FeatureShape
from declip_pipeline.images.tiles import window_shares

GRID = FeatureShape(3, 8, 10)
TOKENS = FeatureShape(3, 8, 10, prefix_tokens=2)


def ramps(shape):
    """Channels that grow by 1 from edge to edge of the image, along rows, columns, and both."""
    rows = ((torch.arange(shape.height) + 0.5) / shape.height)[:, None].expand(-1, shape.width)
    columns = ((torch.arange(shape.width) + 0.5) / shape.width)[None].expand(shape.height, -1)
    return torch.stack([rows, columns, rows + columns])


def test_a_window_sees_what_lies_there_in_the_whole_image():
    places = torch.tensor([[0.25, 0.5, 0.5, 0.25]])
    found = features_at_windows(ramps(GRID)[None], GRID, places)[0]
    rows = 0.25 + 0.5 * (torch.arange(8) + 0.5) / 8
    columns = 0.5 + 0.25 * (torch.arange(10) + 0.5) / 10
    torch.testing.assert_close(found[0], rows[:, None].expand(-1, 10))
    torch.testing.assert_close(found[1], columns[None].expand(8, -1))
    torch.testing.assert_close(found[2], rows[:, None] + columns)


def test_at_the_border_the_edge_goes_on():
    found = features_at_windows(ramps(GRID)[None], GRID, torch.tensor([[0.0, 0.95, 0.0625, 0.05]]))[
        0
    ]
    torch.testing.assert_close(found[0], torch.full((8, 10), 0.5 / 8))
    torch.testing.assert_close(found[1], torch.full((8, 10), 9.5 / 10))


@pytest.mark.parametrize("shape", [GRID, TOKENS])
def test_the_whole_image_at_its_own_place_is_itself(shape):
    features = torch.randn(2, *shape.array_shape)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(2, -1)
    torch.testing.assert_close(features_at_windows(features, shape, whole), features)


def test_tokens_are_the_grid_with_their_prefix_kept():
    grid = torch.randn(2, *GRID.array_shape)
    prefix = torch.randn(2, 2, 3)
    tokens = torch.cat([prefix, grid.flatten(2).transpose(1, 2)], dim=1)
    places = torch.tensor([[0.25, 0.5, 0.5, 0.25], [0.0, 0.1, 0.3, 0.3]])
    found = features_at_windows(tokens, TOKENS, places)
    expected = features_at_windows(grid, GRID, places)
    torch.testing.assert_close(found[:, :2], prefix)
    torch.testing.assert_close(found[:, 2:], expected.flatten(2).transpose(1, 2))


def test_places_are_shares_of_the_image():
    shares = window_shares(np.array([[10, 20, 50, 25]]), np.array([[100, 200]]))
    np.testing.assert_allclose(shares, [[0.1, 0.1, 0.5, 0.125]])
    assert shares.dtype == np.float32
