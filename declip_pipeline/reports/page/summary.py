"""Summary of a report in a few sentences."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from declip_pipeline.evaluation.cells import DOMAINS, Estimate
from declip_pipeline.evaluation.evaluation import Evaluation
from declip_pipeline.evaluation.matrices import Matrix
from declip_pipeline.evaluation.methods import Method
from declip_pipeline.evaluation.scores import MEAN_SIGMOID
from declip_pipeline.reports.matrix import interval_text
from declip_pipeline.reports.page.sections import (
    DOMAIN_NAMES,
    count_text,
    estimate_text,
    named_means,
)


def summary_of(
    localized: Sequence[Evaluation],
    detected: Sequence[Evaluation],
    found: Sequence[Matrix],
    methods: Sequence[Method] = (),
) -> list[str]:
    """Return what came out, a sentence each.

    Args:
        localized: Evaluations of localization.
        detected: Evaluations of detection.
        found: The matrices of those of localization.
        methods: Methods of a study, which stand for the matrices.
    """
    sentences = []
    if localized:
        sentences.append(_extent(localized))
        if methods:
            rivals = [Rival(one.name, one.domains, one.cells) for one in methods]
            sentences += best_sentences(rivals, "method")
        else:
            sentences += best_sentences(rivals_of(found), "configuration")
        sentences += _unstated(localized)
        sentences += _alarms(localized)
    for one in detected[:1] if len(detected) == 1 else ():
        figures = one.figures(None, MEAN_SIGMOID)
        sentences.append(
            f"{one.method} tells {figures['fake']} fake from {figures['real']} real images with "
            f"an AUC of {100 * figures['auc']:.1f} and an AP of {100 * figures['ap']:.1f} percent."
        )
    if len(detected) > 1:
        best = max(detected, key=lambda one: one.mean("auc"))
        sentences.append(
            f"Of {len(detected)} evaluations of detection, {best.run.name} tells fakes from real "
            f"images best, with an AUC of {100 * best.mean('auc'):.1f} percent."
        )
    return sentences


def _extent(evaluations: Sequence[Evaluation]) -> str:
    images = _images(one.table for one in evaluations)
    generators = {name for one in evaluations for name in one.generators}
    datasets = sorted({store.dataset for one in evaluations for store in one.stores})
    return (
        f"{count_text(len(evaluations), _noun(evaluations))} evaluated on "
        f"{count_text(images, 'fake image')} of {count_text(len(generators), 'generator')} "
        f"({', '.join(datasets)}, split {evaluations[0].split})."
    )


def _images(tables: Iterable[pa.Table]) -> int:
    """Return the number of images of tables, each once."""
    rows = (row for one in tables for row in one.select(["dataset", "id"]).to_pylist())
    return len({(str(row["dataset"]), row["id"]) for row in rows})


def _noun(evaluations: Sequence[Evaluation]) -> str:
    # An ensemble is no run, nor are maps of another tool.
    return "run" if all(one.is_of_run for one in evaluations) else "method"


@dataclass(frozen=True)
class Rival:
    """Configuration or method among those that a summary compares.

    Attributes:
        name: Its name.
        means: Mean IoU in percent in domain and out of domain.
        cells: The cells that these are over: what each was tested on, last what was learned.
    """

    name: str
    means: Mapping[str, Estimate]
    cells: frozenset[tuple[str, ...]]


def rivals_of(found: Sequence[Matrix]) -> list[Rival]:
    """Return the configurations of matrices."""
    return [
        Rival(
            one.title,
            dict(named_means(one)),
            frozenset(place for place, cell in one.table.cells.items() if cell.cells),
        )
        for one in found
    ]


def best_sentences(rivals: Sequence[Rival], noun: str) -> list[str]:
    """Name the means of a single rival, or the best of those that have the same cells.

    Those with several training sets come first, then those of the most rivals.

    Args:
        rivals: At least one.
        noun: What they are.
    """
    alike: dict[frozenset[tuple[str, ...]], list[Rival]] = {}
    for one in rivals:
        alike.setdefault(one.cells, []).append(one)

    def weight(some: Sequence[Rival]) -> tuple[bool, int, int, int]:
        cells = some[0].cells
        trainings = len({trained for *_, trained in cells})
        # Several training sets say more than one.
        return trainings > 1, len(some), trainings, len(cells)

    compared = max(alike.values(), key=weight)
    if len(compared) > 1:
        sentences = _best(compared, noun)
    else:
        (one,) = compared
        texts = [_mean_text(d, one.means[d]) for d in DOMAINS if one.means[d].cells]
        sentences = [f"{one.name}: mean IoU {' and '.join(texts)}."] if texts else []
    others = len(rivals) - len(compared)
    if others:
        sentences.append(
            f"Means of {count_text(others, f'other {noun}')} are over other cells, and are not "
            "compared."
        )
    return sentences


def _best(rivals: Sequence[Rival], noun: str) -> list[str]:
    """Name the best of several in each domain."""
    sentences = []
    for domain in DOMAINS:
        means = [(one.means[domain], one.name) for one in rivals if one.means[domain].cells]
        if means:
            best, name = max(means, key=lambda pair: pair[0].value)
            doubt = _not_clearly_better(best, [one for one, _ in means if one is not best])
            sentences.append(
                f"Best {DOMAIN_NAMES[domain]} of {count_text(len(means), noun)}: {name}, mean IoU "
                f"{estimate_text(best)} percent over {count_text(best.cells, 'cell')}{doubt}."
            )
    return sentences


def _unstated(evaluations: Sequence[Evaluation]) -> list[str]:
    """Name the means of maps of which no training is stated, over all of their images."""
    texts = []
    for one in evaluations:
        if one.learned():
            continue
        figures = one.figures()
        interval = interval_text(figures["iou_low"], figures["iou_high"], 1)
        texts.append(f"{one.method} {figures['iou']:.1f}{interval} percent")
    if not texts:
        return []
    return [f"Mean IoU of maps of which no training is stated: {', '.join(texts)}."]


def _not_clearly_better(best: Estimate, others: Sequence[Estimate]) -> str:
    near = sum(not one.interval.high < best.interval.low for one in others)
    if not near or np.isnan(best.interval.low):
        return ""
    return f", not clearly better than {near} other{'' if near == 1 else 's'}"


def _mean_text(domain: str, one: Estimate) -> str:
    return f"{estimate_text(one)} percent {DOMAIN_NAMES[domain]} ({count_text(one.cells, 'cell')})"


def _alarms(evaluations: Sequence[Evaluation]) -> list[str]:
    some = [one for one in evaluations if one.real.num_rows]
    if not some:
        return []
    images = _images(one.real for one in some)
    shares = [one.false_alarms()["false_alarm_pixels"] for one in some]
    text, highest = (f"{share:.2f}%" for share in (min(shares), max(shares)))
    if text != highest:
        text = f"depending on the {_noun(some)}, {text} to {highest}"
    return [f"Of {count_text(images, 'real image')}, {text} of the pixels are called fake."]
