"""`declip-pipe predict`: masks for images."""

import glob
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from declip_pipeline.datasets.listing import IMAGE_SUFFIXES, list_images
from declip_pipeline.errors import ImageError, InputError
from stages.options import (
    DeviceOption,
    MegapixelsOption,
    OverwriteOption,
    WeightsOption,
    require_folder,
)

if TYPE_CHECKING:
    from declip_pipeline.reports.prediction_files import Prediction
    from declip_pipeline.training.run import Run


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run that `train` printed.")],
    images: Annotated[
        list[str],
        typer.Option(
            "-i",
            "--images",
            metavar="IMAGE|FOLDER|GLOB",
            help="Images: a file, a folder (with all below it) or a quoted pattern; repeatable.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="OUT", help="Folder for the results.")
    ] = Path("predictions"),
    threshold: Annotated[
        str,
        typer.Option(
            metavar="NUMBER|valid",
            help="A pixel is called fake above this probability, from 0 to 1; valid takes the "
            "threshold that was best on the run's split valid.",
        ),
    ] = "0.5",
    weights: WeightsOption = None,
    max_megapixels: MegapixelsOption = 178.0,
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
) -> None:
    """Find the manipulated pixels of images of any size and mode.

    For each image, in OUT and in the input's subfolders: NAME_mask.png (255 = fake, the
    image's own size), NAME_map.npz (probabilities at the decoder's size), NAME_overlay.png; and
    one predictions.csv, whose path is the last line of stdout. An image that cannot be read, or
    whose results cannot be written, is a row of it with the reason, and the exit code is 1. One
    image at a time is in memory, with about 15 bytes a pixel: --max-megapixels bounds them. After
    an interruption the same command goes on where it stopped; images that came to a folder since
    are added. --overwrite removes the predictions that OUT holds, and nothing else.
    """
    require_folder(out, "-o")
    pictures = named_pictures(images, out)

    from declip_pipeline.images.decode import decode_image
    from declip_pipeline.reports.prediction_files import Prediction
    from declip_pipeline.reports.prediction_folder import PredictionFolder
    from declip_pipeline.training.run import Run
    from stages.figures_texts import remark_no_real, remark_problems, remark_weak_maps
    from stages.screen import progress, remark, result

    folder = Run(run)
    folder.summary()
    folder.config()
    folder.decoder()
    above = threshold_of(folder, threshold)
    made_with = {"decoder": folder.best_sha256, "threshold": above}
    results = PredictionFolder(out, made_with, pictures, overwrite=overwrite)
    predictor = folder.predictor(weights=weights, device=device)
    for line in left_out_of_inputs(images, out):
        remark(line)
    results.start()
    remark_weak_maps([folder])
    remark_no_real([folder])
    remark_problems([folder])
    rows = dict(results.done)
    if len(rows) == len(pictures):
        remark("all images are predicted already, nothing to do (--overwrite does it again)")
    elif rows:
        remark(f"{len(rows)} of {len(pictures)} images are predicted already")
    with progress("predicting") as tell:
        tell(len(rows), len(pictures))
        for name, path in pictures.items():
            if name in results.done:
                continue
            try:
                if path.exists() and not path.is_file():
                    # A named pipe would be waited for.
                    raise ImageError("not a regular file")
                picture = decode_image(path, max_megapixels=max_megapixels)
                found = predictor.predict(picture)
                region = predictor.smallest_region(*picture.shape[:2])
                rows[name] = results.add(
                    name,
                    picture,
                    found.small,
                    found.full,
                    found.score,
                    above,
                    "" if region is None else f"{region[1]}x{region[0]}",
                )
            except ImageError as error:
                remark(f"failed: {path}: {error}")
                rows[name] = Prediction(str(path), "failed", reason=str(error))
            tell(len(rows), len(pictures))
    results.finish([rows[name] for name in pictures])
    _remark_small_regions(list(rows.values()))
    failed = sum(row.status != "ok" for row in rows.values())
    result(str(results.table))
    if failed:
        remark(f"declip-pipe: {failed} of {len(pictures)} images could not be used")
        raise typer.Exit(1)


def threshold_of(run: "Run", text: str) -> float:
    """Return the threshold that a user typed: a number, or that which was best on `valid`.

    Raises `InputError` for anything else, or a run that keeps none.
    """
    if text == "valid":
        return run.require_valid_threshold()
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InputError(f"`threshold` {text!r}; expected a number from 0 to 1, or valid")
    return value


