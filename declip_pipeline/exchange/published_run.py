"""Import of published checkpoints as finished runs, and export of runs as checkpoints."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.backbones.weights import differences, is_weight
from declip_pipeline.decoders.building import build_decoder
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.decoders.file import encode_decoder
from declip_pipeline.decoders.names import DECODER_TYPES, is_published_type
from declip_pipeline.decoders.paper import (
    AttentionDecoder,
    ConvolutionalDecoder,
    LinearDecoder,
)
from declip_pipeline.errors import InputError, UnknownNameError, WeightsError
from declip_pipeline.exchange.published_decoder import (
    PUBLISHED,
    FileNameHints,
    decoder_type_of,
    empty_decoder,
    infer_arch,
    infer_layer,
    stated,
)
from declip_pipeline.exchange.published_file import (
    PublishedCheckpoint,
    read_published,
    write_published,
)
from declip_pipeline.files import folder_name, sha256_of_file, sha256_of_json
from declip_pipeline.store.identity import feature_identity, parts_of
from declip_pipeline.training.run import BEST_FILE, Run

UNKNOWN = "unknown"
"""Generator recorded where nothing says what the decoder was trained on."""

OUTPUT_SIZE = 256
"""Side of the published decoders' maps, which the format does not state."""


def import_published(
    path: Path,
    runs: Path,
    open_backbone: Callable[[str], Backbone],
    *,
    arch: str | None = None,
    feature_layer: str | None = None,
    decoder_type: str | None = None,
    train_on: Sequence[str] | None = None,
    weights: Sequence[str] = (),
) -> Run:
    """Import a published checkpoint as a finished run under `runs`, or find it there.

    Arguments that are None are read from the file, inferred from its tensors, or taken from its
    name where that is a published one ("ViT_layer20_conv-20_lama.pth").

    Args:
        path: The checkpoint.
        runs: Folder of runs.
        open_backbone: Opens a backbone by name.
        arch: Name of the backbone.
        feature_layer: Layer that the decoder was trained on.
        decoder_type: Type of the decoder.
        train_on: Generators that the decoder was trained on.
        weights: Recorded in the run, for `predict` to open the backbone with.

    Raises:
        InputError: Not a checkpoint, another decoder than the file says, or open what it is.
        WeightsError: The checkpoint holds another backbone.
    """
    checkpoint = read_published(path)
    hints = FileNameHints.of(path)
    layer = stated(feature_layer, checkpoint.feature_layer, "feature layer", path)
    kind = stated(decoder_type, checkpoint.decoder_type, "decoder type", path)
    kind = kind or decoder_type_of(checkpoint.decoder, path)
    if not is_published_type(kind):
        # A file of others must not choose what is imported here.
        raise UnknownNameError("decoder type", kind, filter(is_published_type, DECODER_TYPES))
    if arch is None:
        arch = infer_arch(checkpoint, kind, layer, hints)
        # Before its weights are read, or even downloaded.
        layer = infer_layer(checkpoint, kind, arch, layer, PUBLISHED[arch], hints)
    backbone = open_backbone(arch)
    layer = infer_layer(checkpoint, kind, backbone.name, layer, backbone.layers, hints)
    _require_backbone(checkpoint, backbone)
    decoder = _decoder(checkpoint, kind, backbone, layer)
    features = feature_identity(
        backbone.name,
        backbone.weights_sha256,
        backbone.preprocessing.to_json(),
        layer,
        backbone.layers[layer],
    )
    learned = sorted(set(train_on or [hints.trained_on or UNKNOWN]))
    identity = {
        "layer": layer,
        "train_on": learned,
        "decoder_type": kind,
        "features": features,
        "imported": {"sha256": sha256_of_file(path), "total_steps": checkpoint.total_steps},
    }
    sha256 = sha256_of_json(identity)
    name = f"{kind}_{layer}_{folder_name('+'.join(learned))}_imported_{sha256[:12]}"
    run = Run(runs / name)
    config = {
        **identity,
        "widths": None if decoder.widths is None else list(decoder.widths),
        "file": str(path.absolute()),
        # The published decoders saw features as they were computed.
        "inputs": [{"dtype": "float32", "provenance": {"arch": arch, "weights": list(weights)}}],
    }
    _write(run, config, sha256, decoder, features)
    return run


