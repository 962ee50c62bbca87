"""Results of an image as HTML: a card for the image, and one for each run."""

import base64
import io
from functools import cache
from typing import Any, Literal

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from matplotlib import colormaps
from PIL import Image

from declip_pipeline.prediction.analysis import AnalyzedImage, Finding
from declip_pipeline.reports.overlay import HEAT
from stages.page import texts

View = Literal["Overlay", "Mask", "Map"]
VIEWS: tuple[View, ...] = ("Overlay", "Mask", "Map")
_JPEG_QUALITY = 88


def result_cards(image: AnalyzedImage, threshold: float, view: View) -> str:
    """Return the HTML of an image's results.

    Args:
        image: The image with its findings.
        threshold: Pixels above this probability are called fake.
        view: What is shown of each run.
    """
    height, width = image.size
    titles = [texts.run_title(one.run) for one in image.findings]
    return _template("cards.html").render(
        name=image.name,
        size=f"{width} x {height} pixels",
        picture=_jpeg(image.shown),
        shape=image.shown.shape[:2],
        view=view.lower(),
        threshold=f"{threshold:.2f}",
        runs=[
            {
                "name": one.run.name,
                "title": title,
                # Runs that differ in something else are told apart by their names.
                "subtitle": texts.run_subtitle(one.run)
                if titles.count(title) == 1
                else one.run.name,
                "picture": _picture(image, one, threshold, view),
                "verdict": texts.verdict(one, threshold),
                "is_found": one.fake_share(threshold) > 0,
                "is_known": one.real_share(threshold, 0) is not None,
                "rate": texts.rate(one, threshold),
                "notes": texts.notes(image, one),
            }
            for one, title in zip(image.findings, titles, strict=True)
        ],
    )


def refusal(name: str, reason: str) -> str:
    """Return the HTML of one sentence on an image that cannot be used."""
    return _template("refusal.html").render(name=name, reason=reason)


def _picture(image: AnalyzedImage, finding: Finding, threshold: float, view: View) -> str:
    if view == "Overlay":
        return _jpeg(image.shown_overlay(finding))
    if view == "Mask":
        return _url(finding.shown_mask(threshold), "PNG")
    heat = colormaps[HEAT](finding.shown_map, bytes=True)[..., :3]
    return _jpeg(np.ascontiguousarray(heat))


@cache
def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("stages.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _jpeg(image: np.ndarray) -> str:
    return _url(image, "JPEG", quality=_JPEG_QUALITY)


def _url(image: np.ndarray, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    content = base64.b64encode(file.getvalue()).decode()
    return f"data:image/{kind.lower()};base64,{content}"
