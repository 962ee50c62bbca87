"""`declip-pipe export`: write a run's decoder for other programs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from declip_pipeline.errors import ImageError, InputError, OutputExistsError
from declip_pipeline.files import remove_abandoned
from stages.options import DATA, OverwriteOption, WeightsOption, refuse_given

if TYPE_CHECKING:
    import numpy as np

    from declip_pipeline.training.run import Run


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run that `train` printed.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.pth", help="Write the decoder in the published checkpoints' format."
        ),
    ] = None,
    onnx: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.onnx", help="Write backbone and decoder as one ONNX graph, and check it."
        ),
    ] = None,
    check_on: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="IMAGE",
            help="Image to check the ONNX graph on; repeatable. Default: photographs that "
            "installed packages ship.",
            rich_help_panel=DATA,
        ),
    ] = None,
    weights: WeightsOption = None,
    overwrite: OverwriteOption = False,
    *,
    context: typer.Context,
) -> None:
    """Write a run's decoder into files that other programs read.

    --checkpoint: what the published code, and `import-checkpoint`, read. It has neither the
    backbone's weights nor the optimizer's state.

    --onnx: input `images`, (N, 3, height, width) uint8 RGB, resized to the backbone's input size
    (the file's metadata says size and interpolation); scaling and normalisation are in the graph.
    Output `probabilities`, (N, 256, 256) float32. Features are float32, where `predict` rounds them
    as the run's store did. The graph is run with onnxruntime and compared with torch on images,
    and left only when no probability differs by more than 0.0001.

    Each file is a line of stdout.
    """
    if checkpoint is None and onnx is None:
        raise InputError("nothing to export to; give --checkpoint FILE.pth or --onnx FILE.onnx")
    if onnx is None:
        refuse_given(context, ("check_on", "weights"), "is for --onnx; leave it out, or add that")
    if checkpoint is not None and onnx is not None and checkpoint.resolve() == onnx.resolve():
        raise InputError(f"--checkpoint and --onnx are both {onnx}; name two files")
    for file in (checkpoint, onnx):
        if file is not None:
            _require_free(file, overwrite)
    from declip_pipeline.training.run import Run
    from stages.screen import result, working

    folder = Run(run)
    folder.summary()
    if onnx is not None:
        from declip_pipeline.exchange.onnx import require_onnx

        require_onnx()
    if checkpoint is not None:
        from declip_pipeline.exchange.published_run import export_published

        export_published(folder, checkpoint)
        result(str(checkpoint))
    if onnx is not None:
        images = _images(check_on)
        with working(f"exporting to {onnx}"):
            _export_onnx(folder, onnx, images, weights)
        result(str(onnx))


def _export_onnx(
    run: "Run", file: Path, images: "list[np.ndarray]", weights: list[str] | None
) -> None:
    from declip_pipeline.exchange.onnx import WholeNetwork, export_onnx
    from declip_pipeline.extraction.recorded_backbones import open_run_backbones
    from declip_pipeline.store.identity import parts_of
    from stages.screen import remark

    decoder, features = run.best_decoder()
    # The graph is the same wherever it is traced, and onnxruntime checks it on the CPU.
    backbones = open_run_backbones(
        parts_of(features), run.config()["inputs"], weights=weights or (), device="cpu"
    )
    network = WholeNetwork(backbones, decoder, features)
    difference = export_onnx(
        file,
        network,
        images,
        about={
            "preprocessing": network.preprocessing.to_json(),
            "decoder_type": decoder.decoder_type,
            "features": features,
        },
    )
    remark(
        f"onnxruntime and torch differ by at most {difference:.2g} in a probability, "
        f"on {len(images)} images"
    )


def _images(paths: list[Path] | None) -> "list[np.ndarray]":
    """Return the images to check a graph on: those given, or installed photographs."""
    from declip_pipeline.images.decode import decode_image

    if not paths:
        from declip_pipeline.datasets.demo.photographs import PHOTOGRAPHS, locate

        paths = list(locate([one for one in PHOTOGRAPHS if one.split == "test"]).values())
    images = []
    for path in paths:
        try:
            images.append(decode_image(path))
        except ImageError as error:
            raise InputError(f"{path}: {error}; name another image with --check-on") from error
    return images


def _require_free(file: Path, overwrite: bool) -> None:
    if file.is_dir():
        raise OutputExistsError(f"{file} is a folder; name a file to write")
    remove_abandoned(file.parent)
    if file.exists() and not overwrite:
        raise OutputExistsError(f"{file} is there already; --overwrite replaces it")
