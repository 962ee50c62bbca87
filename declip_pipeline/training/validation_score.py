"""Validation score of a training: its name, and its keys in the run's files."""

from collections.abc import Mapping
from typing import Any, Literal

ScoreName = Literal["iou", "ap"]

SCORES: dict[ScoreName, str] = {"iou": "IoU", "ap": "AP"}
"""Display names of IoU (localization) and average precision (detection), both in percent.

Their keys in files are `valid_iou` and `valid_ap`; the best of a run are `best_valid_iou` and
`best_valid_ap`.
"""


def score_name(record: Mapping[str, Any], prefix: str = "valid_") -> ScoreName:
    """Return which score a record of a file holds."""
    return "ap" if f"{prefix}ap" in record else "iou"
