"""StoreDataset: a layer of a store, or several, as a map-style PyTorch dataset."""

import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from declip_pipeline.datasets.sample import UNKNOWN
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.errors import InputError, StoreError, UnknownNameError
from declip_pipeline.store.reader import Store, StoreLike, as_store
from declip_pipeline.store.storage import absolute_location

Targets = Literal["masks", "labels"]


class StoreDataset(Dataset[Any]):
    """Images of a store: stored features, and what a decoder learns from them.

    An item is `(features, target)`, or `features` alone with `targets=None`:

    - `features`: float32 tensor of the layer's `array_shape`: (tokens, channels) of a ViT with the
      class token first, (channels, height, width) of a CNN. Of several layers, a tuple of them.
    - `target`: (256, 256) float32 in [0, 1], 1 = manipulated, soft along outlines; with
      `targets="labels"` a scalar float32, 1 fake or 0 real.

    Items are ordered by the images' ids. Images that could not be read are left out. Batches of a
    `DataLoader` are read in one go, at the store's speed. In its workers, pass
    `multiprocessing_context="spawn"`: a spawned worker opens the store again by its location; a
    forked one is refused.

    Example:
        >>> dataset = StoreDataset(store, "layer3", split="train")
        >>> features, target = dataset[0]
        >>> loader = torch.utils.data.DataLoader(dataset, batch_size=32, shuffle=True)

    Attributes:
        layers: Names of the layers.
        targets: "masks", "labels" or None.
        samples: Table of the images, in the order of the items.
    """

    def __init__(
        self,
        store: StoreLike,
        layers: str | Sequence[str],
        split: str | None = None,
        generators: str | Sequence[str] | None = None,
        *,
        targets: Targets | None = "masks",
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        """Select images of a store; nothing of a layer is read yet.

        Args:
            store: The store, or its location.
            layers: A layer, or several.
            split: "train", "valid", "test" or "all"; None takes all images.
            generators: Generators to take, "real" and "unknown" among them; None takes all.
                `train` learns masks from `generators=store.generators`, fakes alone.
            targets: "masks", "labels", or None for features alone.
            transform: Called with each item; what it returns takes the item's place. Workers need
                one that can be pickled.

        Raises:
            UnknownNameError: For a layer, split, generator or kind of targets that is not there.
            InputError: For masks of a store without masks, labels of unlabelled images, and no
                image at all.
            StoreError: For a location without a complete store.
        """
        store = as_store(store)
        names = (layers,) if isinstance(layers, str) else tuple(layers)
        if not names:
            raise InputError(f"no layer was given; known: {', '.join(store.layers)}")
        for name in names:
            if name not in store.layers:
                raise UnknownNameError(f"layer in {store.location}", name, store.layers)
        if targets not in ("masks", "labels", None):
            raise UnknownNameError("kind of targets", str(targets), ("masks", "labels", "None"))
        if targets == "masks":
            store.require_masks("expected `targets=None`, which gives features alone")
        self.layers, self.targets = names, targets
        self._is_single = isinstance(layers, str)
        self._transform = transform
        self._location = absolute_location(store.location)
        self._sha256 = store.identity.sha256
        self._rows = _rows_of(store, split, generators)
        self.samples: Samples = store.samples.take(self._rows)
        if targets == "labels" and (self.samples.labels == UNKNOWN).any():
            raise InputError(
                f"{store.location} has images without a label; expected `generators` that have "
                "one, or `targets=None`, which gives features alone"
            )
        self._opened: tuple[int, Store] | None = (os.getpid(), store)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        """Return an item; see the class. Raises `IndexError`, and as `__getitems__`."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return several items, read together.

        Raises:
            StoreError: For a row that is absent or damaged, and, in a spawned worker, for a store
                that is no longer the same.
            InputError: In a process that was forked from the one that opened the store.
        """
        store = self._store()
        rows = self._rows[np.asarray(indices, np.int64)]
        # All reads are under way before the first is waited for.
        readings = [store.begin_reading_layer(layer, rows) for layer in self.layers]
        read_targets = store.begin_reading_targets(rows) if self.targets == "masks" else None
        features = [reading().decoded() for reading in readings]
        items: list[Any] = list(features[0] if self._is_single else zip(*features, strict=True))
        if read_targets is not None:
            items = list(zip(items, torch.from_numpy(read_targets()).float() / 255, strict=True))
        elif self.targets == "labels":
            labels = torch.from_numpy(store.labels[rows]).float()
            items = list(zip(items, labels, strict=True))
        return items if self._transform is None else [self._transform(item) for item in items]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def _store(self) -> Store:
        if self._opened is None:
            store = Store(self._location)
            if store.identity.sha256 != self._sha256:
                raise StoreError(
                    f"{self._location} holds another store than when the dataset was made; "
                    "make the dataset again"
                )
            self._opened = os.getpid(), store
        process, store = self._opened
        if process != os.getpid():
            raise InputError(
                f"{self._location} was opened before this process was forked, and its reading "
                'threads do not survive that; pass `multiprocessing_context="spawn"` to the '
                "DataLoader"
            )
        return store


def _rows_of(store: Store, split: str | None, generators: str | Sequence[str] | None) -> np.ndarray:
    """Return the rows (int64) of usable images, sorted by id."""
    samples = store.samples
    splits = None if split is None else [split]
    if isinstance(generators, str):
        generators = [generators]
    for column, names in (("split", splits), ("generator", generators)):
        known = samples.names(column)
        for name in names or ():
            if name not in known:
                raise UnknownNameError(f"{column} in {store.location}", name, known)
    rows = samples.rows(splits=splits, generators=generators)
    rows = rows[~np.isin(rows, list(store.failures))]
    if not len(rows):
        raise InputError(
            f"no image of {', '.join(generators or ['any generator'])} in split {split!r} of "
            f"{store.location} has features; expected at least one"
        )
    return samples.by_id(rows)
