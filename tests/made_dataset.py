"""A small dataset that tests make for themselves."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

SPLIT_COUNTS = MappingProxyType({"train": 8, "valid": 3, "test": 4})
SIZES = [(40, 56), (64, 64), (90, 50)]


def forged_picture(number: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth picture with a noisy rectangle, and its mask, 255 where noisy."""
    rng = np.random.default_rng(number)
    rows, columns = np.mgrid[:height, :width]
    base = np.stack([rows * 2 + columns, columns * 3, rows + 40], -1) % 256
    picture = base.astype(np.uint8)
    mask = np.zeros((height, width), np.uint8)
    top, left = rng.integers(2, height // 2), rng.integers(2, width // 2)
    mask[top : top + height // 3, left : left + width // 3] = 255
    noise = rng.integers(0, 256, picture.shape, np.uint8)
    return np.where(mask[..., None] > 0, noise, picture), mask


def write_dataset(root: Path, counts: Mapping[str, int] = SPLIT_COUNTS, seed: int = 0) -> Path:
    """Parallel folders with splits; white is fake; pictures of several sizes."""
    number = seed * 1000
    for split, count in counts.items():
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for _ in range(count):
            picture, mask = forged_picture(number, *SIZES[number % len(SIZES)])
            Image.fromarray(picture).save(root / "images" / split / f"p{number:04d}.png")
            Image.fromarray(mask).save(root / "masks" / split / f"p{number:04d}.png")
            number += 1
    return root
