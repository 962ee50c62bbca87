"""Pipeline of a prediction: files read, maps computed, results finished, all at the same time."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Full, Queue
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import numpy as np

from declip_pipeline.errors import ImageError
from declip_pipeline.images.decode import DEFAULT_MAX_MEGAPIXELS, decode_upright, image_size
from declip_pipeline.images.tiles import Window
from declip_pipeline.training.image_maps import ImageMaps, WindowMaps
from declip_pipeline.training.predictor import Predictor, PreparedImage

Result = TypeVar("Result")

DEFAULT_BATCH_SIZE = 16

# What one pixel of an image takes at most, from decoding to the last file; of one in tiles, whose
# pixels are kept, twice as much (benchmarks/predict.py --parts memory).
BYTES_A_PIXEL = 8
# Images that are read, computed and finished at one time; a larger one is alone.
BYTES_IN_FLIGHT = 2**29
# Of these, one is read while another is computed and a third is finished.
GROUP_BYTES = BYTES_IN_FLIGHT // 4
GROUPS_READ = 2
GROUPS_FINISHED = 2
# Batches of one image's maps that wait to be joined.
MAPS_AHEAD = 4


@dataclass(frozen=True, eq=False)
class FoundImage:
    """An image with its maps, to be finished.

    Attributes:
        name: Its name.
        path: Its file.
        maps: Its maps; they may still be computed.
        grey: (H, W) uint8, where asked for.
    """

    name: str
    path: Path
    maps: ImageMaps
    grey: np.ndarray | None


class Pipeline(Generic[Result]):
    """Prediction of many images; `run` yields their results in the order of their names.

    Headers and images are read in threads, batches go through backbones and decoders in the calling
    thread, and results are finished in threads. Images in flight are bounded by their bytes. A
    batch depends on the names and sizes of images alone, not on what was predicted before or on
    how fast anything is, since sums of other batches differ in their last bits.
    """

    def __init__(
        self,
        predictor: Predictor,
        images: Mapping[str, Path],
        finish: Callable[[FoundImage], Result],
        *,
        claim: Callable[[str], None] = lambda name: None,
        done: Mapping[str, tuple[int, int]] = MappingProxyType({}),
        with_grey: bool = False,
        batch_size: int = DEFAULT_BATCH_SIZE,
        max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
    ) -> None:
        """Describe a prediction.

        Args:
            predictor: From images to maps.
            images: Files by name.
            finish: Called in a thread with each image; what it returns is the image's result. An
                `ImageError` is one, too; what else it raises ends the pipeline.
            claim: Called in the calling thread with each name, in order, before `finish`; may raise
                an `ImageError`.
            done: Height and width of images whose results are there: they are not finished, and
                computed only in a batch with others.
            with_grey: Give `finish` the images in grey.
            batch_size: Images, or windows of images, that are computed at once.
            max_megapixels: Largest image that is decoded.
        """
        self._predictor = predictor
        self._images = images
        self._finish = finish
        self._claim = claim
        self._done = done
        self._with_grey = with_grey
        self._batch_size = batch_size
        self._max_megapixels = max_megapixels
        self._open: set[_Maps] = set()

    def run(self) -> Generator[tuple[str, Result | ImageError], None, None]:
        """Yield each image's name and its result, or why it has none; but those of `done`.

        Close it to stop: what `finish` has begun is ended.
        """
        # A job of a cluster may use but some of a machine's cores.
        cores = len(os.sched_getaffinity(0))
        with (
            ThreadPoolExecutor(cores) as readers,
            # Most of their time they wait for the disk.
            ThreadPoolExecutor(max(4, 2 * cores)) as finishers,
        ):
            try:
                yield from self._results(readers, finishers)
            finally:
                for threads in (readers, finishers):
                    threads.shutdown(wait=False, cancel_futures=True)
                for maps in self._open:
                    maps.stop()

    def _results(
        self, readers: ThreadPoolExecutor, finishers: ThreadPoolExecutor
    ) -> Iterator[tuple[str, Result | ImageError]]:
        reading: deque[_Group] = deque()
        finishing: deque[tuple[int, list[tuple[str, Future[Result] | ImageError]]]] = deque()
        in_flight = 0

        def advance() -> Iterator[tuple[str, Result | ImageError]]:
            """Compute the first group that is read, or wait for the first that is finished."""
            nonlocal in_flight
            if reading and len(finishing) < GROUPS_FINISHED:
                group = reading.popleft()
                finishing.append((group.bytes, self._compute(group, finishers)))
                return
            size, outcomes = finishing.popleft()
            for name, outcome in outcomes:
                settled: Result | ImageError = _settled(outcome)
                yield name, settled
            in_flight -= size

        for group in self._groups(self._sized(readers)):
            if all(image.name in self._done for image in group.images):
                continue
            while len(reading) == GROUPS_READ or (
                in_flight and in_flight + group.bytes > BYTES_IN_FLIGHT
            ):
                yield from advance()
            for image in group.images:
                if image.error is None:
                    image.reading = readers.submit(self._read, image)
            in_flight += group.bytes
            reading.append(group)
        while reading or finishing:
            yield from advance()

    def _sized(self, readers: ThreadPoolExecutor) -> Iterator["_Image"]:
        """Yield all images with their sizes, read in threads some batches ahead."""
        waiting: deque[tuple[_Image, Future[tuple[int, int]] | None]] = deque()

        def first() -> _Image:
            image, size = waiting.popleft()
            if size is not None:
                try:
                    image.size = size.result()
                except ImageError as error:
                    image.error = error
            return image

        for name, path in self._images.items():
            image = _Image(name, path)
            if name in self._done:
                image.size = self._done[name]
                waiting.append((image, None))
            else:
                waiting.append((image, readers.submit(image_size, path)))
            if len(waiting) > 2 * self._batch_size:
                yield first()
        while waiting:
            yield first()

    def _groups(self, images: Iterator["_Image"]) -> Iterator["_Group"]:
        """Yield images in groups that are computed together: a batch, or fewer large images."""
        group, windows = _Group(), 0
        for image in images:
            size = 0
            if image.error is None:
                size = image.size[0] * image.size[1] * BYTES_A_PIXEL
                if self._predictor.tiling is not None:
                    size *= 2
                if group.images and group.bytes + size > GROUP_BYTES:
                    yield group
                    group, windows = _Group(), 0
                windows += len(self._predictor.windows(*image.size))
            group.images.append(image)
            group.bytes += size
            if windows >= self._batch_size:
                yield group
                group, windows = _Group(), 0
        if group.images:
            yield group

    def _read(self, image: "_Image") -> tuple[PreparedImage, np.ndarray | None]:
        """Decode an image to what the backbones see of it, and in grey."""
        try:
            upright = decode_upright(image.path, max_megapixels=self._max_megapixels)
            is_shown = self._with_grey and image.name not in self._done
            grey = np.asarray(upright.convert("L")) if is_shown else None
            return self._predictor.prepare(upright), grey
        except MemoryError as error:
            raise ImageError("does not fit in memory; shrink it") from error

    def _compute(
        self, group: "_Group", finishers: ThreadPoolExecutor
    ) -> list[tuple[str, Future[Result] | ImageError]]:
        """Compute the maps of a group, and begin to finish its images."""
        parts: list[tuple[_Image, PreparedImage, Window]] = []
        outcomes: dict[str, Future[Result] | ImageError] = {}
        for image in group.images:
            try:
                prepared = image.prepared()
            except ImageError as error:
                outcomes[image.name] = error
                continue
            image.size = prepared.size  # it may have changed since its header was read
            image.windows = self._predictor.windows(*prepared.size)
            parts += [(image, prepared, window) for window in image.windows]
        for some in _balanced(parts, self._batch_size):
            maps = self._predictor.compute([(prepared, window) for _, prepared, window in some])
            start = 0
            for image in dict.fromkeys(image for image, _, _ in some):
                count = sum(one is image for one, _, _ in some)
                own = maps.take(slice(start, start + count))
                start += count
                if image.name in self._done:
                    continue
                if image.maps is None:
                    outcomes[image.name] = self._begun(image, finishers)
                if image.maps is not None:
                    image.maps.put(own, outcomes[image.name])
                    if image.maps.is_complete:
                        self._open.discard(image.maps)
        return [(one.name, outcomes[one.name]) for one in group.images if one.name in outcomes]

    def _begun(self, image: "_Image", finishers: ThreadPoolExecutor) -> Future[Result] | ImageError:
        try:
            self._claim(image.name)
        except ImageError as error:
            return error
        image.maps = _Maps(len(image.windows))
        self._open.add(image.maps)
        maps = ImageMaps(image.size, image.windows, image.maps)
        found = FoundImage(image.name, image.path, maps, image.grey())
        return finishers.submit(self._finish, found)


@dataclass(eq=False)
class _Image:
    """An image on its way."""

    name: str
    path: Path
    size: tuple[int, int] = (0, 0)
    error: ImageError | None = None
    reading: Future[tuple[PreparedImage, np.ndarray | None]] | None = None
    windows: list[Window] = field(default_factory=list)
    maps: "_Maps | None" = None

    def prepared(self) -> PreparedImage:
        if self.error is not None or self.reading is None:
            raise self.error or CancelledError
        return self.reading.result()[0]

    def grey(self) -> np.ndarray | None:
        return None if self.reading is None else self.reading.result()[1]


@dataclass(eq=False)
class _Group:
    """Images that are computed together, and the bytes that they take."""

    images: list[_Image] = field(default_factory=list)
    bytes: int = 0


class _Maps:
    """Maps of one image's windows on their way from the thread that computes to one that joins."""

    def __init__(self, windows: int) -> None:
        self._left_to_put = self._left_to_get = windows
        self._queue: Queue[WindowMaps | None] = Queue(MAPS_AHEAD)

    @property
    def is_complete(self) -> bool:
        return self._left_to_put == 0

    def put(self, maps: WindowMaps, reader: Future[Any] | ImageError) -> None:
        """Add the next windows' maps; waits while the reader is behind, unless it has ended."""
        self._left_to_put -= len(maps.small)
        while not isinstance(reader, Future) or not reader.done():
            with suppress(Full):
                self._queue.put(maps, timeout=1)
                break

    def stop(self) -> None:
        """End the reader, which waits for maps that do not come."""
        while True:
            try:
                self._queue.get_nowait()
            except Empty:
                break
        self._queue.put(None)

    def __iter__(self) -> Iterator[WindowMaps]:
        while self._left_to_get:
            maps = self._queue.get()
            if maps is None:
                raise CancelledError
            self._left_to_get -= len(maps.small)
            yield maps


def _settled(outcome: "Future[Any] | ImageError") -> Any:
    if isinstance(outcome, ImageError):
        return outcome
    try:
        return outcome.result()
    except ImageError as error:
        return error


def _balanced(
    parts: list[tuple[_Image, PreparedImage, Window]], most: int
) -> Iterator[list[tuple[_Image, PreparedImage, Window]]]:
    """Yield `parts` in as few batches of at most `most` as there can be, of about equal length."""
    count = -(-len(parts) // most)
    for number in range(count):
        start, stop = (len(parts) * edge // count for edge in (number, number + 1))
        yield parts[start:stop]
