"""The pictures that a store was made from, wherever they lie now, as long as they are the same."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from declip_pipeline.backbones.backbone import Preprocessing
from declip_pipeline.datasets.manifest import Sample
from declip_pipeline.errors import ImageError, StoreError
from declip_pipeline.extraction.sample_reading import ReadSample, sample_reader
from declip_pipeline.fingerprint import sha256_of_bytes
from declip_pipeline.images.decode import image_size
from declip_pipeline.images.views import View


class RecordedPictures:
    """Pictures and masks under `root`, held against the hashes in a store's manifest.

    `samples` are the manifest's rows as plain JSON, in row order.
    """

    def __init__(
        self, root: Path, samples: Sequence[Mapping[str, Any]], *, fake_is_white: bool
    ) -> None:
        self._root = root
        self._samples = samples
        self._fake_is_white = fake_is_white

    def checked_sizes(self, rows: Iterable[int]) -> dict[int, tuple[int, int]]:
        """Height and width in pixels of the rows' pictures, (0, 0) where they cannot be told.

        Raises `StoreError` naming a picture or a mask that is missing, or is not what it was.
        """
        # Read here and again for the features: nothing is to be touched before all are known.
        rows = list(rows)
        with ThreadPoolExecutor() as threads:
            return dict(zip(rows, threads.map(self._checked_size, rows), strict=True))

    def reader(
        self,
        preprocessing: Preprocessing,
        *,
        view: View,
        failures: Mapping[int, str],
        usable: Collection[int],
        unlimited: Collection[int],
        max_megapixels: float,
    ) -> Callable[[Sample], ReadSample | str]:
        """What reads a sample as extraction does, and comes to the same result as it did.

        Rows in `failures` are not read again: they keep their reasons. Those in `usable` were read
        then: that they cannot be now is a `StoreError`. Those in `unlimited` were read or refused
        with another limit, so `max_megapixels` is not for them.
        """
        row_of = {str(sample["id"]): row for row, sample in enumerate(self._samples)}
        with_limit, without = (
            sample_reader(
                self._samples,
                root=self._root,
                view=view,
                fake_is_white=self._fake_is_white,
                preprocessing=preprocessing,
                max_megapixels=limit,
            )
            for limit in (max_megapixels, float("inf"))
        )

        def read(sample: Sample) -> ReadSample | str:
            row = row_of[sample.id]
            if row in failures:
                return failures[row]
            found = without(sample) if row in unlimited else with_limit(sample)
            if isinstance(found, str) and row in usable:
                raise StoreError(
                    f"{self._root / sample.image} could be read when the store was made, and "
                    f"cannot be now ({found}); repair it on the machine that made it"
                )
            return found

        return read

    def _checked_size(self, row: int) -> tuple[int, int]:
        sample = self._samples[row]
        content = self._checked(sample["image"], sample["image_sha256"])
        if sample["mask"] is not None:
            self._checked(sample["mask"], sample["mask_sha256"])
        try:
            return image_size(content)
        except ImageError:
            return 0, 0

    def _checked(self, relative: str, expected: str) -> bytes:
        path = self._root / relative
        try:
            content = path.read_bytes()
        except OSError as error:
            raise StoreError(
                f"{path} is needed again and cannot be read ({error.strerror}); "
                "name the folder that has the dataset's pictures now with --data"
            ) from error
        found = sha256_of_bytes(content)
        if found != expected:
            raise StoreError(
                f"{path} has changed since the store was made: its SHA-256 is {found[:12]}..., "
                f"the manifest has {expected[:12]}...; bring the former file back (another copy of "
                "the dataset: --data), or extract the dataset as it is now into a new store"
            )
        return content
