"""Methods of a study on a page: a table for each kind of masks, and the names of their runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from declip_pipeline.evaluation.cells import DOMAINS
from declip_pipeline.evaluation.methods import (
    FALSE_ALARMS,
    FROM_VALID_HEAD,
    HEAD,
    MEANING,
    Method,
    millions_text,
)
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

_WITHOUT_INTERVAL = ("method", "parameters, M", "MMAC", "s an epoch", "runs")


def methods_tables(methods: Mapping[str, Sequence[Method]]) -> list[tuple[PageTable, str]]:
    """Return a table for each kind of masks, a key of `MASKS`, and what it shows."""
    found = []
    for masks, own in methods.items():
        if not own:
            continue
        head = FROM_VALID_HEAD if masks else HEAD
        columns = [
            Column(name, is_number=name != "method", has_interval=name not in _WITHOUT_INTERVAL)
            for name in head
        ]
        table = PageTable(
            f"methods{masks.replace('_', '-')}",
            f"IoU {MASKS[masks].label}, percent",
            columns,
            [[_cells(one)[name] for name in head] for one in own],
        )
        found.append((table, MASKS[masks].meaning or MEANING))
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


def _cells(one: Method) -> dict[str, PageCell]:
    """Return the cells of a method by the names of their columns."""
    worst = estimate_cell(one.worst[0])
    cost = one.cost
    cells = [
        text_cell(one.name + one.mark),
        *(estimate_cell(one.domains[domain]) for domain in DOMAINS),
        PageCell(worst.text, worst.value, worst.low, worst.high, hover=one.worst[1]),
        *(
            estimate_cell(one.false_alarms[name], 2)
            if name in one.false_alarms
            else PageCell(MISSING)
            for name in FALSE_ALARMS
        ),
        PageCell(millions_text(cost.parameters, 2), repr(cost.parameters / 1e6)),
        PageCell(millions_text(cost.macs, 0), repr(cost.macs / 1e6)),
        PageCell(f"{cost.epoch_seconds:.2g}", repr(cost.epoch_seconds)),
        *(_difference_cell(one.differences.get(domain)) for domain in DOMAINS),
        PageCell(one.runs_text, repr(len(one.runs))),
    ]
    return dict(zip(HEAD, cells, strict=True))


def _difference_cell(one: Difference | None) -> PageCell:
    if one is None:
        return PageCell(MISSING)
    cell = number_cell(one.value, 1, *one.interval)
    return PageCell(f"{one.value:+.1f}", cell.value, cell.low, cell.high)
