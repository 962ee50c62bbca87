"""Samples: one table of all that is known of a dataset's images."""

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from declip_pipeline.datasets.listing import unique_ids
from declip_pipeline.datasets.sample import FAKE, REAL, UNKNOWN, UNSPLIT, Sample
from declip_pipeline.errors import InputError, UnknownNameError

_NAME = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("image", pa.string(), nullable=False),
        pa.field("mask", pa.string()),
        pa.field("split", _NAME, nullable=False),
        pa.field("generator", _NAME, nullable=False),
        pa.field("label", pa.int8(), nullable=False),
        pa.field("source", _NAME, nullable=False),
        pa.field("scene", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("image_sha256", pa.binary(32)),
        pa.field("mask_sha256", pa.binary(32)),
        pa.field("top", pa.int32()),
        pa.field("left", pa.int32()),
        pa.field("tile_height", pa.int32()),
        pa.field("tile_width", pa.int32()),
    ]
)
"""Columns of a table of samples; see `Sample` for what they hold. Hashes are 32 bytes."""

PLACE = ("top", "left", "tile_height", "tile_width")
"""Columns of a tile's place, null for a whole image; a table of whole images may lack them."""

_ROWS_AT_ONCE = 16_384
_NAMES = ("split", "generator", "source")


class Samples(Sequence[Sample]):
    """A table of samples, one row an image or a tile, with typed rows and vectorised selection.

    `samples[row]` is a `Sample`; `samples.table` the Arrow table with the columns of `SCHEMA`.
    Whatever goes over many rows uses the columns: a million samples take about 300 MB as a table,
    and several times that as objects.
    """

    def __init__(self, table: pa.Table) -> None:
        """Wrap a table.

        Args:
            table: Columns as in `SCHEMA`, in any order; others are dropped. Without those of
                `PLACE`, the samples are whole images.

        Raises:
            InputError: For a missing column, or a column of another type.
        """
        if not set(PLACE) & set(table.column_names):
            for name in PLACE:
                table = table.append_column(SCHEMA.field(name), pa.nulls(len(table), pa.int32()))
        missing = [name for name in SCHEMA.names if name not in table.column_names]
        if missing:
            raise InputError(
                f"the table of samples lacks {', '.join(missing)}; "
                f"expected the columns {', '.join(SCHEMA.names)}"
            )
        try:
            self.table = table.select(SCHEMA.names).cast(SCHEMA).combine_chunks()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
            raise InputError(f"the table of samples has another schema: {error}") from error

    @classmethod
    def from_rows(cls, rows: Iterable[Sample]) -> "Samples":
        """Build the table of samples that come one by one, in their order."""
        remaining = iter(rows)
        batches: list[pa.RecordBatch] = []
        while chunk := list(islice(remaining, _ROWS_AT_ONCE)):
            columns = {name: [getattr(sample, name) for sample in chunk] for name in SCHEMA.names}
            for name in ("image_sha256", "mask_sha256"):
                columns[name] = [None if h is None else bytes.fromhex(h) for h in columns[name]]
            batches.append(pa.RecordBatch.from_pydict(columns, SCHEMA))
        return cls(pa.Table.from_batches(batches, SCHEMA).unify_dictionaries())

    @classmethod
    def from_columns(
        cls,
        image: Sequence[str],
        *,
        mask: Sequence[str | None] | None = None,
        split: Sequence[str] | str = UNSPLIT,
        generator: Sequence[str] | str,
        source: Sequence[str] | str,
        label: Sequence[int] | int | None = None,
        scene: Sequence[str] | None = None,
        id: Sequence[str] | None = None,  # noqa: A002
    ) -> "Samples":
        """Build the table of images that were not read yet.

        A string or a number stands for that value in every row.

        Args:
            image: Posix paths relative to the dataset's root.
            mask: The same of the masks, None for an image without one; None for no masks at all.
            split: "train", "valid", "test", or "all".
            generator: The method that made each fake, "real", or "unknown".
            source: The dataset that each image comes from.
            label: By default fake with a mask, real without.
            scene: By default the ids.
            id: By default the paths of the images without their suffix, with it where the suffix
                alone tells two images apart.
        """
        count = len(image)
        ids = pa.array(unique_ids(image) if id is None else id, pa.string())
        masks = pa.nulls(count, pa.string()) if mask is None else pa.array(mask, pa.string())
        labels = np.where(np.asarray(masks.is_valid()), FAKE, REAL) if label is None else label
        zeros = np.zeros(count, np.int32)
        no_hash = pa.nulls(count, pa.binary(32))
        columns = {
            "id": ids,
            "image": pa.array(image, pa.string()),
            "mask": masks,
            "split": _names(split, count),
            "generator": _names(generator, count),
            "label": np.full(count, labels, np.int8),
            "source": _names(source, count),
            "scene": ids if scene is None else pa.array(scene, pa.string()),
            "height": zeros,
            "width": zeros,
            "image_sha256": no_hash,
            "mask_sha256": no_hash,
        }
        return cls(pa.table(columns, _WHOLE))

    @classmethod
    def from_parquet(cls, content: bytes) -> "Samples":
        """Read the table from the content of a Parquet file.

        Raises:
            InputError: For content that is not Parquet, or has other columns.
        """
        try:
            # Unlike `read_table`, this does not import pyarrow.dataset.
            file = pq.ParquetFile(pa.BufferReader(content), read_dictionary=list(_NAMES))
            # A process that ends while Arrow's threads do may abort (apache/arrow#34314); they save
            # little even of a million samples.
            table = file.read(use_threads=False)
        except KeyError as error:
            lacking = error.args[0]
            name = lacking.decode() if isinstance(lacking, bytes) else lacking
            raise InputError(f"the table of samples lacks the column {name}") from error
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(
                f"the table of samples is not Parquet ({str(error).partition(chr(10))[0]})"
            ) from error
        samples = cls(table)
        samples._require_sound()
        return samples

    def _require_sound(self) -> None:
        """Raise `InputError` for values that no sample has, in a table that comes from a file."""
        for field in SCHEMA:
            if not field.nullable and self.table.column(field.name).null_count:
                raise InputError(f"the table of samples lacks values of {field.name}")
        if not np.isin(self.labels, (FAKE, REAL, UNKNOWN)).all():
            raise InputError(
                f"the table of samples has the label "
                f"{self.labels[~np.isin(self.labels, (FAKE, REAL, UNKNOWN))][0]}; "
                "1 fake, 0 real or -1 unknown expected"
            )
        if self.sizes.min(initial=0) < 0:
            raise InputError("the table of samples has sizes below 0")

    def to_parquet(self) -> bytes:
        """Return the content of a Parquet file, the same bytes for equal samples."""
        file = io.BytesIO()
        # By order of appearance in the rows, whatever order the dictionaries had in memory.
        plain = self.table.cast(_PLAIN)
        if not self.are_tiles:
            plain = plain.drop_columns(list(PLACE))
        # Dictionaries pay for what repeats; of unique ids, paths and hashes they cost time alone.
        repeating = [*_NAMES, "label", "height", "width"]
        repeating += ["image", "mask", *PLACE] if self.are_tiles else []
        pq.write_table(plain, file, compression="zstd", use_dictionary=repeating)
        return file.getvalue()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, row: Any) -> Any:
        """Return the `Sample` of a row, or the `Samples` of a slice."""
        if isinstance(row, slice):
            return self.take(np.arange(len(self))[row])
        row = int(row)
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} samples")
        row %= len(self)
        return Sample(**{name: self._value(name, row) for name in _FIELDS})

    def __iter__(self) -> Iterator[Sample]:
        for batch in self.table.to_batches(_ROWS_AT_ONCE):
            columns = batch.to_pydict()
            for name in ("image_sha256", "mask_sha256"):
                columns[name] = [None if h is None else h.hex() for h in columns[name]]
            for values in zip(*(columns[name] for name in _FIELDS), strict=True):
                yield Sample(*values)

    def _value(self, name: str, row: int) -> Any:
        value = self.table.column(name)[row].as_py()
        return value.hex() if isinstance(value, bytes) else value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Samples) and self.table.cast(_PLAIN).equals(
            other.table.cast(_PLAIN)
        )

    __hash__ = None  # type: ignore[assignment]

    def strings(self, column: str) -> list[Any]:
        """Values of a column of text, in row order; None where there is none."""
        values: list[Any] = self.table.column(column).to_pylist()
        return values

    @property
    def ids(self) -> list[str]:
        """Ids in row order."""
        return self.strings("id")

    @property
    def labels(self) -> np.ndarray:
        """Labels, (N,) int8, 1 = fake."""
        return _numpy(self.table.column("label"))

    @property
    def sizes(self) -> np.ndarray:
        """Height and width in pixels, (N, 2) int32; 0 where an image is unreadable."""
        return np.stack([_numpy(self.table.column(name)) for name in ("height", "width")], axis=1)

    @property
    def row_sizes(self) -> np.ndarray:
        """Height and width of what each row shows, the tile or the image, (N, 2) int32."""
        if not self.are_tiles:
            return self.sizes
        return np.where(self.is_tile[:, None], self.places[:, 2:], self.sizes)

    @cached_property
    def are_tiles(self) -> bool:
        """Return whether any row is a tile."""
        return bool(self.table.column("top").null_count < len(self))

    @property
    def is_tile(self) -> np.ndarray:
        """Return of each row whether it is a tile, (N,) bool."""
        return np.asarray(self.table.column("top").is_valid())

    @property
    def places(self) -> np.ndarray:
        """Top, left, height and width of tiles in pixels, (N, 4) int32; -1 for whole images."""
        columns = (pc.fill_null(self.table.column(name), -1) for name in PLACE)
        return np.stack([_numpy(column) for column in columns], axis=1)

    @property
    def have_masks(self) -> bool:
        """Return whether the samples say which pixels are fake: not those of unknown label."""
        return bool(len(self)) and not bool((self.labels == UNKNOWN).any())

    def names(self, column: str, *, label: int | None = None) -> tuple[str, ...]:
        """Distinct values of `split`, `generator`, `source` or `scene`, sorted.

        Args:
            column: Name of the column.
            label: Only of fakes (1), real images (0) or unknown ones (-1).
        """
        values = self.table.column(column)
        if label is not None:
            values = values.filter(pc.equal(self.table.column("label"), label))
        return tuple(sorted(pc.unique(values).to_pylist()))

    def rows(
        self,
        *,
        splits: Iterable[str] | None = None,
        generators: Iterable[str] | None = None,
        label: int | None = None,
    ) -> np.ndarray:
        """Rows of the samples with these splits, generators and label, ascending int64.

        None takes all. Names that do not occur select nothing; see `require_names`.
        """
        chosen = np.ones(len(self), bool)
        for column, names in (("split", splits), ("generator", generators)):
            if names is not None:
                chosen &= self._is_in(column, names)
        if label is not None:
            chosen &= self.labels == label
        return np.flatnonzero(chosen)

    def rows_by(
        self, *columns: str, rows: np.ndarray | None = None
    ) -> dict[tuple[str, ...], np.ndarray]:
        """Group rows by the values of columns.

        Args:
            columns: Names of columns of text.
            rows: Rows to group, int64; None for all.

        Returns:
            Rows (int64, in the given order) by their values, one a column, sorted by the values.
        """
        chosen = np.arange(len(self)) if rows is None else np.asarray(rows, np.int64)
        if not len(chosen):
            return {}
        codes = np.zeros(len(chosen), np.int64)
        for column in columns:
            encoded = self.table.column(column)
            if not pa.types.is_dictionary(encoded.type):
                encoded = encoded.dictionary_encode()
            encoded = encoded.combine_chunks()
            names, place = np.unique(
                np.asarray(encoded.dictionary.to_pylist(), object), return_inverse=True
            )
            codes = codes * max(len(names), 1) + place[encoded.indices.to_numpy()][chosen]
        found, first, group = np.unique(codes, return_index=True, return_inverse=True)
        order = np.argsort(group, kind="stable")
        ends = np.cumsum(np.bincount(group, minlength=len(found)))
        return {
            self._values(columns, int(chosen[start])): chosen[part]
            for start, part in zip(first, np.split(order, ends[:-1]), strict=True)
        }

    def require_names(self, column: str, names: Iterable[str], *, where: str = "") -> None:
        """Raise `UnknownNameError`, listing those that occur, for a name that does not."""
        known = self.names(column)
        for name in names:
            if name not in known:
                raise UnknownNameError(f"{column}{where}", name, known)

    def take(self, rows: np.ndarray | Sequence[int]) -> "Samples":
        """Return the samples of these rows, in the given order."""
        if len(rows) == len(self) and np.array_equal(rows, np.arange(len(self))):
            return self
        return Samples(self.table.take(pa.array(np.asarray(rows, np.int64))))

    def by_id(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Sort rows (all by default) by their ids; int64."""
        ids = self.table.column("id").combine_chunks()
        if rows is not None:
            rows = np.asarray(rows, np.int64)
            ids = ids.take(pa.array(rows))
        # A dataset is sorted, and most stores are: to see that takes a tenth of sorting.
        if len(ids) < 2 or pc.all(pc.less_equal(ids[:-1], ids[1:])).as_py():
            return np.arange(len(ids)) if rows is None else rows
        order = np.asarray(pc.sort_indices(ids), np.int64)
        return order if rows is None else rows[order]

    def find(self, ids: Iterable[str]) -> np.ndarray:
        """Rows of these ids, int64, -1 for an id that does not occur."""
        found = pc.index_in(pa.array(list(ids), pa.string()), self.table.column("id"))
        return np.asarray(pc.fill_null(found, -1), np.int64)

    def replace(self, **columns: Any) -> "Samples":
        """Return the samples with columns of new values, arrays or lists in row order."""
        table = self.table
        for name, values in columns.items():
            field = SCHEMA.field(name)
            if field.type == _NAME:
                column = _names(values, len(self))
            else:
                column = values if isinstance(values, pa.Array) else pa.array(values, field.type)
            table = table.set_column(SCHEMA.get_field_index(name), field, column)
        return Samples(table)

    def content(self) -> pa.Array:
        """Return what each row shows: the hashes of image and mask, and of a tile its place.

        32 bytes a hash, 16 a place.
        """
        parts = [
            pc.fill_null(self.table.column(name).cast(pa.binary()), b"")
            for name in ("image_sha256", "mask_sha256")
        ]
        if self.are_tiles:
            places = [one.tobytes() for one in self.places.astype("<i4")]
            parts.append(pc.if_else(pa.array(self.is_tile), pa.array(places, pa.binary()), b""))
        return pc.binary_join_element_wise(*parts, b"").combine_chunks()

    def sha256(self) -> str:
        """Hash of all values but the images' sizes and tiles' places, in row order; 64 hex digits.

        SHA-256 over the columns in the order of `SCHEMA`: of a column of text or hashes, the
        lengths in bytes as int32 (-1 for none) and then the bytes of all values; of a column of
        numbers, the values. Little-endian.
        """
        digest = hashlib.sha256()
        for column in self.table.drop_columns(["height", "width", *PLACE]).columns:
            for part in _bytes_of(column):
                digest.update(part)
        return digest.hexdigest()

    def _values(self, columns: Sequence[str], row: int) -> tuple[str, ...]:
        return tuple(self.table.column(column)[row].as_py() for column in columns)

    def _is_in(self, column: str, names: Iterable[str]) -> np.ndarray:
        wanted = pa.array(sorted(set(names)), pa.string())
        values = _text(self.table.column(column))
        return _numpy(pc.is_in(values, value_set=wanted))


_PLAIN = pa.schema(
    [field.with_type(pa.string()) if field.type == _NAME else field for field in SCHEMA]
)
_WHOLE = pa.schema([field for field in SCHEMA if field.name not in PLACE])
_FIELDS = tuple(field.name for field in fields(Sample))


def _names(values: Sequence[str] | str, count: int) -> pa.DictionaryArray:
    if isinstance(values, str):
        return pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), pa.array([values]))
    return pa.array(values, pa.string()).dictionary_encode()


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def _numpy(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    if pa.types.is_integer(array.type) and len(array) and not array.null_count:
        # `to_numpy` imports pandas, which takes longer than to open a store.
        whole = np.frombuffer(array.buffers()[1], array.type.to_pandas_dtype())
        return whole[array.offset : array.offset + len(array)]
    values: np.ndarray = array.to_numpy(zero_copy_only=False)
    return values


def _bytes_of(column: pa.ChunkedArray) -> Iterator[Any]:
    """The numbers or lengths of a column, then the bytes of its texts."""
    if pa.types.is_integer(column.type):
        yield np.ascontiguousarray(_numpy(column).astype(column.type.to_pandas_dtype()))
        return
    values = pa.concat_arrays([column.cast(pa.large_binary()).combine_chunks()])
    lengths = pc.fill_null(pc.binary_length(values), -1)
    yield np.ascontiguousarray(lengths.to_numpy(zero_copy_only=False).astype("<i4"))
    present = values.drop_null()
    if len(present):
        _, offsets, data = present.buffers()
        ends = np.frombuffer(offsets, "<i8")[present.offset : present.offset + len(present) + 1]
        yield memoryview(data)[int(ends[0]) : int(ends[-1])]
