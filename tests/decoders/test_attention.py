import pytest
import torch
from torch import nn

from declip_pipeline.decoders.attention import AttentionDecoder, CausalSelfAttention, head_count
from declip_pipeline.features import FeatureShape


@pytest.mark.parametrize(
    ("channels", "heads"),
    [(1024, 16), (768, 12), (320, 5), (64, 1), (112, 1), (16, 1), (1, 1), (200, 2), (1000, 10)],
)
def test_head_count(channels: int, heads: int) -> None:
    """200 // 64 = 3 does not divide 200; 1000 // 64 = 15, and 10 is the next that divides."""
    assert head_count(channels) == heads
    assert channels % heads == 0


def test_equal_to_multihead_attention_with_a_causal_mask() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 7, 128, generator=generator)
    ours = CausalSelfAttention(128)
    theirs = nn.MultiheadAttention(128, 2, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    mask = torch.full((7, 7), -torch.inf).triu(1)
    expected, _ = theirs(tokens, tokens, tokens, attn_mask=mask, need_weights=False)
    torch.testing.assert_close(ours(tokens), expected)


def test_the_last_position_reaches_itself_alone() -> None:
    """Causal: changing the last position of a grid leaves the first rows of the map alone."""
    generator = torch.Generator().manual_seed(0)
    grid = torch.randn(1, 8, 8, 8, generator=generator)
    changed = grid.clone()
    changed[:, :, -1, -1] = torch.randn(8, generator=generator)
    decoder = AttentionDecoder(FeatureShape(8, 8, 8))
    before, after = decoder(grid), decoder(changed)
    # The bicubic kernel of a pixel in the upper half ends two positions below, above the last row.
    torch.testing.assert_close(after[:, :128], before[:, :128])
    assert (after[:, -1, -1] - before[:, -1, -1]).abs() > 1e-3


def test_prefix_tokens_speak_to_the_positions_behind_them() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, 17, 8, generator=generator)
    changed = tokens.clone()
    changed[:, 0] = torch.randn(8, generator=generator)
    decoder = AttentionDecoder(FeatureShape(8, 4, 4, prefix_tokens=1))
    assert (decoder(changed) - decoder(tokens)).abs().max() > 1e-4
