"""`declip-pipe predict`: masks for pictures."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from declip_pipeline.errors import ImageError, InputError, OutputExistsError
from stages.options import Device, DeviceOption, OverwriteOption, WeightsOption


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
        float, typer.Option(min=0, max=1, help="A pixel is called fake above this probability.")
    ] = 0.5,
    weights: WeightsOption = None,
    max_megapixels: Annotated[
        float, typer.Option(min=0.001, help="Largest picture to decode, in millions of pixels.")
    ] = 178.0,
    device: DeviceOption = Device.auto,
    overwrite: OverwriteOption = False,
) -> None:
    """Find the manipulated pixels of pictures of any size and mode.

    For each picture, in OUT and in the input's subfolders: NAME_mask.png (255 = fake, the
    picture's own size), NAME_map.npz (probabilities), NAME_overlay.png; and one predictions.csv,
    whose path is the last line of stdout. A picture that cannot be read is a row of it with the
    reason, and the exit code is 1.
    """
    pictures = _named_pictures(images)
    if out.exists() and not out.is_dir():
        raise OutputExistsError(f"{out} is a file; name a folder with -o")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise OutputExistsError(
            f"{out} exists and is not empty; pass --overwrite to replace results in it, "
            "or name another folder with -o"
        )

    from declip_pipeline.backbones.registry import open_backbone
    from declip_pipeline.decoders.decoder_file import load_decoder
    from declip_pipeline.devices import choose_device
    from declip_pipeline.evaluation.predictor import Predictor
    from declip_pipeline.images.decode import decode_image
    from declip_pipeline.reports.prediction_files import (
        Prediction,
        write_prediction,
        write_prediction_table,
    )
    from declip_pipeline.training.run_folder import RunFolder
    from stages.screen import progress, remark, result

    folder = RunFolder(run)
    folder.summary()
    config = folder.config()
    decoder, features = load_decoder(folder.best_checkpoint)
    chosen = choose_device(device.value)
    known_weights = config["provenance"].get("weights", [])
    backbone = open_backbone(
        features["backbone"], weights=weights or known_weights, device=str(chosen)
    )
    predictor = Predictor(backbone, decoder.to(chosen), features, dtype=config["dtype"])
    predictions = []
    with progress("predicting") as tell:
        tell(0, len(pictures))
        for done, (path, name) in enumerate(pictures, start=1):
            try:
                picture = decode_image(path, max_megapixels=max_megapixels)
            except ImageError as error:
                remark(f"failed: {path}: {error}")
                predictions.append(Prediction(str(path), "failed", reason=str(error)))
            else:
                heat_map = predictor.map(picture)
                predictions.append(
                    write_prediction(out, name, str(path), picture, heat_map, threshold)
                )
            tell(done, len(pictures))
    table = out / "predictions.csv"
    write_prediction_table(table, predictions)
    failed = sum(prediction.status != "ok" for prediction in predictions)
    result(str(table))
    if failed:
        remark(f"declip-pipe: {failed} of {len(pictures)} pictures could not be used")
        raise typer.Exit(1)


def _named_pictures(inputs: list[str]) -> list[tuple[Path, str]]:
    """Every picture with the name of its results: its path below the input, without suffix.

    Where two pictures would get the same name, they keep their suffixes.
    """
    found = [pair for text in inputs for pair in _pictures_of(text)]
    times = Counter(relative.with_suffix("") for _, relative in found)
    named = {
        path: relative if times[relative.with_suffix("")] > 1 else relative.with_suffix("")
        for path, relative in found
    }
    names = Counter(named.values())
    for path, name in named.items():
        if names[name] > 1:
            raise InputError(
                f"two inputs hold a picture named {name}, one is {path}; predict them apart"
            )
    return [(path, name.as_posix()) for path, name in named.items()]


def _pictures_of(text: str) -> list[tuple[Path, Path]]:
    """Paths of one input with their place below it."""
    import glob

    from declip_pipeline.datasets.listing import PICTURE_SUFFIXES, list_pictures

    path = Path(text)
    if path.is_file():
        return [(path, Path(path.name))]
    if path.is_dir():
        names = list_pictures(path)
        if not names:
            raise InputError(
                f"no pictures found under {path}; "
                f"expected files ending in {', '.join(sorted(PICTURE_SUFFIXES))}"
            )
        return [(path / name, Path(name)) for name in names]
    matches = [Path(match) for match in sorted(glob.glob(text, recursive=True))]  # noqa: PTH207
    files = [match for match in matches if match.is_file()]
    if not files:
        raise InputError(f"{text} names no picture; expected a file, a folder or a pattern")
    # Only a pattern comes this far: without a wildcard, glob finds the file or folder itself.
    fixed = _fixed_part(text)
    return [(file, file.relative_to(fixed)) for file in files]


def _fixed_part(pattern: str) -> Path:
    """The folders of a pattern before its first wildcard."""
    import glob

    parts = Path(pattern).parts
    first = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:first])
