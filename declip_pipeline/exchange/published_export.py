"""A run's decoder as a published checkpoint."""

from pathlib import Path

from declip_pipeline.decoders.building import PATCH_FORENSICS
from declip_pipeline.errors import InputError
from declip_pipeline.exchange.published_file import write_published
from declip_pipeline.store.identity import parts_of
from declip_pipeline.training.run_folder import RunFolder

OUTPUT_SIZE = 256
"""Side of the published decoders' maps; the format does not say it."""


def export_published(run: RunFolder, path: Path) -> None:
    """Write the decoder of a finished run to `path` in the published format, its weights exactly.

    Raises `InputError` when the run is not finished, or the format cannot hold its decoder: of
    several backbones or layers, with maps of another size, of no published type, or with a learned
    pooling.
    """
    summary = run.summary()
    config = run.config()
    decoder, features = run.best_decoder()
    parts = parts_of(features)
    if len(parts) > 1:
        names = ", ".join(f"{part['layer']} of {part['backbone']}" for part in parts)
        raise InputError(
            f"{run.path} joins {names}; a published checkpoint names one layer of one backbone; "
            "export it with --onnx"
        )
    if decoder.decoder_type == PATCH_FORENSICS:
        raise InputError(
            f"{run.path} is of {PATCH_FORENSICS}, which the published format does not have; "
            "export it with --onnx"
        )
    if decoder.output_size != OUTPUT_SIZE:
        raise InputError(
            f"{run.path} gives maps of {decoder.output_size} pixels; a published checkpoint's have "
            f"{OUTPUT_SIZE}; export it with --onnx"
        )
    if decoder.pooling is not None and list(decoder.pooling.parameters()):
        raise InputError(
            f"{run.path} learned how to pool its maps into scores, which a published checkpoint "
            "does not hold; train with --pooling mean, or export its maps with --onnx"
        )
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
