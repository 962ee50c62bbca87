"""Reading a store: complete ones only, by row, through TensorStore."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from declip_pipeline.errors import StoreError, UnknownNameError
from declip_pipeline.feature_shape import FeatureShape
from declip_pipeline.store import format as fmt
from declip_pipeline.store.identity import StoreIdentity, feature_identity
from declip_pipeline.store.storage import Storage


class Store:
    """A complete feature store.

    Attributes: `path`; `identity`; `layers` (name to shape, in order of depth); `dataset`;
    `provenance` (where all came from); `samples` (the manifest's rows as plain JSON, in row order);
    `failures` (row to reason);
    `sizes` (N, 2) int32, height and width of each picture and mask in pixels; `labels` (N,) int8,
    1 = fake.
    """

    def __init__(self, path: Path) -> None:
        """Open the store at `path`.

        Raises `StoreError` when it is not a store, incomplete, or of another format version.
        """
        self.path = path
        self._storage = Storage(path)
        self._arrays: dict[str, ts.TensorStore] = {}
        attributes = self._attributes()
        self.identity = StoreIdentity.from_json(attributes["identity"])
        if self.identity.sha256 != attributes["identity_sha256"]:
            raise StoreError(f"{path}: its identity was edited; extract it again")
        self.layers = {
            name: FeatureShape.from_json(attributes["layers"][name])
            for name in self.identity.layers
        }
        self.dataset: str = attributes["dataset"]
        self.provenance: dict[str, Any] = attributes["provenance"]
        summary = self._json(fmt.COMPLETE)
        self.failures = {int(row): reason for row, reason in summary["failures"].items()}
        self.samples: list[dict[str, Any]] = self._json(fmt.MANIFEST)["samples"]
        self.labels = self._read("labels", None)
        self.sizes = self._read("sizes", None)

    def _attributes(self) -> dict[str, Any]:
        blob = self._storage.read(fmt.GROUP) if self.path.is_dir() else None
        try:
            attributes = json.loads(blob or b"{}")["attributes"][fmt.ATTRIBUTES]
        except (ValueError, KeyError, TypeError) as error:
            unfinished = "; it may be one that was just begun" if self._just_begun() else ""
            raise StoreError(
                f"{self.path} is not a feature store{unfinished}; "
                "expected the folder that `declip-pipe extract` printed"
            ) from error
        version = attributes["format_version"]
        if version != fmt.FORMAT_VERSION:
            raise StoreError(
                f"{self.path} has store format version {version}, this program reads "
                f"{fmt.FORMAT_VERSION}; extract it again, or use the version that wrote it"
            )
        if not self._storage.exists(fmt.COMPLETE):
            total = fmt.shard_count(attributes["rows"])
            done = sum(self._storage.exists(fmt.ledger_key(shard)) for shard in range(total))
            raise StoreError(
                f"{self.path} is incomplete: {done} of {total} shards; "
                "run the same `declip-pipe extract` command to finish it"
            )
        return dict(attributes)

    def _just_begun(self) -> bool:
        return self.path.is_dir() and self._storage.exists(fmt.MANIFEST)

    def _json(self, key: str) -> Any:
        blob = self._storage.read(key)
        if blob is None:
            raise StoreError(f"{self.path} lacks its {key}; extract it again")
        try:
            return json.loads(blob)
        except ValueError as error:
            raise StoreError(
                f"{self.path}: its {key} is damaged ({error}); extract it again"
            ) from error

    @property
    def splits(self) -> list[str]:
        """The splits that occur, sorted."""
        return sorted({sample["split"] for sample in self.samples})

    @property
    def generators(self) -> list[str]:
        """The generators of the fakes that occur, sorted."""
        return sorted({sample["generator"] for sample in self.samples if sample["label"]})

    def fake_rows(self, split: str, generators: Sequence[str] | None = None) -> np.ndarray:
        """Rows (int64) of the usable fakes of a split, of the given generators or of all.

        Raises `UnknownNameError` for a split or generator that does not occur.
        """
        if split not in self.splits:
            raise UnknownNameError(f"split in {self.path}", split, self.splits)
        wanted = self.generators if generators is None else generators
        for name in wanted:
            if name not in self.generators:
                raise UnknownNameError(f"generator in {self.path}", name, self.generators)
        return np.asarray(
            [
                row
                for row, sample in enumerate(self.samples)
                if sample["split"] == split
                and sample["label"]
                and sample["generator"] in wanted
                and row not in self.failures
            ],
            np.int64,
        )

    def feature_identity(self, layer: str) -> dict[str, Any]:
        """The identity of one layer's features; `UnknownNameError` lists the store's layers."""
        if layer not in self.layers:
            raise UnknownNameError(f"layer in {self.path}", layer, self.layers)
        return feature_identity(
            self.identity.backbone,
            self.identity.weights_sha256,
            self.identity.preprocessing,
            layer,
            self.layers[layer],
        )

    def begin_reading_layer(self, layer: str, rows: np.ndarray) -> Callable[[], np.ndarray]:
        """Start to read a layer's rows; calling the result waits for (len(rows), *shape)."""
        return self._begin(fmt.layer_key(layer), rows)

    def begin_reading_targets(self, rows: np.ndarray) -> Callable[[], np.ndarray]:
        """Start to read targets; calling the result waits for what `read_targets` returns."""
        return self._begin("targets", rows)

    def read_layer(self, layer: str, rows: np.ndarray) -> np.ndarray:
        """A layer's rows in the given order, (len(rows), *shape) in the store's dtype."""
        return self._read(fmt.layer_key(layer), rows)

    def read_targets(self, rows: np.ndarray) -> np.ndarray:
        """Masks resized to (len(rows), 256, 256) uint8, 255 = fake."""
        return self._read("targets", rows)

    def read_thumbnails(self, rows: np.ndarray) -> np.ndarray:
        """Pictures resized to (len(rows), 128, 128, 3) uint8 RGB."""
        return self._read("thumbnails", rows)

    def read_masks(self, rows: np.ndarray) -> np.ndarray:
        """Masks at native size, (len(rows), height, width) bool, True = fake.

        Raises `StoreError` unless all rows have the same size.
        """
        sizes = np.unique(self.sizes[rows], axis=0)
        if len(sizes) != 1:
            raise StoreError(f"masks of {len(sizes)} sizes cannot be read as one array")
        height, width = sizes[0].tolist()
        return self._read("masks", rows, (slice(height), slice(width)))

    def _begin(
        self, key: str, rows: np.ndarray | None, window: tuple[slice, ...] = ()
    ) -> Callable[[], np.ndarray]:
        if key not in self._arrays:
            spec = {
                "driver": "zarr3",
                "kvstore": self._storage.spec(key),
                # Absent data is an error, never zeros.
                "fill_missing_data_reads": False,
            }
            try:
                self._arrays[key] = ts.open(spec, open=True).result()
            except ValueError as error:
                raise self._damaged(key, error) from error
        array = self._arrays[key]
        index: Any = (rows, *window)
        future = array.read() if rows is None else array[index].read()

        def finish() -> np.ndarray:
            try:
                return np.asarray(future.result())
            except ValueError as error:
                raise self._damaged(key, error) from error

        return finish

    def _read(
        self, key: str, rows: np.ndarray | None, window: tuple[slice, ...] = ()
    ) -> np.ndarray:
        return self._begin(key, rows, window)()

    def _damaged(self, what: str, error: ValueError) -> StoreError:
        # TensorStore appends its whole specification.
        reason = str(error).splitlines()[0].split(" [tensorstore_spec=")[0]
        return StoreError(f"{self.path}: {what} cannot be read ({reason}); extract it again")
