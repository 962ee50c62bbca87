"""The pixels whose truth is beyond doubt: a mask without the band along its outline."""

import torch.nn.functional as F
from torch import Tensor

EROSION = 15
DILATION = 11


def widen(masks: Tensor, size: int) -> Tensor:
    """Maximum of `masks` over a square window of odd `size`, clipped at the border.

    masks: (N, H, W) bool. Returns: the same. Windows are joined pairwise (1, 2, 4, 8, then the
    rest), so the cost grows with log(size), and nothing is converted from bool.
    """
    for padding in ((size // 2, size // 2), (0, 0, size // 2, size // 2)):
        axis = 2 if len(padding) == 2 else 1
        masks = F.pad(masks, padding, value=False)
        reach = 1
        while reach < size:
            step = min(reach, size - reach)
            length = masks.shape[axis] - step
            masks = masks.narrow(axis, 0, length) | masks.narrow(axis, step, length)
            reach += step
    return masks


def certain_regions(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Where a pixel is certainly fake and where certainly real.

    Fake: the mask eroded by a 15x15 minimum filter. Real: outside the mask dilated by an 11x11
    maximum filter. Both windows are clipped at the border; the band between is not judged.

    masks: (N, H, W) bool, True = fake. Returns: two tensors like it.
    Source: TruFor (Guillaro et al., CVPR 2023), whose F1 DeCLIP reports.
    """
    return ~widen(~masks, EROSION), ~widen(masks, DILATION)
