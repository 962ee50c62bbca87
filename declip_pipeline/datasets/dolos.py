"""The Dolos tree: SOURCE/fake/GENERATOR/{images,masks}/SPLIT and SOURCE/real/SPLIT.

Source: DeCLIP, Smeu et al., WACV 2025, arXiv 2409.08849. In its masks black marks the fake pixels.
"""

from dataclasses import dataclass
from pathlib import Path

from declip_pipeline.datasets.listing import list_pictures, stem_of, subfolders, unique_ids
from declip_pipeline.datasets.manifest import FAKE, REAL, REAL_GENERATOR, Manifest, Sample
from declip_pipeline.datasets.pairing import pair_by_stem, require_paired
from declip_pipeline.datasets.splits import split_named, splits_of_paths
from declip_pipeline.errors import InputError

EXPECTED = "the tree of Dolos, SOURCE/fake/GENERATOR/{images,masks}/{train,valid,test}"
FAKE_IS_WHITE = False


@dataclass(frozen=True)
class _Branch:
    """One generator of one source, or a source's real pictures; paths relative to the root."""

    source: str
    generator: str
    images: str
    masks: str | None


def read_dolos(root: Path, *, name: str, fake_is_white: bool, allow_unpaired: bool) -> Manifest:
    """Read a folder of sources, one source, its `fake` folder, or one generator of it.

    Where `root` is a `fake` folder or below it, the source is named after the folder above `fake`.
    Two sources may share generators; the samples' `source` tells them apart. A folder of wholly
    generated pictures (the published tree has `fake/p2/{train,valid,test}`) is left out, and named
    in `unpaired`: no mask says what of them is fake.

    Raises `InputError` for another tree, a generator without images/ or masks/, no pictures, and
    for what does not pair.
    """
    branches = _branches(root)
    if not branches:
        raise InputError(f"{root} is not a Dolos tree; expected {EXPECTED}")
    found: list[tuple[_Branch, str, str | None]] = []
    alone: list[str] = []
    masks_alone: list[str] = []
    for branch in branches:
        if branch.masks is None:
            found += [(branch, image, None) for image in list_pictures(root / branch.images)]
            continue
        pairing = pair_by_stem(
            list_pictures(root / branch.images), list_pictures(root / branch.masks)
        )
        found += [(branch, image, branch.masks + mask) for image, mask in pairing.pairs]
        alone += [branch.images + image for image in pairing.images_without_mask]
        masks_alone += [branch.masks + mask for mask in pairing.masks_without_image]
    if not found and not alone:
        raise InputError(f"no pictures found under {root}; expected {EXPECTED}")
    if not allow_unpaired:
        require_paired(str(root), alone, masks_alone)
    ids = unique_ids([branch.images + image for branch, image, _ in found])
    splits = splits_of_paths(
        str(root), {branch.images + image: image for branch, image, _ in found}
    )
    samples = [
        Sample(
            id=ids[branch.images + image],
            image=branch.images + image,
            mask=mask,
            split=splits[branch.images + image],
            generator=branch.generator,
            label=REAL if mask is None else FAKE,
            source=branch.source,
        )
        for branch, image, mask in found
    ]
    left_out = alone + masks_alone + _wholly_generated(root)
    return Manifest(name, root, fake_is_white, tuple(samples), tuple(sorted(left_out)))


def scene_of(sample: Sample) -> str:
    """What a fake has in common with the real picture that it was made from."""
    below = "/real/" if sample.label == REAL else "/images/"
    place = stem_of(f"/{sample.image}".partition(below)[2])
    return f"{sample.source}/{place}"


def is_dolos(root: Path) -> bool:
    """Whether `root` is, or holds, a part of a Dolos tree."""
    return bool(_branches(root))


def _branches(root: Path) -> list[_Branch]:
    """The generators and real pictures under `root`, empty if it is no Dolos tree."""
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
    """Whether a folder has splits where a generator that forges parts has images/ and masks/."""
    inside = subfolders(folder)
    return bool(inside) and all(split_named(name) for name in inside)


def _wholly_generated(root: Path) -> list[str]:
    """The folders that were passed over, relative to the root."""
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
