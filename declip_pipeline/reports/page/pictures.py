"""Pictures of a gallery as data URIs: an image, and its truth and map as layers to lay over it."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from PIL import Image

from declip_pipeline.reports.overlay import HEAT
from declip_pipeline.reports.shown_images import ShownImage

QUALITY = 80
"""Quality of an image's WebP."""

LEVELS = 48
"""Levels of a map, few enough for a file of few bytes; the outline is one more colour."""

CALLED_FAKE = 0.5

Colour = tuple[int, int, int, int]
"""Red, green, blue and alpha."""

OUTLINE: Colour = (0, 229, 255, 255)
# Of Okabe and Ito's colours, which every reader tells from the map's.
TRUTH: Colour = (86, 180, 233, 150)
TRUTH_EDGE: Colour = (255, 255, 255, 230)


@dataclass(frozen=True)
class Pictures:
    """Image, truth and map as data URIs; truth and map are transparent where nothing is fake."""

    image: str
    truth: str
    heat: str


def pictures_of(shown: ShownImage) -> Pictures:
    """Return the pictures of an image: the map is outlined where it is above `CALLED_FAKE`."""
    content = io.BytesIO()
    Image.fromarray(shown.image).save(content, format="WEBP", quality=QUALITY)
    truth = np.where(_edge(shown.truth), 2, shown.truth).astype(np.uint8)
    levels = np.rint(shown.heat * (LEVELS - 1)).astype(np.uint8)
    levels[_edge(shown.heat > CALLED_FAKE)] = LEVELS
    return Pictures(
        _data_uri(content.getvalue(), "webp"),
        _palette_png(truth, [(0, 0, 0, 0), TRUTH, TRUTH_EDGE]),
        _palette_png(levels, [*_heat_colours(), OUTLINE]),
    )


def _edge(region: np.ndarray) -> np.ndarray:
    """Return the pixels of a region that have a neighbour outside of it, (H, W) bool."""
    padded = np.pad(region, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    edge: np.ndarray = region & ~inner
    return edge


def _heat_colours() -> list[Colour]:
    """Return the colours of a map's levels: the higher, the less the image shines through."""
    levels = np.linspace(0, 1, LEVELS)
    # As in `overlay`: the dark end would blacken the image, and the pale end be lost on it.
    colours = np.rint(colormaps[HEAT](0.3 + 0.5 * levels)[:, :3] * 255).astype(int).tolist()
    alphas = np.rint(levels * 0.85 * 255).astype(int).tolist()
    return [(red, green, blue, a) for (red, green, blue), a in zip(colours, alphas, strict=True)]


def _palette_png(values: np.ndarray, colours: Sequence[Colour]) -> str:
    picture = Image.fromarray(values, mode="P")
    picture.putpalette([channel for colour in colours for channel in colour[:3]])
    content = io.BytesIO()
    alphas = bytes(colour[3] for colour in colours)
    picture.save(content, format="PNG", transparency=alphas, optimize=True)
    return _data_uri(content.getvalue(), "png")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
