"""What the commands that train have in common: the same options for all cells of a grid."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from declip_pipeline.decoders.building import build_decoder
from declip_pipeline.decoders.initialization import InitializationScheme
from declip_pipeline.errors import UnknownNameError
from declip_pipeline.store.reader import Store
from declip_pipeline.sweeps.grid import Cell, CellResult, Grid, grid_name
from declip_pipeline.training.feeds import Feeds
from declip_pipeline.training.localization_run import localization_run
from declip_pipeline.training.run_folder import RunFolder
from declip_pipeline.training.train import Epoch
from stages.grid_table import live_grid
from stages.screen import remark


@dataclass(frozen=True)
class TrainingWork:
    """Trainings from the same stores with the same options, one or a grid of them."""

    stores: Sequence[Store]
    runs: Path
    widths: list[int] | None
    initialization: InitializationScheme
    epochs: int
    batch_size: int
    patience: int
    device: torch.device

    @cached_property
    def _feeds(self) -> Feeds:
        return Feeds(self.stores, self.device, notice=remark)

    def train(
        self, cell: Cell, on_epoch: Callable[[Epoch], None], *, widths: list[int] | None
    ) -> RunFolder:
        """Train one cell, or find it finished."""
        return localization_run(
            self.stores,
            self.runs,
            **vars(cell),
            widths=widths,
            initialization=self.initialization,
            epochs=self.epochs,
            batch_size=self.batch_size,
            patience=self.patience,
            device=self.device,
            feeds=self._feeds,
            on_epoch=on_epoch,
        )

    def train_grid(self, cells: Sequence[Cell]) -> tuple[Path, list[CellResult]]:
        """Train every cell, with a table on the screen; returns the grid's folder and rows."""
        types = {cell.decoder_type for cell in cells}
        # Beside conv decoders, which they are for, others of the grid have none.
        widths_of = {
            name: None if len(types) > 1 and not name.startswith("conv") else self.widths
            for name in types
        }
        # What no run could do is refused before the first one.
        for layer, name in dict.fromkeys((cell.layer, cell.decoder_type) for cell in cells):
            with torch.device("meta"):
                build_decoder(name, self.stores[0].layers[layer], widths=widths_of[name])
        known = sorted({name for store in self.stores for name in store.generators})
        for name in {name for cell in cells for name in cell.train_on or ()} - set(known):
            raise UnknownNameError("generator in the stores", name, known)
        identity = {
            "stores": [store.identity.sha256 for store in self.stores],
            "widths": self.widths,
            "initialization": self.initialization,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "patience": self.patience,
        }
        folder = self.runs / grid_name(identity, cells)
        with live_grid() as tell:
            grid = Grid(
                cells,
                folder,
                lambda cell, on_epoch: self.train(
                    cell, on_epoch, widths=widths_of[cell.decoder_type]
                ),
                on_change=tell,
            )
            return folder, grid.run()
