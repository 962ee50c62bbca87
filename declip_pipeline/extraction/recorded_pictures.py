"""The pictures that a store was made from, wherever they lie now, as long as they are the same."""

from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from declip_pipeline.backbones.backbone import Preprocessing
from declip_pipeline.datasets.samples import Sample, Samples
from declip_pipeline.errors import StoreError
from declip_pipeline.extraction.sample_reading import ReadSample, sample_reader
from declip_pipeline.files import sha256_of_bytes
from declip_pipeline.images.views import View


class RecordedPictures:
    """Pictures and masks under `root`, held against the hashes in a store's manifest."""

    def __init__(self, root: Path, samples: Samples, *, fake_is_white: bool) -> None:
        self._root = root
        self._samples = samples
        self._fake_is_white = fake_is_white

    def require_unchanged(self, rows: Iterable[int]) -> None:
        """Raise `StoreError` naming an image or a mask that is missing, or is not what it was."""
        # Read here and again for the features: nothing is to be touched before all are known.
        with ThreadPoolExecutor() as threads:
            for _ in threads.map(self._require_unchanged, rows):
                pass

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
        row_of = {name: row for row, name in enumerate(self._samples.ids)}
        with_limit, without = (
            sample_reader(
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

    def _require_unchanged(self, row: int) -> None:
        sample = self._samples[row]
        for path, expected in (
            (sample.image, sample.image_sha256),
            (sample.mask, sample.mask_sha256),
        ):
            if path is not None:
                self._require_same(path, str(expected))

    def _require_same(self, relative: str, expected: str) -> None:
        path = self._root / relative
        try:
            content = path.read_bytes()
        except OSError as error:
            raise StoreError(
                f"{path} is needed again and cannot be read ({error.strerror}); "
                "name the folder that has the dataset's pictures now with `data_root`"
            ) from error
        found = sha256_of_bytes(content)
        if found != expected:
            raise StoreError(
                f"{path} has changed since the store was made: its SHA-256 is {found[:12]}..., "
                f"the manifest has {expected[:12]}...; bring the former file back (another copy of "
                "the dataset: `data_root`), or extract the dataset as it is now into a new store"
            )
