"""Panels of robustness, a kind of change each, from the table that `Robustness.save` writes."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from declip_pipeline.evaluation.evaluation import OVERALL
from declip_pipeline.evaluation.metrics import LOCALIZATION_METRICS
from declip_pipeline.evaluation.robustness import FAMILIES
from declip_pipeline.images.views import CLEAN
from declip_pipeline.reports.robustness_figure import Point, RobustnessPanel

ROBUSTNESS_FILE = "robustness.csv"
"""Name of the table in the folder of the clean evaluation."""

_TITLES = {
    "jpeg": "JPEG, quality",
    "blur": "blur, sigma in pixels",
    "resize": "resize, factor",
    "noise": "noise, deviation of 255",
    "jitter": "color jitter, share",
}


def read_panels(path: Path, metric: str = "iou") -> list[RobustnessPanel]:
    """Return a panel for each family of changes, from the clean view to the strongest change.

    Values are means of one of `LOCALIZATION_METRICS`, in percent.

    None of families that were not evaluated, and of chained views.
    """
    rows = [
        row
        for row in csv.DictReader(io.StringIO(path.read_bytes().decode()))
        if row["generator"] != OVERALL
    ]
    names = list(dict.fromkeys(row["generator"] for row in rows))
    clean = {row["generator"]: _point(row, metric) for row in rows if row["view"] == CLEAN}
    panels = []
    for family in FAMILIES:
        own = [row for row in rows if row["family"] == family]
        views = list(dict.fromkeys(row["view"] for row in own))
        if not views:
            continue
        points = {(row["view"], row["generator"]): _point(row, metric) for row in own}
        strengths = [f"{float(_first(own, view)['strength']):g}" for view in views]
        lines = {name: [clean[name], *(points[view, name] for view in views)] for name in names}
        panels.append(RobustnessPanel(_TITLES[family], ["clean", *strengths], lines))
    return panels


def _first(rows: list[dict[str, str]], view: str) -> dict[str, str]:
    return next(row for row in rows if row["view"] == view)


def _point(row: Mapping[str, str], metric: str) -> Point:
    factor = LOCALIZATION_METRICS[metric].percent
    names = (metric, f"{metric}_low", f"{metric}_high")
    value, low, high = (factor * float(row[name] or "nan") for name in names)
    return value, low, high
