"""What a prediction leaves on disk: mask, float map, overlay, and a row of a table."""

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
    """A row of predictions.csv; `score` (of the picture, 0 to 1), `fake_share` (share of pixels
    above the threshold) and the files are empty for a picture that failed, `reason` for others."""

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


def files_of(name: str) -> dict[str, str]:
    """The files of the prediction called `name`, relative to its folder, by kind."""
    return {
        "mask": f"{name}_mask.png",
        "map": f"{name}_map.npz",
        "overlay": f"{name}_overlay.png",
    }


def write_prediction(
    out: Path,
    name: str,
    image: str,
    picture: np.ndarray,
    heat_map: np.ndarray,
    score: float,
    threshold: float,
) -> Prediction:
    """Write NAME_mask.png, NAME_map.npz and NAME_overlay.png below `out`; returns the table's row.

    `picture` HWC uint8 RGB, `heat_map` HW float32 in [0, 1]. The mask is 8-bit grey at the
    picture's size, 255 where the map is above `threshold`. The .npz has `map` (HW float32),
    `score` and `imgsize` (height, width).
    """
    fake = heat_map > threshold
    files = files_of(name)
    mask = Image.fromarray(fake.astype(np.uint8) * np.uint8(255))
    write_with(out / files["mask"], mask.save)
    write_with(
        out / files["map"],
        lambda file: np.savez_compressed(
            file, map=heat_map, score=score, imgsize=np.asarray(heat_map.shape)
        ),
    )
    write_with(out / files["overlay"], Image.fromarray(overlay(picture, heat_map)).save)
    return Prediction(
        image=image,
        status="ok",
        height=heat_map.shape[0],
        width=heat_map.shape[1],
        score=score,
        fake_share=float(fake.mean()),
        **files,
    )


def write_prediction_table(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write the rows as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Prediction)])
    writer.writeheader()
    writer.writerows(asdict(prediction) for prediction in predictions)
    write_text(path, text.getvalue())
