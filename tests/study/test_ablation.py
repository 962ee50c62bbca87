"""Scores of layers: means over what was learned and what was not, spreads over seeds."""

import csv
import math

import numpy as np
import pytest
from support.made_evaluation import config_of, localized

from declip_pipeline.errors import InputError
from declip_pipeline.evaluation.cells import Estimate
from declip_pipeline.metrics.bootstrap import Interval, mean_interval
from declip_pipeline.study.ablation import (
    ALL,
    IN_DOMAIN,
    ON_VALID,
    OUT_OF_DOMAIN,
    LayerScore,
    ablation_table,
    best_layers,
    layer_scores,
    path_table,
    score_table,
    write_scores,
)
from declip_pipeline.study.layer_choice import LayerRound, LayerSet
from declip_pipeline.sweeps.grid import CellResult


def evaluated(layer, seed, learned, **ious):
    return localized(learned, seed, config=config_of(learned, seed, layer=layer), **ious)


@pytest.fixture
def scores():
    return layer_scores(
        {
            "layer0": [
                evaluated("layer0", 0, "ldm", ldm=[60.0], lama=[10.0]),
                evaluated("layer0", 0, "lama", ldm=[30.0], lama=[40.0]),
                evaluated("layer0", 1, "ldm", ldm=[70.0], lama=[20.0]),
                evaluated("layer0", 1, "lama", ldm=[40.0], lama=[50.0]),
            ],
            "layer1": [evaluated("layer1", 0, "ldm", ldm=[80.0])],
            "layer2": [],
        }
    )


def test_score_has_the_interval_of_its_cells():
    found = layer_scores({"layer0": [evaluated("layer0", 0, "ldm", ldm=[40.0, 60.0, 80.0])]})
    own = {(one.generator, one.domain): one.estimate for one in found}
    expected = mean_interval(np.array([40.0, 60.0, 80.0]))
    assert own["ldm", IN_DOMAIN].interval == own[ALL, IN_DOMAIN].interval == expected == (40, 80)
    assert own[ALL, OUT_OF_DOMAIN].cells == own["ldm", OUT_OF_DOMAIN].cells == 0


def test_scores_are_means_by_generator_and_domain_and_spreads_by_seed(scores, tmp_path):
    assert [
        (one.layer, one.generator, one.domain, one.estimate.by_seed)
        for one in scores
        if one.layer != "layer1"
    ] == [
        ("layer0", "lama", IN_DOMAIN, (40.0, 50.0)),
        ("layer0", "lama", OUT_OF_DOMAIN, (10.0, 20.0)),
        ("layer0", "ldm", IN_DOMAIN, (60.0, 70.0)),
        ("layer0", "ldm", OUT_OF_DOMAIN, (30.0, 40.0)),
        ("layer0", ALL, IN_DOMAIN, (50.0, 60.0)),
        ("layer0", ALL, OUT_OF_DOMAIN, (20.0, 30.0)),
        ("layer2", ALL, IN_DOMAIN, ()),
        ("layer2", ALL, OUT_OF_DOMAIN, ()),
    ]
    mean = scores[4].estimate
    assert mean.value == 55 and mean.spread == pytest.approx(math.sqrt(50))
    write_scores(tmp_path / "ablation.csv", scores)
    with (tmp_path / "ablation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[4] == {
        "layer": "layer0",
        "generator": "all",
        "domain": "in domain",
        "mean_iou": "55.0",
        "standard_deviation": str(math.sqrt(50)),
        "seeds": "2",
        "mean_low": "nan",
        "mean_high": "nan",
        "mark": "",
    }
    assert len(rows) == len(scores)


def test_table_has_a_row_for_each_layer_and_generator(scores):
    lines = [line.split() for line in ablation_table(scores).splitlines()]
    assert lines[1] == ["layer0", "lama", "45.00", "±", "7.07", "15.00", "±", "7.07"]
    assert lines[3] == ["layer0", "all", "55.00", "±", "7.07", "25.00", "±", "7.07"]
    assert lines[4:] == [
        ["layer1", "ldm", "80.00", "-"],
        ["layer1", "all", "80.00", "-"],
        ["layer2", "all", "-", "-"],
    ]


def means(domain, **by_layer):
    return [
        LayerScore(layer, ALL, domain, Estimate(value, Interval(*interval), cells=1))
        for layer, (value, *interval) in by_layer.items()
    ]


def test_sentence_names_the_best_layers():
    found = means(IN_DOMAIN, layer3=(70.0, 68.0, 72.0), layer4=(84.1, 82.0, 86.0))
    assert best_layers(found) == "best in domain: layer4 (84.1)"
    found += means(OUT_OF_DOMAIN, layer3=(30.2, 29.0, 31.0), layer4=(20.0, 18.0, 22.0))
    assert best_layers(found) == "best in domain: layer4 (84.1); out of domain: layer3 (30.2)"


def test_sentence_names_layers_whose_intervals_overlap():
    found = means(
        IN_DOMAIN, layer1=(83.0, 81.0, 85.0), layer3=(70.0, 68.0, 72.0), layer4=(84.1, 82.0, 86.0)
    )
    expected = "best in domain: layer4 (84.1, not clearly better than layer1)"
    assert best_layers(found) == expected
    nan = float("nan")
    found = means(IN_DOMAIN, layer1=(10.0, nan, nan), layer2=(50.0, nan, nan))
    expected = "best in domain: layer2 (50.0, not clearly better than layer1)"
    assert best_layers(found) == expected


def test_runs_of_two_configurations_are_refused():
    runs = [evaluated("layer0", 0, "ldm", ldm=[60.0])]
    other = config_of("ldm", layer="layer0", learning_rate=0.5)
    runs.append(localized("ldm", config=other, ldm=[70.0]))
    with pytest.raises(InputError, match="2 configurations of runs .*learning_rate 0.5"):
        layer_scores({"layer0": runs})


def test_tables_of_the_figure_have_layers_and_the_greedy_path(scores):
    table = score_table(scores, ["layer0", "layer1", "layer2"])
    assert (table.rows, table.columns) == (
        ("layer0", "layer1", "layer2"),
        (IN_DOMAIN, OUT_OF_DOMAIN),
    )
    assert table.cell("layer0", OUT_OF_DOMAIN).value == 25
    assert table.cell("layer1", IN_DOMAIN).value == 80
    assert table.cell("layer2", IN_DOMAIN).cells == 0

    def chosen(name, score, problem=None):
        row = CellResult(
            name, "mlp", 0, 1e-3, "ldm", "finished", best_valid_iou=score, problem=problem
        )
        return LayerRound((LayerSet(tuple(name.split("+")), (row,), 1, 1),))

    both = {"layer2": (50.0, 45.0, 55.0), "layer0+layer2": (60.0, 55.0, 65.0)}
    found = means(IN_DOMAIN, **both) + means(OUT_OF_DOMAIN, **both)
    path = path_table(found, [chosen("layer2", 51.0), chosen("layer0+layer2", 62.0, "nothing")])
    assert path.rows == ("layer2", "+ layer0")
    assert path.columns == (IN_DOMAIN, OUT_OF_DOMAIN, ON_VALID)
    assert [path.cell(row, ON_VALID).value for row in path.rows] == [51, 62]
    assert [path.cell(row, ON_VALID).mark for row in path.rows] == ["", "!"]
    assert path.cell("+ layer0", IN_DOMAIN).interval == (55, 65)
