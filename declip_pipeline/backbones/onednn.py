"""Linear layers of frozen networks on a CPU, computed by oneDNN."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def use_onednn(network: nn.Module) -> None:
    """Let oneDNN compute the float32 linear layers of a network that is not trained, on a CPU.

    PyTorch gives matrix products in float32 to MKL, which runs code for old processors on those
    that are not Intel's. Convolutions are oneDNN's, whose code is chosen by what a processor can
    do: a linear layer as a 1x1 convolution takes half of the time there
    (benchmarks/engines.py), and its results differ by rounding.

    Modules change their class alone: weights, names and all else stay. On other devices, in other
    types, and in exported graphs the layers are PyTorch's own.
    """
    for module in network.modules():
        if type(module) is nn.Linear:
            module.__class__ = _Linear
        elif type(module) is nn.MultiheadAttention and module.batch_first:
            module.__class__ = _MultiheadAttention


class _Linear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return _linear(input, self.weight, self.bias)


class _MultiheadAttention(nn.MultiheadAttention):
    """Attention whose projections are linear layers of a contiguous batch.

    PyTorch's own `forward` passes its weights to `F.linear` with the batch in the second place,
    which on a CPU in bfloat16 copies them once for each token, and takes longer than float32.
    """

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *arguments: Any, **keywords: Any
    ) -> tuple[Tensor, Tensor | None]:
        is_plain = (
            not arguments
            and keywords.get("need_weights") is False
            and all(keywords[name] is None for name in keywords if name != "need_weights")
            and self.in_proj_weight is not None
            and self.bias_k is None
            and not self.add_zero_attn
        )
        is_on_cpu = query.device.type == "cpu" and not torch.compiler.is_exporting()
        if not (is_plain and query is key is value and query.ndim == 3 and is_on_cpu):
            return super().forward(query, key, value, *arguments, **keywords)
        joined = _linear(query, self.in_proj_weight, self.in_proj_bias)
        heads = joined.reshape(*joined.shape[:2], 3, self.num_heads, self.head_dim)
        heads = heads.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        return _linear(mixed, self.out_proj.weight, self.out_proj.bias), None


def _linear(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    function = linear_by_onednn if _is_for_onednn(inputs) else F.linear
    return function(inputs, weight, bias)


def linear_by_onednn(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `F.linear` of float32 tensors on a CPU, (..., in) to (..., out), up to rounding."""
    # PyTorch takes oneDNN for batches of 16 and more, or more than one thread, else what
    # `F.linear` takes.
    batch = inputs.reshape(len(inputs), -1, 1, inputs.shape[-1]).permute(0, 3, 1, 2)
    outputs = F.conv2d(batch, weight[:, :, None, None], bias)
    return outputs.permute(0, 2, 3, 1).reshape(*inputs.shape[:-1], -1)


def _is_for_onednn(inputs: Tensor) -> bool:
    return (
        inputs.device.type == "cpu"
        and inputs.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_exporting()
    )
