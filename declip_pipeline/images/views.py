"""Views: deterministic renderings of images, for robustness curves and augmentation."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

from declip_pipeline.compute import generator
from declip_pipeline.errors import ImageError, InputError
from declip_pipeline.images.decode import guarded_pillow
from declip_pipeline.images.resize import resize_image

CLEAN = "clean"


@dataclass(frozen=True)
class _Kind:
    """One kind of change, with the range of its strength.

    `apply` takes an image (HWC uint8 RGB), the strength, and the image's own random generator.
    Random views draw the strength uniformly from `drawn`; None if the kind is never random.
    """

    apply: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
    lowest: float
    highest: float
    whole: bool = False
    drawn: tuple[float, float] | None = None


@dataclass(frozen=True)
class View:
    """Chain of changes, each a kind with its strength; None draws the strength for each image.

    `seed` distinguishes random views of the same kinds. A view gives the same pixels for the same
    image in every run.
    """

    steps: tuple[tuple[str, float | None], ...] = ()
    seed: int | None = None

    @property
    def name(self) -> str:
        """Name of the view, valid as a folder name: clean, jpeg-70, blur+jpeg.random0."""
        if not self.steps:
            return CLEAN
        words = [kind if value is None else f"{kind}-{value:g}" for kind, value in self.steps]
        return "+".join(words) + ("" if self.seed is None else f".random{self.seed}")

    def render(self, image: np.ndarray, content_sha256: str) -> np.ndarray:
        """Apply the view to an image (HWC uint8 RGB); the result has the same shape.

        The random strengths depend on the view and on `content_sha256`, the SHA-256 of the image
        file, alone. Raises `ImageError` for an image that has no such view.
        """
        random = generator(0, "view", self.name, content_sha256)
        for name, value in self.steps:
            kind = _KINDS[name]
            strength = _drawn(kind, random) if value is None else value
            image = kind.apply(image, strength, random)
        return image


CLEAN_VIEW = View()
"""The unchanged image."""


def parse_view(text: str) -> View:
    """Parse a view as a user writes it: clean, jpeg:70, blur:1.0, or several joined by "+".

    Kinds and their strengths: jpeg (quality 1 to 100), blur (sigma in pixels), jitter (fraction by
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


def parse_views(texts: Sequence[str]) -> list[View]:
    """Parse several views as `parse_view` does. Raises `InputError`, for a view given twice too."""
    views = [parse_view(text) for text in texts]
    for place, view in enumerate(views):
        if view in views[:place]:
            raise InputError(f"view {texts[place]!r} is given twice; give each view once")
    return views


def parse_augmentation(text: str) -> list[View]:
    """Parse random views as a user writes them: "jpeg+blur+jitter:3" is three views.

    The strengths are drawn for each image and view: blur sigma 0.4 to 2, color jitter 0.3, JPEG
    quality 30 to 100. Raises `InputError`.

    Source: the training augmentations of DeCLIP (Smeu et al., WACV 2025).
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
    """Return the view with a name; the inverse of `View.name`. Raises `InputError`."""
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


_LARGEST_JPEG_SIDE = 65_535


def _jpeg(image: np.ndarray, quality: float, random: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    if max(height, width) > _LARGEST_JPEG_SIDE:
        raise ImageError(
            f"{width}x{height} pixels; a JPEG holds at most {_LARGEST_JPEG_SIDE} a side, so the "
            "image has no jpeg view"
        )
    content = io.BytesIO()
    Image.fromarray(image).save(content, "JPEG", quality=int(quality))
    # Whatever Pillow's own limit: the image was decoded already.
    with guarded_pillow():
        return np.asarray(Image.open(content).convert("RGB"))


def _blur(image: np.ndarray, sigma: float, random: np.random.Generator) -> np.ndarray:
    import cv2

    try:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma)).reshape(image.shape)
    except cv2.error as error:
        raise ImageError(f"cannot be blurred ({error.err or error})") from error


def _jitter(image: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Scale brightness, contrast and saturation by 1-share to 1+share; rotate the hue likewise."""
    changed = Image.fromarray(image)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        changed = enhance(changed).enhance(random.uniform(1 - share, 1 + share))
    hue, saturation, value = changed.convert("HSV").split()
    turn = round(255 * random.uniform(-share, share))
    turned = Image.fromarray(((np.asarray(hue, np.int16) + turn) % 256).astype(np.uint8))
    return np.asarray(Image.merge("HSV", (turned, saturation, value)).convert("RGB"))


def _resize(image: np.ndarray, factor: float, random: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    small = resize_image(image, max(1, round(height * factor)), max(1, round(width * factor)))
    return resize_image(small, height, width)


def _noise(image: np.ndarray, deviation: float, random: np.random.Generator) -> np.ndarray:
    noisy = image + random.normal(0, deviation, image.shape)
    return noisy.round().clip(0, 255).astype(np.uint8)


_KINDS = {
    "jpeg": _Kind(_jpeg, 1, 100, whole=True, drawn=(30, 100)),
    "blur": _Kind(_blur, 0.1, 20, drawn=(0.4, 2.0)),
    "jitter": _Kind(_jitter, 0.01, 0.5, drawn=(0.3, 0.3)),
    "resize": _Kind(_resize, 0.05, 4),
    "noise": _Kind(_noise, 0.1, 100),
}
