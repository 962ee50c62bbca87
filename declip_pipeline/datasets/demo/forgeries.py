"""Four ways to paint a region again, each leaving traces of its own.

Each takes an image (HWC uint8 RGB, [0, 255]), a region (HW bool, True where to paint) and a
random generator, and returns a new image. All but `latent` leave every pixel outside the region
exactly as it was.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator

Forge = Callable[[np.ndarray, np.ndarray, Generator], np.ndarray]


def telea(image: np.ndarray, region: np.ndarray, random: Generator) -> np.ndarray:
    """March fast from the rim inwards: streaks along the way in (Telea, 2004)."""
    return _inpaint(image, region, cv2.INPAINT_TELEA)


def navier_stokes(image: np.ndarray, region: np.ndarray, random: Generator) -> np.ndarray:
    """Carry edges inwards by fluid dynamics: smooth fans (Bertalmio et al., 2001)."""
    return _inpaint(image, region, cv2.INPAINT_NS)


def _inpaint(image: np.ndarray, region: np.ndarray, method: int) -> np.ndarray:
    painted = cv2.inpaint(image, region.astype(np.uint8), 3, method)
    return np.where(region[..., None], painted, image)


PATCH = 16  # pixels along a side of a copied patch
STEP = 8  # pixels between neighbours: patches overlap by PATCH - STEP
CANDIDATES = 16  # places looked at for each patch
SEAM = 4  # pixels over which the rim of the region is blended


def texture_copy(image: np.ndarray, region: np.ndarray, random: Generator) -> np.ndarray:
    """Lay patches from elsewhere in the image from the rim inwards, overlaps blended.

    Of some random places outside the region the one is copied that agrees best with what already
    lies there, as in image quilting (Efros and Freeman, 2001), but seams are feathered, not cut.
    """
    size = np.array(region.shape)
    depth = cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, 3)
    covered = cv2.boxFilter(region.astype(np.float32), -1, (PATCH, PATCH), anchor=(0, 0))
    covered = covered[: size[0] - PATCH + 1, : size[1] - PATCH + 1].round(4)
    rows, columns = np.nonzero(covered == covered.min())
    windows = np.lib.stride_tricks.sliding_window_view(image, (PATCH, PATCH), axis=(0, 1))

    taper = np.minimum(np.arange(1, PATCH + 1), np.arange(PATCH, 0, -1)).clip(max=PATCH - STEP)
    taper = (taper[:, None] * taper[None, :]).astype(np.float32)[..., None]
    painted = np.where(region[..., None], 0, image).astype(np.float32)
    weight = np.where(region, 0, taper.max()).astype(np.float32)[..., None]
    for row, column in _patches_from_rim(region, depth):
        here = np.s_[row : row + PATCH, column : column + PATCH]
        chosen = random.integers(len(rows), size=CANDIDATES)
        candidates = windows[rows[chosen], columns[chosen]].transpose(0, 2, 3, 1)
        candidates = candidates.astype(np.float32)
        known = weight[here] > 0
        difference = np.where(known, candidates - painted[here], 0)
        best = candidates[np.square(difference).sum(axis=(1, 2, 3)).argmin()]
        inside = region[here][..., None]
        total = weight[here] + taper
        blend = (painted[here] * weight[here] + best * taper) / total
        painted[here] = np.where(inside, blend, painted[here])
        weight[here] = np.where(inside, total, weight[here])
    rim = (depth / SEAM).clip(0, 1)[..., None]
    blended = (painted * rim + image * (1 - rim)).round().astype(np.uint8)
    return np.where(region[..., None], blended, image)


def _patches_from_rim(region: np.ndarray, depth: np.ndarray) -> list[tuple[int, int]]:
    """Top left corners of patches that together cover the region, those near the rim first."""
    height, width = region.shape
    corners = []
    for row in [*range(0, height - PATCH, STEP), height - PATCH]:
        for column in [*range(0, width - PATCH, STEP), width - PATCH]:
            here = np.s_[row : row + PATCH, column : column + PATCH]
            if region[here].any():
                corners.append((float(depth[here].mean()), row, column))
    return [(row, column) for _, row, column in sorted(corners)]


def latent(image: np.ndarray, region: np.ndarray, random: Generator) -> np.ndarray:
    """Send everything through a coarse code and back, as latent diffusion's VAE does.

    The code is the image at half size in 64 levels. Inside the region it is generated: broad
    tones from the surroundings, detail from noise that has the image's spectrum. So every pixel
    of the image may change, and the traces of the decoder are no sign of the region.
    """
    height, width = region.shape
    half = (width // 2, height // 2)
    code = cv2.resize(image, half, interpolation=cv2.INTER_AREA)
    inside = cv2.resize(region.astype(np.uint8), half, interpolation=cv2.INTER_NEAREST)
    code = np.where(inside[..., None] > 0, _generated(code, inside, random), code)
    code = (code.astype(np.float32) / 4).round() * 4
    decoded = cv2.resize(code, (width, height), interpolation=cv2.INTER_CUBIC)
    sharpened = decoded + 0.5 * (decoded - cv2.GaussianBlur(decoded, (0, 0), 1.5))
    return sharpened.round().clip(0, 255).astype(np.uint8)


def _generated(code: np.ndarray, inside: np.ndarray, random: Generator) -> np.ndarray:
    """The code with generated content in the region `inside` (HW uint8, 1 where to paint).

    Generated at half the size of the code, so it lacks the finest detail.
    """
    height, width = inside.shape
    half = (width // 2, height // 2)
    coarse = cv2.resize(code, half, interpolation=cv2.INTER_AREA)
    inside = cv2.dilate(cv2.resize(inside, half, interpolation=cv2.INTER_NEAREST), np.ones((3, 3)))
    tones = cv2.GaussianBlur(cv2.inpaint(coarse, inside, 5, cv2.INPAINT_NS), (0, 0), 2)
    detail = coarse.astype(np.float32) - cv2.GaussianBlur(coarse, (0, 0), 2)
    detail = np.where(inside[..., None] > 0, 0, detail)
    spectrum = np.abs(np.fft.rfft2(detail, axes=(0, 1)))
    noise = np.fft.rfft2(random.standard_normal(inside.shape))
    texture = np.fft.irfft2(spectrum * (noise / np.abs(noise))[..., None], inside.shape, (0, 1))
    # As strong as the detail about the region: calm where it touches sky, rough where it touches
    # leaves. Of noise with a normal distribution the mean size is 0.8 of the spread.
    around = cv2.blur(np.abs(detail).mean(axis=2), (5, 5)).round().clip(0, 255).astype(np.uint8)
    rim = cv2.dilate(inside, np.ones((5, 5), np.uint8))
    strength = cv2.inpaint(around, rim, 5, cv2.INPAINT_NS).astype(np.float32) / 0.8
    texture *= (strength / max(float(texture.std()), 1e-3))[..., None]
    made = (tones + texture).clip(0, 255).astype(np.float32)
    enlarged = cv2.resize(made, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(enlarged.round().clip(0, 255).astype(np.uint8))


FORGERIES: dict[str, Forge] = {
    "telea": telea,
    "navier-stokes": navier_stokes,
    "texture-copy": texture_copy,
    "latent": latent,
}
