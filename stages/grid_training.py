"""What the commands that train share: a job from their options, and a grid of it on the screen."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from declip_pipeline.backbones.registry import select_layers
from declip_pipeline.decoders.names import read_decoder_type
from declip_pipeline.errors import InputError
from declip_pipeline.feeding.decoder_inputs import JOIN
from declip_pipeline.store.reader import Store
from declip_pipeline.sweeps.grid import (
    Cell,
    CellResult,
    Grid,
    RunGroups,
    grid_name,
    one_after_another,
)
from declip_pipeline.sweeps.grid_job import GridJob, GridTrainer
from stages.grid_table import live_grid
from stages.options import comma_separated
from stages.screen import remark


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


def own_device(device: str, workers: AskedWorkers | None) -> str:
    """What this process computes on: it may lack what workers have."""
    return "auto" if workers is not None and device == "cuda" else device


def layers_of(text: str, store: str) -> list[str]:
    """The layers of an option, each a name or several that are joined ("layer8+layer14").

    Raises `InputError`, `UnknownNameError` for one that the store does not have.
    """
    known = list(Store(store).layers)
    found = []
    for item in comma_separated(text) or []:
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
    trainer: GridTrainer, cells: Sequence[Cell], workers: AskedWorkers | None = None
) -> tuple[Path, list[CellResult]]:
    """Train every cell, with a table on the screen; returns the grid's folder and rows."""
    folder = Path(trainer.job.runs, grid_name(trainer.job.identity(trainer.data), cells))
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
