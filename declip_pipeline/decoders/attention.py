"""The attention decoder: two transformer blocks over all tokens, then one logit per position."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from declip_pipeline.decoders.decoder import PositionDecoder
from declip_pipeline.features import FeatureShape


def head_count(channels: int) -> int:
    """Number of attention heads: channels / 64, or the nearest smaller number that divides them."""
    return next(n for n in range(max(1, channels // 64), 0, -1) if channels % n == 0)


class QuickGELU(nn.Module):
    """OpenAI CLIP's activation, x * sigmoid(1.702 x)."""

    def forward(self, values: Tensor) -> Tensor:
        """The activation, element by element."""
        return values * torch.sigmoid(1.702 * values)


class CausalSelfAttention(nn.Module):
    """Self-attention in which a token sees itself and those before it.

    Has the parameters of `nn.MultiheadAttention`, so that published checkpoints load, but no mask
    in memory: that one would hold 157 million numbers for a grid of 112x112.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = head_count(channels)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw what `nn.MultiheadAttention` draws; `out_proj.weight` is drawn by its Linear."""
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.in_proj_bias)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (N, tokens, channels) to the same shape."""
        projected = F.linear(tokens, self.in_proj_weight, self.in_proj_bias)
        # (N, tokens, 3 * channels) -> 3 x (N, heads, tokens, channels per head)
        count, length, _ = tokens.shape
        parts = projected.reshape(count, length, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        mixed: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return mixed


class TransformerBlock(nn.Module):
    """Pre-norm block: attention, then an MLP four times as wide, each added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attn = CausalSelfAttention(channels)
        self.ln_1 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(channels, 4 * channels))
        self.mlp.add_module("gelu", QuickGELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * channels, channels))
        self.ln_2 = nn.LayerNorm(channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (N, tokens, channels) to the same shape."""
        tokens = tokens + self.attn(self.ln_1(tokens))
        mixed: Tensor = tokens + self.mlp(self.ln_2(tokens))
        return mixed


class AttentionDecoder(PositionDecoder):
    """Two causal transformer blocks over all tokens, then as the linear decoder.

    Prefix tokens come first, so that every position sees them; they are left out of the map. A
    grid's positions are its tokens, in row order, without a class token.

    Source: DeCLIP (Smeu et al., WACV 2025, arXiv 2409.08849), the self-attention decoder.
    """

    def __init__(self, shape: FeatureShape, output_size: int = 256) -> None:
        super().__init__("attention", shape, output_size)
        self.att1 = TransformerBlock(shape.channels)
        self.att2 = TransformerBlock(shape.channels)
        self.fc = nn.Sequential(nn.Linear(shape.channels, 1))

    def position_logits(self, features: Tensor) -> Tensor:
        """Logits (N, height, width)."""
        tokens = self.att2(self.att1(self.tokens(features)))
        logits: Tensor = self.fc(self.without_prefix(tokens))
        return logits.reshape(-1, self.shape.height, self.shape.width)
