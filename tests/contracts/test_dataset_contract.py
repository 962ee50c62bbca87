"""What the manifest of every layout must obey; a new layout gets these tests by a line below."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from PIL import Image

from declip_pipeline.datasets.checks import check_polarity, check_sizes
from declip_pipeline.datasets.layouts import open_dataset
from declip_pipeline.datasets.manifest import Manifest
from declip_pipeline.images.decode import image_size
from declip_pipeline.images.masks import decode_mask
from declip_pipeline.store.identity import manifest_sha256

GENERATORS = ("ldm", "lama", "pluralistic", "repaint-p2", "repaint-p2-9k")


def write_picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(list(path.as_posix().split("top/")[1].encode()))
    Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)


def write_mask(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((20, 24), np.uint8)
    mask[: 5 + len(path.stem)] = 255
    Image.fromarray(mask).save(path)


def make_dolos(top: Path) -> None:
    for source in ("celebahq", "ffhq"):
        for split in ("train", "valid", "test"):
            for number in ("9", "10"):
                write_picture(top / f"dolos/{source}/real/{split}/{number}.PNG")
                for generator in GENERATORS:
                    branch = top / f"dolos/{source}/fake/{generator}"
                    write_picture(branch / "images" / split / f"{number}.png")
                    write_mask(branch / "masks" / split / f"{number}.png")
    write_picture(top / "dolos/celebahq/fake/.thumbnails/images/train/1.png")
    write_picture(top / "dolos/celebahq/fake/ldm/images/.hidden/1.png")


def make_folders(top: Path, *folders: str) -> None:
    for folder in folders:
        for number in ("9", "10", "11"):
            write_picture(top / "own/Images" / folder / f"{number}.BMP")
            write_mask(top / "own/mask" / folder / f"{number}.Png")
    write_picture(top / "own/Images/.hidden/1.png")


@dataclass(frozen=True)
class Layout:
    make: Callable[[Path], None]
    opened: str  # the folder given to open_dataset, below the top
    samples: int
    splits: tuple[str, ...]
    fake_is_white: bool
    options: dict[str, Any]


SPLIT = ("test", "train", "valid")
LAYOUTS = {
    "dolos": Layout(make_dolos, "dolos", 72, SPLIT, False, {}),
    "dolos source": Layout(make_dolos, "dolos/ffhq", 36, SPLIT, False, {}),
    "dolos fake": Layout(make_dolos, "dolos/ffhq/fake", 30, SPLIT, False, {}),
    "dolos generator": Layout(make_dolos, "dolos/ffhq/fake/ldm", 6, SPLIT, False, {}),
    "flat folders": Layout(lambda top: make_folders(top, "."), "own", 3, ("all",), True, {}),
    "split folders": Layout(
        lambda top: make_folders(top, "train", "val", "test"), "own", 9, SPLIT, True, {}
    ),
    "deep folders": Layout(
        lambda top: make_folders(top, "sea/north", "sky"), "own", 6, ("all",), True, {}
    ),
    "assigned splits": Layout(
        lambda top: make_folders(top, "a", "b", "c"),
        "own",
        9,
        SPLIT,
        True,
        {"assign_splits": (40, 30, 30)},
    ),
}


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Layout:
    return LAYOUTS[request.param]


@pytest.fixture
def top(layout: Layout, tmp_path: Path) -> Path:
    layout.make(tmp_path / "top")
    return tmp_path / "top"


@pytest.fixture
def manifest(layout: Layout, top: Path) -> Manifest:
    return open_dataset(top / layout.opened, **layout.options)


def fingerprint(manifest: Manifest, hashes: dict[str, str] | None = None) -> str:
    records = manifest.records(hashes or manifest.content_hashes())
    return manifest_sha256(manifest.fake_is_white, records)


def files(manifest: Manifest) -> Iterator[str]:
    for sample in manifest.samples:
        yield sample.image
        if sample.mask is not None:
            yield sample.mask


def test_finds_every_sample_once(layout: Layout, manifest: Manifest) -> None:
    assert len(manifest.samples) == layout.samples
    assert len(set(files(manifest))) == len(list(files(manifest)))
    assert manifest.splits == layout.splits
    assert manifest.unpaired == ()


def test_ids_are_unique_sorted_and_the_images_path(manifest: Manifest) -> None:
    ids = [sample.id for sample in manifest.samples]
    assert ids == sorted(set(ids))
    for sample in manifest.samples:
        assert sample.id == str(PurePosixPath(sample.image).with_suffix(""))


def test_paths_are_relative_posix_and_exist(manifest: Manifest) -> None:
    for path in files(manifest):
        assert not path.startswith("/")
        assert "\\" not in path and ".." not in path and "/." not in path
        assert (manifest.root / path).is_file()


def test_label_mask_and_generator_agree(manifest: Manifest) -> None:
    for sample in manifest.samples:
        assert (sample.label, sample.mask is None, sample.generator == "real") in [
            (1, False, False),
            (0, True, True),
        ]
        assert sample.source
        if sample.mask is not None:
            assert PurePosixPath(sample.mask).stem == PurePosixPath(sample.image).stem


def test_passes_the_checks_in_its_own_polarity(layout: Layout, manifest: Manifest) -> None:
    assert manifest.fake_is_white is layout.fake_is_white
    sizes = check_sizes(manifest, read_size=image_size)
    assert sizes.tolist() == [[20, 24]] * layout.samples
    check_polarity(
        manifest, read_mask=lambda path: decode_mask(path, fake_is_white=layout.fake_is_white)
    )


def test_survives_json(manifest: Manifest) -> None:
    again = Manifest.from_json(manifest.to_json(), manifest.root)
    assert again == manifest


def test_selecting_everything_by_name_changes_nothing(manifest: Manifest) -> None:
    selected = manifest.select(manifest.splits, manifest.generators)
    assert selected == manifest
    parts = [manifest.select([split]).samples for split in manifest.splits]
    assert sum(map(len, parts)) == len(manifest.samples)


def test_fingerprint_does_not_depend_on_the_place(
    layout: Layout, top: Path, manifest: Manifest, tmp_path: Path
) -> None:
    moved = tmp_path / "another place"
    shutil.copytree(top, moved)
    again = open_dataset(moved / layout.opened, **layout.options)
    assert again.root != manifest.root
    assert again.to_json() == manifest.to_json()
    assert fingerprint(again) == fingerprint(manifest)


def test_fingerprint_does_not_depend_on_the_order_of_listing(
    layout: Layout, top: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    class Reversed:
        def __init__(self, folder: Path) -> None:
            with scandir(folder) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> Iterator[Any]:
            return iter(self.entries)

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Reversed)
    again = open_dataset(top / layout.opened, **layout.options)
    assert again == manifest
    assert fingerprint(again) == fingerprint(manifest)


def test_fingerprint_changes_with_any_byte_of_any_file(manifest: Manifest) -> None:
    before = fingerprint(manifest)
    hashes = manifest.content_hashes()
    for path in files(manifest):
        file = manifest.root / path
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        changed = manifest.content_hashes()
        assert {p for p in hashes if hashes[p] != changed[p]} == {path}
        assert fingerprint(manifest, changed) != before
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    assert fingerprint(manifest) == before


def test_fingerprint_changes_with_split_and_polarity(manifest: Manifest) -> None:
    before = fingerprint(manifest)
    hashes = manifest.content_hashes()
    assert (
        fingerprint(replace(manifest, fake_is_white=not manifest.fake_is_white), hashes) != before
    )
    first, *others = manifest.samples
    moved = replace(first, split="elsewhere")
    assert fingerprint(replace(manifest, samples=(moved, *others)), hashes) != before
    assert fingerprint(replace(manifest, samples=tuple(others)), hashes) != before
