"""What each layer is good for: IoU of decoders on the test split, in and out of domain."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from declip_pipeline.files import write_text
from declip_pipeline.metrics.bootstrap import NO_INTERVAL, Interval
from declip_pipeline.sweeps.cross_evaluation import Evaluation
from declip_pipeline.sweeps.grid import CellResult
from declip_pipeline.sweeps.matrix_intervals import matrix_intervals

IN_DOMAIN, OUT_OF_DOMAIN = "in domain", "out of domain"


@dataclass(frozen=True)
class LayerScore:
    """IoU in percent of one layer in one domain, a value for each seed (none without such a test).

    A seed's value is the mean over its training sets and the generators of the test: those that
    were learned (in domain), or those that were not. `interval` is the bootstrap's of their mean,
    over pictures and seeds.
    """

    layer: str
    domain: str
    ious: tuple[float, ...]
    interval: Interval = NO_INTERVAL

    @property
    def mean(self) -> float:
        """Over seeds; NaN without a value."""
        return fmean(self.ious) if self.ious else float("nan")

    @property
    def spread(self) -> float:
        """Standard deviation over seeds; NaN of fewer than two."""
        return stdev(self.ious) if len(self.ious) > 1 else float("nan")


def layer_scores(
    results: Sequence[CellResult], evaluations: Mapping[str, Evaluation]
) -> list[LayerScore]:
    """Scores of each layer, in domain and out of it, layers in the order of the results.

    `results` are rows of a grid of one decoder, `evaluations` maps the folders of its finished runs
    to how they did; rows that failed are left out.
    """
    scores = []
    for layer in dict.fromkeys(result.layer for result in results):
        own = [(row, evaluations[row.run]) for row in results if row.layer == layer and row.run]
        intervals = matrix_intervals([evaluation for _, evaluation in own])
        for domain, interval in zip((IN_DOMAIN, OUT_OF_DOMAIN), intervals, strict=True):
            by_seed: dict[int, list[float]] = {}
            for result, evaluation in own:
                for generator, figures in evaluation.figures.items():
                    iou = figures["iou"]
                    learned = generator in evaluation.trained_on
                    if iou is not None and learned == (domain == IN_DOMAIN):
                        by_seed.setdefault(result.seed, []).append(iou)
            means = tuple(fmean(ious) for ious in by_seed.values())
            scores.append(LayerScore(layer, domain, means, interval))
    return scores


def write_scores(path: Path, scores: Sequence[LayerScore]) -> None:
    """Write a CSV file of layer, domain, mean, spread, seeds and interval, whole or not at all."""
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(
        ["layer", "domain", "mean_iou", "standard_deviation", "seeds", "mean_low", "mean_high"]
    )
    for score in scores:
        values = score.mean, score.spread, len(score.ious), *score.interval
        writer.writerow([score.layer, score.domain, *values])
    write_text(path, content.getvalue())
