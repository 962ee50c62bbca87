"""A grid of trainings on the screen: a table that is drawn live, or a line for each run."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import mean, stdev
from typing import Any

from rich.live import Live
from rich.table import Table

from declip_pipeline.sweeps.grid import CellResult
from declip_pipeline.training.learning import MARK, MARK_MEANING
from stages.log_file import log
from stages.screen import ProgressLines, console, log_table, remark


def grid_table(results: Sequence[CellResult], pace: str = "") -> Table:
    """A row for each layer (and training set and learning rate, where there are several), a column
    for each decoder: mean best validation score over seeds, their standard deviation, and how many
    of them are done; `pace` is said below."""
    columns = list(dict.fromkeys(result.decoder_type for result in results))
    # A recipe may choose another learning rate for each decoder: that makes no rows of their own.
    shown = [
        name
        for name in ("train_on", "learning_rate", "layer")
        if name == "layer"
        or any(
            len({getattr(one, name) for one in results if one.decoder_type == column}) > 1
            for column in columns
        )
    ]
    groups: dict[tuple[Any, ...], dict[str, list[CellResult]]] = {}
    for result in results:
        key = tuple(getattr(result, name) for name in shown)
        groups.setdefault(key, {}).setdefault(result.decoder_type, []).append(result)
    table = Table(*[name.replace("_", " ") for name in shown], *columns)
    for key, by_decoder in groups.items():
        cells = [_cell(by_decoder.get(name, [])) for name in columns]
        table.add_row(*[str(value) for value in key], *cells)
    done = sum(result.state in ("finished", "failed") for result in results)
    failed = sum(result.state == "failed" for result in results)
    marked = any(result.problem for result in results)
    table.caption = f"{done} of {len(results)} runs done" + (f", {failed} failed" * bool(failed))
    if pace:
        table.caption += f", {pace}"
    if marked:
        table.caption += f"\n{MARK_MEANING}"
    return table


def _cell(results: Sequence[CellResult]) -> str:
    found = [r.best_score for r in results if r.best_score is not None]
    text = f"{mean(found):.2f}" if found else "-"
    if any(result.problem for result in results):
        text += MARK
    if len(found) > 1:
        text += f" ± {stdev(found):.2f}"
    done = sum(result.state == "finished" for result in results)
    if any(result.state == "failed" for result in results):
        return f"{text} failed"
    return text if done == len(results) else f"{text} ({done}/{len(results)})"


@contextmanager
def live_grid() -> Iterator[Callable[[Sequence[CellResult]], None]]:
    """Yield a function to call with all rows after each change.

    On a terminal the table is drawn live; elsewhere, and in the file of --log-file, a line is
    written for each run that ends, one each 30 seconds with the pace, and the table once.
    """
    ended: set[int] = set()
    latest: Sequence[CellResult] = []
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None
    lines = ProgressLines("training", "runs")

    def tell(results: Sequence[CellResult]) -> None:
        nonlocal latest
        latest = results
        for number, result in enumerate(results):
            if result.state in ("finished", "failed") and number not in ended:
                ended.add(number)
                if live is None:
                    remark(_line(result))
                else:
                    log(_line(result))
        lines.tell(len(ended), len(results))
        if live is not None:
            live.update(grid_table(results, lines.pace()), refresh=True)

    try:
        if live is not None:
            live.start()
        yield tell
    finally:
        lines.close()
        if live is not None:
            live.stop()
        elif latest:
            console.print(grid_table(latest))
        if latest:
            log_table(grid_table(latest))


def _line(result: CellResult) -> str:
    from declip_pipeline.decoders.names import is_fitted

    what = f"{result.decoder_type} {result.layer} {result.train_on} seed {result.seed}"
    if not is_fitted(result.decoder_type):
        what += f" learning rate {result.learning_rate:g}"
    if result.state == "failed":
        return f"failed: {what}: {result.reason}"
    name = "IoU" if result.best_valid_ap is None else "AP"
    line = f"{what}: best validation {name} {result.best_score:.2f} in epoch {result.best_epoch}"
    return f"{line}; {result.problem}" if result.problem else line
