"""`declip-pipe predict`: masks for images."""

from collections.abc import Callable
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from declip_pipeline.errors import InputError
from stages.options import (
    MACHINE,
    DeviceOption,
    MegapixelsOption,
    OverwriteOption,
    WeightsOption,
    comma_separated,
    require_folder,
)

if TYPE_CHECKING:
    from declip_pipeline.prediction.files import Prediction
    from declip_pipeline.prediction.predict import FolderPrediction

SHOWN_IMAGES = 20
"""Images up to which the scores of each are printed; predictions.csv has them always."""


def predict(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN", help="Runs that `train` printed; of several, the mean of their logits."
        ),
    ],
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
            "threshold that was best on the runs' split valid, of several the mean (as logits).",
        ),
    ] = "0.5",
    min_region: Annotated[
        str,
        typer.Option(
            metavar="SHARE|valid",
            help="Minimum size of a mask's regions (pixels that touch by their sides), as a share "
            "of the image's pixels from 0 to below 1. Smaller ones are left out, false alarms and "
            "fragments of forgeries alike. valid takes the size that was best on the runs' split "
            "valid, at a threshold of 0.5.",
        ),
    ] = "0",
    save: Annotated[
        str,
        typer.Option(
            metavar="KIND,...",
            help="Files of each image: mask, map, map-full, overlay.",
        ),
    ] = "mask,map,overlay",
    each: Annotated[
        bool, typer.Option("--each", help="Of several runs, save each one's map, too.")
    ] = False,
    weights: WeightsOption = None,
    batch_size: Annotated[
        int,
        typer.Option(
            min=1,
            rich_help_panel=MACHINE,
            help="Images that are computed at once.",
        ),
    ] = 16,
    max_megapixels: MegapixelsOption = 178.0,
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
) -> None:
    """Find the manipulated pixels of images of any size and mode.

    For each image, in OUT and in the input's subfolders, what --save names: NAME_mask.png (255 =
    fake, the image's own size), NAME_map.npz (probabilities at the decoder's size),
    NAME_map-full.png (at the image's size, 16 bits), NAME_overlay.jpg; with --each NAME_each.npz;
    and one predictions.csv, whose path is the last line of stdout: with each image's score, its
    verdict (forged, or not found) at the threshold that was best on the run's split valid, and the
    smallest region that the run's input size can show. An image that cannot be read,
    or whose results cannot be written, is a row of it with the reason, and the exit code is 1.
    Memory does not grow with the number of images: those that are read, computed and written at
    one time take 0.5 GB at most, or one larger image, of 8 bytes a pixel, 16 with a run on tiles,
    and 6 more with --min-region.
    After an interruption the same command goes on where it stopped; images that came to a folder
    since are added. --overwrite removes the predictions that OUT holds, and nothing else.
    """
    require_folder(out, "-o")

    from declip_pipeline.prediction.inputs import left_out_of_inputs
    from declip_pipeline.prediction.predict import FolderPrediction
    from stages.figures_texts import remark_no_real, remark_problems, remark_weak_maps
    from stages.screen import progress, remark, result

    prediction = FolderPrediction(
        runs,
        images,
        out=out,
        threshold=threshold_of(threshold),
        min_region=_min_region_of(min_region),
        save=comma_separated(save) or [],
        each=each,
        weights=weights,
        device=device,
        batch_size=batch_size,
        max_megapixels=max_megapixels,
        overwrite=overwrite,
    )
    for line in left_out_of_inputs(images, out):
        remark(line)
    remark_weak_maps(prediction.runs)
    remark_no_real(prediction.runs)
    remark_problems(prediction.runs)
    total = len(prediction.images)
    if prediction.done == total:
        remark("all images are predicted already, nothing to do (--overwrite does it again)")
    elif prediction.done:
        remark(f"{prediction.done} of {total} images are predicted already")
    if threshold == "valid":
        whose = "the run's" if len(prediction.runs) == 1 else "the mean of the runs'"
        remark(f"masks are above {prediction.threshold:.4g}, {whose} threshold from valid")
    if prediction.min_region:
        remark(f"masks are without regions below {prediction.min_region:.2%} of the image")
    with progress("predicting") as tell:
        found = prediction.run(progress=tell, notice=remark)
    _remark_small_regions(found.rows, [row for row in found.rows if prediction.is_shrunk(row)])
    _print_verdicts(found.rows, prediction)
    result(str(found.table))
    if found.failed:
        remark(f"declip-pipe: {len(found.failed)} of {total} images could not be used")
        raise typer.Exit(1)


def threshold_of(text: str) -> float | Literal["valid"]:
    """Return the threshold that a user typed: a number, or the word valid.

    Raises `InputError` for anything else.
    """
    return _number_or_valid("threshold", text, lambda n: 0 <= n <= 1, "a number from 0 to 1")


def _min_region_of(text: str) -> float | Literal["valid"]:
    """Return the minimum size of regions that a user typed; raises as `threshold_of`."""
    expected = "a share of the image's pixels from 0 to below 1, such as 0.01"
    return _number_or_valid("min_region", text, lambda n: 0 <= n < 1, expected)


def _number_or_valid(
    name: str, text: str, is_good: Callable[[float], bool], expected: str
) -> float | Literal["valid"]:
    """Return a number that is good, or the word valid. Raises `InputError` for anything else."""
    if text == "valid":
        return "valid"
    try:
        number = float(text)
    except ValueError:
        number = nan
    if not is_good(number):
        raise InputError(f"`{name}` {text!r}; expected {expected}, or valid")
    return number


def _remark_small_regions(rows: "list[Prediction]", large: "list[Prediction]") -> None:
    """Say what cannot be found in images that are much larger than the backbone's input."""
    from stages.screen import remark

    if large:
        largest = max(large, key=lambda row: int(row.height) * int(row.width))
        remark(
            f"{len(large)} of {len(rows)} images are much larger than the backbone's input: "
            "regions smaller than `smallest_region` of predictions.csv, "
            f"{largest.smallest_region} pixels in {largest.image}, cannot be found; predict parts "
            "of such images, or train on `tiles`"
        )


def _print_verdicts(rows: "list[Prediction]", prediction: "FolderPrediction") -> None:
    """Print scores and verdicts of a few images, and how many of all are forged."""
    from declip_pipeline.prediction.files import FORGED
    from stages.screen import remark, result
    from stages.table import format_table

    scored = [row for row in rows if row.status == "ok"]
    if not scored:
        return
    threshold = prediction.score_threshold
    if threshold is None:
        remark(
            "no verdicts: "
            + (
                "the mean of several runs has no threshold of image scores"
                if len(prediction.runs) > 1
                else "the run keeps no threshold of image scores: its split valid has no real "
                "image, or it was imported, or trained by an earlier version"
            )
        )
    if len(scored) <= SHOWN_IMAGES:
        shown = [
            [row.image, f"{float(row.score):.6g}", row.verdict or "-", row.smallest_region]
            for row in scored
        ]
        header = ["image", "score", "verdict", "smallest region"]
        result(format_table(header, shown))
    if threshold is not None:
        forged = sum(row.verdict == FORGED for row in scored)
        result(
            f"{forged} forged, {len(scored) - forged} not found, of {_images(len(scored))}; forged "
            f"is a score of at least {threshold:.6g}, best on the run's split valid (`evaluate` "
            "says how often that is right)"
        )
    missed = "regions smaller than the smallest region, in pixels of the image, may be missed"
    proof = "" if threshold is None else ": not found does not prove an image authentic"
    result(missed + proof)


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
