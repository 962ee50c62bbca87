"""What the commands that train share: a job of their options, and a grid of it on the screen."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.live import Live
from rich.table import Table

from declip_pipeline.backbones.registry import select_layers
from declip_pipeline.decoders.names import read_decoder_type
from declip_pipeline.errors import InputError
from declip_pipeline.feeding.inputs import JOIN
from declip_pipeline.files import folder_name
from declip_pipeline.store.reader import Store
from declip_pipeline.sweeps.grid import (
    CellResult,
    Grid,
    RunGroups,
    claim_folder,
    grid_name,
    one_after_another,
)
from declip_pipeline.sweeps.grid_job import Cell, GridJob, grid_cells
from declip_pipeline.sweeps.grid_trainer import GridTrainer
from stages.screen import console, remark


@dataclass(frozen=True)
class AskedWorkers:
    """The Dask workers that are to train: one of the two is given, see `open_client`."""

    dask: str | None
    scheduler: str | None
    device: str


def asked_workers(dask: str | None, scheduler: str | None, device: str) -> AskedWorkers | None:
    """The workers of the options; None where this process is to train."""
    if dask is None and scheduler is None:
        return None
    return AskedWorkers(dask, scheduler, device)


def job_of(
    stores: Sequence[str], asked: Mapping[str, Any], workers: AskedWorkers | None
) -> tuple[GridJob, list[Cell]]:
    """Make a job and its cells of what `with_training_options` gives a command.

    Raises `InputError`, `UnknownNameError` for a layer that the first store does not have.
    """
    options = dict(asked)
    cells = grid_cells(
        layers_of(options.pop("layer"), stores[0]),
        options["decoder_type"],
        options.pop("seed"),
        options.pop("learning_rate"),
        options.pop("train_on") or [None],
    )
    options["decoder_type"] = cells[0].decoder_type
    options["pooling"] = _pooling(options.pop("detection", False), options.get("pooling"))
    if options.get("initial_weights"):
        # As workers elsewhere find it.
        options["initial_weights"] = str(Path(options["initial_weights"]).absolute())
    name = options["name"]
    if name is not None and folder_name(name) != name:
        raise InputError(
            f"--name {name!r} cannot name a folder; expected letters, digits, _, ., + or -"
        )
    if name is not None and (len(cells) > 1 or workers is not None):
        options |= {"runs": str(Path(options["runs"], name)), "name": None}
    if workers is not None and options["device"] == "cuda":
        options["device"] = "auto"  # this process may lack what workers have
    return GridJob.of(stores, options), cells


def _pooling(detection: bool, pooling: str | None) -> str | None:
    """The pooling of a recipe, None of localization. Raises `InputError`."""
    if pooling is not None and not detection:
        raise InputError(
            f"--pooling {pooling} is for detection, which --detection asks for; leave one out or "
            "add the other"
        )
    return (pooling or "mean") if detection else None


def layers_of(items: Sequence[str], store: str) -> list[str]:
    """The layers of an option's items, each a name or several that are joined ("layer8+layer14").

    Raises `InputError`, `UnknownNameError` for one that the store does not have.
    """
    known = list(Store(store).layers)
    found = []
    for item in items:
        if JOIN not in item:
            found.extend(select_layers(item, known))
            continue
        if not all(part.strip() for part in item.split(JOIN)):
            raise InputError(f"{item!r} lacks a layer; write layers to join as layer8{JOIN}layer14")
        parts = [select_layers(part, known) for part in item.split(JOIN)]
        found.append(JOIN.join(layer for some in parts for layer in some))
    return list(dict.fromkeys(found))


def open_trainer(job: GridJob, cells: Sequence[Cell]) -> GridTrainer:
    """Open what the job's cells need; what no run could do is refused before the first one."""
    if job.recipe.widths and not any(
        read_decoder_type(cell.decoder_type).takes_widths for cell in cells
    ):
        raise InputError(
            f"--widths {','.join(map(str, job.recipe.widths))} are for conv decoders, and there is "
            f"only {cells[0].decoder_type}; leave them out or choose a conv decoder"
        )
    trainer = GridTrainer(job, notice=remark)
    for cell in cells:
        trainer.plan(cell)
    return trainer


