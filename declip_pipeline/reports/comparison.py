"""Report of a comparison of runs: rankings and pairs as text, CSV files and a Markdown page."""

import csv
import io
from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from string import ascii_uppercase

from declip_pipeline.evaluation.compare import Comparison
from declip_pipeline.evaluation.cost import RunCost
from declip_pipeline.evaluation.evaluation import Evaluation
from declip_pipeline.evaluation.metrics import DETECTION_PROTOCOL, Metric, protocol_lines
from declip_pipeline.evaluation.pairs import PairDifference, RankedMean, metrics_of
from declip_pipeline.files import remove_abandoned, write_text
from declip_pipeline.metrics.bootstrap import Interval
from declip_pipeline.reports.matrix import MISSING, interval_text
from declip_pipeline.training.learning import MARK, MARK_MEANING

RANKING, PAIRS, PAGE = "ranking.csv", "pairs.csv", "comparison.md"
"""Files of a report."""

DECIMALS = 2

Costs = Mapping[int, RunCost]
"""Costs by the number of a side."""

Rows = list[list[str]]
"""Cells of a table, its header first."""


def letter(side: int) -> str:
    """Return the name of a side in tables: A to Z, then AA, AB and so on."""
    before, place = divmod(side, len(ascii_uppercase))
    return (letter(before - 1) if before else "") + ascii_uppercase[place]


def side_names(comparison: Comparison) -> list[str]:
    """Return the letter of each side, with a mark where one of its runs learned nothing."""
    return [letter(side) + _mark(runs) for side, runs in enumerate(comparison.sides)]


def side_lines(comparison: Comparison) -> list[str]:
    """Return a line for each side, its name and the folders of its runs; more for marked ones."""
    lines = [
        f"{name}: {', '.join(str(one.run) for one in runs)}"
        for name, runs in zip(side_names(comparison), comparison.sides, strict=True)
    ]
    return [*lines, *([MARK_MEANING] if any(map(_mark, comparison.sides)) else [])]


def ranking_rows(means: Sequence[RankedMean], metric: Metric, names: Sequence[str]) -> Rows:
    """Return the sides by rank, of one metric and generator; `names` are those of all sides."""
    return [
        ["rank", "ranks", "run", metric.title, "95% interval"],
        *(
            [
                str(one.rank),
                MISSING if one.ranks is None else f"{one.ranks[0]} to {one.ranks[1]}",
                names[one.side],
                f"{metric.percent * one.value:.{DECIMALS}f}",
                _interval(one.interval, metric),
            ]
            for one in sorted(means, key=lambda one: (one.rank, one.side))
        ),
    ]


def pair_rows(pairs: Sequence[PairDifference], metric: Metric, names: Sequence[str]) -> Rows:
    """Return the differences of all pairs, of one metric and generator."""
    return [
        ["pair", "difference", "95% interval", "p", "p by Holm"],
        *(
            [
                " - ".join(names[side] for side in one.sides),
                *difference_cells(one, metric),
                p_text(one.corrected_p_value),
            ]
            for one in pairs
        ),
    ]


def difference_cells(pair: PairDifference, metric: Metric) -> list[str]:
    """Return a difference, its interval, and its p-value as text."""
    difference = pair.difference
    return [
        f"{metric.percent * difference.value:+.{DECIMALS}f}",
        _interval(difference.interval, metric),
        p_text(difference.p_value),
    ]


def _interval(interval: Interval, metric: Metric) -> str:
    low, high = (metric.percent * end for end in interval)
    return interval_text(low, high, DECIMALS).strip() or MISSING


def p_text(p_value: float) -> str:
    """Return a p-value as text, "-" for NaN."""
    return MISSING if isnan(p_value) else f"{p_value:.4f}"


def cost_rows(costs: Sequence[tuple[str, RunCost]]) -> Rows:
    """Return the costs of runs, each with a name: millions of parameters, GMAC and ms an image."""
    header = ["run", "decoder M", "GMAC", "ms", "backbone M", "GMAC", "ms"]
    rows = [header]
    for name, cost in costs:
        cells = [name]
        for part in (cost.decoder, cost.backbone):
            if part is None:
                cells += [MISSING] * 3
            else:
                values = part.parameters / 1e6, part.macs / 1e9, part.milliseconds
                cells += [f"{value:.3g}" for value in values]
        rows.append(cells)
    return rows


