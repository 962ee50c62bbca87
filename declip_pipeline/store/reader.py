"""Reading a store: complete ones only, by row, from shards or from an HDF5 file."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from declip_pipeline.arguments import require_path
from declip_pipeline.datasets.labelled import LabelledImages
from declip_pipeline.errors import InputError, StoreError, UnknownNameError
from declip_pipeline.features import FeatureShape, StoredFeatures
from declip_pipeline.images.tiles import Tiling, Window
from declip_pipeline.store import format as fmt
from declip_pipeline.store.generations import replacement_of
from declip_pipeline.store.header import StoreHeader, parse_header, read_samples
from declip_pipeline.store.identity import StoreIdentity, feature_identity
from declip_pipeline.store.records import (
    LedgerEntry,
    damaged_record,
    parse_completion,
    parse_ledger_entry,
    require_recorded,
)
from declip_pipeline.store.rows import RowSource, ZarrRows
from declip_pipeline.store.schema import DamagedRecordError
from declip_pipeline.store.storage import URL_MARK, is_below_something, storage_at


class Store(LabelledImages):
    """A complete feature store: a folder, an s3:// URL, or a file of `declip-pipe cache export`.

    A row is an image, or a tile of one. Reading threads start with the first read; they do not
    survive a fork.

    Example:
        >>> store = open_store("cache/noisy/efficientnet-lite0/clean-float16-0123456789abcdef")
        >>> rows = store.fake_rows("train")
        >>> features = store.read_layer("layer3", rows[:8]).decoded()  # (8, *shape) float32

    Attributes:
        location: Folder, URL or file.
        identity: What the store holds: backbone, weights, preprocessing, view, layers, dtype,
            samples, precision.
        layers: Shape of each layer's features by the layer's name, in order of depth.
        dataset: Name of the dataset.
        samples: Table of the images, in row order.
        failures: Reasons by the rows of images that could not be read; they hold no features.
        sizes: Height and width of what each row shows, the image or the tile, and of its mask in
            pixels, (N, 2) int32.
        provenance: Record of what the store was made from, as plain JSON.
        fake_is_white: Whether white pixels of the mask files are fake.
    """

    def __init__(self, location: str | Path) -> None:
        """Open the store at `location`.

        Raises `StoreError` when it is not a store, incomplete, or of another format version.
        """
        require_path(location, "a store", "its location, or an open `Store`")
        self.location = str(location)
        self.read_record: Callable[[str], bytes | None]
        if is_single_file(location):
            from declip_pipeline.store.hdf5_rows import Hdf5Rows

            file = Hdf5Rows(Path(location))
            self.read_record, read_all = file.read_blob, file.read_blobs
        else:
            storage = storage_at(location)
            self.read_record, read_all = storage.read, storage.read_all
        group = self.read_record(fmt.GROUP)
        if group is None:
            _require_in_place(self.location)
        self.header: StoreHeader = parse_header(group, self.location)
        self.identity: StoreIdentity = self.header.identity
        self.layers: dict[str, FeatureShape] = self.header.layers
        self.dataset = self.header.dataset
        self.provenance = self.header.provenance
        self.fake_is_white = self.header.fake_is_white
        blob = self.read_record(fmt.COMPLETE)
        if blob is None:
            raise _incomplete(self.header, self.read_record, self.location)
        with self._records(fmt.COMPLETE):
            completion = parse_completion(blob, self.header)
        self.failures = completion.failures
        keys = list(completion.metadata_sha256)
        manifest = None
        for key, found in zip(keys, read_all(keys), strict=True):
            with self._records(key):
                require_recorded(key, group if key == fmt.GROUP else found, completion)
            if key == fmt.MANIFEST:
                manifest = found
        self.samples = read_samples(manifest, self.location)
        if {completion.rows, len(self.samples)} != {self.header.rows}:
            raise StoreError(
                f"{self.location}: its {fmt.GROUP} says {self.header.rows} rows, its "
                f"{fmt.MANIFEST} has {len(self.samples)}, its {fmt.COMPLETE} {completion.rows}; "
                f"run `declip-pipe cache verify {self.location} --repair`"
            )
        self.sizes = self.samples.row_sizes
        self.arrays = fmt.row_arrays(self.layers, self.identity.dtype, self.samples)
        self.manifest_sha256 = completion.metadata_sha256[fmt.MANIFEST]
        self._require_failures(read_all)
        self.source: RowSource = (
            file
            if is_single_file(location)
            else ZarrRows(storage, self.header, self.samples, self.failures, blob)
        )

    @contextmanager
    def _records(self, key: str) -> Iterator[None]:
        """Turn what is wrong with a record into the error that names it."""
        try:
            yield
        except DamagedRecordError as error:
            raise damaged_record(self.location, key, error) from error

    def _require_failures(self, read_all: Callable[[Sequence[str]], list[bytes | None]]) -> None:
        """Hold failures against the ledger: rows must not be left out that have data.

        Of the shards without failures, the index of each array says so when it is first read.
        """
        by_shard: dict[int, dict[int, str]] = {}
        for row, reason in self.failures.items():
            by_shard.setdefault(row // self.header.rows_per_shard, {})[row] = reason
        blobs = read_all([fmt.ledger_key(shard) for shard in by_shard])
        for (shard, failures), blob in zip(by_shard.items(), blobs, strict=True):
            if self._ledger_entry(shard, blob).failures != failures:
                with self._records(fmt.COMPLETE):
                    raise DamagedRecordError(f"has other failures than {fmt.ledger_key(shard)}")

    def ledger_entry(self, shard: int) -> LedgerEntry:
        """The ledger entry of a shard. Raises `StoreError` for one absent or damaged."""
        return self._ledger_entry(shard, self.read_record(fmt.ledger_key(shard)))

    def _ledger_entry(self, shard: int, blob: bytes | None) -> LedgerEntry:
        with self._records(fmt.ledger_key(shard)):
            if blob is None:
                raise DamagedRecordError("is missing")
            return parse_ledger_entry(blob, shard, self.header, self.manifest_sha256, self.arrays)

    def __len__(self) -> int:
        return len(self.samples)

    def __repr__(self) -> str:
        return f"Store({self.location!r})"

    @property
    def has_masks(self) -> bool:
        """Return whether it holds masks and targets: not of unlabelled images."""
        return "targets" in self.arrays

    @property
    def view(self) -> str:
        """Name of the view of the images."""
        return self.identity.view

    @property
    def sha256(self) -> str:
        """Identity of the store, 64 hex digits."""
        return self.identity.sha256

    @property
    def root(self) -> Path | None:
        """Folder of the images' files at the extraction; None where it is not recorded."""
        root = self.provenance.get("root")
        return Path(root) if isinstance(root, str) else None

    def feature_identity(self, layer: str) -> dict[str, Any]:
        """The identity of one layer's features; `UnknownNameError` lists the store's layers."""
        if layer not in self.layers:
            raise UnknownNameError(f"layer in {self.location}", layer, self.layers)
        return feature_identity(
            self.identity.backbone,
            self.identity.weights_sha256,
            self.identity.preprocessing,
            layer,
            self.layers[layer],
            tiles=None if self.tiling is None else self.tiling.size,
        )

    @property
    def tiling(self) -> Tiling | None:
        """Windows over the images that the rows are; None where a row is a whole image."""
        return None if self.identity.tiles is None else Tiling.parse(self.identity.tiles)

    def bytes_per_row(self, layer: str) -> int:
        """Bytes that one row of a layer takes in memory, as it is stored."""
        keys = (fmt.layer_key(layer), fmt.scales_key(layer))
        return sum(self.arrays[key].tile_bytes for key in keys if key in self.arrays)

    def begin_reading_layer(self, layer: str, rows: np.ndarray) -> Callable[[], StoredFeatures]:
        """Start to read a layer's rows; calling the result waits for what `read_layer` returns."""
        reads = [
            self._begin(key, rows)
            for key in (fmt.layer_key(layer), fmt.scales_key(layer))
            if key in self.arrays
        ]

        def finish() -> StoredFeatures:
            return StoredFeatures.from_arrays(self.identity.dtype, *(read() for read in reads))

        return finish

    def begin_reading_targets(self, rows: np.ndarray) -> Callable[[], np.ndarray]:
        """Start to read targets; calling the result waits for what `read_targets` returns."""
        return self._begin("targets", rows)

    def read_layer(self, layer: str, rows: np.ndarray) -> StoredFeatures:
        """A layer's rows in the given order, as they are stored; `.decoded()` is float32."""
        return self.begin_reading_layer(layer, rows)()

    def read_array(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Rows of a sharded array by its name, (len(rows), *row_shape) in the array's dtype."""
        return self._begin(name, rows)()

    def read_targets(self, rows: np.ndarray) -> np.ndarray:
        """Masks resized to (len(rows), 256, 256) uint8, 255 = fake."""
        return self.read_array("targets", rows)

    def read_thumbnails(self, rows: np.ndarray) -> np.ndarray:
        """Images resized to (len(rows), 128, 128, 3) uint8 RGB."""
        return self.read_array("thumbnails", rows)

    def read_masks(self, rows: np.ndarray) -> np.ndarray:
        """Masks at native size, (len(rows), height, width) bool, True = fake.

        Raises `StoreError` unless all rows have the same size.
        """
        sizes = np.unique(self.sizes[rows], axis=0)
        if len(sizes) != 1:
            raise StoreError(f"masks of {len(sizes)} sizes cannot be read as one array")
        height, width = sizes[0].tolist()
        return self._begin("masks", rows, (height, width))()

    def image_mask(self, rows: np.ndarray) -> np.ndarray:
        """Mask of one image at its own size, (height, width) bool, True = fake.

        Args:
            rows: The image's row, or those of all its tiles, int64.
        """
        if self.tiling is None:
            mask: np.ndarray = self.read_masks(rows)[0]
            return mask
        samples = self.samples.take(rows)
        mask = np.zeros(tuple(samples.sizes[0].tolist()), bool)
        for row, place in zip(rows, samples.places.tolist(), strict=True):
            Window(*place).of(mask)[...] = self.read_masks(np.asarray([row]))[0]
        return mask

    def _begin(
        self, name: str, rows: np.ndarray, window: tuple[int, ...] | None = None
    ) -> Callable[[], np.ndarray]:
        places = np.asarray(rows)
        if len(places) and not 0 <= places.min() <= places.max() < len(self):
            raise InputError(
                f"rows from {places.min()} to {places.max()} were asked for; {self.location} has "
                f"rows from 0 to {len(self) - 1}"
            )
        return self.source.begin(self.arrays[name], places, window)


def open_store(location: str | Path) -> Store:
    """Open a complete store.

    Args:
        location: Folder or s3:// URL that `declip-pipe extract` printed, or a file that
            `declip-pipe cache export` wrote.

    Raises:
        StoreError: It is not a store, incomplete, damaged, or of another format version.
        InputError: A URL of another kind.

    Example:
        >>> store = open_store("cache/noisy/efficientnet-lite0/clean-float16-0123456789abcdef")
    """
    return Store(location)


def is_single_file(location: str | Path) -> bool:
    """Return whether `location` is a file rather than a folder or a URL."""
    try:
        return URL_MARK not in str(location) and Path(location).is_file()
    except OSError:
        return False  # whoever opens it as a folder says why


def enclosing_store(folder: Path) -> Path | None:
    """Return the store, complete or not, that a folder is or lies in; None outside of all."""
    places = (folder.absolute(), *folder.absolute().parents)
    marks = (fmt.GROUP, fmt.MANIFEST)
    return next((place for place in places if all((place / m).is_file() for m in marks)), None)


def _require_in_place(location: str) -> None:
    """Raise `StoreError` where a store was to be replaced, and a kill came in between."""
    if not location or is_single_file(location) or not is_below_something(location):
        return
    replacement = replacement_of(location)
    if replacement is not None:
        raise StoreError(
            f"{location} is being replaced, {replacement} is to take its place; run the same "
            "`declip-pipe extract` command to finish that"
        )


def _incomplete(
    header: StoreHeader, read: Callable[[str], bytes | None], location: str
) -> StoreError:
    done = sum(read(fmt.ledger_key(shard)) is not None for shard in range(header.shards))
    return StoreError(
        f"{location} is incomplete: {done} of {header.shards} shards; "
        "run the same `declip-pipe extract` command to finish it"
    )


Images = TypeVar("Images", bound=LabelledImages)

StoreLike = Store | str | Path
"""A store, or its location."""


def as_store(store: StoreLike) -> Store:
    """Open a store that is given by its location."""
    return store if isinstance(store, Store) else Store(store)


def as_stores(stores: StoreLike | Sequence[StoreLike]) -> list[Store]:
    """Open stores that are given by their locations, one or several."""
    if isinstance(stores, StoreLike):
        return [as_store(stores)]
    if not isinstance(stores, Iterable):
        raise InputError(f"found {type(stores).__name__} for stores; expected one or a list")
    return [as_store(one) for one in stores]


def distinct_stores(stores: Sequence[Images]) -> tuple[list[Images], list[str]]:
    """Return each store once, and the locations of those that were given again.

    Copies of a store are the same store.
    """
    found: dict[str, Images] = {}
    repeated = []
    for store in stores:
        if store.sha256 in found:
            repeated.append(store.location)
        found.setdefault(store.sha256, store)
    return list(found.values()), repeated


def repeated_text(place: object) -> str:
    """Return the line that says of a run or store that it was given again."""
    return f"given more than once, taken once: {place}"
