"""Cross-entropy of maps that are enlarged at the very end, without ever holding the large ones."""

from typing import Any

import torch
from torch import Tensor

from declip_pipeline.decoders.enlarging import bicubic_matrix

# A part's large maps are computed, looked at and dropped while they are in the processor's cache:
# eight maps of 256x256. What that saves is printed by benchmarks/light_decoders.py.
CPU_PIXELS_AT_ONCE = 2**19


@torch.compiler.disable  # type: ignore[untyped-decorator]
def enlarged_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy with logits of `enlarge(logits)`, mean over all pixels.

    logits: (N, h, w), computed with as float32. targets: (N, size, size) float32 in [0, 1].
    A compiler has nothing to add to it.
    """
    with torch.autocast(logits.device.type, enabled=False):
        loss: Tensor = _EnlargedCrossEntropy.apply(logits.float(), targets)
    return loss


class _EnlargedCrossEntropy(torch.autograd.Function):
    """The gradient is found along with the loss, while the large maps are at hand."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        size = targets.shape[1]
        rows, columns = (bicubic_matrix(side, size, logits.device) for side in logits.shape[1:])
        at_once = len(logits)
        if logits.device.type == "cpu":
            at_once = max(1, CPU_PIXELS_AT_ONCE // size**2)
        gradient = torch.empty_like(logits)
        total = logits.new_zeros(())
        for start in range(0, len(logits), at_once):
            part = slice(start, start + at_once)
            large, truth = rows @ logits[part] @ columns.T, targets[part]
            gradient[part] = rows.T @ torch.sigmoid(large).sub_(truth) @ columns
            # log(1 + exp(x)) - x t, written so that nothing overflows.
            entropy = large.abs().neg_().exp_().add_(1).log_()
            total += entropy.addcmul_(large, truth, value=-1).add_(large.clamp_(min=0)).sum()
        ctx.save_for_backward(gradient / targets.numel())
        return total / targets.numel()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0], None
