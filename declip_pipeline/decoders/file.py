"""Checkpoint of a decoder with the identity of its features, in one safetensors file."""

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from declip_pipeline.decoders.building import build_decoder
from declip_pipeline.decoders.custom import CustomDecoder
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.decoders.factories import DecoderFactory, FoundFactory
from declip_pipeline.decoders.names import DecoderType, read_decoder_type
from declip_pipeline.errors import DecoderError, InputError, UnknownNameError
from declip_pipeline.features import FeatureShape
from declip_pipeline.files import write_bytes

_METADATA = "declip_pipe"


def encode_decoder(decoder: Decoder, features: dict[str, Any]) -> bytes:
    """Return the content of a checkpoint.

    `features` is the identity of the features it was trained on, as plain JSON. A decoder of one's
    own is named with its options and its package, so that it can be built again.
    """
    about = {
        "decoder_type": decoder.decoder_type,
        "widths": None if decoder.widths is None else list(decoder.widths),
        "output_size": decoder.output_size,
        "input_shapes": [shape.to_json() for shape in decoder.input_shapes],
        "fusion": "concat" if decoder.fusion is None else decoder.fusion.mode,
        "features": features,
    }
    if isinstance(decoder, CustomDecoder):
        about |= {"options": decoder.options, "origin": decoder.origin}
    if decoder.normalization is not None:
        about["normalize"] = decoder.normalization.mode
    if decoder.pooling is not None:
        about["pooling"] = decoder.pooling.name
    # Cloned, because safetensors refuses tensors that share memory (tied weights).
    tensors = {
        name: value.clone(memory_format=torch.contiguous_format)
        for name, value in decoder.state_dict().items()
    }
    return save(tensors, {_METADATA: json.dumps(about, sort_keys=True)})


def save_decoder(path: Path, decoder: Decoder, features: dict[str, Any]) -> None:
    """Write a checkpoint to `path`, whole or not at all; arguments as for `encode_decoder`."""
    write_bytes(path, encode_decoder(decoder, features))


def load_decoder(
    path: Path, decoder: DecoderFactory | None = None
) -> tuple[Decoder, dict[str, Any]]:
    """Return a checkpoint's decoder, in evaluation mode on the CPU, and its features' identity.

    Args:
        path: The checkpoint.
        decoder: Factory to build the decoder with, instead of the one that the checkpoint names.
            Needed where that one cannot be imported.

    Raises:
        InputError: The file is absent or not a decoder's.
        DecoderError: The factory cannot be imported, or builds another network.
    """
    if path.exists() and not path.is_file():
        # A pipe would be waited for.
        raise InputError(f"{path} is no regular file; expected a decoder's checkpoint")
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(
            f"{path} is not there; expected a decoder that `declip-pipe train` wrote"
        ) from error
    return decode_decoder(data, str(path), decoder)


def decode_decoder(
    data: bytes, place: str, decoder: DecoderFactory | None = None
) -> tuple[Decoder, dict[str, Any]]:
    """Return what `load_decoder` does from a checkpoint's content; errors name `place`."""
    try:
        about = json.loads(_metadata(data)[_METADATA])
        weights = load(data)
        features = about["features"]
        shapes = about.get("input_shapes") or [features["shape"]]
        built = build_decoder(
            _type_of(place, about, decoder),
            [FeatureShape.from_json(shape) for shape in shapes],
            fusion=about.get("fusion", "concat"),
            normalize=about.get("normalize", "none"),
            widths=about["widths"],
            options=about.get("options"),
            output_size=about["output_size"],
            pooling=about.get("pooling"),
        )
        _load_weights(built, weights)
    except DecoderError as error:
        raise DecoderError(f"{place}: {error}") from error
    except (SafetensorError, LookupError, ValueError, TypeError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{place} is not a decoder that `declip-pipe train` wrote ({reason})"
        ) from error
    built.eval()
    return built, features


def _metadata(data: bytes) -> dict[str, str]:
    """Return the texts of a safetensors file's header."""
    length = int.from_bytes(data[:8], "little")
    metadata: dict[str, str] = json.loads(data[8 : 8 + length])["__metadata__"]
    return metadata


def _type_of(path: str, about: Mapping[str, Any], factory: DecoderFactory | None) -> DecoderType:
    """Return the type that a checkpoint names, with another factory if one is given."""
    name, origin = about["decoder_type"], about.get("origin")
    if origin is None:
        if factory is not None:
            raise InputError(
                f"{path} holds a {name} decoder, which is built in; leave out `decoder`"
            )
        return read_decoder_type(name)
    if factory is not None:
        return DecoderType(name, "custom", found=FoundFactory(factory, origin))
    try:
        return read_decoder_type(name)
    except UnknownNameError as error:
        package = origin.get("package", "unknown")
        raise DecoderError(
            f"the decoder {name} is {origin['object']} of the package {package} "
            f"{origin.get('version', '')}, which is not installed; pip install {package}, or pass "
            f"it from Python, decoder={origin['object'].rpartition(':')[2]}"
        ) from error


def _load_weights(decoder: Decoder, weights: Mapping[str, Tensor]) -> None:
    try:
        decoder.load_state_dict(weights)
    except RuntimeError as error:
        if not isinstance(decoder, CustomDecoder):
            raise
        faults = " ".join(" ".join(str(error).splitlines()[1:]).split())
        raise DecoderError(
            f"the decoder {decoder.decoder_type} has other tensors than when it was trained "
            f"({textwrap.shorten(faults, 160, placeholder=' ...')}); give it that version's code"
        ) from error
