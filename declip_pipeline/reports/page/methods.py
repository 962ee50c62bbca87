"""Methods of a study: the cells of their tables, and the names of their runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from declip_pipeline.evaluation.cells import DOMAINS
from declip_pipeline.evaluation.methods import FALSE_ALARMS, Method
from declip_pipeline.evaluation.metrics import MASKS
from declip_pipeline.metrics.bootstrap import Difference
from declip_pipeline.reports.matrix import MISSING
from declip_pipeline.reports.page.tables import (
    Column,
    PageCell,
    PageTable,
    estimate_cell,
    number_cell,
    text_cell,
)
from declip_pipeline.training.learning import MARK_MEANING

WORST = "worst cell"

HEAD = (
    "method", "ID", "OOD", WORST, "false alarms, pixels", "false alarms, images",
    "parameters, M", "MMAC", "s an epoch", "ID - baseline", "OOD - baseline", "runs",
)  # fmt: skip
"""Columns of a table of methods."""

FROM_VALID_HEAD = (*HEAD[:6], *HEAD[9:11])
"""Columns of one for masks by what was chosen on `valid`: the cost is that of the others."""

_MEANING = (
    "IoU in percent with its 95% bootstrap interval over scenes, and over seeds where these are "
    "not together in an ensemble. ID: tested on a generator that was learned; OOD: on another; "
    "worst cell: the lowest of all. False alarms: share of the pixels of real images that are "
    "called fake, and of real images with such a pixel, in percent. MMAC: millions of "
    "multiply-accumulates for one image. Seconds an epoch: the median, with the validation. "
    "- baseline: paired differences on the same images."
)

_WITHOUT_INTERVAL = ("method", "parameters, M", "MMAC", "s an epoch", "runs")


def meaning_of(methods: Sequence[Method], baselines: Sequence[str]) -> list[str]:
    """Return a text each on the columns of a table of methods, its baselines and its mark."""
    texts = [_MEANING]
    if baselines:
        texts.append(f"Baseline, the first on the same images: {'; '.join(baselines)}.")
    if any(one.mark for one in methods):
        texts.append(f"{MARK_MEANING}.")
    return texts


def methods_tables(
    methods: Mapping[str, Sequence[Method]], baselines: Sequence[str]
) -> list[tuple[PageTable, str]]:
    """Return a table for each kind of masks, a key of `MASKS`, and what it shows."""
    found = []
    for masks, own in methods.items():
        if not own:
            continue
        columns = [
            Column(name, is_number=name != "method", has_interval=name not in _WITHOUT_INTERVAL)
            for name in (FROM_VALID_HEAD if masks else HEAD)
        ]
        columns.append(Column("where the worst cell is"))
        table = PageTable(
            f"methods{masks.replace('_', '-')}",
            f"IoU {MASKS[masks].label}, percent",
            columns,
            [
                [
                    text_cell(one.name + one.mark),
                    *method_cells(one, from_valid=bool(masks)),
                    text_cell(one.worst[1]),
                ]
                for one in own
            ],
        )
        meaning = MASKS[masks].meaning or " ".join(meaning_of(own, baselines)).replace("`", "")
        found.append((table, meaning))
    return found


def names_of_runs(methods: Sequence[Method]) -> dict[Path, str]:
    """Return the name of the method of each run, ensembles left out."""
    names: dict[Path, str] = {}
    for one in methods:
        for members in one.runs:
            if len(members) == 1:
                # The first: an ensemble of copies of a run is that run, and comes after it.
                names.setdefault(members[0], one.name)
    return names


def method_cells(one: Method, *, from_valid: bool) -> list[PageCell]:
    """Return the cells of a method behind its name, in the order of `HEAD`.

    `from_valid`: in that of `FROM_VALID_HEAD`; no run is opened for its cost then.
    """
    found = [
        *(estimate_cell(one.domains[domain]) for domain in DOMAINS),
        estimate_cell(one.worst[0]),
        *(
            estimate_cell(one.false_alarms[name], 2)
            if name in one.false_alarms
            else PageCell(MISSING)
            for name in FALSE_ALARMS
        ),
    ]
    differences = [_difference_cell(one.differences.get(domain)) for domain in DOMAINS]
    if from_valid:
        return [*found, *differences]
    runs = PageCell(_runs_text(one), repr(len(one.runs)))
    return [*found, *_cost_cells(one), *differences, runs]


def _cost_cells(one: Method) -> list[PageCell]:
    cost = one.cost
    return [
        PageCell(_millions_text(cost.parameters, 2), repr(cost.parameters / 1e6)),
        PageCell(_millions_text(cost.macs, 0), repr(cost.macs / 1e6)),
        PageCell(f"{cost.epoch_seconds:.2g}", repr(cost.epoch_seconds)),
    ]


def _millions_text(count: int, decimals: int) -> str:
    """Return millions; small ones with two digits, as no decoder is without cost."""
    text = f"{count / 1e6:,.{decimals}f}"
    return text if float(text.replace(",", "")) >= 0.1 else f"{count / 1e6:.2g}"


def _runs_text(one: Method) -> str:
    """Return numbers of runs and seeds: "12, 3 seeds", of ensembles "4, each of 3 seeds"."""
    each = "each of " if one.is_over_seeds else ""
    return f"{len(one.runs)}, {each}{one.seeds} seed{'' if one.seeds == 1 else 's'}"


def _difference_cell(one: Difference | None) -> PageCell:
    if one is None:
        return PageCell(MISSING)
    cell = number_cell(one.value, 1, *one.interval)
    return PageCell(f"{one.value:+.1f}", cell.value, cell.low, cell.high)
