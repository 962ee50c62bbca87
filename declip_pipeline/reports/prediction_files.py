"""Files of a prediction: mask, float map, overlay, and a row of a table."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from PIL import Image

from declip_pipeline.files import write_text, write_with
from declip_pipeline.reports.overlay import overlay


@dataclass(frozen=True)
class Prediction:
    """Row of predictions.csv.

    Args:
        image: Path of the image.
        status: "ok" or "failed"; a failed image has nothing but a `reason`, others have none.
        height: In pixels.
        width: In pixels.
        score: Probability that the image is fake, in [0, 1].
        fake_share: Share of the pixels above the threshold, in [0, 1].
        smallest_region: WIDTHxHEIGHT in pixels of what the backbone sees as one position, of an
            image that is much larger than the backbone's input: smaller regions cannot be found.
        mask: File, relative to the folder of predictions, as are `map` and `overlay`.
        map: See `mask`.
        overlay: See `mask`.
        reason: Why the image could not be used.
    """

    image: str
    status: str
    height: int | str = ""
    width: int | str = ""
    score: float | str = ""
    fake_share: float | str = ""
    mask: str = ""
    map: str = ""
    overlay: str = ""
    reason: str = ""
    smallest_region: str = ""


def files_of(name: str) -> dict[str, str]:
    """Return the files of the prediction called `name`, relative to its folder, by kind."""
    return {
        "mask": f"{name}_mask.png",
        "map": f"{name}_map.npz",
        "overlay": f"{name}_overlay.png",
    }


def write_prediction(
    out: Path,
    name: str,
    file: str,
    image: np.ndarray,
    small_map: np.ndarray,
    heat_map: np.ndarray,
    score: float,
    threshold: float,
) -> Prediction:
    """Write NAME_mask.png, NAME_map.npz and NAME_overlay.png below `out`; return the table's row.

    The mask is 8-bit grey at the image's size, 255 where the map is above `threshold`. The .npz
    has `map` (hw float32, of the decoder's size), `score` and `imgsize` (height, width).

    Args:
        out: Folder of predictions.
        name: Name of the prediction.
        file: Path of the image, for the table.
        image: HWC uint8 RGB.
        small_map: hw float32 in [0, 1], as the decoder gave it.
        heat_map: HW float32 in [0, 1], of the image's size.
        score: Probability that the image is fake, in [0, 1].
        threshold: Pixels above it are fake.
    """
    fake = heat_map > threshold
    files = files_of(name)
    mask = Image.fromarray(fake.astype(np.uint8) * np.uint8(255))
    write_with(out / files["mask"], mask.save)
    write_with(
        out / files["map"],
        lambda target: np.savez_compressed(
            target, map=small_map, score=score, imgsize=np.asarray(heat_map.shape)
        ),
    )
    write_with(out / files["overlay"], Image.fromarray(overlay(image, heat_map)).save)
    return Prediction(
        image=file,
        status="ok",
        height=heat_map.shape[0],
        width=heat_map.shape[1],
        score=score,
        fake_share=float(fake.mean()),
        **files,
    )


def write_prediction_table(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write the rows as CSV; an interrupted write leaves no file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Prediction)])
    writer.writeheader()
    writer.writerows(asdict(prediction) for prediction in predictions)
    write_text(path, text.getvalue())
