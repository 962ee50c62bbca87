"""The demo set as a tree of files in the layout of Dolos."""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import cv2
import numpy as np

from declip_pipeline.compute import generator as random_generator
from declip_pipeline.datasets.demo import photographs
from declip_pipeline.datasets.demo.crops import crop_and_region
from declip_pipeline.datasets.demo.forgeries import FORGERIES
from declip_pipeline.errors import InputError, OutputExistsError
from declip_pipeline.files import full_disk_as_error

GENERATORS: tuple[str, ...] = tuple(FORGERIES)
FAKE, REAL = 0, 255  # Dolos has black for fake


def build_demo_set(
    folder: Path,
    *,
    seed: int = 0,
    train_count: int = 200,
    valid_count: int = 40,
    test_count: int = 60,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the demo set under `folder`, which must not exist yet.

    `demo/fake/{generator}/{images,masks}/{split}/NAME.png` and `demo/real/{split}/NAME.png`:
    256x256 RGB, masks 256x256 grey with 0 where fake and 255 elsewhere. Every count is the number
    of untouched crops of that split; each is forged once by every generator of `GENERATORS`, in
    the same region. NAME begins with the photograph's name, and a photograph is in one split only.
    The same seed and library versions give the same bytes. `progress` is called with the number
    of finished crops and of all. The folder appears whole or not at all.

    Raises `OutputExistsError` if `folder` exists, `InputError` for a count below 1 or missing
    photographs, `StorageFullError` on a full disk.
    """
    counts = {"train": train_count, "valid": valid_count, "test": test_count}
    for split, count in counts.items():
        if count < 1:
            raise InputError(f"{split}_count is {count}; a split needs at least 1 crop")
    if folder.exists():
        raise OutputExistsError(f"{folder} exists; name another folder for the demo set")
    pictures = {p: photographs.read(path) for p, path in photographs.locate().items()}

    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    with full_disk_as_error(folder):
        try:
            _make_folders(partial / "demo", counts)
            _write_samples(partial / "demo", pictures, counts, seed, progress)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _make_folders(root: Path, splits: dict[str, int]) -> None:
    for split in splits:
        (root / "real" / split).mkdir(parents=True)
        for generator in GENERATORS:
            for kind in ("images", "masks"):
                (root / "fake" / generator / kind / split).mkdir(parents=True)


def _write_samples(
    root: Path,
    pictures: dict[photographs.Photograph, np.ndarray],
    counts: dict[str, int],
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Make every sample; a sample depends on its own random numbers, not on the threads' order."""
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        samples = []
        for split, count in counts.items():
            sources = [photograph for photograph in pictures if photograph.split == split]
            for number in range(count):
                source = sources[number % len(sources)]
                name = f"{source.name}_{number:04d}"
                samples.append(
                    pool.submit(_write_sample, root, split, name, pictures[source], seed)
                )
        try:
            for done, sample in enumerate(as_completed(samples), start=1):
                sample.result()
                if progress is not None:
                    progress(done, len(samples))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write_sample(root: Path, split: str, name: str, photograph: np.ndarray, seed: int) -> None:
    crop, region = crop_and_region(photograph, random_generator(seed, "demo crop", name))
    mask = np.where(region, FAKE, REAL).astype(np.uint8)
    _write_png(root / "real" / split / f"{name}.png", crop)
    for generator, forge in FORGERIES.items():
        forged = forge(crop, region, random_generator(seed, "demo forgery", generator, name))
        _write_png(root / "fake" / generator / "images" / split / f"{name}.png", forged)
        _write_png(root / "fake" / generator / "masks" / split / f"{name}.png", mask)


def _write_png(path: Path, pixels: np.ndarray) -> None:
    """Write HWC RGB or HW grey; through memory, since OpenCV's own writer hides a full disk."""
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    path.write_bytes(encoded.tobytes())
