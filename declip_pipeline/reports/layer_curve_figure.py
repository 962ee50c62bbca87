"""IoU over the layers of a backbone, one line a decoder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from declip_pipeline.errors import InputError
from declip_pipeline.reports.figure_file import SCREEN, FigureStyle, new_figure, save_figure
from declip_pipeline.reports.percent_axes import style_percent_axes, title_above

# Okabe and Ito's colours, for colour-blind readers; the markers differ in grey, too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")


def draw_layer_curve(
    layer_names: Sequence[str],
    series: Mapping[str, Sequence[float]],
    path: Path,
    title: str,
    *,
    spreads: Mapping[str, Sequence[float]] = MappingProxyType({}),
    style: FigureStyle = SCREEN,
) -> Path:
    """Draw IoU over layers, on a fixed axis from 0 to 100; each line's best is marked.

    layer_names: shallowest first. series: name (the decoder) to one IoU in percent for each
    layer, NaN where a run is missing (the line has a gap). spreads: the same names to half the
    height of a band around the line, NaN for none.
    Returns: the path of the file. Raises: InputError when a series and the layers do not fit.
    """
    check_series(layer_names, series)
    if spreads:
        check_series(layer_names, spreads)
    n_layers = len(layer_names)
    figure = new_figure(min(11.0, max(5.5, 0.55 * n_layers + 2)), 4.2)
    axes = figure.add_axes((0.1, 0.16, 0.87, 0.68))
    places = np.arange(n_layers)
    for index, (name, values) in enumerate(series.items()):
        heights = np.asarray(values, dtype=np.float64)
        colour = COLOURS[index % len(COLOURS)]
        marker = MARKERS[index % len(MARKERS)]
        axes.plot(
            places, heights, color=colour, marker=marker, label=name, linewidth=1.8, clip_on=False
        )
        if name in spreads:
            half = np.asarray(spreads[name], dtype=np.float64)
            axes.fill_between(
                places, heights - half, heights + half, color=colour, alpha=0.2, linewidth=0
            )
        if not np.isnan(heights).all():
            best = int(np.nanargmax(heights))
            ring: dict[str, Any] = {"marker": "o", "markersize": 13, "markerfacecolor": "none"}
            axes.plot(best, heights[best], color=colour, clip_on=False, **ring)

    axes.set_xlim(-0.3, n_layers - 0.7)
    style_percent_axes(axes, layer_names, "layer")
    shown = title if style.has_title else ""
    title_above(axes, shown, "IoU (percent)", min(len(series), 5))
    return save_figure(figure, path, style)


def check_series(layer_names: Sequence[str], series: Mapping[str, Sequence[float]]) -> None:
    """Refuse an empty curve, and a series of another length than the layers.

    Raises: InputError.
    """
    if not layer_names or not series:
        raise InputError(
            f"{len(layer_names)} layers and {len(series)} series; expected at least one of each"
        )
    for name, values in series.items():
        if len(values) != len(layer_names):
            raise InputError(
                f"series {name!r} has {len(values)} values; expected one for each of the "
                f"{len(layer_names)} layers, NaN where a run is missing"
            )
