"""The paper's decoders: linear, attention and convolutional."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from declip_pipeline.decoders.decoder import Decoder, PositionDecoder
from declip_pipeline.decoders.names import WIDTHS
from declip_pipeline.features import FeatureShape

PAPER_DEVIATION = 0.02


class LinearDecoder(PositionDecoder):
    """One Linear(channels, 1) on each position, then bicubic to the output size.

    Source: DeCLIP (Smeu et al., WACV 2025, arXiv 2409.08849), the linear decoder.
    """

    published_deviation = PAPER_DEVIATION

    def __init__(self, shape: FeatureShape, output_size: int = 256) -> None:
        super().__init__("linear", shape, output_size)
        self.fc = nn.Sequential(nn.Linear(shape.channels, 1))

    def position_logits(self, features: Tensor) -> Tensor:
        """Return logits (N, height, width)."""
        if self.shape.is_grid:
            # In the grid's memory layout: a sequence of its positions would be a copy.
            weight, bias = self.fc.parameters()
            logits: Tensor = weight @ features.flatten(2) + bias
        else:
            # With the prefix tokens, because leaving them out first would be a copy.
            logits = self.without_prefix(self.fc(features))
        return logits.reshape(-1, self.shape.height, self.shape.width)


class AttentionDecoder(PositionDecoder):
    """Two causal transformer blocks over all tokens, then the linear decoder.

    Prefix tokens come first, so that every position attends to them; they are not part of the
    map. The tokens of a grid are its positions in row order, without a class token.

    Source: DeCLIP (Smeu et al., WACV 2025, arXiv 2409.08849), the self-attention decoder.
    """

    published_deviation = PAPER_DEVIATION

    def __init__(self, shape: FeatureShape, output_size: int = 256) -> None:
        super().__init__("attention", shape, output_size)
        self.att1 = TransformerBlock(shape.channels)
        self.att2 = TransformerBlock(shape.channels)
        self.fc = nn.Sequential(nn.Linear(shape.channels, 1))

    def position_logits(self, features: Tensor) -> Tensor:
        """Return logits (N, height, width)."""
        tokens = self.att2(self.att1(self.tokens(features)))
        logits: Tensor = self.fc(self.without_prefix(tokens))
        return logits.reshape(-1, self.shape.height, self.shape.width)


class ConvolutionalDecoder(Decoder):
    """Four stages of `depth / 4` times (Conv 5x5, BatchNorm, ReLU) and an upsampling x2.

    A bilinear resize to the output size precedes the last convolution, except for tokens whose
    map already has that size after the stages. The published networks are built like this, and
    the index of a module in `fc` is part of its parameters' names.

    Source: DeCLIP (Smeu et al., WACV 2025, arXiv 2409.08849), the convolutional decoders.
    """

    published_deviation = PAPER_DEVIATION

    def __init__(
        self,
        depth: int,
        shape: FeatureShape,
        widths: Sequence[int] = WIDTHS["conv"],
        output_size: int = 256,
    ) -> None:
        super().__init__(f"conv-{depth}", shape, output_size)
        self.widths = tuple(widths)
        skipped = skipped_upsamplings(shape.height, shape.width, output_size)
        layers: list[nn.Module] = []
        for stage, (n_in, n_out) in enumerate(pairwise((shape.channels, *widths))):
            for repeat in range(depth // 4):
                layers.append(nn.Conv2d(n_out if repeat else n_in, n_out, 5, padding=2))
                layers.append(nn.BatchNorm2d(n_out))
                layers.append(nn.ReLU())
            if stage >= skipped:
                layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
        growth = 2 ** (4 - skipped)
        reached = (shape.height * growth, shape.width * growth)
        if shape.is_grid or reached != (output_size, output_size):
            size = (output_size, output_size)
            layers.append(nn.Upsample(size=size, mode="bilinear", align_corners=False))
        layers.append(nn.Conv2d(widths[-1], 1, 5, padding=2))
        self.fc = nn.Sequential(*layers)

    def decode(self, features: Tensor) -> Tensor:
        """Return logits (N, output_size, output_size)."""
        if not self.shape.is_grid:
            positions = self.without_prefix(features)
            # A view that lies in memory as channels_last, the faster layout for convolutions.
            count, _, channels = positions.shape
            grid = (count, channels, self.shape.height, self.shape.width)
            features = positions.transpose(1, 2).view(grid)
        logits: Tensor = self.fc(features).squeeze(1)
        return logits


def skipped_upsamplings(height: int, width: int, output_size: int = 256) -> int:
    """Return how many of the four stages skip their upsampling, to not exceed the output size.

    The smallest k with side * 2**(4 - k) <= output_size, at most 4: for 256, sides up to 16 skip
    none, 28 one, 56 two, 112 three.
    """
    enlarged_sixteenfold = 16 * max(height, width)
    return min(4, ((enlarged_sixteenfold - 1) // output_size).bit_length())


def head_count(channels: int) -> int:
    """Return the number of attention heads: channels / 64, or the next smaller divisor."""
    return next(n for n in range(max(1, channels // 64), 0, -1) if channels % n == 0)


class QuickGELU(nn.Module):
    """OpenAI CLIP's activation, x * sigmoid(1.702 x)."""

    def forward(self, values: Tensor) -> Tensor:
        """Apply the activation elementwise."""
        return values * torch.sigmoid(1.702 * values)


class CausalSelfAttention(nn.Module):
    """Self-attention of each token to itself and the tokens before it.

    The parameters are those of `nn.MultiheadAttention`, so that published checkpoints load, but no
    mask is held in memory: it would have 157 million numbers for a grid of 112x112.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = head_count(channels)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw as `nn.MultiheadAttention` does; `out_proj` draws its own weight."""
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.in_proj_bias)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (N, tokens, channels) to the same shape."""
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
        """Map tokens (N, tokens, channels) to the same shape."""
        tokens = tokens + self.attn(self.ln_1(tokens))
        mixed: Tensor = tokens + self.mlp(self.ln_2(tokens))
        return mixed
