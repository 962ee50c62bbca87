"""From a decoder's name and a layer's shape to the network."""

import re
from collections.abc import Sequence

from declip_pipeline.decoders.attention import AttentionDecoder
from declip_pipeline.decoders.convolutional import PAPER_WIDTHS, ConvolutionalDecoder
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.decoders.fusion import FeatureFusion
from declip_pipeline.decoders.linear import LinearDecoder
from declip_pipeline.decoders.pooling import build_pooling
from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.features import FeatureShape
from declip_pipeline.options import FusionMode

PATCH_FORENSICS = "patch-forensics"
DECODER_TYPES = ("linear", "attention", "conv-4", "conv-12", "conv-20", PATCH_FORENSICS)

WIDEST = 4096
"""Most channels of a stage; a 5x5 convolution between two such takes 1.7 GB."""


def build_decoder(
    decoder_type: str,
    shape: FeatureShape | Sequence[FeatureShape],
    *,
    fusion: FusionMode = "concat",
    widths: Sequence[int] | None = None,
    output_size: int = 256,
    pooling: str | None = None,
) -> Decoder:
    """Build the decoder of a type for features of a shape, with PyTorch's own initial weights.

    Of several shapes, it joins the features by `fusion` first; see `FeatureFusion`.

    `decoder_type` is one of `DECODER_TYPES`, or `conv-N` for any other multiple N of 4 up to 96;
    `patch-forensics` is for the layer of `--arch pixels:SIDE` alone.
    `widths` are the channels of a conv decoder's four stages, 512, 256, 128, 64 where not given.
    `output_size` is the side of the map in pixels. `pooling` is one of `PoolingName` for detection.

    Raises `UnknownNameError` for another type, fusion or pooling, `InputError` for widths, a size
    or shapes that do not fit.
    """
    shapes = [shape] if isinstance(shape, FeatureShape) else list(shape)
    joining = FeatureFusion(shapes, fusion) if len(shapes) > 1 else None
    joined = shapes[0] if joining is None else joining.shape
    decoder = _build_for_one(decoder_type, joined, widths, output_size)
    decoder.fusion = joining
    if pooling is not None:
        decoder.pooling = build_pooling(pooling)
    return decoder


def _build_for_one(
    decoder_type: str, shape: FeatureShape, widths: Sequence[int] | None, output_size: int
) -> Decoder:
    if type(output_size) is not int or output_size < 1:
        raise InputError(
            f"got output size {output_size}, expected a positive whole number of pixels, "
            "such as 256"
        )
    depth = _convolutional_depth(decoder_type)
    if depth is not None:
        if widths is not None:
            _refuse_bad_widths(widths)
        return ConvolutionalDecoder(depth, shape, widths or PAPER_WIDTHS, output_size)
    if decoder_type not in DECODER_TYPES:
        raise UnknownNameError("decoder type", decoder_type, DECODER_TYPES)
    if widths is not None:
        raise InputError(
            f"{decoder_type} decoder got widths {list(widths)}, expected none; "
            "leave them out or choose a conv decoder"
        )
    if decoder_type == "linear":
        return LinearDecoder(shape, output_size)
    if decoder_type == PATCH_FORENSICS:
        # timm takes seconds to import.
        from declip_pipeline.decoders.patch_forensics import PatchForensicsDecoder

        return PatchForensicsDecoder(shape, output_size)
    return AttentionDecoder(shape, output_size)


def is_decoder_type(decoder_type: str) -> bool:
    """Whether `build_decoder` knows a type."""
    return decoder_type in DECODER_TYPES or _convolutional_depth(decoder_type) is not None


def _convolutional_depth(decoder_type: str) -> int | None:
    match = re.fullmatch(r"conv-([1-9][0-9]?)", decoder_type)
    if match is None or int(match[1]) % 4:
        return None
    return int(match[1])


def _refuse_bad_widths(widths: Sequence[int]) -> None:
    fits = all(type(width) is int and 0 < width <= WIDEST for width in widths)
    if len(widths) != 4 or not fits:
        raise InputError(
            f"got decoder widths {list(widths)}, expected four positive whole numbers of at most "
            f"{WIDEST}, one for each stage, such as 512, 256, 128, 64"
        )
