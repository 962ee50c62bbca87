"""What earlier stores hold already of a store that is to be made."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from declip_pipeline.errors import StoreError
from declip_pipeline.feature_dtype import encode_features
from declip_pipeline.store import format as fmt
from declip_pipeline.store.identity import StoreIdentity, store_location
from declip_pipeline.store.reader import Store
from declip_pipeline.store.storage import Storage, join_location, storage_at
from declip_pipeline.store.writer import ShardFile, StoredShard, StoreWriter

# Any type can be made from it with the same result as from the backbone's own output.
EXACT_DTYPE = "float32"


@dataclass(frozen=True)
class EarlierStore:
    """A complete store with some of the same pictures seen by the same backbone.

    `row_of` maps rows of the new store to those that hold the same picture and mask here.
    """

    store: Store
    storage: Storage
    row_of: Mapping[int, int]
    _ledger: dict[int, dict[str, Any]] = field(default_factory=dict)

    def failure(self, row: int) -> str | None:
        """Why the picture of a row of the new store could not be used, if it could not."""
        return self.store.failures.get(self.row_of.get(row, -1))

    def stored_shard(
        self, array: fmt.RowArray, rows: range, failures: Mapping[int, str]
    ) -> StoredShard | None:
        """The file that holds an array of just these rows, None when none does."""
        header = self.store.header
        first = self.row_of.get(rows.start, -1)
        shard, place = divmod(first, header.rows_per_shard)
        if (
            first < 0
            or place
            or self.store.arrays.get(array.name) != array
            or header.rows_per_shard != fmt.ROWS_PER_SHARD
            or len(header.shard_rows(shard)) != len(rows)
            or [self.row_of.get(row) for row in rows] != list(header.shard_rows(shard))
            or {row for row in rows if self.failure(row) is not None} != set(failures)
        ):
            return None
        key = array.shard_key(shard)
        if shard not in self._ledger:
            self._ledger[shard] = json.loads(self.storage.read(fmt.ledger_key(shard)) or b"{}")
        file = self._ledger[shard].get("files", {}).get(key)
        return None if file is None else StoredShard(self.storage, key, ShardFile(**file))

    def read_layer(self, layer: str, rows: Sequence[int], dtype: str) -> dict[str, np.ndarray]:
        """A layer of rows of the new store, as the arrays that hold it in `dtype`."""
        own = np.asarray([self.row_of[row] for row in rows])
        features = self.store.read_layer(layer, own)
        if self.store.identity.dtype != dtype:
            is_grid = self.store.layers[layer].is_grid
            features = encode_features(features.decoded(), dtype, is_grid=is_grid)
        return features.as_arrays(fmt.layer_key(layer), fmt.scales_key(layer))

    def read_array(self, name: str, rows: Sequence[int]) -> list[np.ndarray]:
        """`targets`, `thumbnails` or `masks` of rows of the new store, masks at their own size."""
        own = [self.row_of[row] for row in rows]
        if name == "masks":
            return [self.store.read_masks(np.asarray([row]))[0] for row in own]
        return list(self.store.read_array(name, np.asarray(own)))


class EarlierStores:
    """All that can be reused for one store: the first one with a layer gives it."""

    def __init__(self, stores: Sequence[EarlierStore]) -> None:
        self._stores = list(stores)

    @property
    def first(self) -> EarlierStore | None:
        """The one that shares most."""
        return self._stores[0] if self._stores else None

    @property
    def locations(self) -> list[str]:
        """Where they lie."""
        return [earlier.store.location for earlier in self._stores]

    def with_layer(self, layer: str) -> EarlierStore | None:
        """The store to take a layer from."""
        return next((e for e in self._stores if layer in e.store.layers), None)

    def failure(self, row: int) -> str | None:
        """Why a row of the new store could not be used before, if it could not."""
        reasons = (earlier.failure(row) for earlier in self._stores)
        return next((reason for reason in reasons if reason is not None), None)

    def missing_layers(self, row: int, layers: Sequence[str]) -> list[str]:
        """The layers that the backbone must compute for a row of the new store."""
        return [
            layer
            for layer in layers
            if (earlier := self.with_layer(layer)) is None or row not in earlier.row_of
        ]


def order_after(
    samples: Sequence[Mapping[str, Any]], earlier: Store | None
) -> list[Mapping[str, Any]]:
    """Samples in the order of a new store's rows: those of the earlier store first, as there.

    So whole shards stay what they are when pictures are added; the others follow sorted by id.
    """
    if earlier is None:
        return sorted(samples, key=lambda sample: str(sample["id"]))
    place = {(s["id"], *_content(s)): row for row, s in enumerate(earlier.samples)}
    last = len(place)
    return sorted(samples, key=lambda s: (place.get((s["id"], *_content(s)), last), str(s["id"])))


def find_earlier_stores(
    root: str | Path,
    dataset: str,
    identity: StoreIdentity,
    samples: Sequence[Mapping[str, Any]],
    fake_is_white: bool,
) -> list[Store]:
    """Complete stores of the same dataset with the same backbone and view, most shared first.

    Taken are those in the same dtype and, after them, those in float32.
    """
    own = store_location(root, dataset, identity)
    folder, own_name = own.rsplit("/", 1)
    wanted = {_content(sample) for sample in samples}
    found: list[tuple[tuple[Any, ...], Store]] = []
    for name in storage_at(folder).folders():
        if name == own_name or not name.startswith(f"{identity.view}-"):
            continue
        try:
            store = Store(join_location(folder, name))
        except StoreError:
            continue  # unfinished, or of another version: it has nothing to give
        other = store.identity
        same = (
            other.weights_sha256 == identity.weights_sha256
            and other.preprocessing == identity.preprocessing
            and other.backbone == identity.backbone
            and other.view == identity.view
            and other.dtype in (identity.dtype, EXACT_DTYPE)
            and store.fake_is_white == fake_is_white
        )
        shared = sum(_content(sample) in wanted for sample in store.samples)
        layers = len(set(other.layers) & set(identity.layers))
        if same and shared and layers:
            rank = (other.dtype != identity.dtype, -shared, -layers, name)
            found.append((rank, store))
    return [store for _, store in sorted(found, key=lambda pair: pair[0])]


def match_rows(writer: StoreWriter, stores: Sequence[Store]) -> EarlierStores:
    """Pair the rows of a store to be written with those of earlier ones."""
    matched = []
    for store in stores:
        by_content = {_content(s): row for row, s in enumerate(store.samples)}
        by_id = {(s["id"], *_content(s)): row for row, s in enumerate(store.samples)}
        row_of = {}
        for row, sample in enumerate(writer.samples):
            content = _content(sample)
            found = by_id.get((sample["id"], *content), by_content.get(content))
            if found is not None:
                row_of[row] = found
        matched.append(EarlierStore(store, storage_at(store.location), row_of))
    return EarlierStores(matched)


def _content(sample: Mapping[str, Any]) -> tuple[str, str | None]:
    return sample["image_sha256"], sample["mask_sha256"]
