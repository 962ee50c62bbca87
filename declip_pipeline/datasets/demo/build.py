"""Building of the demo set: a tree of files in the layout of Dolos."""

import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from declip_pipeline.compute import generator as random_generator
from declip_pipeline.datasets.demo import photographs
from declip_pipeline.datasets.demo.canvases import canvas_and_region, forge_on_canvas
from declip_pipeline.datasets.demo.crops import crop_and_region
from declip_pipeline.datasets.demo.forgeries import FORGERIES
from declip_pipeline.errors import InputError, OutputExistsError
from declip_pipeline.files import full_disk_as_error

DemoSize = Literal["small", "large"]
GENERATORS: tuple[str, ...] = tuple(FORGERIES)
FAKE, REAL = 0, 255  # Dolos has black for fake
COUNTS: dict[DemoSize, dict[str, int]] = {
    "small": {"train": 200, "valid": 40, "test": 60},
    "large": {"train": 24, "valid": 6, "test": 12},
}


def build_demo_set(
    folder: str | Path,
    *,
    size: DemoSize = "small",
    seed: int = 0,
    train_count: int | None = None,
    valid_count: int | None = None,
    test_count: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the demo set under `folder`, which must not exist yet.

    `demo/fake/{generator}/{images,masks}/{split}/NAME.png` and `demo/real/{split}/NAME.png`:
    RGB, masks grey with 0 where fake and 255 elsewhere. A photograph is in one split only. The same
    seed and library versions give the same bytes. The folder appears whole or not at all.

    Small images are crops of 256x256, of which 5% to 35% are forged; NAME begins with the
    photograph's name. Large ones are canvases of 2 to 12 megapixels joined from photographs at
    their own scale, of which 0.05% to 1% are forged: about 10 MB each.

    Args:
        folder: Where to write.
        size: "small" or "large".
        seed: Seed of crops, regions and forgeries.
        train_count: Number of untouched images of the split train; each is forged once by every
            generator of `GENERATORS`, in the same region. By default 200, of large ones 24.
        valid_count: The same of the split valid. By default 40, of large ones 6.
        test_count: The same of the split test. By default 60, of large ones 12.
        progress: Called with the number of finished images and of all.

    Raises:
        OutputExistsError: If `folder` exists.
        InputError: For a count below 1, or missing photographs.
        StorageFullError: On a full disk.
    """
    given = {"train": train_count, "valid": valid_count, "test": test_count}
    counts = {
        split: COUNTS[size][split] if count is None else count for split, count in given.items()
    }
    folder = Path(folder)
    for split, count in counts.items():
        if count < 1:
            raise InputError(f"{split}_count is {count}; a split needs at least 1 image")
    if folder.exists():
        raise OutputExistsError(f"{folder} exists; name another folder for the demo set")
    images = {p: photographs.read(path) for p, path in photographs.locate().items()}

    half_written = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    with full_disk_as_error(folder):
        try:
            _make_folders(half_written / "demo", counts)
            _write_samples(half_written / "demo", _drawings(size, images, counts, seed), progress)
            half_written.rename(folder)
        finally:
            shutil.rmtree(half_written, ignore_errors=True)


def _make_folders(root: Path, splits: dict[str, int]) -> None:
    for split in splits:
        (root / "real" / split).mkdir(parents=True)
        for generator in GENERATORS:
            for kind in ("images", "masks"):
                (root / "fake" / generator / kind / split).mkdir(parents=True)


@dataclass(frozen=True)
class _Drawing:
    """A sample that can be drawn and forged, each time the same."""

    split: str
    name: str
    draw: Callable[[], tuple[np.ndarray, np.ndarray]]
    forge: Callable[[str, np.ndarray, np.ndarray], np.ndarray]


def _drawings(
    size: DemoSize,
    images: dict[photographs.Photograph, np.ndarray],
    counts: dict[str, int],
    seed: int,
) -> list[_Drawing]:
    """Return the samples to draw; each has its own random numbers, so their order is no matter."""
    found = []
    for split, count in counts.items():
        sources = [photograph for photograph in images if photograph.split == split]
        own = [images[photograph] for photograph in sources]
        for number in range(count):
            if size == "large":
                name = f"{split}_{number:04d}"
                draw = partial(_drawn, canvas_and_region, own, seed, name)
            else:
                source = sources[number % len(sources)]
                name = f"{source.name}_{number:04d}"
                draw = partial(_drawn, crop_and_region, images[source], seed, name)
            forge = partial(_forged, size, seed, name)
            found.append(_Drawing(split, name, draw, forge))
    return found


def _drawn(
    draw: Callable[[Any, np.random.Generator], tuple[np.ndarray, np.ndarray]],
    source: Any,
    seed: int,
    name: str,
) -> tuple[np.ndarray, np.ndarray]:
    return draw(source, random_generator(seed, "demo crop", name))


def _forged(
    size: DemoSize, seed: int, name: str, generator: str, image: np.ndarray, region: np.ndarray
) -> np.ndarray:
    forge, random = FORGERIES[generator], random_generator(seed, "demo forgery", generator, name)
    if size == "large":
        return forge_on_canvas(forge, image, region, random)
    return forge(image, region, random)


def _write_samples(
    root: Path, drawings: Sequence[_Drawing], progress: Callable[[int, int], None] | None
) -> None:
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        samples = [pool.submit(_write_sample, root, drawing) for drawing in drawings]
        try:
            for done, sample in enumerate(as_completed(samples), start=1):
                sample.result()
                if progress is not None:
                    progress(done, len(samples))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write_sample(root: Path, drawing: _Drawing) -> None:
    image, region = drawing.draw()
    split, name = drawing.split, drawing.name
    mask = np.where(region, FAKE, REAL).astype(np.uint8)
    _write_png(root / "real" / split / f"{name}.png", image)
    for generator in GENERATORS:
        forged = drawing.forge(generator, image, region)
        _write_png(root / "fake" / generator / "images" / split / f"{name}.png", forged)
        _write_png(root / "fake" / generator / "masks" / split / f"{name}.png", mask)


def _write_png(path: Path, pixels: np.ndarray) -> None:
    """Write HWC RGB or HW grey through memory: OpenCV's own writer hides a full disk."""
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    path.write_bytes(encoded.tobytes())
