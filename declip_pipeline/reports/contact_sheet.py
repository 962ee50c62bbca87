"""Images, truths and predictions side by side on one sheet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from declip_pipeline.errors import InputError
from declip_pipeline.reports.figure_file import (
    INK,
    QUIET_INK,
    SCREEN,
    FigureStyle,
    new_figure,
    save_figure,
)
from declip_pipeline.reports.overlay import check_image_and_map, overlay

SheetRow = tuple[str, np.ndarray, np.ndarray, np.ndarray]
"""Caption, image (H, W, 3) uint8, truth (H, W) bool, prediction (H, W) float in [0, 1]."""

HEADINGS = ("image", "truth", "prediction")
CELL, GAP, CAPTION, HEAD, FOOT = 2.3, 0.1, 0.38, 0.36, 0.55  # inches
LONGEST_SIDE = 512  # pixels; more than a cell shows
OUTLINE = "#00e5ff"


def draw_contact_sheet(rows: Sequence[SheetRow], path: Path, style: FigureStyle = SCREEN) -> Path:
    """Draw rows of image, truth and prediction as one figure.

    The prediction is heat over the image on a fixed scale from 0 to 1; values above 0.5 are
    outlined. Images of any size are fitted into equal cells.

    Args:
        rows: Caption, image (H, W, 3) uint8, truth (H, W) bool with True = fake, and prediction
            (H, W) floating point in [0, 1], drawn from top to bottom.
        path: The file; its suffix becomes that of the format.
        style: Format and size.

    Returns:
        The path of the file.

    Raises:
        InputError: There is no row, or shapes, dtypes or values of a row do not fit.
    """
    if not rows:
        raise InputError("a contact sheet of no rows; expected at least one")
    for row in rows:
        _check_row(*row)
    # A wide image's row is as low as the image, so that no row has empty bands.
    heights = [CELL * min(1.0, row[2].shape[0] / row[2].shape[1]) for row in rows]
    width = 3 * CELL + 2 * GAP
    height = HEAD + sum(heights) + len(rows) * CAPTION + FOOT
    figure = new_figure(width, height)
    for column, heading in enumerate(HEADINGS):
        centre = (column * (CELL + GAP) + CELL / 2) / width
        place = 1 - HEAD / 2 / height
        words: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 12}
        figure.text(centre, place, heading, color=INK, fontweight="bold", **words)

    top = height - HEAD
    for (caption, *arrays), row_height in zip(rows, heights, strict=True):
        place = (top - 0.66 * CAPTION) / height
        figure.text(0, place, caption, fontsize=10, color=QUIET_INK, va="center")
        top -= CAPTION + row_height
        _draw_row(
            [
                figure.add_axes(
                    (i * (CELL + GAP) / width, top / height, CELL / width, row_height / height)
                )
                for i in range(3)
            ],
            *_shrink(*arrays),
        )
    _add_scale(figure, width, height, explained=style.has_title)
    return save_figure(figure, path, style)


def _draw_row(
    cells: Sequence[Axes], image: np.ndarray, truth: np.ndarray, prediction: np.ndarray
) -> None:
    _show(cells[0], image)
    _show(cells[1], np.repeat(truth[..., None], 3, axis=2).astype(np.uint8) * 255)
    _show(cells[2], overlay(image, prediction))
    # contour needs two rows and columns, and warns where there is no line to draw.
    if min(prediction.shape) > 1 and prediction.min() <= 0.5 < prediction.max():
        cells[2].contour(prediction, levels=[0.5], colors=[OUTLINE], linewidths=1.2)


def _show(axes: Axes, image: np.ndarray) -> None:
    axes.imshow(image, interpolation="antialiased")
    axes.set(xticks=[], yticks=[])
    # A hairline keeps an all-black or all-white truth apart from the page.
    for spine in axes.spines.values():
        spine.set(color="#bbbbbb", linewidth=0.6)


def _add_scale(figure: Figure, width: float, height: float, *, explained: bool) -> None:
    """Add the scale of the heat, from 0 to 1 over mid-grey, below the predictions.

    `explained`: say beside it what is drawn, which in a paper is for the caption.
    """
    left = 2 * (CELL + GAP)
    axes = figure.add_axes((left / width, 0.26 / height, CELL / width, 0.12 / height))
    ramp = np.tile(np.linspace(0, 1, 256), (8, 1))
    grey = np.full((8, 256, 3), 128, dtype=np.uint8)
    axes.imshow(overlay(grey, ramp), aspect="auto", extent=(0, 1, 0, 1))
    axes.axvline(0.5, color=OUTLINE, linewidth=1.2)
    axes.set(yticks=[], xticks=[0, 0.5, 1])
    axes.set_xticklabels(["0", "0.5", "1"])
    axes.get_xticklabels()[0].set(ha="left")
    axes.get_xticklabels()[-1].set(ha="right")
    axes.tick_params(length=0, labelsize=9, labelcolor=QUIET_INK)
    axes.spines[:].set_visible(False)
    if not explained:
        return
    explanation = "truth: white = fake; prediction: heat, outlined where called fake (> 0.5)"
    figure.text(0, 0.32 / height, explanation, fontsize=9, color=QUIET_INK, va="center")


def _shrink(
    image: np.ndarray, truth: np.ndarray, prediction: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all three scaled down to what a cell can show, so that the sheet stays small."""
    height, width = truth.shape
    scale = LONGEST_SIDE / max(height, width)
    if scale >= 1:
        return image, truth, prediction
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    area = Image.Resampling.BOX
    return (
        np.asarray(Image.fromarray(image).resize(size, area)),
        np.asarray(Image.fromarray(truth).resize(size, Image.Resampling.NEAREST)),
        np.asarray(Image.fromarray(prediction.astype(np.float32)).resize(size, area)).clip(0, 1),
    )


def _check_row(caption: str, image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> None:
    try:
        check_image_and_map(image, prediction)
    except InputError as error:
        raise InputError(f"row {caption!r}: {error}") from error
    if truth.dtype != np.bool_ or truth.shape != prediction.shape:
        raise InputError(
            f"row {caption!r}: truth is {truth.dtype} of shape {truth.shape}; expected bool of "
            f"shape {prediction.shape}"
        )
