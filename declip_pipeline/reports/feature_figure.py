"""Figure of features: one sheet of components, norms and massive activations by layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from declip_pipeline.reports.feature_maps import MASSIVE_RATIO, FeatureMaps, LayerMaps
from declip_pipeline.reports.figure_file import (
    DOTS_PER_INCH,
    INK,
    QUIET_INK,
    new_figure,
    save_figure,
)
from declip_pipeline.reports.overlay import overlay

NORM_COLOURS, PEAK_COLOURS = "viridis", "magma"
OUTLIER_COLOUR = (0, 229, 255)  # cyan is in neither scale

COMPONENTS, NORMS, PEAKS = "components", "norms", "peaks"


@dataclass(frozen=True)
class MapKind:
    """Kind of a layer's maps.

    Args:
        key: Name in a page.
        title: Heading.
        legend: How to read the colours.
    """

    key: str
    title: str
    legend: str


KINDS = (
    MapKind(
        COMPONENTS,
        "Principal components",
        "The first three as red, green and blue. Within a layer, equal colours are alike features "
        "in all images; colours of two layers are not comparable.",
    ),
    MapKind(
        NORMS,
        "Norms",
        "Length of each position's features, from the least (dark) to the largest (yellow) of its "
        "layer.",
    ),
    MapKind(
        PEAKS,
        "Massive activations",
        "Largest magnitude of each position over the layer's median, from 1x (black) to "
        f"{MASSIVE_RATIO:,.0f}x (pale), on one logarithmic scale for all layers. Cyan: the norm is "
        "an outlier.",
    ),
)

# Pixels of the sheet.
CELL, GAP, LABELS, HEAD, BREAK = 96, 6, 216, 58, 30
LONGEST_LABEL = 28


def coloured_maps(layer: LayerMaps, kind: str) -> np.ndarray:
    """Return a layer's maps of a kind as colours, (N, h, w, 3) uint8."""
    if kind == COMPONENTS:
        return layer.components
    if kind == NORMS:
        low, high = norm_range(layer)
        levels = (layer.norms - low) / (high - low if high > low else 1.0)
        return _coloured(levels, NORM_COLOURS)
    levels = np.log10(layer.peaks.clip(1, None)) / np.log10(MASSIVE_RATIO)
    colours = _coloured(levels, PEAK_COLOURS)
    colours[layer.outliers] = OUTLIER_COLOUR
    return colours


def norm_range(layer: LayerMaps) -> tuple[float, float]:
    """Return the least and the largest norm that are drawn as ends of the scale.

    Outliers are drawn as the largest of the others, so that these can be told apart.
    """
    inside = layer.norms[~layer.outliers]
    return float(inside.min()), float(inside.max())


def layer_caption(layer: LayerMaps, kind: str) -> tuple[str, ...]:
    """Return the lines that a layer's maps of a kind are captioned with."""
    if kind == COMPONENTS:
        return " + ".join(f"{100 * share:.0f}" for share in layer.explained) + "%", "of variance"
    if kind == NORMS:
        low, high = norm_range(layer)
        return (f"{low:.3g} to {high:.3g}",)
    outliers = int(layer.outliers.sum())
    return f"{layer.massive} massive", f"{outliers} outlier{'' if outliers == 1 else 's'}"


def mask_images(maps: FeatureMaps) -> np.ndarray | None:
    """Return the masks as images of the thumbnails' size, (N, 128, 128, 3) uint8."""
    if maps.masks is None:
        return None
    height, width = maps.images.shape[1:3]
    small = [
        np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.BOX))
        for mask in maps.masks
    ]
    return np.repeat(np.stack(small)[..., None], 3, axis=3)


def prediction_images(maps: FeatureMaps) -> dict[str, np.ndarray]:
    """Return the runs' maps as heat over the thumbnails, (N, 128, 128, 3) uint8 each."""
    return {
        name: np.stack([overlay(*pair) for pair in zip(maps.images, found, strict=True)])
        for name, found in maps.predictions.items()
    }


