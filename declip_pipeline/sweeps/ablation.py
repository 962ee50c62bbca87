"""Layer ablation: IoU of a decoder by layer on the test split, in and out of domain."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from declip_pipeline.evaluation.cells import Estimate
from declip_pipeline.evaluation.evaluation import Evaluation
from declip_pipeline.evaluation.table import domain_estimates
from declip_pipeline.files import write_text
from declip_pipeline.sweeps.grid import CellResult

IN_DOMAIN, OUT_OF_DOMAIN = "in domain", "out of domain"


@dataclass(frozen=True)
class LayerScore:
    """IoU in percent of one layer in one domain, over seeds, training sets and test generators."""

    layer: str
    domain: str
    estimate: Estimate


def layer_scores(
    results: Sequence[CellResult],
    evaluations: Mapping[str, Evaluation],
    aliases: Mapping[str, str] | None = None,
) -> list[LayerScore]:
    """Return scores of each layer, in domain and out of it, layers in the order of the results.

    Args:
        results: Rows of a grid of one decoder; those that failed are left out.
        evaluations: Evaluations by the folder of the finished run.
        aliases: Names that stand for one generator; see `generator_key`.
    """
    scores = []
    for layer in dict.fromkeys(result.layer for result in results):
        own = [evaluations[row.run] for row in results if row.layer == layer and row.run]
        found = domain_estimates(own, aliases=aliases) if own else (Estimate(), Estimate())
        for domain, one in zip((IN_DOMAIN, OUT_OF_DOMAIN), found, strict=True):
            scores.append(LayerScore(layer, domain, one))
    return scores


def write_scores(path: Path, scores: Sequence[LayerScore]) -> None:
    """Write a CSV file of layer, domain, mean, spread, seeds and interval, whole or not at all."""
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(
        ["layer", "domain", "mean_iou", "standard_deviation", "seeds", "mean_low", "mean_high"]
    )
    for score in scores:
        one = score.estimate
        values = one.value, one.spread, len(one.by_seed), *one.interval
        writer.writerow([score.layer, score.domain, *values])
    write_text(path, content.getvalue())
