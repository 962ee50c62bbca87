"""Names of metrics, and the captions that say what they leave out."""

from typing import get_args

import pytest

from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.evaluation.metrics import (
    DEFAULT_METRICS,
    LOCALIZATION_METRICS,
    PROTOCOL,
    chosen_metrics,
    protocol_lines,
)
from declip_pipeline.study.tables import DETECTION, StudyMetric


def test_metrics_are_chosen_by_name():
    assert chosen_metrics(None) == DEFAULT_METRICS
    assert chosen_metrics(["auc", "iou", "auc"]) == ("auc", "iou")
    assert chosen_metrics("iou") == ("iou",)
    for every in ("all", ["all"], ["iou", "all"]):
        assert chosen_metrics(every) == tuple(LOCALIZATION_METRICS)


def test_an_unknown_metric_is_refused_with_the_list():
    with pytest.raises(UnknownNameError) as caught:
        chosen_metrics(["iou", "f1_poled"])
    known = ", ".join(LOCALIZATION_METRICS)
    assert str(caught.value) == (
        f"unknown metric 'f1_poled'; did you mean 'f1_pooled'? known: {known}"
    )
    with pytest.raises(InputError, match="`metrics` is empty; expected some of iou, f1_best"):
        chosen_metrics([])
    with pytest.raises(InputError, match="found 3 for metrics; expected names"):
        chosen_metrics(3)


def test_captions_say_unit_protocol_and_what_is_left_out():
    assert protocol_lines(["iou"]) == [PROTOCOL]
    assert "in percent" in PROTOCOL and "each mask's own size" in PROTOCOL
    lines = protocol_lines(["f1", "f1_fixed", "f1_best", "iou_pooled"])
    assert lines[1:] == [
        "F1: of each image it is 2 IoU / (1 + IoU), but the mean of F1 is not that of the mean IoU",
        "F1 (TruFor), F1 best (TruFor): leaves out a band along the mask's edge (eroded by 15, "
        "dilated by 11 pixels), so it is not 2 IoU / (1 + IoU)",
        "F1 best (TruFor): at the threshold that is best for each image itself: an upper bound",
        "IoU pooled: of the pixels of all images together, so a large image weighs more",
    ]


def test_every_metric_can_be_that_of_a_study():
    own = [name for name in get_args(StudyMetric) if not name.startswith(DETECTION)]
    assert own == list(LOCALIZATION_METRICS)


def test_percent_is_a_hundred_for_the_best_value_of_each():
    assert all(one.percent * one.highest == 100 for one in LOCALIZATION_METRICS.values())
