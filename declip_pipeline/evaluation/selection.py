"""Stores, split and generators to evaluate on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from declip_pipeline.arguments import names_in
from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.file_images import DatasetImages
from declip_pipeline.datasets.labelled import LabelledImages
from declip_pipeline.datasets.sample import REAL
from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.evaluation.ensemble import as_map_source
from declip_pipeline.evaluation.map_source import MapSource, OpenedSource
from declip_pipeline.evaluation.scores import Task
from declip_pipeline.store.reader import StoreLike, as_store, as_stores, distinct_stores
from declip_pipeline.training.run import RunLike

CALIBRATION = "valid"
"""Split that thresholds of detection are chosen on."""

ImagesLike = StoreLike | LabelledImages | Dataset
"""A store or its location; for maps of no run also a dataset of `open_dataset`."""


@dataclass(frozen=True, eq=False)
class SelectedStore:
    """A store, or a dataset, with the rows to evaluate.

    Attributes:
        store: The store, or the dataset's images.
        generators: Generators whose fakes are evaluated; None for all of the store.
        rows: Rows to evaluate, int64, sorted by id.
        calibration: Rows that thresholds of detection are chosen on; none for localization.
        real: Rows of real images for false alarms of localization; none for detection.
    """

    store: LabelledImages
    generators: tuple[str, ...] | None
    rows: np.ndarray
    calibration: np.ndarray
    real: np.ndarray


class Selection:
    """Stores, split and generators to evaluate on, checked.

    Attributes:
        parts: The stores that have any of the generators.
        left_out: Locations of stores that have none of them.
        repeated: Locations of stores that were given more than once; each is taken once.
    """

    def __init__(
        self,
        stores: ImagesLike | Sequence[ImagesLike],
        *,
        split: str = "test",
        generators: str | Sequence[str] | None = None,
        beside: Sequence[StoreLike] = (),
        task: Task = "localization",
    ) -> None:
        """Select rows of stores.

        Args:
            stores: Stores, or their locations; for maps of no run also datasets.
            split: Split to evaluate.
            generators: Generators to evaluate; each store gives those it has. None takes all.
            beside: Stores of the same images for decoders that take features of several stores.
            task: Localization evaluates fakes, and false alarms on real images; detection
                evaluates fakes and real images, and needs the split `valid` as well.

        Raises:
            UnknownNameError: For a split, or a generator that no store has.
            InputError: For a store without a fake to evaluate; for detection also without a real
                image, or without either in the split `valid`.
        """
        self.split, self.task = split, task
        if task not in get_args(Task):
            raise UnknownNameError("task", task, get_args(Task))
        self.generators = None if generators is None else names_in(generators, "generators")
        self.beside = [as_store(one) for one in beside]
        self._unused = list(self.beside)
        if task == "detection" and split == CALIBRATION:
            raise InputError(
                f"thresholds are chosen on {CALIBRATION} and cannot be evaluated there; expected "
                "another split, such as test"
            )
        distinct, self.repeated = distinct_stores(as_images(stores))
        known = sorted({name for store in distinct for name in store.generators})
        for name in self.generators or ():
            if name not in known:
                raise UnknownNameError("generator in the stores", name, known)
        selected = [(store, self._rows_of(store)) for store in distinct]
        self.parts = [part for _, part in selected if part is not None]
        self.left_out = [store.location for store, part in selected if part is None]

    def _rows_of(self, store: LabelledImages) -> SelectedStore | None:
        store.require_masks("an evaluation needs fakes with masks, expected such a store")
        own = None
        if self.generators is not None:
            own = tuple(sorted(set(self.generators) & set(store.generators)))
        rows = store.fake_rows(self.split, own)
        if own == ():
            return None
        if not len(rows):
            raise InputError(
                f"no fake image of {', '.join(store.generators if own is None else own)} in "
                f"split {self.split!r} of {store.location}; expected at least one"
            )
        if self.task == "localization":
            both = store.fake_and_real_rows(self.split, own)
            return SelectedStore(store, own, rows, rows[:0], both[store.labels[both] == REAL])
        _require_both_classes(store, own, self.split)
        return SelectedStore(
            store,
            own,
            store.fake_and_real_rows(self.split, own),
            store.fake_and_real_rows(CALIBRATION, own),
            rows[:0],
        )

    def check(self, source: RunLike | MapSource) -> OpenedSource:
        """Check that a run, or another source of maps, can be evaluated; returns it opened.

        Raises as `MapSource.opened`.
        """
        opened = as_map_source(source).opened([part.store for part in self.parts], self.beside)
        for part in self.parts:
            opened.prepare(part.store, np.concatenate([part.calibration, part.rows, part.real]))
        self._unused = [one for one in self._unused if one not in opened.taken]
        return opened

    @property
    def unused_beside(self) -> list[str]:
        """Locations of the stores beside of which no run that was checked takes a layer."""
        return [one.location for one in self._unused]


def as_images(stores: ImagesLike | Sequence[ImagesLike]) -> list[LabelledImages]:
    """Return stores and datasets as the images that they hold, one or several."""
    if isinstance(stores, LabelledImages | Dataset):
        stores = [stores]
    if isinstance(stores, str | Path) or not isinstance(stores, Sequence):
        return list(as_stores(stores))
    found: list[LabelledImages] = []
    for one in stores:
        if isinstance(one, LabelledImages):
            found.append(one)
        else:
            found.append(DatasetImages(one) if isinstance(one, Dataset) else as_store(one))
    return found


def _require_both_classes(
    store: LabelledImages, generators: Sequence[str] | None, split: str
) -> None:
    """Raise `InputError` for a store that lacks fakes or real images in either split."""
    if CALIBRATION not in store.splits:
        raise InputError(
            f"{store.location} has the split{'s' if len(store.splits) > 1 else ''} "
            f"{', '.join(store.splits)}; thresholds of detection are chosen on {CALIBRATION}, "
            "extract with it"
        )
    labels = store.samples.labels
    for name in (split, CALIBRATION):
        chosen = labels[store.fake_and_real_rows(name, generators)]
        fake, real = int((chosen == 1).sum()), int((chosen == 0).sum())
        if not fake or not real:
            raise InputError(
                f"split {name!r} of {store.location} has {fake} fake and {real} real images; "
                "detection is evaluated on both, expected at least one of each"
            )
