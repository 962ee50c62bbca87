"""The figure that a training is judged by after each epoch, and what files call it."""

from collections.abc import Mapping
from typing import Any, Literal

ScoreName = Literal["iou", "ap"]

SCORES: dict[ScoreName, str] = {"iou": "IoU", "ap": "AP"}
"""IoU (localization) or average precision (detection), both in percent, and how to say them.

Files call them `valid_iou` and `valid_ap`, the best of a run `best_valid_iou` and `best_valid_ap`.
"""


def score_name(record: Mapping[str, Any], prefix: str = "valid_") -> ScoreName:
    """Which of them a record of a file holds."""
    return "ap" if f"{prefix}ap" in record else "iou"
