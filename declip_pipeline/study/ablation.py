"""Layer ablation: IoU of a decoder by layer and generator, in and out of domain, and the best."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from declip_pipeline.errors import InputError
from declip_pipeline.evaluation.cells import DOMAIN, DOMAINS, Estimate
from declip_pipeline.evaluation.evaluation import Evaluation
from declip_pipeline.evaluation.matrices import domain_estimates
from declip_pipeline.evaluation.table import Table, two_way_tables
from declip_pipeline.files import remove_abandoned, write_text
from declip_pipeline.reports.matrix import MISSING, interval_text
from declip_pipeline.study.layer_choice import LayerRound, path_of

IN_DOMAIN, OUT_OF_DOMAIN = "in domain", "out of domain"
NAMES = dict(zip(DOMAINS, (IN_DOMAIN, OUT_OF_DOMAIN), strict=True))
ALL = "all"
"""Name of the row of a layer's means over its generators."""
ON_VALID = "valid (chosen by)"
"""Column of the validation scores that the greedy choice went by."""


@dataclass(frozen=True)
class LayerScore:
    """IoU in percent of a layer in a domain, over seeds and training sets.

    Attributes:
        layer: The layer, or several that are joined.
        generator: What it was tested on; `ALL` for the mean over all generators.
        domain: `IN_DOMAIN` or `OUT_OF_DOMAIN`.
        estimate: Mean and interval.
    """

    layer: str
    generator: str
    domain: str
    estimate: Estimate


def layer_scores(
    evaluations: Mapping[str, Sequence[Evaluation]], aliases: Mapping[str, str] | None = None
) -> list[LayerScore]:
    """Return scores by layer, generator and domain; the last of a layer are of all generators.

    Args:
        evaluations: Evaluations of the runs of each layer, which differ in their seed and
            training set alone; none where all failed.
        aliases: Names that stand for one generator; see `generator_key`.

    Raises:
        InputError: For runs of a layer that differ in more than that, naming what differs.
    """
    scores = []
    for layer, own in evaluations.items():
        means = (Estimate(), Estimate())
        if own:
            means = domain_estimates(own, aliases=aliases)
            tables = two_way_tables(own, "generator", DOMAIN, aliases=aliases)
            if len(tables) > 1:
                titles = "; ".join(table.title for table in tables)
                raise InputError(
                    f"the runs of {layer} differ in more than their seed and training set "
                    f"({titles}); evaluate them apart"
                )
            scores += [
                LayerScore(layer, generator, NAMES[domain], tables[0].cell(generator, domain))
                for generator in sorted(tables[0].rows)
                for domain in DOMAINS
            ]
        scores += [
            LayerScore(layer, ALL, domain, one)
            for domain, one in zip(NAMES.values(), means, strict=True)
        ]
    return scores


def means_of_layers(scores: Sequence[LayerScore], domain: str) -> dict[str, Estimate]:
    """Return the mean over all generators of each layer, in one domain."""
    return {
        one.layer: one.estimate for one in scores if (one.generator, one.domain) == (ALL, domain)
    }


def score_table(scores: Sequence[LayerScore], layers: Sequence[str]) -> Table:
    """Return the means of layers over all generators: a row a layer, a column a domain.

    A domain without a cell is left out.
    """
    cells = {
        (layer, domain): means[layer]
        for domain in NAMES.values()
        for means in [means_of_layers(scores, domain)]
        for layer in layers
        if means[layer].cells
    }
    columns = dict.fromkeys(domain for domain in NAMES.values() for _, d in cells if d == domain)
    return Table("layer", tuple(layers), tuple(columns), cells)


def path_table(scores: Sequence[LayerScore], rounds: Sequence[LayerRound]) -> Table:
    """Return the means of the sets on the greedy path, and their validation scores.

    A row is named by the layer that its round added.
    """
    sets = path_of(rounds)
    found = score_table(scores, [one.name for one in sets])
    names: list[str] = []
    before: set[str] = set()
    for one in sets:
        added = [layer for layer in one.layers if layer not in before]
        names.append(("+ " if before else "") + ", ".join(added))
        before.update(one.layers)
    named = {one.name: name for one, name in zip(sets, names, strict=True)}
    cells = {(named[row], column): cell for (row, column), cell in found.cells.items()}
    cells |= {
        (named[one.name], ON_VALID): Estimate(one.score, cells=1, mark=one.mark)
        for one in sets
        if one.score is not None
    }
    columns = (*found.columns, ON_VALID)
    return Table("layers, joined one by one", tuple(names), columns, cells, "Greedy choice")


def ablation_table(scores: Sequence[LayerScore]) -> str:
    """Return the scores as text for a terminal: a row for each layer and generator."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for one in scores:
        rows.setdefault((one.layer, one.generator), {})[one.domain] = _cell(one.estimate)
    lines = [["layer", "tested on", *NAMES.values()]]
    lines += [[*names, *cells.values()] for names, cells in rows.items()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number < 2 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def best_layers(scores: Sequence[LayerScore]) -> str:
    """Return one sentence that names the best layer in domain and out of domain.

    Layers whose intervals overlap that of the best are named with it.
    """
    parts = [
        f"{domain}: {_best(means)}"
        for domain in NAMES.values()
        if (means := {k: v for k, v in means_of_layers(scores, domain).items() if v.cells})
    ]
    return f"best {'; '.join(parts)}" if parts else "no layer has an image with a fake pixel"


def write_scores(path: Path, scores: Sequence[LayerScore]) -> None:
    """Write a CSV file of the scores, whole or not at all."""
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    names = "mean_iou", "standard_deviation", "seeds", "mean_low", "mean_high", "mark"
    writer.writerow(["layer", "generator", "domain", *names])
    for score in scores:
        one = score.estimate
        values = one.value, one.spread, len(one.by_seed), *one.interval, one.mark
        writer.writerow([score.layer, score.generator, score.domain, *values])
    remove_abandoned(path.parent)
    write_text(path, content.getvalue())


def _cell(one: Estimate) -> str:
    if not one.cells:
        return MISSING
    spread = f" ± {one.spread:.2f}" if len(one.by_seed) > 1 else ""
    return f"{one.value:.2f}{one.mark}{spread}{interval_text(*one.interval, 1)}"


def _best(means: Mapping[str, Estimate]) -> str:
    """Return the best layer, its mean, and the layers that are not told apart from it."""
    best = max(means, key=lambda layer: means[layer].value)
    low = means[best].interval.low
    # Of too few images there is no interval (NaN), and nothing is clear.
    near = [n for n, one in means.items() if n != best and not one.interval.high < low]
    doubt = f", not clearly better than {', '.join(near)}" if near else ""
    return f"{best} ({means[best].value:.1f}{means[best].mark}{doubt})"
