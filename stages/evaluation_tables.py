"""Tables of evaluations as `evaluate` prints them: of seeds, matrices, domains and costs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from declip_pipeline.evaluation.evaluation import Evaluation
    from declip_pipeline.evaluation.map_source import MapSource
    from declip_pipeline.evaluation.selection import Selection


def print_together(
    evaluations: "Sequence[Evaluation]",
    selection: "Selection",
    aliases: Mapping[str, str],
    metrics: "Sequence[str]",
) -> None:
    """Print means over seeds, and in domain and out of domain."""
    from declip_pipeline.evaluation.cells import seed_groups
    from stages.figures_texts import evaluation_lines, seeds_title
    from stages.screen import result

    split = selection.split
    for group in seed_groups(evaluations):
        if len(group.members) > 1:
            lines = evaluation_lines(group.members, metrics)
            result("\n".join([seeds_title(group, split), *lines]))
    if selection.task == "detection":
        _print_detection_domains(evaluations, split, aliases)
    else:
        _print_matrices(evaluations, split, aliases, metrics[0])


def _print_matrices(
    evaluations: "Sequence[Evaluation]", split: str, aliases: Mapping[str, str], metric: str
) -> None:
    from declip_pipeline.evaluation.matrices import matrices
    from declip_pipeline.evaluation.metrics import LOCALIZATION_METRICS
    from declip_pipeline.reports.matrix import format_matrix_text
    from declip_pipeline.training.learning import MARK_MEANING
    from stages.figures_texts import caption_of
    from stages.screen import result

    one = LOCALIZATION_METRICS[metric]
    found = matrices(evaluations, metrics=[metric], aliases=aliases)
    for matrix in found:
        values = one.percent * matrix.table.values
        if values.size < 2:
            continue
        # Beside other maps, a run's column has no more than the name of what it learned.
        of = f", {matrix.title}" if len(found) > 1 or matrix.unstated else ""
        text = format_matrix_text(
            values,
            matrix.table.rows,
            matrix.table.marked_columns,
            intervals=[(one.percent * low, one.percent * high) for low, high in matrix.intervals],
            domain=matrix.domain,
        )
        title = f"{one.meaning} (percent), {split} split{of}"
        result(f"\n{title}\n{caption_of([metric])}\n{text.rstrip()}")
        if matrix.table.is_marked:
            result(MARK_MEANING)
        if matrix.unstated:
            result(
                f"{', '.join(matrix.unstated)}: maps of which no training set is stated (--maps "
                "NAME:GENERATOR+...=FOLDER states it), in neither mean"
            )


def _print_detection_domains(
    evaluations: "Sequence[Evaluation]", split: str, aliases: Mapping[str, str]
) -> None:
    """Print the means of the scores that all runs of a configuration have, of several cells."""
    from declip_pipeline.evaluation.cells import DOMAINS
    from declip_pipeline.evaluation.matrices import matrices
    from stages.figures_texts import caption_of, domains_line
    from stages.screen import result

    titles: dict[str, list[str]] = {}
    scores = list(dict.fromkeys(score for one in evaluations for score in one.scores))
    for score in scores:
        own = [one for one in evaluations if score in one.scores]
        for matrix in matrices(own, metrics=("ap", "auc"), score=score, aliases=aliases):
            if len(matrix.table.cells) > 1:
                ap, auc = matrix.domains["ap"], matrix.domains["auc"]
                line = domains_line(list(zip(DOMAINS, zip(ap, auc, strict=True), strict=True)))
                if not line:
                    continue  # of maps without a stated training
                titles.setdefault(matrix.title, []).append(f"  {score}: {line}")
    for title, lines in titles.items():
        head = f"\nmeans over cells, {split} split, {title}\n{caption_of([])}"
        result("\n".join([head, *lines]))


def print_costs(sources: "Sequence[MapSource]", device: "torch.device") -> None:
    """Print what runs cost, those that differ in their seed alone once; maps have no cost."""
    from declip_pipeline.evaluation.cost import CostMeter
    from declip_pipeline.evaluation.groups import kind_of
    from stages.figures_texts import cost_text
    from stages.map_sources import remark_no_cost, runs_of
    from stages.screen import result

    remark_no_cost(sources)
    meter = CostMeter(device)
    kinds: dict[str, MapSource] = {}
    for source in sources:
        if runs_of([source]):
            kinds.setdefault(kind_of(source.config()), source)
    if kinds:
        costs = [(one.name, meter.of(*runs_of([one]))) for one in kinds.values()]
        result("\n" + cost_text(costs))
