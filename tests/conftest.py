"""What many tests need: a small dataset, a tiny backbone, a store of them, and the program."""

import importlib.util
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch
from support import handmade_store
from support.made_dataset import write_dataset, write_mixed_dataset

from declip_pipeline.images.tiles import Tiling
from declip_pipeline.store import format as fmt

# Networks this small gain nothing from threads, and lose much where cores are shared: the tests'
# own processes are as many as there are cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of programs that tests start
torch.set_num_threads(1)

GOLDEN = Path(__file__).parent / "golden"
TINY_VIT = GOLDEN / "tiny_vit_openai.pt"
TINY_RESNET = GOLDEN / "tiny_rn_openai.pt"
TILES = Tiling(56)


def pytest_addoption(parser):
    parser.addoption(
        "--device", default="cpu", help="where the tests of parity compute: cpu or cuda"
    )


def pytest_collection_modifyitems(items):
    """Begin with the files of many slow tests: none of them is left to one process at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def device(request) -> torch.device:
    """Where the tests of parity compute."""
    # Decoders' convolutions would round their inputs to 10 bits on CUDA.
    torch.backends.cudnn.allow_tf32 = False
    return torch.device(request.config.getoption("--device"))


@pytest.fixture
def small_shards(monkeypatch) -> None:
    """Shards of which the store made by hand fills several."""
    monkeypatch.setattr(fmt, "ROWS_PER_SHARD", handmade_store.ROWS_PER_SHARD)


@pytest.fixture(scope="session")
def tolerance(device) -> float:
    """How far features and maps may be from the published ones; other devices sum otherwise."""
    return 1e-5 if device.type == "cpu" else 1e-4


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def recipe() -> ModuleType:
    """The recipe of golden weights and features, loaded by its path."""
    specification = importlib.util.spec_from_file_location("recipe", GOLDEN / "recipe.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def shared_dataset(tmp_path_factory) -> Path:
    """A dataset that no test changes."""
    return write_dataset(tmp_path_factory.mktemp("dataset") / "noisy")


@pytest.fixture
def dataset(tmp_path) -> Path:
    """A dataset of the test's own."""
    return write_dataset(tmp_path / "noisy")


@pytest.fixture(scope="session")
def tiny_backbone():
    from declip_pipeline.backbones.registry import open_backbone

    return open_backbone("CLIP:from-file", weights=[str(TINY_VIT)], device="cpu")


@pytest.fixture(scope="session")
def store_in(shared_dataset, tiny_backbone, tmp_path_factory):
    """Complete stores of the shared dataset, all layers of the tiny ViT, by dtype."""
    from declip_pipeline.datasets.opening import open_dataset
    from declip_pipeline.extraction.extract import extract_store
    from declip_pipeline.store.reader import Store

    opened = open_dataset(shared_dataset)

    @cache
    def in_dtype(dtype):
        extraction = extract_store(
            opened,
            tiny_backbone,
            layers=list(tiny_backbone.layers),
            root=tmp_path_factory.mktemp("cache"),
            dtype=dtype,
            provenance={"arch": "CLIP:from-file", "weights": [str(TINY_VIT)]},
        )
        return Store(extraction.location)

    return in_dtype


@pytest.fixture(scope="session")
def tiny_store(store_in):
    """The one in float16."""
    return store_in("float16")


@pytest.fixture(scope="session")
def tile_backbone():
    """The tiny ViT with 4x4 patches, for tiles of 56 pixels."""
    from declip_pipeline.backbones.registry import open_backbone

    return open_backbone(
        "CLIP:from-file", weights=[str(TINY_VIT)], image_size=TILES.size, device="cpu"
    )


@pytest.fixture(scope="session")
def extracted(shared_dataset, tile_backbone, tmp_path_factory):
    """Function that makes a store of the shared dataset, two layers of the tiny ViT in float32."""
    from declip_pipeline.datasets.opening import open_dataset
    from declip_pipeline.extraction.extract import extract_store
    from declip_pipeline.store.reader import Store

    def extract(**options):
        extraction = extract_store(
            open_dataset(shared_dataset),
            tile_backbone,
            layers=["layer1", "layer2"],
            root=tmp_path_factory.mktemp("cache"),
            dtype="float32",
            provenance={"arch": "CLIP:from-file", "weights": [str(TINY_VIT)]},
            **options,
        )
        return Store(extraction.location)

    return extract


@pytest.fixture(scope="session")
def tiled_store(extracted):
    """A complete store of tiles."""
    return extracted(tiles=TILES)


@pytest.fixture(scope="session")
def mixed_store(tiny_backbone, tmp_path_factory):
    """A complete store of fakes and real images, two layers of the tiny ViT."""
    from declip_pipeline.datasets.opening import open_dataset
    from declip_pipeline.extraction.extract import extract_store
    from declip_pipeline.store.reader import Store

    root = write_mixed_dataset(tmp_path_factory.mktemp("dataset") / "mixed")
    opened = open_dataset(root)
    extraction = extract_store(
        opened,
        tiny_backbone,
        layers=["layer1", "layer2"],
        root=tmp_path_factory.mktemp("cache"),
        provenance={"arch": "CLIP:from-file", "weights": [str(TINY_VIT)]},
    )
    return Store(extraction.location)


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium, which starts with the first test of a page."""
    from support.browser import chromium

    with chromium() as started:
        yield started


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Lets torch compute with two threads, for what is shared out to them."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def cpu() -> torch.device:
    return torch.device("cpu")


@dataclass(frozen=True)
class Outcome:
    """How a run of the program ended."""

    code: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        return self.out.strip().splitlines()[-1]


@pytest.fixture
def program(monkeypatch, capsys):
    """Runs `declip-pipe` in this process; an error must be one line, and never a traceback."""
    from stages.app import main

    # The tests' own process keeps its answer to Ctrl-C.
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    monkeypatch.setattr("signal.set_wakeup_fd", lambda descriptor, **options: -1)

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["declip-pipe", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as ending:
            code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def refused(program):
    """Runs the program, expects a refusal in one line on stderr, and returns that line."""

    def run(*arguments: object, code: int = 2) -> str:
        outcome = program(*arguments)
        lines = [line for line in outcome.err.splitlines() if line.startswith("declip-pipe: ")]
        assert outcome.code == code, outcome
        assert len(lines) == 1, outcome
        return lines[0].removeprefix("declip-pipe: ")

    return run


@pytest.fixture
def tiny_arch() -> tuple[object, ...]:
    """The options that choose the tiny ViT."""
    return ("--arch", "CLIP:from-file", "--weights", TINY_VIT)


@pytest.fixture(scope="session")
def tiny_run(tiny_store, tmp_path_factory) -> Path:
    """A finished run on the tiny store: a narrow conv decoder of layer1."""
    from declip_pipeline.training.data import TrainingData
    from declip_pipeline.training.recipe import Recipe
    from declip_pipeline.training.runs import train_run

    run = train_run(
        TrainingData([tiny_store], device=torch.device("cpu")),
        tmp_path_factory.mktemp("runs"),
        layer="layer1",
        recipe=Recipe(
            decoder_type="conv-4",
            widths=(8, 8, 4, 4),
            initialization="pytorch",
            epochs=3,
            batch_size=3,
        ),
    )
    return run.path
