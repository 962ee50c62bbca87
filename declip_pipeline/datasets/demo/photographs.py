"""Photographs of the demo set: their files in installed packages, and their splits."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from declip_pipeline.errors import InputError

# Import name of a package -> its name on PyPI and the folder inside it that holds photographs.
_PACKAGES = {
    "skimage": ("scikit-image", "data"),
    "sklearn": ("scikit-learn", "datasets/images"),
    "matplotlib": ("matplotlib", "mpl-data/sample_data"),
}


@dataclass(frozen=True)
class Photograph:
    """An image that the package `package` ships, for use in one split only."""

    package: str
    file_name: str
    split: str

    @property
    def name(self) -> str:
        """The file's stem, with which the names of its crops begin."""
        return Path(self.file_name).stem


# The split is by scene: both views of the motorcycle stand together. Each split has people or
# things, and colour as well as grey. Left out: drawings, text, and images that are mostly one
# flat tone (moon, cell, clock), where no method could tell what was painted over.
PHOTOGRAPHS: tuple[Photograph, ...] = (
    Photograph("skimage", "astronaut.png", "train"),
    Photograph("skimage", "brick.png", "train"),
    Photograph("skimage", "camera.png", "train"),
    Photograph("skimage", "gravel.png", "train"),
    Photograph("skimage", "hubble_deep_field.jpg", "train"),
    Photograph("skimage", "ihc.png", "train"),
    Photograph("skimage", "motorcycle_left.png", "train"),
    Photograph("skimage", "motorcycle_right.png", "train"),
    Photograph("skimage", "retina.jpg", "train"),
    Photograph("skimage", "rocket.jpg", "train"),
    Photograph("sklearn", "flower.jpg", "train"),
    Photograph("skimage", "coins.png", "valid"),
    Photograph("matplotlib", "grace_hopper.jpg", "valid"),
    Photograph("skimage", "chelsea.png", "test"),
    Photograph("skimage", "coffee.png", "test"),
    Photograph("skimage", "grass.png", "test"),
    Photograph("sklearn", "china.jpg", "test"),
)


def package_folder(package: str) -> Path | None:
    """Return the folder in which `package` ships its photographs, without importing it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / _PACKAGES[package][1]


def locate(photographs: Iterable[Photograph] = PHOTOGRAPHS) -> dict[Photograph, Path]:
    """Return the file of each photograph.

    Raises:
        InputError: Naming all missing files and the packages to install again.
    """
    found: dict[Photograph, Path] = {}
    missing: list[Photograph] = []
    for photograph in photographs:
        folder = package_folder(photograph.package)
        if folder is not None and (folder / photograph.file_name).is_file():
            found[photograph] = folder / photograph.file_name
        else:
            missing.append(photograph)
    if missing:
        packages = sorted({_PACKAGES[photograph.package][0] for photograph in missing})
        names = ", ".join(photograph.file_name for photograph in missing)
        raise InputError(
            f"the demo set is made of photographs that {', '.join(packages)} should ship, and "
            f"these are missing: {names}; install the wheels from PyPI again: "
            f"pip install --force-reinstall {' '.join(packages)}"
        )
    return found


def read(path: Path) -> np.ndarray:
    """Read a photograph as HWC uint8 RGB, [0, 255]; a grey one has three equal channels."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
