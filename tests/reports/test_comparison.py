"""Report of a comparison: names of sides, rankings, pairs, files."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from support.made_evaluation import detected, localized

from declip_pipeline.evaluation.compare import Comparison
from declip_pipeline.evaluation.cost import Cost, RunCost
from declip_pipeline.evaluation.metrics import DETECTION_METRICS, METRICS
from declip_pipeline.evaluation.pairs import compared
from declip_pipeline.evaluation.scores import MEAN_SIGMOID
from declip_pipeline.reports.comparison import (
    cost_rows,
    letter,
    pair_rows,
    ranking_rows,
    side_lines,
    side_names,
    write_comparison,
)
from declip_pipeline.training.learning import MARK_MEANING

COST = RunCost(Cost(30_000, 9_000_000, 0.25), Cost(304_000_000, 81_000_000_000, 870.0), "cpu")


def comparison_of(*evaluations, metrics=None):
    sides = tuple((one,) for one in evaluations)
    means, pairs = compared(sides, score=MEAN_SIGMOID, metrics=metrics)
    return Comparison(tuple(means), tuple(pairs), sides, {})


@pytest.fixture
def three():
    return comparison_of(
        localized("a", ldm=[50.0, 60.0], lama=[1.0, 2.0]),
        localized("b", ldm=[70.0, 90.0], lama=[3.0, 5.0]),
        localized("c", ldm=[10.0, 20.0], lama=[7.0, 9.0]),
        metrics=["iou"],
    )


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as content:
        return list(csv.DictReader(content))


def test_sides_are_named_by_letters():
    assert [letter(side) for side in (0, 25, 26, 51, 52, 701, 702)] == [
        *("A", "Z", "AA", "AZ", "BA", "ZZ", "AAA")
    ]


def test_a_ranking_begins_with_the_best(three):
    own = [one for one in three.means if one.generator == "ldm"]
    head, *rows = ranking_rows(own, METRICS["iou"], ["A", "B!", "C"])
    assert head == ["rank", "ranks", "run", "IoU", "95% interval"]
    assert [(row[0], row[2], row[3]) for row in rows] == [
        ("1", "B!", "80.00"), ("2", "A", "55.00"), ("3", "C", "15.00"),
    ]  # fmt: skip
    assert rows[0][1] == "1 to 1" and rows[0][4] == "[70.00, 90.00]"


def test_pairs_have_two_p_values(three):
    own = [one for one in three.pairs if one.generator == "ldm"]
    head, *rows = pair_rows(own, METRICS["iou"], ["A", "B!", "C"])
    assert head[-2:] == ["p", "p by Holm"]
    assert [row[:2] for row in rows] == [
        ["A - B!", "-25.00"],
        ["A - C", "+40.00"],
        ["B! - C", "+65.00"],
    ]
    for row, pair in zip(rows, own, strict=True):
        assert row[-2:] == [f"{pair.difference.p_value:.4f}", f"{pair.corrected_p_value:.4f}"]
        assert pair.corrected_p_value == pytest.approx(3 * pair.difference.p_value)


def test_files_have_every_generator(three, tmp_path):
    page = write_comparison(tmp_path / "out", three, title="Three", split="test", costs={1: COST})
    ranking, pairs = (rows_of(page.with_name(name)) for name in ("ranking.csv", "pairs.csv"))
    assert [(row["generator"], row["run"]) for row in ranking] == [
        (name, side) for name in ("lama", "ldm", "overall") for side in "ABC"
    ]
    assert [row["rank"] for row in ranking[:3]] == ["3", "2", "1"]
    assert (ranking[0]["mean"], ranking[0]["low"], ranking[0]["high"]) == ("1.5", "1.0", "2.0")
    assert (ranking[0]["rank_low"], ranking[0]["rank_high"]) == ("3", "3")
    assert (ranking[0]["decoder_macs"], ranking[1]["decoder_macs"]) == ("", "9000000")
    assert (ranking[1]["backbone_parameters"], ranking[1]["backbone_ms"]) == ("304000000", "870.0")
    assert [(row["first"], row["second"]) for row in pairs[:3]] == [
        ("A", "B"),
        ("A", "C"),
        ("B", "C"),
    ]
    assert {row["mark"] for row in pairs} == {""}
    assert float(pairs[0]["difference"]) == -2.5
    assert float(pairs[0]["p_holm"]) == pytest.approx(3 * float(pairs[0]["p"]))
    text = page.read_text()
    assert text.startswith("# Three\n\n- A: a_seed0\n- B: b_seed0\n- C: c_seed0\n")
    for heading in ("lama", "ldm", "overall"):
        assert f"## {heading}: IoU (percent), " in text
    assert "| rank | ranks | run | IoU | 95% interval |\n| --- | --- | --- | --- | --- |\n" in text
    assert "| B | 0.03 | 0.009 | 0.25 | 304 | 81 | 870 |\n" in text


def test_costs_are_in_millions_and_billions():
    head, *rows = cost_rows([("A", COST), ("B", RunCost(COST.decoder, None, "cpu"))])
    assert head == ["run", "decoder M", "GMAC", "ms", "backbone M", "GMAC", "ms"]
    assert rows == [
        ["A", "0.03", "0.009", "0.25", "304", "81", "870"],
        ["B", "0.03", "0.009", "0.25", "-", "-", "-"],
    ]


def test_without_an_interval_there_is_none_in_the_files(tmp_path):
    one = comparison_of(localized("a", ldm=[1.0]), localized("b", ldm=[2.0]), metrics=["iou"])
    page = write_comparison(tmp_path, one, title="One image", split="test", costs={})
    (first, _), (pair,) = (rows_of(page.with_name(name)) for name in ("ranking.csv", "pairs.csv"))
    assert (first["rank"], first["rank_low"], pair["p_holm"]) == ("2", "", "nan")
    assert "| 2 | - | A | 1.00 | - |\n" in page.read_text()
    assert "cost" not in page.read_text().lower()


def test_detection_has_its_own_metrics():
    real, fakes = [0.1, 0.2], [0.8, 0.15]
    found = comparison_of(
        detected("a", real=real, ldm=fakes), detected("b", real=fakes, ldm=real), metrics=["auc"]
    )
    assert side_lines(found) == ["A: a_seed0", "B: b_seed0"]
    head, first, _ = ranking_rows(found.means, DETECTION_METRICS["auc"], side_names(found))
    assert (head[3], first[3]) == ("AUC", "75.00")


def test_runs_that_learned_nothing_are_marked(tmp_path):
    constant = replace(localized("a", ldm=[1.0, 2.0]), problem="it learned nothing")
    found = comparison_of(constant, localized("b", ldm=[3.0, 4.0]), metrics=["iou"])
    assert side_names(found) == ["A!", "B"]
    assert side_lines(found) == ["A!: a_seed0", "B: b_seed0", MARK_MEANING]
    page = write_comparison(tmp_path, found, title="Two", split="test", costs={})
    assert [row["mark"] for row in rows_of(page.with_name("ranking.csv"))] == ["!", ""]
    assert [row["mark"] for row in rows_of(page.with_name("pairs.csv"))] == ["!"]
    assert "| 2 | 2 to 2 | A! | 1.50 |" in page.read_text() and MARK_MEANING in page.read_text()