def train_grid(
    trainer: GridTrainer,
    cells: Sequence[Cell],
    workers: AskedWorkers | None,
    *,
    is_named: bool,
) -> tuple[Path, list[CellResult]]:
    """Train every cell, with a table on the screen; returns the grid's folder and rows.

    A named grid's folder is that of its runs.
    """
    name = grid_name(trainer.identity(), cells)
    folder = Path(trainer.job.runs) if is_named else Path(trainer.job.runs, name)
    if is_named:
        claim_folder(folder, name)
    with _training(trainer, cells, workers) as (run_groups, groups), live_grid() as tell:
        grid = Grid(
            cells,
            folder,
            run_groups,
            groups=groups,
            score=trainer.job.recipe.score,
            on_change=tell,
        )
        return folder, grid.run()


@contextmanager
def _training(
    trainer: GridTrainer, cells: Sequence[Cell], workers: AskedWorkers | None
) -> Iterator[tuple[RunGroups, list[list[int]]]]:
    """Who trains, and the groups of cells to train side by side."""
    if workers is None:
        yield one_after_another(trainer.train), trainer.groups(cells)
        return
    from declip_pipeline.jobs.cluster import open_client
    from declip_pipeline.sweeps.trainer import WorkerTraining

    with open_client(dask=workers.dask, scheduler=workers.scheduler, notice=remark) as client:
        training = WorkerTraining(
            client, replace(trainer.job, device=workers.device), cells, notice=remark
        )
        yield training, training.split(trainer.groups(cells))
        training.release()


def grid_table(results: Sequence[CellResult]) -> Table:
    """A row for each layer (and training set and learning rate, where there are several), a column
    for each decoder: mean best validation score over seeds, their standard deviation, and how many
    of them are done."""
    shown = [
        name
        for name in ("train_on", "learning_rate", "layer")
        if name == "layer" or len({getattr(result, name) for result in results}) > 1
    ]
    columns = list(dict.fromkeys(result.decoder_type for result in results))
    groups: dict[tuple[Any, ...], dict[str, list[CellResult]]] = {}
    for result in results:
        key = tuple(getattr(result, name) for name in shown)
        groups.setdefault(key, {}).setdefault(result.decoder_type, []).append(result)
    table = Table(*[name.replace("_", " ") for name in shown], *columns)
    for key, by_decoder in groups.items():
        cells = [_cell(by_decoder[name]) for name in columns]
        table.add_row(*[str(value) for value in key], *cells)
    done = sum(result.state in ("finished", "failed") for result in results)
    failed = sum(result.state == "failed" for result in results)
    table.caption = f"{done} of {len(results)} runs done" + (f", {failed} failed" * bool(failed))
    return table


def _cell(results: Sequence[CellResult]) -> str:
    found = [r.best_score for r in results if r.best_score is not None]
    text = f"{mean(found):.2f}" if found else "-"
    if len(found) > 1:
        text += f" ± {stdev(found):.2f}"
    done = sum(result.state == "finished" for result in results)
    if any(result.state == "failed" for result in results):
        return f"{text} failed"
    return text if done == len(results) else f"{text} ({done}/{len(results)})"


@contextmanager
def live_grid() -> Iterator[Callable[[Sequence[CellResult]], None]]:
    """Yields what is to be told all rows after each change.

    On a terminal the table is drawn live; elsewhere a line is written for each run that ends, and
    the table once.
    """
    ended: set[int] = set()
    latest: Sequence[CellResult] = []
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def tell(results: Sequence[CellResult]) -> None:
        nonlocal latest
        latest = results
        if live is not None:
            live.update(grid_table(results), refresh=True)
            return
        for number, result in enumerate(results):
            if result.state in ("finished", "failed") and number not in ended:
                ended.add(number)
                remark(_line(result))

    try:
        if live is not None:
            live.start()
        yield tell
    finally:
        if live is not None:
            live.stop()
        elif latest:
            console.print(grid_table(latest))


def _line(result: CellResult) -> str:
    what = f"{result.decoder_type} {result.layer} {result.train_on} seed {result.seed}"
    what += f" learning rate {result.learning_rate:g}"
    if result.state == "failed":
        return f"failed: {what}: {result.reason}"
    name = "IoU" if result.best_valid_ap is None else "AP"
    return f"{what}: best validation {name} {result.best_score:.2f} in epoch {result.best_epoch}"
