"""What a store's type costs a decoder: at most 0.3 IoU on the demo's forgeries.

Longer trainings, all types and more seeds are in benchmarks/dtypes.py.
"""

from functools import cache

import pytest
import torch

from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.datasets.demo.build import build_demo_set
from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.evaluation.evaluate import evaluate
from declip_pipeline.extraction.extract import extract_store
from declip_pipeline.store.reader import Store
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.runs import train_run

LIMIT = 0.3
LAYER = "layer3"
CPU = torch.device("cpu")
RECIPES = {
    "linear": Recipe(
        "linear", initialization="pytorch", epochs=12, batch_size=4, learning_rate=5e-3
    ),
    "conv-4": Recipe(
        "conv-4",
        widths=(16, 8, 8, 8),
        initialization="pytorch",
        epochs=4,
        batch_size=4,
        learning_rate=2e-3,
    ),
}


@pytest.fixture(scope="module")
def store_of(tmp_path_factory):
    """Stores of one small demo set by dtype, those after the first out of the float32 one."""
    root = tmp_path_factory.mktemp("demo")
    build_demo_set(root / "demo", seed=0, train_count=20, valid_count=3, test_count=8)
    opened = open_dataset(root / "demo", generators=["telea"])
    backbone = open_backbone("efficientnet-lite0", device="cpu")
    return {
        dtype: Store(
            extract_store(
                opened, backbone, layers=[LAYER], root=root / "cache", dtype=dtype
            ).location
        )
        for dtype in ("float32", "float16", "int8")
    }


@pytest.fixture(scope="module")
def iou(store_of, tmp_path_factory):
    """IoU in percent on the test images: of a decoder, trained in one dtype, read in another."""
    runs = tmp_path_factory.mktemp("runs")

    @cache
    def trained(decoder, dtype):
        data = TrainingData([store_of[dtype]], device=CPU)
        return train_run(data, runs, layer=LAYER, recipe=RECIPES[decoder])

    def iou(decoder, *, trained_in, read_in):
        return evaluate(trained(decoder, trained_in), store_of[read_in], device=CPU).mean("iou")

    return iou


@pytest.mark.slow
@pytest.mark.parametrize(("decoder", "least"), [("linear", 25), ("conv-4", 40)])
def test_a_decoder_reads_16_and_8_bits_as_well(iou, decoder, least):
    exact = iou(decoder, trained_in="float32", read_in="float32")
    # More than to call all fake, 20: it sees something that rounding could take away.
    assert exact > least
    for dtype in ("float16", "int8"):
        found = iou(decoder, trained_in="float32", read_in=dtype)
        assert found == pytest.approx(exact, abs=LIMIT), dtype


@pytest.mark.slow
def test_a_decoder_learns_from_16_and_8_bits_as_well(iou):
    # A conv decoder is left to the benchmark: trained so briefly, on so little, its IoU moves by
    # 0.1 for a change of the features in the seventh digit, by 0.4 for float16, by 6 from seed to
    # seed.
    exact = iou("linear", trained_in="float32", read_in="float32")
    for dtype in ("float16", "int8"):
        found = iou("linear", trained_in=dtype, read_in=dtype)
        assert found == pytest.approx(exact, abs=LIMIT), dtype


def test_the_stores_do_differ(store_of):
    rows = store_of["float32"].fake_rows("test")
    exact = store_of["float32"].read_layer(LAYER, rows).decoded()
    for dtype in ("float16", "int8"):
        error = (store_of[dtype].read_layer(LAYER, rows).decoded() - exact).abs().max()
        assert 0 < error < 0.05 * exact.abs().max()
