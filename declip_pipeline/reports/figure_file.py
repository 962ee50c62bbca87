"""Figures without pyplot: nothing global is touched, so library and user code stay apart."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from declip_pipeline.files import remove_abandoned, write_with

INK = "#222222"
QUIET_INK = "#666666"
DOTS_PER_INCH = 150


def new_figure(width: float, height: float) -> Figure:
    """Return an empty white figure of `width` x `height` inches that draws with Agg."""
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write `figure` as PNG, whole or not at all."""

    def write(temporary: Path) -> None:
        figure.savefig(
            temporary,
            format="png",
            bbox_inches="tight",
            pad_inches=0.15,
            # No version of matplotlib inside, so that equal figures are equal files.
            metadata={"Software": None},
        )

    remove_abandoned(path.parent)
    write_with(path, write)
