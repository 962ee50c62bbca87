"""The demo set: its files, its masks, what each forgery touches, and that it can be made again."""

import errno
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from declip_pipeline.datasets.demo import build, photographs
from declip_pipeline.datasets.demo.build import GENERATORS, build_demo_set
from declip_pipeline.errors import InputError, OutputExistsError, StorageFullError
from declip_pipeline.files import sha256_of_file

COUNTS = {"train": 12, "valid": 3, "test": 5}
LOCAL = ("telea", "navier-stokes", "texture-copy")


def build_small(folder: Path, seed: int = 0) -> None:
    build_demo_set(folder, seed=seed, train_count=12, valid_count=3, test_count=5)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set") / "out"
    build_small(folder)
    return folder


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): sha256_of_file(path) for path in files}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def samples(demo: Path, generator: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Untouched crop, forged image and fake region (True where black) of every sample."""
    root = demo / "demo"
    found = []
    for real in sorted((root / "real").glob("*/*.png")):
        place = Path(real.parent.name) / real.name
        mask = pixels(root / "fake" / generator / "masks" / place)
        forged = pixels(root / "fake" / generator / "images" / place)
        found.append((pixels(real), forged, mask == 0))
    return found


@pytest.mark.slow
def test_has_the_tree_of_dolos_and_names_that_pair(demo: Path) -> None:
    assert GENERATORS == ("telea", "navier-stokes", "texture-copy", "latent")
    expected = set()
    for split, count in COUNTS.items():
        names = [path.name for path in (demo / "demo/real" / split).iterdir()]
        assert len(names) == count
        expected |= {f"demo/real/{split}/{name}" for name in names}
        for generator in GENERATORS:
            for kind in ("images", "masks"):
                expected |= {f"demo/fake/{generator}/{kind}/{split}/{name}" for name in names}
    assert set(hashes(demo)) == expected


@pytest.mark.slow
def test_pictures_are_256_rgb_and_masks_are_256_black_and_white(demo: Path) -> None:
    for path in (demo / "demo").rglob("*.png"):
        with Image.open(path) as image:
            is_mask = path.parts[-3] == "masks"
            assert (image.size, image.mode) == ((256, 256), "L" if is_mask else "RGB")
            if is_mask:
                assert set(np.unique(np.asarray(image))) == {0, 255}


@pytest.mark.parametrize("generator", GENERATORS)
def test_black_covers_between_5_and_35_percent(demo: Path, generator: str) -> None:
    shares = [region.mean() for _, _, region in samples(demo, generator)]
    assert len(shares) == sum(COUNTS.values())
    assert min(shares) >= 0.05
    assert max(shares) <= 0.35


def test_no_scene_is_in_two_splits(demo: Path) -> None:
    splits_of_scene = defaultdict(set)
    for path in (demo / "demo/real").glob("*/*.png"):
        photograph, _, number = path.stem.rpartition("_")
        assert number.isdigit()
        splits_of_scene[photograph.partition("_")[0]].add(path.parent.name)
    assert {"astronaut", "motorcycle", "chelsea"} <= set(splits_of_scene)
    assert all(len(splits) == 1 for splits in splits_of_scene.values())


@pytest.mark.slow
@pytest.mark.parametrize("generator", LOCAL)
def test_local_forgeries_keep_every_pixel_outside_the_mask(demo: Path, generator: str) -> None:
    for real, forged, region in samples(demo, generator):
        assert np.array_equal(real[~region], forged[~region])
        assert (real[region] != forged[region]).any(axis=1).mean() > 0.5


def test_latent_changes_the_whole_picture_and_the_region_far_more(demo: Path) -> None:
    for real, forged, region in samples(demo, "latent"):
        change = np.abs(real.astype(int) - forged.astype(int)).mean(axis=2)
        assert (change[~region] > 0).mean() > 0.5
        assert change[~region].mean() < 20
        assert change[region].mean() > 1.3 * change[~region].mean()


@pytest.mark.slow
def test_generators_forge_the_same_region_differently(demo: Path) -> None:
    forged = {generator: samples(demo, generator)[0] for generator in GENERATORS}
    regions = [region for _, _, region in forged.values()]
    assert all(np.array_equal(region, regions[0]) for region in regions)
    inside = [picture[regions[0]].astype(int) for _, picture, _ in forged.values()]
    for number, one in enumerate(inside):
        for other in inside[number + 1 :]:
            assert np.abs(one - other).mean() > 0.5


@pytest.mark.slow
def test_same_seed_gives_the_same_bytes_and_another_seed_other_crops(
    demo: Path, tmp_path: Path
) -> None:
    build_small(tmp_path / "again")
    build_small(tmp_path / "other", seed=1)
    assert hashes(tmp_path / "again") == hashes(demo)
    other = hashes(tmp_path / "other")
    assert other.keys() == hashes(demo).keys()
    assert not set(other.values()) & set(hashes(demo).values())


@pytest.mark.slow
def test_a_larger_set_begins_with_the_smaller_one(demo: Path, tmp_path: Path) -> None:
    build_demo_set(tmp_path / "larger", train_count=12, valid_count=3, test_count=6)
    assert hashes(demo).items() < hashes(tmp_path / "larger").items()


@pytest.mark.slow
def test_progress_counts_up_to_all_crops(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    build_demo_set(
        tmp_path / "out",
        train_count=2,
        valid_count=1,
        test_count=1,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set") / "large"
    build_demo_set(folder, size="large", train_count=1, valid_count=1, test_count=1)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("generator", GENERATORS)
def test_large_images_have_small_forgeries_at_their_own_scale(large: Path, generator: str) -> None:
    found = samples(large, generator)
    assert len(found) == 3
    for real, forged, region in found:
        assert 1.9e6 < region.size < 12.1e6
        assert 0.0004 < region.mean() < 0.0101
        changed = (real != forged).any(axis=2)
        assert changed[region].mean() > 0.5
        assert changed[~region].any() == (generator == "latent")


@pytest.mark.slow
def test_a_large_image_is_made_of_unscaled_photographs(large: Path) -> None:
    """Most patches along the canvas's edge are found in a photograph; some lie across a seam."""
    sources = [
        photographs.read(path)
        for photograph, path in photographs.locate().items()
        if photograph.split == "test"
    ]
    canvas = pixels(large / "demo/real/test/test_0000.png")
    tops = range(0, canvas.shape[0] - 12, canvas.shape[0] // 10)
    found = 0
    for top in tops:
        patch = canvas[top : top + 12, :12]
        found += any(
            cv2.matchTemplate(source, side.copy(), cv2.TM_SQDIFF).min() < 100
            for source in sources
            for side in (patch, patch[:, ::-1])
        )
    assert found > len(tops) / 2


def test_existing_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputExistsError) as caught:
        build_small(tmp_path / "out")
    assert str(caught.value) == f"{tmp_path / 'out'} exists; name another folder for the demo set"
    assert list((tmp_path / "out").iterdir()) == []


def test_a_count_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^valid_count is 0; a split needs at least 1 image$"):
        build_demo_set(tmp_path / "out", train_count=1, valid_count=0, test_count=1)


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def write_until_full(path: Path, pixels: np.ndarray) -> None:
        written.append(path)
        if len(written) > 20:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(build, "_write_png", write_until_full)
    with pytest.raises(StorageFullError, match="no space left while writing .*out; free some"):
        build_small(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_missing_photographs_are_named_with_the_packages_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = photographs.package_folder

    def without_sklearn(package: str) -> Path | None:
        return tmp_path if package == "sklearn" else found(package)

    monkeypatch.setattr(photographs, "package_folder", without_sklearn)
    with pytest.raises(InputError) as caught:
        build_small(tmp_path / "out")
    assert str(caught.value) == (
        "the demo set is made of photographs that scikit-learn should ship, and these are "
        "missing: flower.jpg, china.jpg; install the wheels from PyPI again: "
        "pip install --force-reinstall scikit-learn"
    )
    assert not (tmp_path / "out").exists()


def test_every_photograph_is_large_enough_to_be_cropped_unenlarged() -> None:
    for photograph, path in photographs.locate().items():
        picture = photographs.read(path)
        assert min(picture.shape[:2]) >= 256, photograph
        assert (picture.shape[2], picture.dtype) == (3, np.uint8)


def test_a_file_holds_what_was_drawn(tmp_path: Path) -> None:
    colours = np.zeros((256, 256, 3), np.uint8)
    colours[..., 0] = 200  # red, so that swapped channels would show
    build._write_png(tmp_path / "red.png", colours)
    assert np.array_equal(pixels(tmp_path / "red.png"), colours)
    assert cv2.imread(str(tmp_path / "red.png"))[0, 0].tolist() == [0, 0, 200]
