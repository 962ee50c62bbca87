"""What a training is fed with, kept for the next one that reads the same."""

from collections.abc import Callable, Sequence

import torch

from declip_pipeline.errors import InputError
from declip_pipeline.feeding.layer_feed import LayerFeed
from declip_pipeline.store.reader import Store


class Feeds:
    """Training and validation feeds of stores that hold the same features.

    Those of the last layer and generators are kept, so that trainings that read the same, one after
    another, share one read of it. `notice` is told, in a line, where a layer is kept.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        device: torch.device,
        *,
        tier: str = "auto",
        notice: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.stores = list(stores)
        self.device = device
        self._tier = tier
        self._notice = notice
        self._kept: tuple[tuple[str, tuple[str, ...]], tuple[LayerFeed, LayerFeed]] | None = None

    def get(self, layer: str, generators: Sequence[str]) -> tuple[LayerFeed, LayerFeed]:
        """The feeds of the splits `train` and `valid`. Raises `InputError` for want of pictures."""
        key = layer, tuple(generators)
        if self._kept is None or self._kept[0] != key:
            self._kept = None  # its memory goes before more is taken
            train = self._feed(layer, "train", generators)
            self._kept = key, (train, self._feed(layer, "valid", generators))
            self._notice(train.description)
        return self._kept[1]

    def _feed(self, layer: str, split: str, generators: Sequence[str]) -> LayerFeed:
        """The fakes of one split; each store gives those of the generators that it has.

        A store may lack the split where another has it: augmented views are of `train` alone.
        """
        found = sorted({name for store in self.stores for name in store.splits})
        if split not in found:
            raise InputError(
                f"{', '.join(store.location for store in self.stores)} has the "
                f"split{'s' if len(found) > 1 else ''} {', '.join(found)}; training needs the "
                "splits train and valid, extract with both, or with --assign-splits 80,10,10 where "
                "the data set has none"
            )
        parts = []
        known = {name for store in self.stores for name in store.generators}
        for store in self.stores:
            if split not in store.splits:
                continue
            # A name that no store has is passed on, for the store's error to list the known ones.
            names = [name for name in generators if name in store.generators or name not in known]
            parts.append((store, store.fake_rows(split, names)))
        if not any(len(rows) for _, rows in parts):
            raise InputError(
                f"no fake picture of {', '.join(generators)} in split {split!r} of "
                f"{', '.join(store.location for store in self.stores)}; expected at least one"
            )
        return LayerFeed(parts, layer, device=self.device, tier=self._tier)