def image_labels(maps: FeatureMaps) -> list[tuple[str, str]]:
    """Return of each image the last part of its id, and its generator and split."""
    samples = maps.store.samples.take(maps.rows)
    return [
        (name.rpartition("/")[2], f"{generator}, {split}")
        for name, generator, split in zip(
            maps.ids, samples.strings("generator"), samples.strings("split"), strict=True
        )
    ]


def draw_feature_maps(maps: FeatureMaps, path: Path) -> None:
    """Draw components, norms and massive activations of all layers as one PNG.

    Each is a grid with a row an image (its thumbnail, its mask and the runs' maps come first) and a
    column a layer.

    Args:
        maps: The maps.
        path: The PNG file.
    """
    masks = mask_images(maps)
    leading = {"image": maps.images}
    if masks is not None:
        leading["mask"] = masks
    leading |= {shortened(name, 14): found for name, found in prediction_images(maps).items()}
    step = CELL + GAP
    columns = len(leading) + len(maps.layers)
    width = LABELS + columns * step
    section = HEAD + len(maps.rows) * step + BREAK
    height = section * len(KINDS)
    figure = new_figure(width / DOTS_PER_INCH, height / DOTS_PER_INCH)
    sheet = np.full((height, width, 3), 255, np.uint8)
    for number, kind in enumerate(KINDS):
        top = number * section
        grid = [*leading.values(), *(coloured_maps(layer, kind.key) for layer in maps.layers)]
        for column, cells in enumerate(grid):
            for row, cell in enumerate(cells):
                y, x = top + HEAD + row * step, LABELS + column * step
                sheet[y : y + CELL, x : x + CELL] = _fitted(cell)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(sheet, interpolation="antialiased", aspect="auto")
    axes.set_axis_off()
    labels = image_labels(maps)
    for number, kind in enumerate(KINDS):
        _write_section(figure, maps, kind, number * section, list(leading), labels, (width, height))
    save_figure(figure, path)


def _write_section(
    figure: Figure,
    maps: FeatureMaps,
    kind: MapKind,
    top: int,
    leading: Sequence[str],
    labels: Sequence[tuple[str, str]],
    size: tuple[int, int],
) -> None:
    width, height = size
    points = 72 / DOTS_PER_INCH  # of a pixel

    def write(x: float, y: float, text: str, pixels: float, colour: str, **words: Any) -> None:
        options: dict[str, Any] = {"va": "center", "ha": "center", **words}
        figure.text(
            x / width, 1 - y / height, text, fontsize=pixels * points, color=colour, **options
        )

    write(0, top + 14, kind.title, 18, INK, ha="left", fontweight="bold")
    step = CELL + GAP
    for column, heading in enumerate([*leading, *(layer.layer for layer in maps.layers)]):
        x = LABELS + column * step + CELL / 2
        write(x, top + 14, heading, 14, INK)
        if column >= len(leading):
            caption = layer_caption(maps.layers[column - len(leading)], kind.key)
            for line, part in enumerate(caption):
                write(x, top + 31 + 12 * line, part, 9.5, QUIET_INK)
    for row, (name, about) in enumerate(labels):
        middle = top + HEAD + row * step + CELL / 2
        write(0, middle - 8, shortened(name, LONGEST_LABEL), 13, INK, ha="left")
        write(0, middle + 9, shortened(about, LONGEST_LABEL), 12, QUIET_INK, ha="left")


def shortened(text: str, most: int) -> str:
    """Return a text of at most `most` characters, its middle left out."""
    if len(text) <= most:
        return text
    kept = most - 3
    return f"{text[: kept // 2]}...{text[-(kept - kept // 2) :]}"


def _coloured(levels: np.ndarray, name: str) -> np.ndarray:
    """Return levels in [0, 1] as colours (..., 3) uint8."""
    colours: np.ndarray = colormaps[name](levels.clip(0, 1), bytes=True)[..., :3].copy()
    return colours


def _fitted(cell: np.ndarray) -> np.ndarray:
    """Return a map or an image as large as a cell; positions of a map stay sharp squares."""
    way = Image.Resampling.NEAREST if max(cell.shape[:2]) < CELL else Image.Resampling.BOX
    return np.asarray(Image.fromarray(cell).resize((CELL, CELL), way))
