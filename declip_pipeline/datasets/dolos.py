"""The Dolos tree: SOURCE/fake/GENERATOR/{images,masks}/SPLIT and SOURCE/real/SPLIT.

Source: DeCLIP, Smeu et al., WACV 2025, arXiv 2409.08849. In its masks black marks the fake pixels.
"""

from dataclasses import dataclass
from pathlib import Path

from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.listing import list_files, list_images, stem_of, subfolders
from declip_pipeline.datasets.pairing import pair_by_stem, require_paired
from declip_pipeline.datasets.sample import REAL_GENERATOR
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.datasets.splits import split_named, splits_of_paths
from declip_pipeline.errors import InputError

EXPECTED = "the tree of Dolos, SOURCE/fake/GENERATOR/{images,masks}/{train,valid,test}"
FAKE_IS_WHITE = False


@dataclass(frozen=True)
class _Branch:
    """One generator of one source, or a source's real images; paths relative to the root."""

    source: str
    generator: str
    images: str
    masks: str | None


def read_dolos(root: Path, *, name: str, fake_is_white: bool, allow_unpaired: bool) -> Dataset:
    """Read a folder of sources, one source, its `fake` folder, or one generator of it.

    Where `root` is a `fake` folder or below it, the source is named after the folder above `fake`.
    Two sources may share generators; the samples' `source` tells them apart. A scene is a source,
    split and name: a fake has that of the real image that it was made from. A folder of wholly
    generated images (the published tree has `fake/p2/{train,valid,test}`) is left out and named in
    `unpaired`: no mask says what in them is fake.

    Raises:
        InputError: For another tree, a generator without images/ or masks/, no images, and images
            and masks without a partner unless `allow_unpaired`.
    """
    branches = _branches(root)
    if not branches:
        raise InputError(f"{root} is not a Dolos tree; expected {EXPECTED}")
    found: list[tuple[_Branch, str, str | None]] = []
    alone: list[str] = []
    masks_alone: list[str] = []
    other_files: list[str] = []
    for branch in branches:
        if branch.masks is None:
            found += [(branch, image, None) for image in list_images(root / branch.images)]
            continue
        beside_masks = list_files(root / branch.masks)
        pairing = pair_by_stem(list_images(root / branch.images), beside_masks.images)
        other_files += [branch.masks + path for path in beside_masks.others]
        found += [(branch, image, branch.masks + mask) for image, mask in pairing.pairs]
        alone += [branch.images + image for image in pairing.images_without_mask]
        masks_alone += [branch.masks + mask for mask in pairing.masks_without_image]
    if not found and not alone:
        raise InputError(f"no images found under {root}; expected {EXPECTED}")
    if not allow_unpaired:
        require_paired(str(root), alone, masks_alone, other_files=other_files)
    images = [branch.images + image for branch, image, _ in found]
    samples = Samples.from_columns(
        images,
        mask=[mask for _, _, mask in found],
        split=splits_of_paths(str(root), images, [image for _, image, _ in found]),
        generator=[branch.generator for branch, _, _ in found],
        source=[branch.source for branch, _, _ in found],
        scene=[f"{branch.source}/{stem_of(image)}" for branch, image, _ in found],
    )
    left_out = alone + masks_alone + _wholly_generated(root)
    return Dataset(name, root, fake_is_white, samples, tuple(sorted(left_out)))


def is_dolos(root: Path) -> bool:
    """Return whether `root` is, or holds, a part of a Dolos tree."""
    return bool(_branches(root))


def _branches(root: Path) -> list[_Branch]:
    """The generators and real images under `root`, empty if it is no Dolos tree."""
    folders = subfolders(root)
    if _is_generator(root) and root.parent.name == "fake":
        return [_generator(root, root, root.parent.parent.name)]
    if root.name == "fake" and any(_is_generator(folder) for folder in folders.values()):
        return [
            _generator(root, folder, root.parent.name)
            for folder in folders.values()
            if not _is_wholly_generated(folder)
        ]
    if _is_source(root):
        return _source(root, root)
    return [
        branch
        for folder in folders.values()
        if _is_source(folder)
        for branch in _source(root, folder)
    ]


def _is_generator(folder: Path) -> bool:
    return (folder / "images").is_dir() or (folder / "masks").is_dir()


def _is_wholly_generated(folder: Path) -> bool:
    """Return whether a folder holds splits, where one with masks holds images/ and masks/."""
    inside = subfolders(folder)
    return bool(inside) and all(split_named(name) for name in inside)


def _wholly_generated(root: Path) -> list[str]:
    """The folders of wholly generated images, relative to the root."""
    folders = subfolders(root)
    fakes = [root] if root.name == "fake" else []
    fakes += [folder / "fake" for folder in (root, *folders.values()) if _is_source(folder)]
    return [
        folder.relative_to(root).as_posix()
        for fake in fakes
        for folder in subfolders(fake).values()
        if _is_wholly_generated(folder)
    ]


def _is_source(folder: Path) -> bool:
    fake = folder / "fake"
    return fake.is_dir() and any(_is_generator(child) for child in subfolders(fake).values())


def _source(root: Path, folder: Path) -> list[_Branch]:
    generators = subfolders(folder / "fake").values()
    branches = [
        _generator(root, generator, folder.name)
        for generator in generators
        if not _is_wholly_generated(generator)
    ]
    if (folder / "real").is_dir():
        images = _relative(root, folder / "real")
        branches.append(_Branch(folder.name, REAL_GENERATOR, images, masks=None))
    return branches


def _generator(root: Path, folder: Path, source: str) -> _Branch:
    for kind in ("images", "masks"):
        if not (folder / kind).is_dir():
            raise InputError(f"{folder} has no {kind}/ folder; expected {EXPECTED}")
    images, masks = (_relative(root, folder / kind) for kind in ("images", "masks"))
    return _Branch(source, folder.name, images, masks)


def _relative(root: Path, folder: Path) -> str:
    return f"{folder.relative_to(root).as_posix()}/"
