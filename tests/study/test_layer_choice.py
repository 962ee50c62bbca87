"""Greedy choice of layers: what each round trains, what it chooses, what is refused."""

import csv
import math
from dataclasses import replace

import pytest

from declip_pipeline.errors import InputError
from declip_pipeline.study.layer_choice import (
    LayerRound,
    LayerSet,
    choose_layers,
    gain,
    path_of,
    set_to_store,
    write_layer_sets,
)
from declip_pipeline.study.steps import EvaluationStep, TrainingStep
from declip_pipeline.study.study import Study
from declip_pipeline.sweeps.grid import CellResult

# Of the tiny ViT's four layers; of pairs that are not here less than of any single layer.
SCORES = {
    "layer0": 10.0, "layer1": 30.0, "layer2": 50.0, "layer3": 40.0,
    "layer0+layer2": 55.0, "layer1+layer2": 53.0, "layer2+layer3": 60.0,
    "layer0+layer2+layer3": 58.0, "layer1+layer2+layer3": 59.0,
}  # fmt: skip


@pytest.fixture
def study(tiny_store):
    step = TrainingStep((tiny_store,), {"layer": ["all"], "name": "named", "fusion": "weighted"})
    return Study((step,), EvaluationStep((tiny_store,)))


@pytest.fixture
def trained(monkeypatch):
    """Answers each training by `SCORES`, two runs a set; returns the options that were asked."""
    asked = []

    def train(self):
        (step,) = self.trainings
        asked.append(step.options)
        return [
            CellResult(
                *(layer, "linear", seed, 1e-3, "noisy"),
                state="finished" if layer in SCORES else "failed",
                run=f"{layer}_{seed}",
                best_valid_iou=SCORES[layer] + (1, -1)[seed] if layer in SCORES else None,
            )
            for layer in step.options["layer"]
            for seed in (0, 1)
        ]

    monkeypatch.setattr(Study, "train", train)
    return asked


def test_each_round_joins_the_best_set_with_every_other_layer(study, trained, tiny_store, tmp_path):
    rounds = choose_layers(study, 3)
    assert [options["layer"] for options in trained] == [
        ["layer0", "layer1", "layer2", "layer3"],
        ["layer0+layer2", "layer1+layer2", "layer2+layer3"],
        ["layer0+layer2+layer3", "layer1+layer2+layer3"],
    ]
    assert [(one.name, one.score) for one in path_of(rounds)] == [
        ("layer2", 50.0), ("layer2+layer3", 60.0), ("layer1+layer2+layer3", 59.0),
    ]  # fmt: skip
    # A third layer does not help: the pair is what to store.
    best = set_to_store(rounds)
    assert best is rounds[1].chosen
    one = tiny_store.bytes_per_row("layer2")
    assert (best.bytes_per_row, best.total_bytes) == (2 * one, 2 * one * len(tiny_store))
    write_layer_sets(tmp_path / "layer_sets.csv", rounds)
    with (tmp_path / "layer_sets.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["layers"] for row in rows if row["chosen"]] == [
        *("layer2", "layer2+layer3", "layer1+layer2+layer3")
    ]
    assert len(rows) == 4 + 3 + 2
    assert rows[4] == {
        "layers": "layer0+layer2", "number": "2", "chosen": "", "valid_iou": "55.0", "mark": "",
        "runs": "2", "bytes_per_row": str(2 * one), "total_bytes": str(2 * one * len(tiny_store)),
    }  # fmt: skip


def test_a_set_with_a_run_that_learned_nothing_is_marked(tmp_path):
    rows = [
        CellResult(
            "layer0", "mlp", seed, 1e-2, "ldm", "finished", best_valid_iou=9.0, problem=problem
        )
        for seed, problem in enumerate((None, "it learned nothing"))
    ]
    rounds = [LayerRound((LayerSet(("layer0",), tuple(rows), 1, 2),))]
    write_layer_sets(tmp_path / "layer_sets.csv", rounds)
    assert (tmp_path / "layer_sets.csv").read_text().splitlines()[1] == "layer0,1,yes,9.0,!,2,1,2"


def test_rounds_have_folders_and_a_fusion_of_their_own(study, trained):
    choose_layers(study, 3)
    assert [options["name"] for options in trained] == ["named", "named-2", "named-3"]
    # Of a single layer there is no weighted sum.
    assert [options["fusion"] for options in trained] == ["concat", "weighted", "weighted"]


def test_of_equal_sets_the_first_is_chosen(study, trained, monkeypatch):
    monkeypatch.setitem(SCORES, "layer1", 50.0)
    rounds = choose_layers(study, 1)
    assert len(rounds) == 1 and rounds[0].chosen.name == "layer1"


def test_sets_with_a_failed_run_are_not_chosen(study, trained, monkeypatch):
    monkeypatch.delitem(SCORES, "layer2+layer3")
    monkeypatch.delitem(SCORES, "layer1+layer2")
    rounds = choose_layers(study, 2)
    assert rounds[1].chosen.name == "layer0+layer2"
    assert [one.score for one in rounds[1].sets] == [55.0, None, None]
    for name in list(SCORES):
        monkeypatch.delitem(SCORES, name)
    rounds = choose_layers(study, 3)
    assert len(rounds) == 1 and rounds[0].chosen is None and set_to_store(rounds) is None


def test_what_cannot_be_chosen_from_is_refused_before_training(study, trained):
    with pytest.raises(InputError, match="`greedy=5`, but there are 4 layers to choose from"):
        choose_layers(study, 5)
    (step,) = study.trainings
    options = {**step.options, "layer": ["layer0", "layer1+layer2"]}
    joined = replace(study, trainings=(replace(step, options=options),))
    with pytest.raises(InputError, match=r"joins single layers itself, found layer1\+layer2; name"):
        choose_layers(joined, 2)
    assert trained == []
    assert [one.name for one in choose_layers(joined, 1)[0].sets] == ["layer0", "layer1+layer2"]


def made(name, *scores):
    rows = [
        CellResult(name, "mlp", seed, 1e-3, "noisy", "finished", best_valid_iou=score)
        for seed, score in enumerate(scores)
    ]
    return LayerSet(tuple(name.split("+")), tuple(rows), 1, 1)


def test_a_layer_whose_gain_is_within_its_standard_error_is_not_worth_storing():
    one, two = made("a", 50.0, 60.0, 70.0), made("a+b", 53.0, 61.0, 74.0)
    three = made("a+b+c", 54.0, 60.0, 75.0)
    # Differences of runs of the same seed: 3, 1, 4, whatever the runs differ in among themselves.
    assert gain(two, one) == pytest.approx((8 / 3, (7 / 3) ** 0.5 / 3**0.5))
    # 1, -1, 1.
    assert gain(three, two) == pytest.approx((1 / 3, 2 / 3))
    rounds = [LayerRound((some,)) for some in (one, two, three)]
    assert set_to_store(rounds) is two
    assert set_to_store(rounds[:1]) is one


def test_of_a_single_run_the_best_set_is_stored():
    rounds = [LayerRound((made("a", 50.0),)), LayerRound((made("a+b", 50.1),))]
    assert set_to_store(rounds) is rounds[1].chosen
    mean, error = gain(rounds[1].chosen, rounds[0].chosen)
    assert mean == pytest.approx(0.1) and math.isnan(error)
