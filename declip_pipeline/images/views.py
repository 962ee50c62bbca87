"""Views: one deterministic rendering of each picture, for robustness curves and augmentation."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

from declip_pipeline.compute import generator
from declip_pipeline.errors import InputError
from declip_pipeline.images.resize import resize_image

CLEAN = "clean"


@dataclass(frozen=True)
class _Kind:
    """One way to change a picture: its range, and what a random view draws from.

    `apply` takes HWC uint8 RGB, the strength, and a random generator of the picture's own.
    """

    apply: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
    lowest: float
    highest: float
    whole: bool = False
    # The augmentations of the paper: blur of sigma 0.4 to 2, color jitter of 0.3, JPEG 30 to 100.
    drawn: tuple[float, float] | None = None


@dataclass(frozen=True)
class View:
    """A chain of changes, each a kind with its strength; None is drawn anew for each picture.

    `seed` tells random views of the same kinds from one another. A view gives the same pixels for
    the same picture in every run.
    """

    steps: tuple[tuple[str, float | None], ...] = ()
    seed: int | None = None

    @property
    def name(self) -> str:
        """The view in words that are a folder's name, too: clean, jpeg-70, blur+jpeg.random0."""
        if not self.steps:
            return CLEAN
        words = [kind if value is None else f"{kind}-{value:g}" for kind, value in self.steps]
        return "+".join(words) + ("" if self.seed is None else f".random{self.seed}")

    def render(self, picture: np.ndarray, content_sha256: str) -> np.ndarray:
        """The picture (HWC uint8 RGB) as the view shows it, of the same shape.

        `content_sha256` is that of the picture's file: what is random depends on it and the view.
        """
        random = generator(0, "view", self.name, content_sha256)
        for name, value in self.steps:
            kind = _KINDS[name]
            strength = _drawn(kind, random) if value is None else value
            picture = kind.apply(picture, strength, random)
        return picture


CLEAN_VIEW = View()
"""The picture as it is."""


def parse_view(text: str) -> View:
    """A view as a user writes it: clean, jpeg:70, blur:1.0, or several joined by "+".

    Kinds and their strengths: jpeg (quality 1 to 100), blur (sigma in pixels), jitter (share by
    which brightness, contrast, saturation and hue may change), resize (factor, down and back up),
    noise (standard deviation in grey levels of 255). Raises `InputError`.
    """
    if text == CLEAN:
        return View()
    steps = []
    for part in text.split("+"):
        name, colon, number = part.partition(":")
        kind = _kind(name, text)
        if not colon or not re.fullmatch(r"[0-9]+(\.[0-9]*)?|\.[0-9]+", number):
            raise InputError(f"view {text!r}: {part!r} lacks its strength; write {name}:NUMBER")
        value = float(number)
        if not kind.lowest <= value <= kind.highest or (kind.whole and value % 1):
            what = "a whole number" if kind.whole else "a number"
            raise InputError(
                f"view {text!r}: {part!r} is out of range; expected {what} from "
                f"{kind.lowest:g} to {kind.highest:g}"
            )
        steps.append((name, value))
    return View(tuple(steps))


def parse_augmentation(text: str) -> list[View]:
    """Random views as a user writes them: "jpeg+blur+jitter:3" is three views of those kinds.

    The strengths are drawn for each picture and view: blur sigma 0.4 to 2, color jitter 0.3, JPEG
    quality 30 to 100 (the training augmentations of DeCLIP, WACV 2025). Raises `InputError`.
    """
    names, colon, count = text.partition(":")
    if not colon or not count.isdecimal() or not 1 <= int(count) <= 100:
        raise InputError(
            f"augmentation {text!r}; expected kinds and how many views, such as jpeg+blur+jitter:3"
        )
    kinds = names.split("+")
    for name in kinds:
        if _kind(name, text).drawn is None:
            drawn = [name for name, kind in _KINDS.items() if kind.drawn is not None]
            raise InputError(f"augmentation {text!r}: {name} is not one of {', '.join(drawn)}")
    return [View(tuple((name, None) for name in kinds), seed) for seed in range(int(count))]


def view_named(name: str) -> View:
    """The view that has this name: the inverse of `View.name`. Raises `InputError`."""
    chain, mark, seed = name.partition(".random")
    if mark and seed.isdecimal():
        return View(tuple((kind, None) for kind in chain.split("+")), int(seed))
    return parse_view(re.sub(r"([a-z])-", r"\1:", name))


def _kind(name: str, text: str) -> _Kind:
    if name not in _KINDS:
        raise InputError(f"view {text!r}: {name!r} is not known; known: clean, {', '.join(_KINDS)}")
    return _KINDS[name]


def _drawn(kind: _Kind, random: np.random.Generator) -> float:
    assert kind.drawn is not None, "a parsed view draws only what can be drawn"
    low, high = kind.drawn
    return float(
        random.integers(int(low), int(high) + 1) if kind.whole else random.uniform(low, high)
    )


def _jpeg(picture: np.ndarray, quality: float, random: np.random.Generator) -> np.ndarray:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "JPEG", quality=int(quality))
    return np.asarray(Image.open(content).convert("RGB"))


def _blur(picture: np.ndarray, sigma: float, random: np.random.Generator) -> np.ndarray:
    import cv2

    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma)).reshape(picture.shape)


def _jitter(picture: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and saturation times 1-share to 1+share, hue turned by as much."""
    image = Image.fromarray(picture)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(random.uniform(1 - share, 1 + share))
    hue, saturation, value = image.convert("HSV").split()
    turn = round(255 * random.uniform(-share, share))
    turned = Image.fromarray(((np.asarray(hue, np.int16) + turn) % 256).astype(np.uint8))
    return np.asarray(Image.merge("HSV", (turned, saturation, value)).convert("RGB"))


def _resize(picture: np.ndarray, factor: float, random: np.random.Generator) -> np.ndarray:
    height, width = picture.shape[:2]
    small = resize_image(picture, max(1, round(height * factor)), max(1, round(width * factor)))
    return resize_image(small, height, width)


def _noise(picture: np.ndarray, deviation: float, random: np.random.Generator) -> np.ndarray:
    noisy = picture + random.normal(0, deviation, picture.shape)
    return noisy.round().clip(0, 255).astype(np.uint8)


_KINDS = {
    "jpeg": _Kind(_jpeg, 1, 100, whole=True, drawn=(30, 100)),
    "blur": _Kind(_blur, 0.1, 20, drawn=(0.4, 2.0)),
    "jitter": _Kind(_jitter, 0.01, 0.5, drawn=(0.3, 0.3)),
    "resize": _Kind(_resize, 0.05, 4),
    "noise": _Kind(_noise, 0.1, 100),
}