def cost_caption(costs: Sequence[RunCost]) -> str:
    """Return a sentence on how costs were counted and measured."""
    return (
        "cost of an image (of a run on tiles: a tile): millions of parameters, MACs by PyTorch's "
        "counter (half of its FLOPs; backbones as far as the deepest layer, with all parameters), "
        f"ms in float32 on {costs[0].measured}"
    )


def write_comparison(
    out: Path, comparison: Comparison, *, title: str, split: str, costs: Costs
) -> Path:
    """Write `ranking.csv`, `pairs.csv` and `comparison.md`, each whole or not at all.

    Args:
        out: Folder of the files.
        comparison: The comparison.
        title: Title of the page.
        split: Split that was evaluated.
        costs: Cost of each side, or of none.

    Returns:
        Path of the page.
    """
    task = comparison.sides[0][0].task
    known, shown = metrics_of(task), side_names(comparison)
    compared = dict.fromkeys(one.metric for one in comparison.means)
    caption = [DETECTION_PROTOCOL] if task == "detection" else protocol_lines(compared)
    remove_abandoned(out)
    write_text(out / RANKING, _ranking_csv(comparison, costs))
    write_text(out / PAIRS, _pairs_csv(comparison))
    lines = [f"# {title}\n", *(f"- {line}" for line in side_lines(comparison)), ""]
    lines += [*(f"{line}\n" for line in caption)]
    lines += [
        f"{split} split, the images that all runs were evaluated on. Intervals of 95% and p-values "
        "are of a bootstrap of scenes, the same ones for all runs, and of seeds, where a run has "
        "several. p by Holm is corrected for the number of pairs of its table, not for the number "
        "of tables. Ranks are those in 95% of the resamples.\n"
    ]
    if costs:
        named = [(shown[side], cost) for side, cost in costs.items()]
        lines += [
            f"## Cost\n\n{cost_caption(list(costs.values()))}.\n",
            _markdown(cost_rows(named)),
        ]
    for generator, name in dict.fromkeys((one.generator, one.metric) for one in comparison.means):
        means = [o for o in comparison.means if (o.generator, o.metric) == (generator, name)]
        pairs = [o for o in comparison.pairs if (o.generator, o.metric) == (generator, name)]
        lines += [
            f"## {generator}: {known[name].meaning} (percent), {means[0].images} images\n",
            _markdown(ranking_rows(means, known[name], shown)),
            _markdown(pair_rows(pairs, known[name], shown)),
        ]
    write_text(out / PAGE, "\n".join(lines))
    return out / PAGE


def _mark(runs: Sequence[Evaluation]) -> str:
    return MARK if any(one.problem for one in runs) else ""


def _markdown(rows: Rows) -> str:
    head, *body = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    rule = ["---"] * len(head)
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *body))


def _ranking_csv(comparison: Comparison, costs: Costs) -> str:
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    names = ["generator", "metric", "images", "run", "folders", "mean", "low", "high"]
    names += ["rank", "rank_low", "rank_high", "mark"]
    parts = ("decoder", "backbone")
    if costs:
        names += [f"{part}_{name}" for part in parts for name in ("parameters", "macs", "ms")]
        names.append("measured")
    writer.writerow(names)
    for one in comparison.means:
        folders = ",".join(str(run.run) for run in comparison.sides[one.side])
        row: list[object] = [one.generator, one.metric, one.images, letter(one.side), folders]
        row += [one.value, *one.interval, one.rank, *(one.ranks or ("", ""))]
        row.append(_mark(comparison.sides[one.side]))
        row += _cost_cells(costs.get(one.side)) if costs else []
        writer.writerow(row)
    return content.getvalue()


def _cost_cells(cost: RunCost | None) -> list[object]:
    if cost is None:
        return [""] * 7
    cells: list[object] = []
    for part in (cost.decoder, cost.backbone):
        cells += [""] * 3 if part is None else [part.parameters, part.macs, part.milliseconds]
    return [*cells, cost.measured]


def _pairs_csv(comparison: Comparison) -> str:
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    names = ["generator", "metric", "images", "first", "second", "difference", "low", "high"]
    writer.writerow([*names, "p", "p_holm", "mark"])
    for one in comparison.pairs:
        difference = one.difference
        writer.writerow(
            [
                *(one.generator, one.metric, one.images),
                *map(letter, one.sides),
                *(difference.value, *difference.interval),
                *(difference.p_value, one.corrected_p_value),
                max(_mark(comparison.sides[side]) for side in one.sides),
            ]
        )
    return content.getvalue()