def _remark_small_regions(rows: "list[Prediction]") -> None:
    """Say what cannot be found in images that are much larger than the backbone's input."""
    from stages.screen import remark

    large = [row for row in rows if row.smallest_region]
    if large:
        largest = max(large, key=lambda row: int(row.height) * int(row.width))
        remark(
            f"{len(large)} of {len(rows)} images are much larger than the backbone's input: "
            "regions smaller than `smallest_region` of predictions.csv, "
            f"{largest.smallest_region} pixels in {largest.image}, cannot be found; predict parts "
            "of such images"
        )


def named_pictures(inputs: list[str], out: Path) -> dict[str, Path]:
    """Return the images by the names of their results: paths below the input, without suffix.

    Where two images would get the same name, they keep their suffixes; an image that is given
    twice counts once. Files in `out`, a folder inside an input, are results and left out.

    Raises `InputError` for an input without images, one that `out` is or holds, names that are
    not UTF-8, and images that cannot be told apart by name.
    """
    found: dict[str, tuple[Path, Path]] = {}
    for text in inputs:
        base, pictures = _pictures_of(text)
        _refuse_results_among_inputs(out, base)
        own = [pair for pair in pictures if out.resolve() not in pair[0].resolve().parents]
        if not own:
            raise InputError(
                f"no images found under {text}; "
                f"expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}"
            )
        for path, place in own:
            _refuse_unwritable_name(path)
            found.setdefault(os.path.abspath(path), (path, place))  # noqa: PTH100
    times = Counter(place.with_suffix("") for _, place in found.values())
    named: dict[str, Path] = {}
    for path, place in found.values():
        short = place.with_suffix("")
        name = (place if times[short] > 1 else short).as_posix()
        if name in named:
            raise InputError(
                f"two inputs hold an image named {name}, one is {path}; predict them apart"
            )
        named[name] = path
    return named


def left_out_of_inputs(inputs: list[str], out: Path) -> list[str]:
    """Return a line for each kind of files in the folders of the inputs that are no images."""
    from declip_pipeline.datasets.left_out import left_out_of

    lines = []
    for folder in [Path(text) for text in inputs if Path(text).is_dir()]:
        place, base = out.resolve(), folder.resolve()
        results = [place.relative_to(base).as_posix()] if base in place.parents else []
        found = left_out_of(folder, list_images(folder), accounted=results)
        lines += [f"{folder}: {one}" for one in found]
    return lines


def _pictures_of(text: str) -> tuple[Path, list[tuple[Path, Path]]]:
    """Return the folder that an input is listed from, and its images with their places in it."""
    if not text:
        raise InputError("an input is empty; expected a file, a folder or a pattern")
    path = Path(text)
    if path.exists() and not path.is_dir():
        return path.parent, [(path, Path(path.name))]
    if path.is_dir():
        return path, [(path / name, Path(name)) for name in list_images(path)]
    base, pattern = _taken_apart(path)
    matches = sorted(glob.glob(pattern, root_dir=base, recursive=True))  # noqa: PTH207
    places = [Path(os.path.normpath(match)) for match in matches if not (base / match).is_dir()]
    if not places:
        raise InputError(f"{text} names no image; expected a file, a folder or a pattern")
    return base, [
        # A pattern that climbs up must not place results outside the output.
        (base / place, Path(place.name) if ".." in place.parts else place)
        for place in places
    ]


def _taken_apart(pattern: Path) -> tuple[Path, str]:
    """Return the folders that a pattern begins with, and the rest.

    What is there by that name is no wildcard, so that a folder may be called `scans[1]`.
    """
    parts = pattern.parts
    fixed = 0
    while fixed < len(parts) - 1 and Path(*parts[: fixed + 1]).is_dir():
        fixed += 1
    return Path(*parts[:fixed]), str(Path(*parts[fixed:]))


def _refuse_results_among_inputs(out: Path, base: Path) -> None:
    place, pictures = out.resolve(), base.resolve()
    if place == pictures or place in pictures.parents:
        raise InputError(
            f"results in {out} would lie among the images of {base} and may replace them; "
            "name another folder with -o"
        )


def _refuse_unwritable_name(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{str(path)!a} is a name that is not UTF-8; rename it") from error
