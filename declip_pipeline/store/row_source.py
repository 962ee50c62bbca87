"""Where a store's rows come from: its shards, or an HDF5 file."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np

from declip_pipeline.store.format import RowArray


class RowSource(ABC):
    """The arrays and the records of one store."""

    location: str

    @abstractmethod
    def read_blob(self, key: str) -> bytes | None:
        """Return the bytes of a record (a ledger entry, the manifest); None where it is absent."""

    @abstractmethod
    def begin(
        self, array: RowArray, rows: np.ndarray, window: tuple[int, ...] | None = None
    ) -> Callable[[], np.ndarray]:
        """Start to read rows (int64) of an array, in the given order.

        Calling the result waits for (len(rows), *row_shape) in the array's dtype, or, where
        `window` is given, for the part of each row below it: (len(rows), *window). It raises
        `StoreError` for a row that is absent or damaged.
        """
