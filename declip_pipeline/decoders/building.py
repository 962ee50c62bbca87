"""Building a decoder by its type's name or from a factory, and drawing its initial weights."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import torch
from torch import nn

from declip_pipeline.compute import derived_seed
from declip_pipeline.decoders.custom import OUTPUT_SIZE, build_custom
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.decoders.factories import DecoderFactory, name_factory
from declip_pipeline.decoders.fcn import FCNDecoder
from declip_pipeline.decoders.fusion import FeatureFusion
from declip_pipeline.decoders.mlp import MLPDecoder
from declip_pipeline.decoders.names import (
    PATCH_FORENSICS,
    TAKERS_OF_WIDTHS,
    WIDTHS,
    DecoderType,
    is_fitted,
    read_decoder_type,
)
from declip_pipeline.decoders.normalization import FeatureNormalization
from declip_pipeline.decoders.paper import (
    AttentionDecoder,
    ConvolutionalDecoder,
    LinearDecoder,
)
from declip_pipeline.decoders.pooling import build_pooling
from declip_pipeline.decoders.projected import ProjectingDecoder
from declip_pipeline.decoders.pup import PUPDecoder
from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.features import FeatureShape
from declip_pipeline.options import FusionMode, InitializationScheme, Normalization

WIDEST = 4096
"""Most channels of a stage; a 5x5 convolution between two such takes 1.7 GB."""


def build_decoder(
    decoder: str | DecoderFactory | DecoderType,
    shape: FeatureShape | Sequence[FeatureShape],
    *,
    fusion: FusionMode = "concat",
    normalize: Normalization = "none",
    widths: Sequence[int] | None = None,
    options: Mapping[str, Any] | None = None,
    output_size: int = OUTPUT_SIZE,
    pooling: str | None = None,
) -> Decoder:
    """Build a decoder for features of a shape, with PyTorch's own initial weights.

    Args:
        decoder: A decoder of one's own as a factory (see `DecoderFactory`), or a name: one of
            `DECODER_TYPES`, `conv-N` for any other multiple N of 4 up to 96, the name of a
            registered entry point, or `module:qualname` of a factory; or what `read_decoder_type`
            makes of a name. `patch-forensics` is for the layer of the backbone `pixels:SIDE` alone.
        shape: Shape of the layer's features, or of several layers' to be joined by `fusion`.
        fusion: How several layers are joined; see `FeatureFusion`.
        normalize: How the features of each layer are normalized before; see
            `FeatureNormalization`. Statistics of "channel" change nothing until they are fitted.
        widths: Channels of the stages of a type in `WIDTHS`, which has those by default; for a
            factory that takes them, its option `widths`.
        options: Keywords of a factory, JSON values.
        output_size: Side of the map in pixels; 256 for a factory.
        pooling: One of `PoolingName`, for detection.

    Raises:
        UnknownNameError: Another type, fusion, normalization or pooling.
        InputError: Widths, options, a size or shapes that do not fit.
        DecoderError: A factory that cannot be imported, or does not keep the contract.
    """
    shapes = [shape] if isinstance(shape, FeatureShape) else list(shape)
    joining = FeatureFusion(shapes, fusion) if len(shapes) > 1 else None
    given = dict(options or {})
    if not isinstance(decoder, str | DecoderType):
        decoder, keywords = name_factory(decoder)
        given = {**keywords, **given}
    built = _build_for_one(
        decoder if isinstance(decoder, DecoderType) else read_decoder_type(decoder),
        shapes,
        joining,
        widths,
        given,
        output_size,
    )
    built.fusion = joining
    if normalize != "none":
        built.normalization = FeatureNormalization(shapes, normalize)
    if pooling is not None:
        built.pooling = build_pooling(pooling)
    return built


def initialize(decoder: Decoder, scheme: InitializationScheme, seed: int) -> None:
    """Draw all parameters of a decoder again, in place, and reset its running statistics.

    "pytorch" gives PyTorch's own defaults. "paper" gives them too, then draws every weight (the
    projections of attention and the scales of BatchNorm and LayerNorm included) from N(0, 0.02);
    biases keep PyTorch's values: zero in BatchNorm, LayerNorm and attention, uniform elsewhere. For
    a decoder from another paper, "paper" means that paper's weights: Patch Forensics has PyTorch's.
    A decoder of one's own has those that its factory gives it.

    The weights depend on the seed alone: they are drawn on the CPU, whatever the decoder's device,
    and the global random state is left as it was.

    Raises `UnknownNameError` for another scheme.

    Source: DeCLIP's published training code, which draws the weights in `fc` so: all of linear and
    conv-N, but not the two transformer blocks of attention, which "paper" draws here as well.
    """
    schemes = get_args(InitializationScheme)
    if scheme not in schemes:
        raise UnknownNameError("initialization", scheme, schemes)
    device = next(decoder.parameters()).device
    decoder.to("cpu")
    # fork_rng without devices, and the CPU's generator rather than torch.manual_seed: the latter
    # would also seed the accelerator.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(derived_seed(seed, "decoder", "initialization"))
        decoder.draw_weights()
        if scheme == "paper" and decoder.published_deviation is not None:
            for name, parameter in decoder.named_parameters():
                if name.endswith("weight"):
                    nn.init.normal_(parameter, 0.0, decoder.published_deviation)
    decoder.to(device)


def _build_for_one(
    kind: DecoderType,
    shapes: Sequence[FeatureShape],
    joining: FeatureFusion | None,
    widths: Sequence[int] | None,
    options: Mapping[str, Any],
    output_size: int,
) -> Decoder:
    shape = shapes[0] if joining is None else joining.shape
    if type(output_size) is not int or output_size < 1:
        raise InputError(
            f"got output size {output_size}, expected a positive whole number of pixels, "
            "such as 256"
        )
    if widths is not None and not kind.takes_widths:
        raise InputError(
            f"{kind.name} decoder got widths {list(widths)}, expected none; "
            f"leave them out or choose {TAKERS_OF_WIDTHS}"
        )
    if kind.found is not None:
        if output_size != OUTPUT_SIZE:
            raise InputError(
                f"got output size {output_size} for {kind.name}; the map of a decoder of one's own "
                f"is {OUTPUT_SIZE} pixels wide and high"
            )
        given = dict(options) if widths is None else {**options, "widths": list(widths)}
        return build_custom(kind.name, kind.found, shape, given)
    if options:
        raise InputError(
            f"{kind.name} decoder got options {dict(options)}, expected none; they are for "
            "decoders of one's own"
        )
    if widths is not None:
        _refuse_bad_widths(kind, widths)
    own = widths or WIDTHS.get(kind.kind, ())
    if kind.depth is not None:
        return ConvolutionalDecoder(kind.depth, shape, own, output_size)
    if is_fitted(kind.name):
        raise InputError(
            f"{kind.name} is a way to train a linear decoder, not a decoder; build a linear one"
        )
    if kind.kind == "fcn":
        return FCNDecoder(shape, output_size, own)
    if kind.kind in _PROJECTING:
        projected = shapes if joining is None or joining.mode == "concat" else [shape]
        return _PROJECTING[kind.kind](projected, shape, output_size, own)
    return _BUILDERS[kind.kind](shape, output_size)


def _patch_forensics(shape: FeatureShape, output_size: int) -> Decoder:
    # timm takes seconds to import.
    from declip_pipeline.decoders.patch_forensics import PatchForensicsDecoder

    return PatchForensicsDecoder(shape, output_size)


_BUILDERS: dict[str, Callable[[FeatureShape, int], Decoder]] = {
    "linear": LinearDecoder,
    "attention": AttentionDecoder,
    PATCH_FORENSICS: _patch_forensics,
}
"""Builders of the built-in types that have no options of their own."""

_PROJECTING: dict[
    str,
    Callable[[Sequence[FeatureShape], FeatureShape, int, Sequence[int]], ProjectingDecoder],
] = {
    "mlp": MLPDecoder,
    "pup": PUPDecoder,
}
"""Builders of the types that project each layer before they join them."""


def _refuse_bad_widths(kind: DecoderType, widths: Sequence[int]) -> None:
    fits = all(type(width) is int and 0 < width <= WIDEST for width in widths)
    if not kind.takes(widths) or not fits:
        raise InputError(
            f"got widths {list(widths)} for {kind.name}, expected {kind.described_widths}, each "
            f"of at most {WIDEST}, such as {', '.join(map(str, WIDTHS[kind.kind]))}"
        )
