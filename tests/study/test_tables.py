"""A study's tables, in percent: matrices with their means, and rows by columns."""

from typing import get_args

import numpy as np
import pytest
from support.made_evaluation import config_of, detected, localized

from declip_pipeline.evaluation.metrics import LOCALIZATION_METRICS
from declip_pipeline.study.tables import StudyMetric, study_tables

RUNS = [
    localized("ldm", lama=[10.0] * 2, ldm=[50.0] * 2, **{"b-10": [1.0] * 2, "b-9": [2.0] * 2}),
    localized("lama", lama=[80.0] * 2, ldm=[20.0] * 2, **{"b-10": [3.0] * 2, "b-9": [4.0] * 2}),
]


def test_generators_that_were_learned_come_first():
    (study,) = study_tables(RUNS, ["generator"], ["train_on"], "iou")
    assert study.table.rows == ("ldm", "lama", "b-9", "b-10")
    assert study.table.columns == ("ldm", "lama")
    np.testing.assert_array_equal(study.table.values, [[50, 20], [10, 80], [2, 4], [1, 3]])
    assert study.in_domain.tolist() == [[True, False], [False, True], [False] * 2, [False] * 2]
    assert study.table.cell("lama", "ldm").interval == (10, 10)
    assert study.means.rows == ("ours",) and study.means.columns == ("ID", "OOD")
    np.testing.assert_array_equal(study.means.values, [[65, pytest.approx(40 / 6)]])


def test_other_metrics_are_in_percent():
    (study,) = study_tables(RUNS, ["layer"], ["domain"], "f1_best")
    assert study.table.corner == "layer" and study.means is None
    assert study.table.cell("layer1", "ID").value == pytest.approx(65)
    run = detected("ldm", real=[0.1, 0.2, 0.6], ldm=[0.5, 0.7, 0.8])
    (study,) = study_tables([run], ["generator"], ["train_on"], "detection_auc")
    assert study.table.cell("ldm", "ldm").value == pytest.approx(100 * 8 / 9)
    assert study.table.cell("ldm", "ldm").interval.high == 100


def test_a_matrix_of_two_decoders_is_two_matrices():
    config = config_of("ldm", decoder_type="conv-4")
    conv = localized("ldm", config=config, ldm=[90.0])
    first, second = study_tables([RUNS[0], conv], ["generator"], ["train_on"], "iou")
    assert first.table.title == "linear on layer1 of net"
    assert second.table.title == "conv-4 on layer1 of net"
    assert second.table.values.tolist() == [[90]]


def test_a_study_knows_every_metric_of_localization():
    assert get_args(StudyMetric) == (*LOCALIZATION_METRICS, "detection_ap", "detection_auc")
