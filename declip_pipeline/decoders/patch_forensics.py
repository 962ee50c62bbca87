"""Decoder of Patch Forensics: the first blocks of an Xception and a logit for each patch."""

from collections import OrderedDict

from timm.models.xception import Block
from torch import Tensor, nn

from declip_pipeline.decoders.decoder import PositionDecoder
from declip_pipeline.errors import InputError
from declip_pipeline.features import FeatureShape

LEAST_SIDE = 32


class PatchForensicsDecoder(PositionDecoder):
    """Xception up to its second block, a 1x1 convolution to one logit a patch, then bicubic.

    Its features are the pixels themselves, scaled to [-1, 1], as the backbone `pixels:299` gives
    them; 299x299 pixels give 37x37 patches. The published network has one logit for real and one
    for fake; their difference under a sigmoid equals their softmax. `trunk` has the names of
    timm's `legacy_xception`, so that its ImageNet weights fit.

    Raises `InputError` for other features, and for fewer than 32x32 pixels.

    Source: Chai et al., "What makes fake images detectable?" (ECCV 2020); trained with masks for
    Dolos by Tantaru et al. (WACV 2024), from PyTorch's own initial weights.
    """

    def __init__(self, shape: FeatureShape, output_size: int = 256) -> None:
        super().__init__("patch-forensics", shape, output_size)
        _refuse_other_than_pixels(shape)
        self.trunk = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(3, 32, 3, stride=2, bias=False),
                bn1=nn.BatchNorm2d(32),
                act1=nn.ReLU(inplace=True),
                conv2=nn.Conv2d(32, 64, 3, bias=False),
                bn2=nn.BatchNorm2d(64),
                act2=nn.ReLU(inplace=True),
                block1=Block(64, 128, 2, 2, start_with_relu=False),
                block2=Block(128, 256, 2, 2),
            )
        )
        self.fc = nn.Sequential(nn.Conv2d(256, 1, 1))

    def position_logits(self, features: Tensor) -> Tensor:
        """Return logits of the patches (N, rows, columns), 37x37 for 299x299 pixels."""
        logits: Tensor = self.fc(self.trunk(features)).squeeze(1)
        return logits


def _refuse_other_than_pixels(shape: FeatureShape) -> None:
    is_large = min(shape.height, shape.width) >= LEAST_SIDE
    if shape.is_grid and shape.channels == 3 and is_large:
        return
    kind = "grid" if shape.is_grid else "tokens"
    raise InputError(
        f"patch-forensics decoder got a layer of {shape.channels} channels on {shape.height}x"
        f"{shape.width} ({kind}); expected pixels, 3 channels on at least {LEAST_SIDE}x"
        f'{LEAST_SIDE}: extract with `arch="pixels:299"` and give it '
        "that store's layer pixels"
    )
