"""A published checkpoint as a finished run, which `evaluate` and `predict` use like any other."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.backbones.weights import differences, is_weight
from declip_pipeline.decoders import build_decoder
from declip_pipeline.decoders.convolutional import ConvolutionalDecoder
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.decoders.decoder_file import save_decoder
from declip_pipeline.errors import InputError, WeightsError
from declip_pipeline.exchange.published_decoder import (
    PUBLISHED,
    FileNameHints,
    decoder_type_of,
    empty_decoder,
    infer_arch,
    infer_layer,
    stated,
)
from declip_pipeline.exchange.published_file import PublishedCheckpoint, read_published
from declip_pipeline.files import folder_name, sha256_of_file, sha256_of_json
from declip_pipeline.store.identity import feature_identity
from declip_pipeline.training.run_folder import RunFolder

UNKNOWN = "unknown"
"""What a decoder was trained on where nothing says it."""


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
) -> RunFolder:
    """Make a finished run of a published checkpoint under `runs`; the same one again is found.

    `open_backbone` opens a backbone by name. What is None is taken from the file, its tensors, or
    its name where that is one of the published ("ViT_layer20_conv-20_lama.pth"). `weights` are what
    the run records for `predict` to open the backbone with.

    Raises `InputError` for a file that is no checkpoint, does not hold the decoder that it should,
    or leaves open what it is; `WeightsError` when the file's backbone is another one.
    """
    checkpoint = read_published(path)
    hints = FileNameHints.of(path)
    layer = stated(feature_layer, checkpoint.feature_layer, "feature layer", path)
    kind = stated(decoder_type, checkpoint.decoder_type, "decoder type", path)
    kind = kind or decoder_type_of(checkpoint.decoder, path)
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
    run = RunFolder(runs / name)
    config = {
        **identity,
        "widths": list(decoder.widths) if isinstance(decoder, ConvolutionalDecoder) else None,
        "file": str(path.absolute()),
        # The published decoders saw features as they were computed.
        "inputs": [{"dtype": "float32", "provenance": {"arch": arch, "weights": list(weights)}}],
    }
    _write(run, config, sha256, decoder, features)
    return run


def _write(
    run: RunFolder,
    config: dict[str, Any],
    sha256: str,
    decoder: Decoder,
    features: dict[str, Any],
) -> None:
    run.begin(config, sha256)
    with run.exclusively():
        if run.is_finished:
            return
        save_decoder(run.best_checkpoint, decoder, features)
        run.finish(
            {
                # Published checkpoints do not say how their training went.
                "best_valid_iou": None,
                "best_epoch": None,
                "epochs": None,
                "parameters": sum(value.numel() for value in decoder.parameters()),
            }
        )


def _decoder(
    checkpoint: PublishedCheckpoint, decoder_type: str, backbone: Backbone, layer: str
) -> Decoder:
    """The decoder with the checkpoint's weights as float32, which were checked to fit."""
    shape = backbone.layers[layer]
    empty = empty_decoder(decoder_type, shape, checkpoint.decoder)
    widths = empty.widths if isinstance(empty, ConvolutionalDecoder) else None
    for name, value in checkpoint.decoder.items():
        if not bool(torch.isfinite(value).all()):
            raise InputError(
                f"{checkpoint.path}: {name} holds values that are not finite; expected numbers, "
                "give an undamaged checkpoint"
            )
    decoder = build_decoder(decoder_type, shape, widths=widths)
    # Old checkpoints lack BatchNorm's step counters, which bear on nothing here.
    decoder.load_state_dict(checkpoint.decoder, strict=False)
    return decoder.eval()


def _require_backbone(checkpoint: PublishedCheckpoint, backbone: Backbone) -> None:
    """Refuse a backbone with other weights than those that the checkpoint holds, if it does."""
    if not checkpoint.visual:
        return
    path = checkpoint.path
    networks = list(dict.fromkeys(backbone.networks))
    if len(networks) != 1:
        raise InputError(
            f"{path} holds the weights of one backbone, and {backbone.name} is "
            f"{'several' if networks else 'no PyTorch network'}; "
            "name that one with --arch"
        )
    own = networks[0].state_dict()
    faults = differences(own, checkpoint.visual)
    if faults:
        raise WeightsError(
            f"{path} was trained on another backbone than {backbone.name} ({'; '.join(faults)}); "
            "name that one with --arch"
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
            f"differ, {name} by up to {distance:.3g}; give those with --weights"
        )
