"""The one reading of all files: sizes, hashes, progress, and bounded memory."""

import threading
from pathlib import Path

import numpy as np
import pytest
from support.made_dataset import write_dataset
from support.published_trees import write_autosplice, write_coco_sd

from declip_pipeline.datasets import scan as scanning
from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.layouts import list_dataset
from declip_pipeline.datasets.scan import in_threads, scan_dataset
from declip_pipeline.errors import ImageError, InputError
from declip_pipeline.files import sha256_of_file
from declip_pipeline.images.decode import decode_image, image_size


@pytest.fixture
def listed(tmp_path: Path) -> Dataset:
    return list_dataset(write_dataset(tmp_path / "noisy"))


def test_sizes_and_hashes_are_those_of_the_files(listed: Dataset) -> None:
    scan = scan_dataset(listed)
    assert scan.dataset.is_scanned and not listed.is_scanned
    for row, sample in enumerate(scan.dataset.samples):
        image, mask = listed.root / sample.image, listed.root / str(sample.mask)
        assert (sample.height, sample.width) == image_size(image)
        assert (sample.image_sha256, sample.mask_sha256) == (
            sha256_of_file(image),
            sha256_of_file(mask),
        )
        assert scan.mask_sizes[row].tolist() == [sample.height, sample.width]
    assert np.isnan(scan.fake_shares).all()
    assert scan.unreadable == {}
    assert scan_dataset(listed).dataset == scan.dataset


def test_every_file_is_read_once_though_samples_share_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = list_dataset(write_autosplice(tmp_path / "AutoSplice"))
    read: list[Path] = []
    read_bytes = Path.read_bytes

    def counted(path: Path) -> bytes:
        read.append(path)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    calls: list[tuple[int, int]] = []
    scan = scan_dataset(
        listed, decode=True, progress=lambda done, total: calls.append((done, total))
    )
    images = {sample.image for sample in listed.samples}
    masks = {sample.mask for sample in listed.samples if sample.mask}
    assert sorted(read) == sorted(listed.root / path for path in images | masks)
    assert calls == [(done, len(read)) for done in range(1, len(read) + 1)]
    real = scan.dataset.samples.labels == 0
    assert np.isnan(scan.fake_shares[real]).all() and not scan.mask_sizes[real].any()
    assert (scan.fake_shares[~real] == 400 / 1920).all()
    assert [s.mask_sha256 is None for s in scan.dataset.samples] == real.tolist()


def test_an_unreadable_image_has_a_hash_and_no_size(listed: Dataset) -> None:
    image = listed.samples[3].image
    (listed.root / image).write_text("words")
    scan = scan_dataset(listed)
    assert scan.dataset.samples.sizes[3].tolist() == [0, 0]
    assert scan.dataset.samples[3].image_sha256 == sha256_of_file(listed.root / image)
    assert list(scan.unreadable) == [image]


def test_images_and_masks_beyond_the_limit_are_not_decoded(tmp_path: Path) -> None:
    listed = list_dataset(write_coco_sd(tmp_path / "coco-sd", count=1))
    scan = scan_dataset(listed, decode=True, max_megapixels=0.001)
    assert len(scan.unreadable) == 6
    assert "at most 0.001 megapixels are read" in next(iter(scan.unreadable.values()))
    assert scan_dataset(listed, max_megapixels=0.001).unreadable == {}


def test_a_truncated_image_is_found_where_images_are_decoded(listed: Dataset) -> None:
    image = listed.samples[3].image
    content = (listed.root / image).read_bytes()
    (listed.root / image).write_bytes(content[: len(content) // 2])
    assert scan_dataset(listed).unreadable == {}
    scan = scan_dataset(listed, decode=True)
    with pytest.raises(ImageError) as caught:
        decode_image(listed.root / image)
    assert scan.unreadable == {image: str(caught.value)}
    sizes = scan.dataset.samples.sizes
    assert sizes[3].tolist() == [0, 0]
    others = np.arange(len(listed)) != 3
    assert np.array_equal(sizes[others], scan_dataset(listed).dataset.samples.sizes[others])


def test_an_image_that_does_not_fit_in_memory_is_unreadable(
    listed: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(content: bytes, **_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(scanning, "decode_image", no_memory)
    monkeypatch.setattr(scanning, "read_mask", no_memory)
    found = scan_dataset(listed, decode=True).unreadable
    assert set(found.values()) == {"does not fit in memory; shrink it"}


def test_a_file_that_cannot_be_opened_is_named(listed: Dataset) -> None:
    image, mask = listed.root / listed.samples[1].image, listed.root / str(listed.samples[1].mask)
    mask.unlink()
    with pytest.raises(InputError) as caught:
        scan_dataset(listed)
    assert str(caught.value) == (
        f"mask {mask}: cannot be opened: No such file or directory; repair or remove it"
    )
    image.unlink()
    with pytest.raises(InputError) as caught:
        scan_dataset(listed)
    assert str(caught.value) == (
        f"{image} cannot be opened: No such file or directory; "
        "bring it back and run the same command again"
    )


def test_threads_run_ahead_by_no_more_than_the_window() -> None:
    asked: list[int] = []

    def items():
        for number in range(500):
            asked.append(number)
            yield number

    for taken, value in enumerate(in_threads(lambda number: 2 * number, items(), ahead=8)):
        assert value == 2 * taken
        assert len(asked) <= taken + 8


def test_an_error_in_a_thread_stops_the_others() -> None:
    begun: list[int] = []
    lock = threading.Lock()

    def work(number: int) -> int:
        with lock:
            begun.append(number)
        if number == 3:
            raise InputError("three")
        return number

    with pytest.raises(InputError, match="three"):
        list(in_threads(work, range(10_000), ahead=scanning.FILES_AHEAD))
    assert len(begun) <= 3 + scanning.FILES_AHEAD + 1
