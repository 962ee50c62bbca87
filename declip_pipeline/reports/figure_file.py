"""Figures without pyplot: nothing global is touched, so library and user code stay apart."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from declip_pipeline.errors import UnknownNameError
from declip_pipeline.files import remove_abandoned, write_with
from declip_pipeline.options import FigureFormat

INK = "#222222"
QUIET_INK = "#666666"
DOTS_PER_INCH = 150

# No version of matplotlib and no time inside, so that equal figures are equal files.
_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Creator": None, "Date": None},
}

# Letters of a PDF are those of an embedded TrueType font, which every publisher takes, and can be
# selected; those of an SVG stay text.
_FONTS: dict[Any, Any] = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "declip-pipe"}

COLUMN_INCHES = {1: 3.25, 2: 6.875}
"""Widths of figures that take one and two columns of a page of CVPR, ICCV and ECCV papers."""

_MARGIN = 0.02
_PAPER_POINTS = 8.0, 7.0
# From what size on a text is of the larger ones.
_LARGE = 10.5
_LINE_SHARE = 0.65
_FITTINGS = 8


@dataclass(frozen=True)
class FigureStyle:
    """Form of a figure's file.

    Attributes:
        format: "png", "pdf" or "svg"; fonts of a PDF are embedded, texts of an SVG stay text.
        columns: Of a figure for a paper, the columns of a page that it takes, 1 or 2: its width is
            theirs, its letters are of 8 and 7 points, and no title is inside. None for others.
    """

    format: FigureFormat = "png"
    columns: int | None = None

    def __post_init__(self) -> None:
        """Raise `UnknownNameError` for another format or number of columns."""
        if self.format not in _METADATA:
            raise UnknownNameError("figure_format", self.format, _METADATA)
        if self.columns not in (None, *COLUMN_INCHES):
            raise UnknownNameError("columns", str(self.columns), map(str, COLUMN_INCHES))

    @property
    def has_title(self) -> bool:
        """Return whether a title stands inside the figure."""
        return self.columns is None

    def path(self, path: Path) -> Path:
        """Return the path of the figure's file, with the suffix of its format."""
        return path.with_suffix(f".{self.format}")


SCREEN = FigureStyle()
"""A PNG with its title inside."""


def new_figure(width: float, height: float) -> Figure:
    """Return an empty white figure of `width` x `height` inches that draws with Agg."""
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path, style: FigureStyle = SCREEN) -> Path:
    """Write a figure, whole or not at all, and return its path, which has the format's suffix."""
    path = style.path(path)
    box: Bbox | str = "tight"
    if style.columns is not None:
        box = _fitted(figure, COLUMN_INCHES[style.columns])

    def write(temporary: Path) -> None:
        with rc_context(_FONTS):
            figure.savefig(
                temporary,
                format=style.format,
                bbox_inches=box,
                pad_inches=0.15,
                metadata=_METADATA[style.format],
                # Images within a figure for paper are printed at 300 dots an inch.
                dpi="figure" if style.columns is None else 300,
            )

    remove_abandoned(path.parent)
    write_with(path, write)
    return path


def _fitted(figure: Figure, width: float) -> Bbox:
    """Scale a figure until all of it is of a width in inches, its letters of the paper's sizes.

    Letters do not scale with the figure, so it is measured again after each scaling.
    """
    for text in figure.findobj(Text):
        text.set_fontsize(_PAPER_POINTS[0 if float(text.get_fontsize()) >= _LARGE else 1])
    for line in figure.findobj(Line2D):
        line.set_linewidth(_LINE_SHARE * line.get_linewidth())
        line.set_markersize(_LINE_SHARE * line.get_markersize())
    for _ in range(_FITTINGS):
        _slant_names(figure)
        box = figure.get_tightbbox()
        missing = width - 2 * _MARGIN - box.width
        if abs(missing) < 0.001:
            break
        own, height = figure.get_size_inches()
        # What does not scale (letters beside the axes) stays about as wide.
        factor = max(0.2, (own + missing) / own)
        figure.set_size_inches(own * factor, height * factor)
    return figure.get_tightbbox().padded(_MARGIN)


def _slant_names(figure: Figure) -> None:
    """Turn names along the bottom of axes that would run into each other."""
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    for axes in figure.axes:
        names = [one for one in axes.get_xticklabels() if one.get_text()]
        needed = sum(one.get_window_extent(renderer).width + 4 for one in names)
        if needed > axes.get_window_extent(renderer).width and not any(
            one.get_rotation() for one in names
        ):
            for one in names:
                one.set(rotation=45, ha="right", rotation_mode="anchor")
