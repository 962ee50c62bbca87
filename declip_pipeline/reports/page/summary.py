"""Summary of a report in a few sentences."""

from collections.abc import Mapping, Sequence

import numpy as np

from declip_pipeline.evaluation.cells import DOMAINS, Estimate
from declip_pipeline.evaluation.evaluation import Evaluation
from declip_pipeline.evaluation.methods import Method
from declip_pipeline.evaluation.scores import MEAN_SIGMOID
from declip_pipeline.evaluation.table import Matrix
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
            sentences += _best([(one.name, one.domains) for one in methods], "method")
        else:
            sentences += best_sentences(found)
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
    images = {
        (str(row["dataset"]), row["id"])
        for one in evaluations
        for row in one.table.select(["dataset", "id"]).to_pylist()
    }
    generators = {name for one in evaluations for name in one.generators}
    datasets = sorted({store.dataset for one in evaluations for store in one.stores})
    # An ensemble is no run, nor are maps of another tool.
    noun = "run" if all(one.is_of_run for one in evaluations) else "method"
    return (
        f"{count_text(len(evaluations), noun)} evaluated on "
        f"{count_text(len(images), 'fake image')} of {count_text(len(generators), 'generator')} "
        f"({', '.join(datasets)}, split {evaluations[0].split})."
    )


def best_sentences(found: Sequence[Matrix]) -> list[str]:
    """Name the only configuration's means, or the best configurations of several."""
    # Means over other cells are no rivals.
    alike: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Matrix]] = {}
    for one in found:
        alike.setdefault((one.table.rows, one.table.columns), []).append(one)
    # Several training sets say more than one.
    rivals = max(
        alike.values(),
        key=lambda some: (len(some[0].table.columns) > 1, len(some), len(some[0].table.columns)),
    )
    if len(rivals) == 1:
        texts = [_mean_text(d, one) for d, one in named_means(rivals[0]) if one.cells]
        return [f"{rivals[0].title}: mean IoU {' and '.join(texts)}."] if texts else []
    return _best([(one.title, dict(named_means(one))) for one in rivals], "configuration")


def _best(rivals: Sequence[tuple[str, Mapping[str, Estimate]]], noun: str) -> list[str]:
    """Name the best of several in each domain."""
    sentences = []
    for domain in DOMAINS:
        means = [(means[domain], name) for name, means in rivals if means[domain].cells]
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
    figures = [one.false_alarms() for one in evaluations if one.real.num_rows]
    if not figures:
        return []
    shares = [one["false_alarm_pixels"] for one in figures]
    images = max(one["real_images"] for one in figures)
    text = f"{shares[0]:.2f}%"
    if len(shares) > 1:
        text = f"depending on the run, {min(shares):.2f}% to {max(shares):.2f}%"
    return [f"Of {count_text(images, 'real image')}, {text} of the pixels are called fake."]
