"""Maps of a folder, matched with images: their values, and what is missing."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch

from declip_pipeline.datasets.labelled import LabelledImages
from declip_pipeline.datasets.listing import list_files
from declip_pipeline.datasets.sample import FAKE
from declip_pipeline.datasets.scan import in_threads
from declip_pipeline.datasets.tiles import whole_images
from declip_pipeline.errors import ImageError, InputError
from declip_pipeline.evaluation.map_matching import MatchedMaps, match_maps
from declip_pipeline.evaluation.map_source import (
    ImageMap,
    ImageValues,
    MapFindings,
    OpenedSource,
)
from declip_pipeline.evaluation.scores import MEAN_SIGMOID, Progress
from declip_pipeline.images.maps import MAP_SUFFIXES, Map, read_map
from declip_pipeline.options import MapsAre

FILE_SCORE = "file_score"
"""Image score that .npz files of maps hold, as TruFor's do."""

NO_MAP = "no map"

# Maps that threads read before the first of them is taken in: each may be a large one.
_AHEAD = 4

# A folder of `declip-pipe predict`: of the files of an image, the finest map is taken.
_PREDICTIONS = "predictions.jsonl"
_PREDICTED = ("_map-full.png", "_map.npz", "_mask.png")


class MapFiles(NamedTuple):
    """A folder of maps and how its files are read; see `read_map`."""

    folder: Path
    maps_are: MapsAre
    resize: bool
    key: str | None

    def read(self, file: str, size: tuple[int, int]) -> Map:
        """Read a map by its path in the folder. Raises `ImageError`."""
        return read_map(
            self.folder / file, size, maps_are=self.maps_are, resize=self.resize, key=self.key
        )


class _Listed(NamedTuple):
    """Files of maps by the paths that they are matched by, and counts of other files."""

    files: dict[str, str]
    others: dict[str, int]


@dataclass
class _Seen:
    """Values of all files together: one map alone may look like another kind."""

    integers: list[float] = field(default_factory=list)
    numbers: list[float] = field(default_factory=list)

    def add(self, found: Map) -> None:
        (self.integers if found.is_integer else self.numbers).extend([found.lowest, found.highest])

    def require_sense(self, how: MapFiles) -> None:
        """Raise `InputError` where the values of all maps are those of another kind."""
        if self.integers and 0 < max(self.integers) <= 1:
            raise InputError(
                f"no integer of the maps of {how.folder} is above 1, of 255 or 65535 that stand "
                'for certainly fake; expected `maps_are="masks"` for masks of 0 and 1'
            )
        is_logits = how.maps_are == "logits" and self.numbers
        if is_logits and min(self.numbers) >= 0 and max(self.numbers) <= 1:
            raise InputError(
                f"all values of the maps of {how.folder} are from {min(self.numbers):.4g} to "
                f"{max(self.numbers):.4g}, as of probabilities; leave `maps_are` out"
            )


