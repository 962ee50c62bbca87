"""The one description of a data set that everything behind it works from."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from declip_pipeline.datasets.samples import FAKE, REAL, REAL_GENERATOR, Sample, Samples  # noqa: F401
from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.files import sha256_of_file


@dataclass(frozen=True)
class Manifest:
    """A data set: samples sorted by id, paths relative to `root`.

    `fake_is_white` says which colour of its masks marks fake pixels. `unpaired` holds the paths
    that were left out for want of a partner (only where that was allowed), and the folders of
    wholly generated pictures, which have no masks.
    """

    name: str
    root: Path
    fake_is_white: bool
    samples: tuple[Sample, ...]
    unpaired: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.samples, key=lambda sample: sample.id))
        for one, other in pairwise(ordered):
            if one.id == other.id:
                raise InputError(
                    f"two samples have the id {one.id} ({one.image} and {other.image}); "
                    "give each picture its own name"
                )
        object.__setattr__(self, "samples", ordered)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that occur, sorted."""
        return tuple(sorted({sample.split for sample in self.samples}))

    @property
    def generators(self) -> tuple[str, ...]:
        """Names of the generators that occur ("real" among them), sorted."""
        return tuple(sorted({sample.generator for sample in self.samples}))

    def select(
        self, splits: Iterable[str] | None = None, generators: Iterable[str] | None = None
    ) -> "Manifest":
        """The samples of the named splits and generators; None takes all.

        Raises `UnknownNameError` for a name that does not occur, listing those that do, and
        `InputError` for splits and generators that do not occur together.
        """
        kept_splits = _known("split", splits, self.splits)
        kept_generators = _known("generator", generators, self.generators)
        samples = tuple(
            sample
            for sample in self.samples
            if sample.split in kept_splits and sample.generator in kept_generators
        )
        if self.samples and not samples:
            raise InputError(
                f"no picture of generator {_listed(kept_generators)} is in split "
                f"{_listed(kept_splits)}; {self._generators_of_splits()}"
            )
        return replace(self, samples=samples)

    def _generators_of_splits(self) -> str:
        """Which generators each split has, as a user reads it."""
        found: dict[str, set[str]] = {}
        for sample in self.samples:
            found.setdefault(sample.split, set()).add(sample.generator)
        return "; ".join(f"{split} has {_listed(names)}" for split, names in sorted(found.items()))

    def content_hashes(self, progress: Callable[[int, int], None] | None = None) -> dict[str, str]:
        """SHA-256 of every picture and mask, by relative path, in sorted order.

        `progress` is told files done and in all. Raises `InputError` naming a file that cannot be
        read.
        """
        paths = sorted(
            {path for sample in self.samples for path in (sample.image, sample.mask) if path}
        )
        hashes: dict[str, str] = {}
        # hashlib lets other threads run while it works, so a thread a core is of use.
        with ThreadPoolExecutor() as threads:
            for path, digest in zip(paths, threads.map(self._hash_file, paths), strict=True):
                hashes[path] = digest
                if progress is not None:
                    progress(len(hashes), len(paths))
        return hashes

    def scanned(self, hashes: dict[str, str], sizes: np.ndarray) -> Samples:
        """The samples as a table, with scenes, sizes and hashes."""
        from declip_pipeline.datasets.scenes import scene_of_stored

        return Samples.from_rows(
            replace(
                sample,
                scene=scene_of_stored(sample),
                height=int(size[0]),
                width=int(size[1]),
                image_sha256=hashes[sample.image],
                mask_sha256=None if sample.mask is None else hashes[sample.mask],
            )
            for sample, size in zip(self.samples, sizes, strict=True)
        )

    def _hash_file(self, relative: str) -> str:
        try:
            return sha256_of_file(self.root / relative)
        except OSError as error:
            raise InputError(f"{self.root / relative} cannot be read: {error.strerror}") from error


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _known(kind: str, asked: Iterable[str] | None, existing: tuple[str, ...]) -> set[str]:
    if asked is None:
        return set(existing)
    names = set(asked)
    for name in sorted(names):
        if name not in existing:
            raise UnknownNameError(kind, name, existing)
    return names
