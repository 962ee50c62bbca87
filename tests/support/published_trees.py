"""Small datasets in exactly the published layouts; fakes differ from real images in parts."""

from pathlib import Path

import numpy as np
from PIL import Image

GENERATORS = ("ldm", "lama", "pluralistic", "repaint-p2", "repaint-p2-9k")
SPLITS = ("train", "valid", "test")
HEIGHT, WIDTH = 40, 48


def photograph(seed: list[int]) -> np.ndarray:
    """A smooth image, HWC uint8."""
    phases = np.random.default_rng(seed).uniform(0, 6, (2, 3))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH, :1][:2]
    waves = np.sin(rows / 9 + phases[0]) + np.cos(columns / 7 + phases[1])
    return (127 + 60 * waves).astype(np.uint8)


def forge(real: np.ndarray, seed: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The image with a noisy rectangle, a fifth of it, and its mask, True = fake."""
    rng = np.random.default_rng(seed)
    top, left = rng.integers(1, HEIGHT - 21), rng.integers(1, WIDTH - 21)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + 20, left : left + 20] = True
    noise = rng.integers(0, 256, real.shape, np.uint8)
    return np.where(mask[..., None], noise, real), mask


def save(path: Path, picture: np.ndarray, **options: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, **options)


def write_dolos(root: Path, *, count: int = 3, sources: tuple[str, ...] = ("celebahq",)) -> Path:
    """Dolos: each real image forged once by each generator; black is fake, masks are RGB."""
    for place, source in enumerate(sources):
        for part, split in enumerate(SPLITS):
            for number in range(count):
                seed = [place, part, number]
                real, name = photograph(seed), f"{part}{number:04d}"
                save(root / source / "real" / split / f"{name}.png", real)
                for kind, generator in enumerate(GENERATORS):
                    picture, mask = forge(real, [*seed, kind])
                    branch = root / source / "fake" / generator
                    save(branch / "images" / split / f"{name}.png", picture)
                    keep = np.repeat(np.where(mask, 0, 255).astype(np.uint8)[..., None], 3, 2)
                    save(branch / "masks" / split / f"{name}.png", keep)
                save(root / source / "fake/p2" / split / f"{name}.png", photograph([*seed, 9]))
    return root


def write_autosplice(root: Path, *, count: int = 3) -> Path:
    """AutoSplice: each photograph forged twice, saved at three qualities; white is fake."""
    for number in range(count):
        real = photograph([number, 77])
        name = str(71695 + number)
        save(root / f"Authentic/{name}.jpg", real, quality=95)
        for which in (0, 1):
            rng = np.random.default_rng([number, which])
            _, mask = forge(real, [number])
            noise = rng.integers(0, 256, real.shape, np.uint8)
            picture = np.where(mask[..., None], noise, real)
            save(root / f"Mask/{name}_mask.png", np.where(mask, 255, 0).astype(np.uint8))
            for quality in (75, 90, 100):
                save(root / f"Forged_JPEG{quality}/{name}_{which}.jpg", picture, quality=quality)
    return root


def write_coco_sd(root: Path, *, count: int = 2) -> Path:
    """COCO-SD: images and masks in parallel folders with splits; white is fake."""
    for part, split in enumerate(SPLITS):
        for number in range(count):
            picture, mask = forge(photograph([part, number, 5]), [part, number])
            name = f"{part * 100 + number:012d}"
            save(root / "images" / split / f"{name}.jpg", picture)
            save(root / "masks" / split / f"{name}.png", np.where(mask, 255, 0).astype(np.uint8))
    return root


def flip(folder: Path) -> None:
    """Give every mask below a folder the opposite polarity."""
    for file in folder.rglob("*.png"):
        with Image.open(file) as mask:
            flipped = 255 - np.asarray(mask)
        Image.fromarray(flipped).save(file)
