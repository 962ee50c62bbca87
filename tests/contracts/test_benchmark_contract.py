"""Contract of the published benchmarks: each on a small tree in exactly its form."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import benchmark_trees as trees

from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.layouts import list_dataset, recognise_layout
from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.datasets.scan import scan_dataset
from declip_pipeline.testing.datasets import DatasetContract

SPLIT = ("test", "train", "valid")


@dataclass(frozen=True)
class Benchmark:
    write: Callable[[Path], Path]
    splits: tuple[str, ...]
    generators: tuple[str, ...]
    fakes: int
    reals: int
    left_out: tuple[str, ...] = ()
    fake_is_white: bool = True


BENCHMARKS = {
    "casia1": Benchmark(trees.write_casia1, ("test",), ("casia1", "real"), 4, 4),
    "casia2": Benchmark(trees.write_casia2, ("train",), ("casia2", "real"), 8, 8),
    "columbia": Benchmark(
        trees.write_columbia,
        ("test",),
        ("columbia", "real"),
        4,
        4,
        ("folder 4cam_auth/edgemask", "images"),
    ),
    "coverage": Benchmark(trees.write_coverage, ("test",), ("coverage", "real"), 4, 4, ("images",)),
    "tgif": Benchmark(
        trees.write_tgif,
        SPLIT,
        ("ps-sp", "real", "sd2-fr", "sd2-sp", "sdxl-fr"),
        48,
        6,
        ("images",),
    ),
    "cocoglide": Benchmark(
        trees.write_cocoglide, ("test",), ("cocoglide", "real"), 4, 4, ("files .csv",)
    ),
    "defacto": Benchmark(
        trees.write_defacto,
        ("all",),
        ("defacto-copymove", "defacto-inpainting", "defacto-splicing"),
        12,
        0,
        (
            "files .json",
            "folder copymove_annotations/donor_mask",
            "folder inpainting_annotations/donor_mask",
            "folder splicing_1_annotations/donor_mask",
            "folder splicing_7_annotations/donor_mask",
        ),
    ),
    "imd2020": Benchmark(trees.write_imd2020, ("all",), ("imd2020", "real"), 6, 4),
    "nist16": Benchmark(
        trees.write_nist16,
        ("test",),
        ("nist16", "real"),
        4,
        4,
        ("folder reference/splice",),
        fake_is_white=False,
    ),
    "sagi-d": Benchmark(trees.write_sagi_d, SPLIT, ("brushnet", "powerpaint", "real"), 12, 6),
    "opensdi": Benchmark(
        lambda root: trees.write_opensdi(root) / "OpenSDI_train",
        ("train",),
        ("real", "sd15", "sd15-entire"),
        15,
        12,
        ("files .md",),
    ),
}


@pytest.fixture(params=BENCHMARKS)
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def root(layout: str, tmp_path: Path) -> Path:
    return BENCHMARKS[layout].write(tmp_path / "benchmark")


@pytest.fixture
def dataset(root: Path) -> Dataset:
    return list_dataset(root)


class TestBenchmark(DatasetContract):
    """Every benchmark passes the contract of datasets."""


def test_is_recognised_by_itself_and_forced_by_name(
    layout: str, root: Path, dataset: Dataset
) -> None:
    assert recognise_layout(root) == layout
    assert list_dataset(root, layout=layout) == dataset


def test_finds_every_image_once_and_accounts_for_the_rest(layout: str, dataset: Dataset) -> None:
    expected = BENCHMARKS[layout]
    labels = dataset.samples.labels.tolist()
    assert (labels.count(1), labels.count(0)) == (expected.fakes, expected.reals)
    assert (dataset.splits, dataset.generators) == (expected.splits, expected.generators)
    assert dataset.fake_is_white is expected.fake_is_white
    assert dataset.unpaired == ()
    assert tuple(one.what for one in dataset.left_out) == expected.left_out


def test_masks_mark_what_the_forgery_changed(layout: str, root: Path, dataset: Dataset) -> None:
    shares = scan_dataset(dataset, decode=True).fake_shares
    whole = dataset.samples.rows(generators=["sd15-entire"])
    edited = [row for row in dataset.samples.rows(label=1) if row not in whole]
    assert shares[edited] == pytest.approx(400 / 1920, abs=0.01)
    assert (shares[whole] == 1).all()
    lines: list[str] = []
    opened = open_dataset(root, notice=lines.append)
    assert opened == scan_dataset(dataset).dataset and lines == []


def test_fakes_are_of_the_scene_of_their_real_image(layout: str, dataset: Dataset) -> None:
    samples = dataset.samples
    fakes, reals = ({samples[int(r)].scene for r in samples.rows(label=n)} for n in (1, 0))
    if layout in ("columbia", "defacto", "opensdi"):  # no name says which
        assert not fakes & reals
    else:
        assert fakes == reals


def test_fingerprint_does_not_depend_on_the_place(
    root: Path, dataset: Dataset, tmp_path: Path
) -> None:
    moved = tmp_path / "another place" / root.name
    shutil.copytree(root, moved)
    again = list_dataset(moved)
    assert again.root != dataset.root and again.samples == dataset.samples
    assert (
        scan_dataset(again).dataset
        == scan_dataset(
            Dataset(dataset.name, again.root, dataset.fake_is_white, dataset.samples)
        ).dataset
    )