def export_published(run: Run, path: Path) -> None:
    """Write the decoder of a finished run to `path` in the published format, with exact weights.

    Raises `InputError` when the run is not finished, or when the format cannot hold its decoder:
    several backbones or layers, maps of another size, another type, a learned pooling, or a
    normalization that is no part of a linear decoder's weights.
    """
    summary = run.summary()
    config = run.config()
    decoder, features = run.best_decoder()
    parts = parts_of(features)
    if len(parts) > 1:
        names = ", ".join(f"{part['layer']} of {part['backbone']}" for part in parts)
        raise InputError(
            f"{run.path} joins {names}; a published checkpoint names one layer of one backbone; "
            "export it with `onnx`"
        )
    if not isinstance(decoder, LinearDecoder | AttentionDecoder | ConvolutionalDecoder):
        raise InputError(
            f"{run.path} is of {decoder.decoder_type}, which the published format does not have; "
            "export it with `onnx`"
        )
    if decoder.output_size != OUTPUT_SIZE:
        raise InputError(
            f"{run.path} gives maps of {decoder.output_size} pixels; a published checkpoint's have "
            f"{OUTPUT_SIZE}; export it with `onnx`"
        )
    if decoder.pooling is not None and list(decoder.pooling.parameters()):
        raise InputError(
            f"{run.path} learned how to pool its maps into scores, which a published checkpoint "
            'does not hold; train with `pooling="mean"`, or export its maps with `onnx`'
        )
    if decoder.normalization is not None:
        _fold_normalization(run, decoder)
    imported = config.get("imported") or {}
    steps = imported.get("total_steps")
    if steps is None:
        batches = -(-int(summary.get("train_images", 0)) // int(config.get("batch_size", 1)))
        steps = (summary["best_epoch"] or 0) * batches
    write_published(
        path,
        decoder.state_dict(),
        feature_layer=parts[0]["layer"],
        decoder_type=decoder.decoder_type,
        total_steps=steps,
    )


def _fold_normalization(run: Run, decoder: Decoder) -> None:
    """Make a linear decoder's channel statistics part of its weights, in place.

    Raises `InputError` for another normalization or decoder: convolutions add zeros around the
    normalized features, and the blocks of attention add to them.
    """
    assert decoder.normalization is not None
    mode = decoder.normalization.mode
    if mode != "channel" or not isinstance(decoder, LinearDecoder):
        raise InputError(
            f'{run.path} was trained with `normalize="{mode}"`, which the published format does '
            f"not have for {decoder.decoder_type}; export it with `onnx`"
        )
    mean, deviation = (
        decoder.normalization.get_buffer(name).double() for name in ("mean_0", "deviation_0")
    )
    weight, bias = decoder.fc.parameters()
    with torch.no_grad():
        weight.copy_(weight.double() / deviation)
        bias.sub_((weight.double() @ mean).float())
    decoder.normalization = None


def _write(
    run: Run,
    config: dict[str, Any],
    sha256: str,
    decoder: Decoder,
    features: dict[str, Any],
) -> None:
    run.begin(config, sha256)
    with run.exclusively():
        if run.is_finished:
            return
        run.finish(
            {
                # Published checkpoints do not record their training.
                "best_valid_iou": None,
                "best_epoch": None,
                "epochs": None,
                "parameters": sum(value.numel() for value in decoder.parameters()),
            },
            {BEST_FILE: encode_decoder(decoder, features)},
        )


def _decoder(
    checkpoint: PublishedCheckpoint, decoder_type: str, backbone: Backbone, layer: str
) -> Decoder:
    """Return the decoder with the checkpoint's weights, which were checked to fit, as float32."""
    shape = backbone.layers[layer]
    empty = empty_decoder(decoder_type, shape, checkpoint.decoder)
    widths = empty.widths
    for name, value in checkpoint.decoder.items():
        if not bool(torch.isfinite(value).all()):
            raise InputError(
                f"{checkpoint.path}: {name} holds values that are not finite; expected numbers, "
                "give an undamaged checkpoint"
            )
    decoder = build_decoder(decoder_type, shape, widths=widths)
    # Old checkpoints lack BatchNorm's step counters, which are not used.
    decoder.load_state_dict(checkpoint.decoder, strict=False)
    return decoder.eval()


def _require_backbone(checkpoint: PublishedCheckpoint, backbone: Backbone) -> None:
    """Raise an error if the checkpoint holds other backbone weights than the backbone's."""
    if not checkpoint.visual:
        return
    path = checkpoint.path
    networks = list(dict.fromkeys(backbone.networks))
    if len(networks) != 1:
        raise InputError(
            f"{path} holds the weights of one backbone, and {backbone.name} is "
            f"{'several' if networks else 'no PyTorch network'}; "
            "name that one with `arch`"
        )
    own = networks[0].state_dict()
    faults = differences(own, checkpoint.visual)
    if faults:
        raise WeightsError(
            f"{path} was trained on another backbone than {backbone.name} ({'; '.join(faults)}); "
            "name that one with `arch`"
        )
    differing = {
        name: float((value.float() - own[name].cpu().float()).abs().max())
        for name, value in checkpoint.visual.items()
        if is_weight(name) and not torch.equal(value.float(), own[name].cpu().float())
    }
    if differing:
        name, distance = next(iter(differing.items()))
        raise WeightsError(
            f"{path} was trained on other weights of {backbone.name}: {len(differing)} tensors "
            f"differ, {name} by up to {distance:.3g}; give those with `weights`"
        )
