"""Content of earlier stores that a new store takes over."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from declip_pipeline.datasets.samples import Samples
from declip_pipeline.errors import StoreError
from declip_pipeline.features import encode_features
from declip_pipeline.store import format as fmt
from declip_pipeline.store.generations import leftover
from declip_pipeline.store.header import StoreHeader, parse_header
from declip_pipeline.store.identity import StoreIdentity, store_location
from declip_pipeline.store.reader import Store
from declip_pipeline.store.records import ShardFile
from declip_pipeline.store.storage import Storage, join_location, storage_at
from declip_pipeline.store.writer import StoredShard

# Any type can be made from it with the same result as from the backbone's own output.
EXACT_DTYPE = "float32"


@dataclass(frozen=True)
class _SameShard:
    """A shard with just the rows of one of the new store: its number, those rows of the new store
    that failed, and its files as its ledger entry has them."""

    shard: int
    failures: set[int]
    files: dict[str, ShardFile]


@dataclass(frozen=True)
class EarlierStore:
    """A complete store with some of the same images seen by the same backbone.

    Args:
        store: The store.
        storage: Where it lies.
        row_of: For each row of the new store, the row here of the same image and mask, -1 where
            there is none; (N,) int64.
        has_data: For each row of the new store, whether it has data here; (N,) bool.
        gives_layers: Whether its layers are of use: not those of another view or a coarser dtype.
    """

    store: Store
    storage: Storage
    row_of: np.ndarray
    has_data: np.ndarray
    gives_layers: bool
    _shards: dict[int, _SameShard | None] = field(default_factory=dict)

    def failure(self, row: int) -> str | None:
        """Return why the image of a row of the new store failed here, None where it did not."""
        return self.store.failures.get(int(self.row_of[row]))

    def gives(self, layer: str | None) -> bool:
        """Return whether rows with data have this layer (None for any)."""
        return layer is None or (self.gives_layers and layer in self.store.layers)

    def stored_shard(
        self, array: fmt.RowArray, rows: range, failures: Mapping[int, str], rows_per_shard: int
    ) -> StoredShard | None:
        """The file that holds an array of just these rows, None when none does."""
        if (
            self.store.arrays.get(array.name) != array
            or (array.is_of_layer and not self.gives_layers)
            or self.store.header.rows_per_shard != rows_per_shard
        ):
            return None
        if rows.start not in self._shards:
            self._shards[rows.start] = self._same_shard(rows)
        same = self._shards[rows.start]
        if same is None or same.failures != set(failures):
            return None
        key = array.shard_key(same.shard)
        file = same.files.get(key)
        return None if file is None else StoredShard(self.storage, key, file)

    def _same_shard(self, rows: range) -> _SameShard | None:
        header = self.store.header
        shard, place = divmod(int(self.row_of[rows.start]), header.rows_per_shard)
        own = list(header.shard_rows(shard)) if shard >= 0 and not place else []
        if not own or self.row_of[rows.start : rows.stop].tolist() != own:
            return None
        failures = {row for row in rows if not self.has_data[row]}
        return _SameShard(shard, failures, self.store.ledger_entry(shard).files)

    def read_layer(self, layer: str, rows: Sequence[int], dtype: str) -> dict[str, np.ndarray]:
        """A layer of rows of the new store, as the arrays that hold it in `dtype`."""
        own = self.row_of[np.asarray(rows, np.int64)]
        features = self.store.read_layer(layer, own)
        if self.store.identity.dtype != dtype:
            is_grid = self.store.layers[layer].is_grid
            features = encode_features(features.decoded(), dtype, is_grid=is_grid)
        return features.as_arrays(fmt.layer_key(layer), fmt.scales_key(layer))

    def read_array(self, name: str, rows: Sequence[int]) -> list[np.ndarray]:
        """`targets`, `thumbnails` or `masks` of rows of the new store, masks at their own size."""
        own = self.row_of[np.asarray(rows, np.int64)]
        if name == "masks":
            return [self.store.read_masks(own[[place]])[0] for place in range(len(own))]
        return list(self.store.read_array(name, own))


# The arrays of one row, by name.
_Values = dict[str, np.ndarray]


class EarlierStores:
    """All that can be reused for one store; of what several have, the first gives it."""

    def __init__(self, stores: Sequence[EarlierStore]) -> None:
        self._stores = list(stores)
        self._gave: set[str] = set()

    @property
    def locations(self) -> list[str]:
        """Locations of the stores that gave something."""
        return [e.store.location for e in self._stores if e.store.location in self._gave]

    def have(self, rows: range, layer: str | None) -> np.ndarray:
        """Tell of rows of the new store whether one has data, and this layer (None for any).

        Returns:
            (len(rows),) bool.
        """
        found = np.zeros(len(rows), bool)
        for earlier in self._stores:
            if earlier.gives(layer):
                found |= earlier.has_data[rows.start : rows.stop]
        return found

    def failures(self, rows: range) -> dict[int, str]:
        """Return the reasons of those rows of the new store that some tried and none could use."""
        if not any(earlier.store.failures for earlier in self._stores):
            return {}
        found = {}
        for row in (rows.start + np.flatnonzero(~self.have(rows, None))).tolist():
            reasons = (earlier.failure(row) for earlier in self._stores)
            reason = next((reason for reason in reasons if reason is not None), None)
            if reason is not None:
                found[row] = reason
        return found

    def stored_shard(
        self, array: fmt.RowArray, rows: range, failures: Mapping[int, str], rows_per_shard: int
    ) -> StoredShard | None:
        """The file that holds an array of just these rows, None when none does."""
        for earlier in self._stores:
            stored = earlier.stored_shard(array, rows, failures, rows_per_shard)
            if stored is not None:
                self._gave.add(earlier.store.location)
                return stored
        return None

    def read_layer(self, layer: str, rows: Sequence[int], dtype: str) -> dict[int, _Values]:
        """A layer of rows of the new store: to each row, the arrays by name that hold it."""
        return self._read(rows, layer, lambda earlier, own: earlier.read_layer(layer, own, dtype))

    def read_array(self, name: str, rows: Sequence[int]) -> dict[int, _Values]:
        """The same for `targets`, `thumbnails` or `masks`; masks have their own sizes."""
        return self._read(rows, None, lambda earlier, own: {name: earlier.read_array(name, own)})

    def _read(
        self,
        rows: Sequence[int],
        layer: str | None,
        read: Callable[[EarlierStore, list[int]], Mapping[str, Sequence[np.ndarray] | np.ndarray]],
    ) -> dict[int, _Values]:
        found: dict[int, _Values] = {}
        for earlier in self._stores:
            if not earlier.gives(layer):
                continue
            own = [row for row in rows if row not in found and earlier.has_data[row]]
            if own:
                self._gave.add(earlier.store.location)
                arrays = read(earlier, own)
                for number, row in enumerate(own):
                    found[row] = {name: values[number] for name, values in arrays.items()}
        return found


def order_after(samples: Samples, earlier: Store | None) -> Samples:
    """Return samples in the order of a new store's rows: those of an earlier store first.

    So whole shards stay what they are when images are added. The others follow sorted by id, but
    the same image (with another mask) right behind its first, so that it is computed once.
    """
    place = np.full(len(samples), 0 if earlier is None else len(earlier.samples))
    if earlier is not None:
        found = _find(samples, earlier.samples, with_id=True)
        place = np.where(found >= 0, found, place)
    rank = np.empty(len(samples), np.int64)
    rank[samples.by_id()] = np.arange(len(samples))
    images = samples.table.column("image_sha256").combine_chunks().dictionary_encode()
    image = images.indices.to_numpy()
    first = np.full(len(images.dictionary), len(samples))
    np.minimum.at(first, image, rank)
    return samples.take(np.lexsort((rank, first[image], place)))


def find_earlier_stores(
    root: str | Path,
    dataset: str,
    identity: StoreIdentity,
    samples: Samples,
    fake_is_white: bool,
) -> list[Store]:
    """Complete stores of the same dataset with the same backbone, most shared first.

    Those whose layers are of use, in the same dtype, then in float32; where there is none, one that
    can give masks and thumbnails.
    """
    own = store_location(root, dataset, identity)
    folder, own_name = own.rsplit("/", 1)
    wanted = samples.content()
    storage = storage_at(folder)
    found: list[tuple[tuple[Any, ...], str]] = []
    for name in storage.folders():
        location = join_location(folder, name)
        if name == own_name or leftover(name) is not None:
            continue
        if not storage.exists(f"{name}/{fmt.COMPLETE}"):
            continue
        try:
            # The header first: opening a store reads its samples, 0.4 GB for a million.
            header = parse_header(storage.read(f"{name}/{fmt.GROUP}"), location)
            if not _is_of_same_files_and_backbone(header, identity, fake_is_white):
                continue
            shared = header.rows
            own_rows = (identity.manifest_sha256, identity.tiles)
            if (header.identity.manifest_sha256, header.identity.tiles) != own_rows:
                content = Store(location).samples.content()
                shared = pc.sum(pc.is_in(content, value_set=wanted)).as_py() or 0
        except StoreError:
            continue  # damaged, or of another version: it has nothing to give
        other = header.identity
        layers = len(set(other.layers) & set(identity.layers))
        useful = bool(layers) and _gives_layers(other, identity)
        if shared:
            others = header.rows - shared
            rank = (not useful, other.dtype != identity.dtype, -shared, others, -layers, name)
            found.append((rank, location))
    opened: list[Store] = []
    for (is_useless, *_), location in sorted(found):
        # For masks and thumbnails, one is enough.
        if is_useless and opened:
            break
        with suppress(StoreError):
            opened.append(Store(location))
    return opened


def _is_of_same_files_and_backbone(
    header: StoreHeader, identity: StoreIdentity, fake_is_white: bool
) -> bool:
    other = header.identity
    return (
        other.weights_sha256 == identity.weights_sha256
        and other.preprocessing == identity.preprocessing
        and other.backbone == identity.backbone
        and header.fake_is_white == fake_is_white
    )


def match_rows(samples: Samples, identity: StoreIdentity, stores: Sequence[Store]) -> EarlierStores:
    """Pair the rows of a store to be written (`samples`, in order) with those of earlier ones."""
    matched = []
    for store in stores:
        row_of = _find(samples, store.samples, with_id=True)
        others = np.flatnonzero(row_of < 0)
        if len(others):
            row_of[others] = _find(samples.take(others), store.samples, with_id=False)
        has_data = (row_of >= 0) & ~np.isin(row_of, list(store.failures))
        useful = _gives_layers(store.identity, identity)
        matched.append(EarlierStore(store, storage_at(store.location), row_of, has_data, useful))
    return EarlierStores(matched)


def _find(samples: Samples, among: Samples, *, with_id: bool) -> np.ndarray:
    """Rows of `among` with the same image and mask (and id), int64; -1 where there is none."""

    def keys(of: Samples) -> pa.Array:
        content = of.content()
        if not with_id:
            return content
        ids = of.table.column("id").combine_chunks().cast(pa.binary())
        return pc.binary_join_element_wise(ids, content, b"/")

    wanted, known = keys(samples), keys(among)
    # Another view has the same rows: to see that takes a tenth of a search. Ids occur once.
    if with_id and wanted.equals(known):
        return np.arange(len(samples))
    return np.array(pc.fill_null(pc.index_in(wanted, value_set=known), -1), np.int64)


def _gives_layers(earlier: StoreIdentity, identity: StoreIdentity) -> bool:
    return (
        earlier.view == identity.view
        and earlier.precision == identity.precision
        and earlier.dtype in (identity.dtype, EXACT_DTYPE)
    )
