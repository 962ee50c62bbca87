"""A small dataset that tests make for themselves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

SPLIT_COUNTS = MappingProxyType({"train": 8, "valid": 3, "test": 4})
SIZES = [(40, 56), (64, 64), (90, 50)]


def smooth_picture(height: int, width: int, shift: int = 0) -> np.ndarray:
    """An image without noise."""
    rows, columns = np.mgrid[:height, :width]
    base = np.stack([rows * 2 + columns, columns * 3, rows + 40], -1) + shift
    return (base % 256).astype(np.uint8)


def forged_picture(
    number: int, height: int, width: int, shift: int = 0, part: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """A smooth image with a noisy rectangle, and its mask, 255 where noisy.

    `part` is what of each side the rectangle takes: a third, or a half.
    """
    rng = np.random.default_rng(number)
    picture = smooth_picture(height, width, shift)
    mask = np.zeros((height, width), np.uint8)
    top, left = rng.integers(2, height // 2), rng.integers(2, width // 2)
    mask[top : top + height // part, left : left + width // part] = 255
    noise = rng.integers(0, 256, picture.shape, np.uint8)
    return np.where(mask[..., None] > 0, noise, picture), mask


def write_dataset(
    root: Path,
    counts: Mapping[str, int] = SPLIT_COUNTS,
    seed: int = 0,
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> Path:
    """Parallel folders with splits; white is fake; images of several sizes."""
    number = seed * 1000
    for split, count in counts.items():
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for _ in range(count):
            picture, mask = forged_picture(number, *sizes[number % len(sizes)])
            Image.fromarray(picture).save(root / "images" / split / f"p{number:04d}.png")
            Image.fromarray(mask).save(root / "masks" / split / f"p{number:04d}.png")
            number += 1
    return root


def write_mixed_dataset(root: Path) -> Path:
    """Fakes of two generators and real images, laid out as Dolos is; black is fake.

    Each generator and the real ones share colours and sizes: noise alone tells them apart.
    """
    counts = {"train": (8, 10), "valid": (5, 6), "test": (4, 5)}
    for place, (split, (fakes, reals)) in enumerate(counts.items()):
        shifts = [31 * number + 10 * place for number in range(reals)]
        for generator in ("ldm", "lama"):
            folders = [root / "made" / "fake" / generator / k / split for k in ("images", "masks")]
            for folder in folders:
                folder.mkdir(parents=True)
            for shift in shifts[:fakes]:
                seed = shift + 1000 * (generator == "lama")
                forged, mask = forged_picture(seed, *SIZES[shift % len(SIZES)], shift, part=2)
                for folder, pixels in zip(folders, (forged, 255 - mask), strict=True):
                    Image.fromarray(pixels).save(folder / f"f{shift:04d}.png")
        folder = root / "made" / "real" / split
        folder.mkdir(parents=True)
        for shift in shifts:
            real = smooth_picture(*SIZES[shift % len(SIZES)], shift)
            Image.fromarray(real).save(folder / f"r{shift:04d}.png")
    return root
