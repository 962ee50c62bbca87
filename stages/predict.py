"""`declip-pipe predict`: masks for pictures."""

from pathlib import Path
from typing import Annotated

import typer

from declip_pipeline.errors import ImageError
from stages.options import (
    Device,
    DeviceOption,
    MegapixelsOption,
    OverwriteOption,
    WeightsOption,
    finite,
    require_folder,
)
from stages.run_backbones import open_backbones


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run that `train` printed.")],
    images: Annotated[
        list[str],
        typer.Option(
            "-i",
            "--images",
            metavar="IMAGE|FOLDER|GLOB",
            help="Pictures: a file, a folder (with all below it) or a quoted pattern; repeatable.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="OUT", help="Folder for the results.")
    ] = Path("predictions"),
    threshold: Annotated[
        float,
        typer.Option(
            min=0, max=1, callback=finite, help="A pixel is called fake above this probability."
        ),
    ] = 0.5,
    weights: WeightsOption = None,
    max_megapixels: MegapixelsOption = 178.0,
    device: DeviceOption = Device.auto,
    overwrite: OverwriteOption = False,
) -> None:
    """Find the manipulated pixels of pictures of any size and mode.

    For each picture, in OUT and in the input's subfolders: NAME_mask.png (255 = fake, the
    picture's own size), NAME_map.npz (probabilities), NAME_overlay.png; and one predictions.csv,
    whose path is the last line of stdout. A picture that cannot be read is a row of it with the
    reason, and the exit code is 1. After an interruption the same command goes on where it
    stopped; pictures that came to a folder since are added. --overwrite removes the predictions
    that OUT holds, and nothing else.
    """
    from stages.picture_inputs import named_pictures

    require_folder(out, "-o")
    pictures = named_pictures(images, out)

    from declip_pipeline.devices import choose_device
    from declip_pipeline.evaluation.predictor import Predictor
    from declip_pipeline.fingerprint import sha256_of_file
    from declip_pipeline.images.decode import decode_image
    from declip_pipeline.reports.prediction_files import Prediction
    from declip_pipeline.reports.prediction_folder import PredictionFolder
    from declip_pipeline.store.identity import parts_of
    from declip_pipeline.training.run_folder import RunFolder
    from stages.figures_texts import remark_weak_maps
    from stages.screen import progress, remark, result

    folder = RunFolder(run)
    folder.summary()
    config = folder.config()
    decoder, features = folder.best_decoder()
    made_with = {"decoder": sha256_of_file(folder.best_checkpoint), "threshold": threshold}
    results = PredictionFolder(out, made_with, pictures, overwrite=overwrite)
    chosen = choose_device(device.value)
    opened = open_backbones(parts_of(features), config["inputs"], weights, str(chosen))
    dtypes = [each["dtype"] for each in config["inputs"]]
    predictor = Predictor(opened, decoder.to(chosen), features, dtypes=dtypes)
    results.start()
    remark_weak_maps([folder])
    rows = dict(results.done)
    if len(rows) == len(pictures):
        remark("all pictures are predicted already, nothing to do (--overwrite does it again)")
    elif rows:
        remark(f"{len(rows)} of {len(pictures)} pictures are predicted already")
    with progress("predicting") as tell:
        tell(len(rows), len(pictures))
        for name, path in pictures.items():
            if name in results.done:
                continue
            try:
                picture = decode_image(path, max_megapixels=max_megapixels)
            except ImageError as error:
                remark(f"failed: {path}: {error}")
                rows[name] = Prediction(str(path), "failed", reason=str(error))
            else:
                found, score = predictor.map_and_score(picture)
                rows[name] = results.add(name, picture, found, score, threshold)
            tell(len(rows), len(pictures))
    results.finish([rows[name] for name in pictures])
    failed = sum(row.status != "ok" for row in rows.values())
    result(str(results.table))
    if failed:
        remark(f"declip-pipe: {failed} of {len(pictures)} pictures could not be used")
        raise typer.Exit(1)