class OpenedMaps(OpenedSource):
    """Maps of a folder; `prepare` matches them with images."""

    def __init__(self, how: MapFiles, config: Mapping[str, Any]) -> None:
        """List the files. Raises `InputError` for a folder without a map."""
        self._how = how
        self._config = config
        self._matched: dict[str, MatchedMaps] = {}
        self._seen = _Seen()
        self._count = 0
        self._listed = _listed(how.folder)
        self._findings = MapFindings(unread=self._listed.others)

    def prepare(self, images: LabelledImages, rows: np.ndarray) -> None:
        """Match the maps with images. Raises `InputError` where none is, or one with two."""
        wanted, _ = whole_images(images.samples.take(rows))
        files = self._listed.files
        matched = match_maps(list(files), wanted, whole_images(images.known)[0])
        if not matched.map_of:
            raise InputError(
                f"no map of {self._how.folder} has the name of an image that is evaluated: its "
                f"first map is {next(iter(files.values()))}, the first image of {images.location} "
                f"{wanted.ids[0]}"
            )
        self._matched[images.location] = matched
        # A file may be of another store's image.
        others = [one.extra for one in self._matched.values()]
        extra = [file for file in matched.extra if all(file in one for one in others)]
        self._findings.extra = tuple(files[file] for file in extra)
        self._first = next(
            (files[matched.map_of[name]], tuple(size))
            for name, size in zip(wanted.ids, wanted.sizes.tolist(), strict=True)
            if name in matched.map_of
        )

    @cached_property
    def scores(self) -> tuple[str, ...]:
        """Mean of the map; and the score of the file, where the first file has one."""
        try:
            score = self._how.read(*self._first).score
        except ImageError:
            score = None
        return (MEAN_SIGMOID,) if score is None else (MEAN_SIGMOID, FILE_SCORE)

    def made_from(self, images: LabelledImages) -> dict[str, Any]:
        """Return the folder and how it is read."""
        return dict(self._config)

    def maps(
        self,
        images: LabelledImages,
        rows: np.ndarray,
        *,
        device: torch.device,
        batch_size: int,
        progress: Progress = lambda done, total: None,
    ) -> Iterator[ImageMap]:
        """Yield the maps of the images that have one which can be used."""
        for number, own, mask in self._maps(images, rows, progress):
            yield ImageMap(number, own.values, mask)

    def detect(
        self,
        images: LabelledImages,
        rows: np.ndarray,
        *,
        device: torch.device,
        batch_size: int,
        progress: Progress,
    ) -> ImageValues:
        """Score the images that have a map: by its mean, and by what the file says."""
        found: dict[str, list[Any]] = {name: [] for name in self.scores}
        numbers = []
        for number, own, _ in self._maps(images, rows, progress, with_scores=FILE_SCORE in found):
            found[MEAN_SIGMOID].append(own.values.mean(dtype=np.float64))
            if FILE_SCORE in found:
                found[FILE_SCORE].append(own.score)
            numbers.append(number)
        columns = {name: np.asarray(some, np.float64) for name, some in found.items()}
        return ImageValues(columns, np.asarray(numbers, np.int64))

    def finish(self) -> MapFindings:
        """Return what is missing. Raises `InputError` for maps of which none can be used."""
        self._seen.require_sense(self._how)
        if not self._count:
            name, reason = next(iter(self._findings.missing.items()))
            raise InputError(f"no map of {self._how.folder} can be used; of {name}: {reason}")
        return self._findings

    def _maps(
        self,
        images: LabelledImages,
        rows: np.ndarray,
        progress: Progress,
        *,
        with_scores: bool = False,
    ) -> Iterator[tuple[int, Map, np.ndarray]]:
        """Yield the number of each image that has a map which can be used, the map and the mask."""
        whole, image_of = whole_images(images.samples.take(rows))
        rows_of = np.split(
            rows[np.argsort(image_of, kind="stable")], np.cumsum(np.bincount(image_of))[:-1]
        )
        ids, files = whole.ids, self._listed.files
        map_of = self._matched[images.location].map_of
        named = [number for number, name in enumerate(ids) if name in map_of]
        is_real = not bool((whole.labels == FAKE).any())
        missing = self._findings.missing
        if is_real and not named:
            self._findings.without_real = True
            progress(len(rows), len(rows))
            return
        missing.update({name: NO_MAP for name in ids if name not in map_of})

        def read(number: int) -> tuple[Map, np.ndarray] | str:
            file = files[map_of[ids[number]]]
            try:
                mask = images.image_mask(rows_of[number])
            except ImageError as error:
                return f"its mask: {error}"
            try:
                found = self._how.read(file, (mask.shape[0], mask.shape[1]))
            except ImageError as error:
                return f"{file}: {error}"
            if with_scores and found.score is None:
                return f"{file}: has no score, as other files have"
            return found, mask

        for number, outcome in zip(named, in_threads(read, named, ahead=_AHEAD), strict=True):
            if isinstance(outcome, str):
                missing[ids[number]] = outcome
            else:
                found, mask = outcome
                self._seen.add(found)
                if found.is_constant:
                    self._findings.constant.append(ids[number])
                self._count += not is_real
                yield number, found, mask
            progress(int(np.searchsorted(image_of, number, side="right")), len(rows))
        progress(len(rows), len(rows))


def _listed(folder: Path) -> _Listed:
    """List the maps of a folder. Raises `InputError` where there is none."""
    listed = list_files(folder)
    files = sorted([*listed.images, *listed.others])
    endings = _PREDICTED if _PREDICTIONS in listed.others else ()
    ending = next((end for end in endings if any(one.endswith(end) for one in files)), None)
    if ending is not None:
        suffix = PurePosixPath(ending).suffix
        own = [file for file in files if file.endswith(ending)]
        return _Listed({file.removesuffix(ending) + suffix: file for file in own}, {})
    suffix_of = {file: PurePosixPath(file).suffix.lower() for file in files}
    maps = {file: file for file in files if suffix_of[file] in MAP_SUFFIXES}
    others = Counter(suffix_of[file] for file in files if file not in maps)
    if not maps:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        raise InputError(
            f"{folder} holds no map (found: {counts or 'nothing'}); expected files named as the "
            f"images are, of {', '.join(MAP_SUFFIXES)}"
        )
    return _Listed(maps, dict(others))
