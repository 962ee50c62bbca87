"""Data of trainings: stores, those beside them, and feeds kept for the next training."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import pyarrow.compute as pc
import torch

from declip_pipeline.datasets.sample import REAL
from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.feeding.batch import BatchFeed
from declip_pipeline.feeding.feed import Feed, TargetKind, fed_bytes, images_of, targets_bytes
from declip_pipeline.feeding.inputs import JOIN, DecoderInputs, FeatureSource, joined_inputs
from declip_pipeline.feeding.tiers import fast_bytes
from declip_pipeline.options import FusionMode
from declip_pipeline.store.reader import Store, distinct_stores, repeated_text
from declip_pipeline.training.tile_choice import (
    LEARNED_TILES,
    ROWS_AT_ONCE,
    fake_shares,
    learned_tiles,
)
from declip_pipeline.training.uncached_feed import RecordedBackbones, UncachedFeed

# A split, its generators, what is learned from them, and whether real images are among them.
_RowsKey = tuple[str, tuple[str, ...], TargetKind, bool]


@dataclass(frozen=True)
class _KeptFeeds:
    """The feeds of some sources and generators, and whether their features lie in memory."""

    sources: tuple[FeatureSource, ...]
    generators: tuple[str, ...]
    targets: TargetKind
    with_real: bool
    is_resident: bool
    train: BatchFeed
    valid: BatchFeed

    def serves(
        self,
        sources: Sequence[FeatureSource],
        generators: Sequence[str],
        targets: TargetKind,
        with_real: bool,
    ) -> bool:
        """Return whether they give these; more layers, where they lie in memory, cost nothing."""
        own = self.generators, self.targets, self.with_real
        if own != (tuple(generators), targets, with_real):
            return False
        is_more = self.is_resident and set(sources) <= set(self.sources)
        return self.sources == tuple(sources) or is_more


class TrainingData:
    """Stores that hold the same features, and the sources `beside` that every decoder gets, too.

    The last feeds are kept, so that trainings that read the same, one after another, share one read
    of it. `notice` is called with lines, such as where layers are kept. `uncached` stores only say
    which images and whose features: these are computed again for every batch.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        *,
        beside: Sequence[FeatureSource] = (),
        fusion: FusionMode = "concat",
        device: torch.device,
        tier: str = "auto",
        uncached: bool = False,
        notice: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Raises `InputError` for no store, and for one without masks.

        A store that is given twice is taken once, and `notice` is called with a line about it.
        """
        if not stores:
            raise InputError("no store was given; expected at least one that `extract` printed")
        self.stores, repeated = distinct_stores(stores)
        for place in repeated:
            notice(repeated_text(place))
        for store in stores:
            store.require_masks(
                "training needs fakes with masks: extract a dataset that says which images are fake"
            )
        self.device = device
        self.uncached = uncached
        self._beside = tuple(beside)
        self._fusion = fusion
        self._tier = tier
        self.notice = notice
        self._sources: dict[str, FeatureSource] = {}
        self._rows: dict[_RowsKey, list[tuple[Store, np.ndarray]]] = {}
        self._said: set[str] = set()
        self._kept: _KeptFeeds | None = None
        self._backbones = RecordedBackbones(device)

    @cached_property
    def generators(self) -> list[str]:
        """The generators of the fakes that occur, sorted."""
        return sorted({name for store in self.stores for name in store.generators})

    def inputs(self, layers: str) -> DecoderInputs:
        """Return the inputs of a decoder of layers ("layer20", or "layer8+layer14").

        Raises what `joined_inputs` does.
        """
        for layer in layers.split(JOIN):
            self._sources.setdefault(layer, FeatureSource(layer))
        own = [self._sources[layer] for layer in layers.split(JOIN)]
        return joined_inputs(self.stores, [*own, *self._beside], self._fusion)

    def feeds(
        self,
        inputs: Sequence[DecoderInputs],
        generators: Sequence[str],
        targets: TargetKind = "masks",
        with_real: bool = False,
    ) -> tuple[BatchFeed, BatchFeed]:
        """Feeds of the splits `train` and `valid`, of the rows that `rows` gives.

        Raises `InputError` for want of images; without a cache, what `UncachedFeed` does.
        """
        sources = tuple(dict.fromkeys(source for one in inputs for source in one.sources))
        kept = self._kept
        if kept is not None and kept.serves(sources, generators, targets, with_real):
            return kept.train, kept.valid
        self._kept = kept = None  # its memory goes before more is taken
        train, valid = (
            self._feed(self.rows(split, generators, targets, with_real), sources, targets)
            for split in ("train", "valid")
        )
        is_resident = all(isinstance(f, Feed) and f.tier != "stream" for f in (train, valid))
        self._kept = _KeptFeeds(
            sources, tuple(generators), targets, with_real, is_resident, train, valid
        )
        self.notice(train.description)
        if targets == "labels" or with_real:
            said = [
                f"{split} {int(feed.labels.sum())} fake and {int((feed.labels == 0).sum())} real"
                for split, feed in (("train", train), ("valid", valid))
            ]
            counted = ", each counted the same" if targets == "labels" else ""
            self.notice(f"images{counted}: {', '.join(said)}")
        return train, valid

    def score_feed(
        self, inputs: Sequence[DecoderInputs], generators: Sequence[str]
    ) -> BatchFeed | None:
        """Feed of the fakes and all real images of `valid`, read as they are needed.

        Its targets are labels, and it is for thresholds of image scores (`score_thresholds`). None
        where no store has a real image in that split, or a source lacks one, which is noticed.
        """
        sources = tuple(dict.fromkeys(source for one in inputs for source in one.sources))
        parts = self._beside_real("valid", self._find_rows("valid", generators), generators)
        if all(bool(store.labels[rows].all()) for store, rows in parts):
            return None
        try:
            if self.uncached:
                return self._feed(parts, sources, "labels")
            return Feed(parts, sources, device=self.device, tier="stream", targets="labels")
        except InputError as error:
            # The masks can be learned all the same.
            self.notice(f"no threshold of image scores: {error}")
            return None

    def _feed(
        self,
        parts: Sequence[tuple[Store, np.ndarray]],
        sources: Sequence[FeatureSource],
        targets: TargetKind,
    ) -> BatchFeed:
        if self.uncached:
            return UncachedFeed(
                parts, sources, device=self.device, backbones=self._backbones, targets=targets
            )
        return Feed(parts, sources, device=self.device, tier=self._tier, targets=targets)

    def rows(
        self,
        split: str,
        generators: Sequence[str],
        targets: TargetKind = "masks",
        with_real: bool = False,
    ) -> list[tuple[Store, np.ndarray]]:
        """The fakes of one split; each store gives those of the generators that it has.

        To learn labels or `with_real`, all of its real images as well. A store may lack the split
        where another has it: augmented views are of `train` alone.
        Of tiles of fakes to learn masks from, those that `learned_tiles` chooses.
        Raises `InputError` for a split that none has, or without a fake of these generators (or,
        with those, without a real image), for a training split without a fake pixel, and for two
        stores one of which has all images of the other in the same view; `UnknownNameError` for a
        generator that is not there.
        """
        if targets == "labels":
            _refuse_tiles(self.stores)
        key = split, tuple(generators), targets, with_real
        if key not in self._rows:
            found = self._find_rows(split, generators)
            if targets == "masks" and split == "train":
                _require_fake_pixels(found)
                found = self._to_learn_from(found)
            if targets == "labels" or with_real:
                found = self._with_real(split, found, generators, targets)
            for line in _repeated_images(split, found):
                if line not in self._said:
                    self._said.add(line)
                    self.notice(line)
            self._rows[key] = found
        return self._rows[key]

    def _to_learn_from(
        self, parts: Sequence[tuple[Store, np.ndarray]]
    ) -> list[tuple[Store, np.ndarray]]:
        """All images, and of tiles those that `learned_tiles` chooses."""
        chosen = [
            (store, rows if store.tiling is None else learned_tiles(store, rows))
            for store, rows in parts
        ]
        before, after = (sum(len(rows) for _, rows in some) for some in (parts, chosen))
        if before > after:
            self.notice(f"learning from {after} of {before} tiles: {LEARNED_TILES}")
        return chosen

    def counts(
        self,
        split: str,
        generators: Sequence[str],
        targets: TargetKind = "labels",
        with_real: bool = False,
    ) -> dict[str, int]:
        """Return the numbers of `fake` and `real` rows of a split that `rows` gives."""
        parts = self.rows(split, generators, targets, with_real)
        fakes = sum(int(store.labels[rows].sum()) for store, rows in parts)
        return {"fake": fakes, "real": sum(len(rows) for _, rows in parts) - fakes}

    def _with_real(
        self,
        split: str,
        parts: Sequence[tuple[Store, np.ndarray]],
        generators: Sequence[str],
        targets: TargetKind,
    ) -> list[tuple[Store, np.ndarray]]:
        found = self._beside_real(split, parts, generators)
        if all(bool(store.labels[rows].all()) for store, rows in found):
            why = (
                "detection learns to tell real images from fakes"
                if targets == "labels"
                else "`with_real` learns from some"
            )
            raise InputError(
                f"no real image in split {split!r} of "
                f"{', '.join(store.location for store, _ in found)}; {why}, extract a dataset "
                "that has both"
            )
        return found

    def _beside_real(
        self, split: str, parts: Sequence[tuple[Store, np.ndarray]], generators: Sequence[str]
    ) -> list[tuple[Store, np.ndarray]]:
        """Return fakes of stores with all real images of the split among them, by id."""
        found = []
        for store, fakes in parts:
            names = [name for name in generators if name in store.generators]
            both = store.fake_and_real_rows(split, names)
            found.append((store, both[np.isin(both, fakes) | (store.labels[both] == REAL)]))
        return found

    def _find_rows(self, split: str, generators: Sequence[str]) -> list[tuple[Store, np.ndarray]]:
        for name in generators:
            if name not in self.generators:
                raise UnknownNameError("generator in the stores", name, self.generators)
        found = sorted({name for store in self.stores for name in store.splits})
        if split not in found:
            raise InputError(
                f"{', '.join(store.location for store in self.stores)} has the "
                f"split{'s' if len(found) > 1 else ''} {', '.join(found)}; training needs the "
                "splits train and valid, extract with both, or with `assign_splits=(80, 10, 10)` "
                "where the dataset has none"
            )
        parts = []
        for store in self.stores:
            if split not in store.splits:
                continue
            names = [name for name in generators if name in store.generators]
            parts.append((store, store.fake_rows(split, names)))
        if not any(len(rows) for _, rows in parts):
            raise InputError(
                f"no fake image of {', '.join(generators)} in split {split!r} of "
                f"{', '.join(store.location for store in self.stores)}; expected at least one"
            )
        return parts

    def constant_score(
        self, generators: Sequence[str], targets: TargetKind, real_share: float = 0.0
    ) -> float:
        """Return the best validation score, in percent, of a map that is the same everywhere.

        For masks, the mean IoU of calling all pixels fake, or none, where real images have a share
        of `real_share`; for labels, the average precision of equal scores.
        """
        parts = self.rows("valid", generators, targets)
        if targets == "labels":
            counts = self.counts("valid", generators)
            return 100 * counts["fake"] / sum(counts.values())
        of_rows = np.concatenate([fake_shares(store, rows) for store, rows in parts])
        image_of = images_of(parts)
        shares = np.bincount(image_of, of_rows) / np.bincount(image_of)
        none = (1 - real_share) * float((shares == 0).mean()) + real_share
        return 100 * max((1 - real_share) * float(shares.mean()), none)

    def at_once(
        self,
        inputs: Sequence[DecoderInputs],
        generators: Sequence[str],
        targets: TargetKind = "masks",
        with_real: bool = False,
    ) -> list[list[DecoderInputs]]:
        """These inputs in groups, each as many as the fast tier keeps together.

        What does not fit alone is streamed, and then all can be; without a cache nothing is kept.
        """
        if self.uncached:
            return [list(inputs)]
        parts = [
            part
            for split in ("train", "valid")
            for part in self.rows(split, generators, targets, with_real)
        ]
        room = fast_bytes(self.device) - targets_bytes(parts, targets)
        groups: list[list[DecoderInputs]] = []
        streamed: list[DecoderInputs] = []
        left = 0
        for one in inputs:
            needed = sum(fed_bytes(parts, source) for source in one.sources)
            if needed > room:
                streamed.append(one)
                continue
            if not groups or needed > left:
                groups.append([])
                left = room
            groups[-1].append(one)
            left -= needed
        return [*groups, streamed] if streamed else groups


def sources_beside(layers: Iterable[tuple[Store, str]]) -> list[FeatureSource]:
    """Return the sources of layers of stores beside the fed ones: one a backbone and layer."""
    found: dict[tuple[str, str | None, str], list[Store]] = {}
    for store, layer in layers:
        key = store.identity.weights_sha256, store.identity.tiles, layer
        found.setdefault(key, []).append(store)
    return [FeatureSource(layer, tuple(stores)) for (*_, layer), stores in found.items()]


def _refuse_tiles(stores: Sequence[Store]) -> None:
    """Raise `InputError` for a store of tiles, whose images' labels are not the tiles'."""
    for store in stores:
        if store.tiling is not None:
            raise InputError(
                f"{store.location} holds tiles of {store.identity.tiles}; detection learns labels "
                "of whole images, expected a store of these (`evaluate` scores images of tiles)"
            )


def _repeated_images(split: str, parts: Sequence[tuple[Store, np.ndarray]]) -> list[str]:
    """Return a line for each store that shares images with one before, in the same view.

    Another dtype, precision or choice of layers makes another store of the same images. Raises
    `InputError` where all images of either store are shared.
    """
    lines = []
    contents = [(store, store.samples.take(rows).content()) for store, rows in parts]
    for (one, first), (two, second) in combinations(contents, 2):
        if one.identity.view != two.identity.view:
            continue
        shared = pc.sum(pc.is_in(second, value_set=first)).as_py()
        if not shared:
            continue
        if shared >= min(len(first), len(second)):
            raise InputError(
                f"{two.location} ({two.identity.dtype}) and {one.location} ({one.identity.dtype}) "
                f"hold the same images of split {split!r} in the same view: {shared} would count "
                "twice; give one of them"
            )
        lines.append(
            f"{shared} images of split {split!r} are in {two.location} and in "
            f"{one.location}; they count twice"
        )
    return lines


def _require_fake_pixels(parts: Sequence[tuple[Store, np.ndarray]]) -> None:
    """Raise `InputError` when no target of these rows has a fake pixel."""
    for store, rows in parts:
        for first in range(0, len(rows), ROWS_AT_ONCE):
            if (store.read_targets(rows[first : first + ROWS_AT_ONCE]) > 127).any():
                return
    raise InputError(
        f"none of the {sum(len(rows) for _, rows in parts)} training masks of "
        f"{', '.join(store.location for store, _ in parts)} has a fake pixel; expected some, look "
        "whether `polarity` was right when they were extracted"
    )
