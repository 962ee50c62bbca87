"""The one description of a data set that everything behind it works from."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.files import sha256_of_file

FAKE, REAL = 1, 0

REAL_GENERATOR = "real"
"""Generator of pictures that no generator has touched."""


@dataclass(frozen=True)
class Sample:
    """One picture and what is known of it.

    `id` is unique and stable: `image` without its suffix. `image` and `mask` are posix paths
    relative to the manifest's root; a real picture has no mask. `split` is "train", "valid",
    "test", or "all" where the data set has no splits. `generator` is the method that made the
    fake, or "real"; `label` 1 fake, 0 real; `source` the data set it comes from, e.g. "celebahq".
    """

    id: str
    image: str
    mask: str | None
    split: str
    generator: str
    label: int
    source: str

    def __post_init__(self) -> None:
        if self.label not in (FAKE, REAL):
            raise InputError(f"sample {self.id} has label {self.label}; 1 fake or 0 real expected")
        if (self.label == FAKE) != (self.mask is not None):
            raise InputError(f"sample {self.id}: a fake has a mask, and a real picture has none")

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Sample":
        """The inverse of `to_json`; what else is in `value` is left aside."""
        return cls(**{field.name: value[field.name] for field in fields(cls)})


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

    def to_json(self) -> dict[str, Any]:
        """Everything but the root as plain JSON values."""
        return {
            "name": self.name,
            "fake_is_white": self.fake_is_white,
            "samples": [sample.to_json() for sample in self.samples],
            "unpaired": list(self.unpaired),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any], root: Path) -> "Manifest":
        """The inverse of `to_json`, for files that now lie under `root`."""
        return cls(
            name=value["name"],
            root=root,
            fake_is_white=value["fake_is_white"],
            samples=tuple(Sample.from_json(sample) for sample in value["samples"]),
            unpaired=tuple(value.get("unpaired", ())),
        )

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

    def records(self, hashes: dict[str, str]) -> list[dict[str, Any]]:
        """Every sample's fields with the SHA-256 of its files (`content_hashes`), sorted by id.

        Neither root nor name is part of it: moving the data set changes nothing.
        """
        return [
            {
                **sample.to_json(),
                "image_sha256": hashes[sample.image],
                "mask_sha256": None if sample.mask is None else hashes[sample.mask],
            }
            for sample in self.samples
        ]

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
