"""A decoder with the identity of its features, in one safetensors file."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from declip_pipeline.decoders.building import build_decoder
from declip_pipeline.decoders.convolutional import ConvolutionalDecoder
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.errors import InputError
from declip_pipeline.features import FeatureShape
from declip_pipeline.files import write_bytes

_METADATA = "declip_pipe"


def save_decoder(path: Path, decoder: Decoder, features: dict[str, Any]) -> None:
    """Write `decoder` to `path`, whole or not at all.

    `features` is the identity of the features it was trained on, as plain JSON.
    """
    about = {
        "decoder_type": decoder.decoder_type,
        "widths": list(decoder.widths) if isinstance(decoder, ConvolutionalDecoder) else None,
        "output_size": decoder.output_size,
        "input_shapes": [shape.to_json() for shape in decoder.input_shapes],
        "fusion": "concat" if decoder.fusion is None else decoder.fusion.mode,
        "features": features,
    }
    if decoder.pooling is not None:
        about["pooling"] = decoder.pooling.name
    tensors = {name: value.contiguous() for name, value in decoder.state_dict().items()}
    write_bytes(path, save(tensors, {_METADATA: json.dumps(about, sort_keys=True)}))


def load_decoder(path: Path) -> tuple[Decoder, dict[str, Any]]:
    """The decoder of a file, in evaluation mode on the CPU, and its features' identity.

    Raises `InputError` when the file is absent or not a decoder's.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[_METADATA])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        features = about["features"]
        shapes = about.get("input_shapes") or [features["shape"]]
        decoder = build_decoder(
            about["decoder_type"],
            [FeatureShape.from_json(shape) for shape in shapes],
            fusion=about.get("fusion", "concat"),
            widths=about["widths"],
            output_size=about["output_size"],
            pooling=about.get("pooling"),
        )
        decoder.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path} is not a decoder that `declip-pipe train` wrote ({reason})"
        ) from error
    decoder.eval()
    return decoder, features
