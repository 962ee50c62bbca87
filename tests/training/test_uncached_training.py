"""Training without a cache: from the images, with the losses that a float32 store gives."""

import shutil

import numpy as np
import pytest
import torch
from conftest import TINY_RESNET, TINY_VIT

from declip_pipeline.backbones.network import NetworkBackbone
from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.errors import IdentityMismatchError, StoreError
from declip_pipeline.extraction.extract import extract_store
from declip_pipeline.feeding.feed import Feed
from declip_pipeline.feeding.inputs import FeatureSource
from declip_pipeline.images.views import parse_view
from declip_pipeline.store.hdf5 import export_store
from declip_pipeline.store.reader import Store
from declip_pipeline.training import learner, uncached_feed
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.runs import train_run
from declip_pipeline.training.uncached_feed import RecordedBackbones, UncachedFeed


def extracted(dataset, root, weights=TINY_VIT, dtype="float32", view="clean"):
    """A store of a backbone with weights from a file."""
    backbone = open_backbone("CLIP:from-file", weights=[str(weights)], device="cpu")
    opened = open_dataset(dataset)
    extraction = extract_store(
        opened,
        backbone,
        layers=list(backbone.layers),
        root=root,
        dtype=dtype,
        view=parse_view(view),
        provenance={"arch": "CLIP:from-file", "weights": [str(weights)]},
    )
    return Store(extraction.location)


@pytest.fixture
def own_store(dataset, tmp_path):
    """A store of images that the test may change."""
    return extracted(dataset, tmp_path / "cache")


@pytest.fixture
def forward_passes(monkeypatch) -> list[tuple[int, tuple[str, ...]]]:
    """The forward passes of backbones: images and layers of each."""
    passes = []
    forward = NetworkBackbone.features

    def counted(backbone, images, layers):
        passes.append((len(images), tuple(layers)))
        return forward(backbone, images, layers)

    monkeypatch.setattr(NetworkBackbone, "features", counted)
    return passes


def uncached(parts, sources, device):
    return UncachedFeed(parts, sources, device=device, backbones=RecordedBackbones(device))


def trained(stores, runs, layer="layer1", no_cache=False, **changes):
    options = {"decoder_type": "linear", "initialization": "pytorch", "epochs": 1, "batch_size": 2}
    data = TrainingData(stores, device=torch.device("cpu"), uncached=no_cache)
    return train_run(data, runs, layer=layer, recipe=Recipe(**(options | changes)))


@pytest.mark.slow
def test_batches_are_those_of_float32_stores(store_in, shared_dataset, tmp_path, cpu, monkeypatch):
    # A batch goes through the backbone in several parts.
    monkeypatch.setattr(uncached_feed, "PICTURES_AT_ONCE", 4)
    views = extracted(shared_dataset, tmp_path, view="jpeg:50")
    exported = tmp_path / "store.h5"
    export_store(store_in("int8"), exported)
    sources = [FeatureSource("layer0"), FeatureSource("layer3")]
    expected = Feed(
        [
            (store_in("float32"), store_in("float32").fake_rows("train")),
            (views, views.fake_rows("valid")),
        ],
        sources,
        device=cpu,
    )
    feed = uncached(
        [
            (Store(exported), store_in("int8").fake_rows("train")),
            (views, views.fake_rows("valid")),
        ],
        sources,
        device=cpu,
    )
    assert len(feed) == len(expected) == 11
    assert feed.description == (
        "layer0, layer3: 11 images, read and computed anew each time by CLIP:from-file"
    )
    order = np.asarray([10, 0, 3, 9, 4, 1, 2])
    assert feed.sample_ids(order) == expected.sample_ids(order)
    sizes = []
    for batch, stored in zip(feed.batches(order, 5), expected.batches(order, 5), strict=True):
        np.testing.assert_array_equal(batch.positions, stored.positions)
        for piece, same in zip(batch.pieces(3), stored.pieces(3), strict=True):
            sizes.append(len(piece))
            assert torch.equal(piece.targets, same.targets)
            for source in sources:
                found = piece.features(source)
                assert found.dtype == torch.float32
                torch.testing.assert_close(found, same.features(source), rtol=1e-5, atol=1e-5)
    assert sizes == [3, 2, 2]


def test_layers_of_one_backbone_take_one_forward_pass(store_in, tmp_path, forward_passes):
    store = store_in("float16")
    forward_passes.clear()
    trained([store], tmp_path, layer="layer3+layer1", no_cache=True, batch_size=5)
    # Two steps of 8 pictures, and 3 to validate, again for the threshold.
    assert forward_passes == [(size, ("layer3", "layer1")) for size in (5, 3, 3, 3)]


@pytest.mark.slow
def test_statistics_of_a_normalization_are_of_the_computed_features(
    store_in, tmp_path, forward_passes
):
    options = {"layer": "layer3+layer1", "decoder_type": "pup", "batch_size": 5}
    exact, rounded = store_in("float32"), store_in("int8")
    stored = trained([exact], tmp_path / "stored", **options)
    forward_passes.clear()
    computed = trained([rounded], tmp_path / "computed", no_cache=True, **options)
    # One pass more, of the training images alone, and one of valid for the threshold.
    assert [size for size, _ in forward_passes] == [5, 3, 5, 3, 3, 3]
    one, other = (run.decoder().state_dict() for run in (stored, computed))
    for name in one:
        if name.startswith("normalization."):
            torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_backbones_side_by_side_are_each_shown_their_own(
    store_in, shared_dataset, tmp_path, cpu, forward_passes
):
    store, other = store_in("float16"), extracted(shared_dataset, tmp_path, TINY_RESNET)
    exact = store_in("float32")
    sources = [
        FeatureSource("layer1"),
        FeatureSource("layer1", (other,)),
        # The first backbone again, by another store: it need not compute twice.
        FeatureSource("layer2", (exact,)),
    ]
    rows = store.fake_rows("train")
    forward_passes.clear()
    (batch,) = uncached([(store, rows)], sources, cpu).batches(np.arange(len(rows)), 8)
    found = batch.inputs(sources)
    assert forward_passes == [(8, ("layer1", "layer2")), (8, ("layer1",))]
    for features, holder, layer in zip(
        found, (exact, other, exact), ("layer1", "layer1", "layer2"), strict=True
    ):
        stored = holder.read_layer(layer, rows).decoded()
        torch.testing.assert_close(features, stored, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("decoder", "loss_limit", "iou_limit"),
    [
        ({"decoder_type": "linear"}, 1e-5, 1e-3),
        ({"decoder_type": "conv-4", "initialization": "paper"}, 1e-5, 1e-3),
        # PyTorch's initial weights move fast, so rounding grows (see test_golden_training.py). All
        # losses are the same to the bit where a backbone rounds alike in batches of any size, as it
        # did with AVX-512 and two threads; with features off by 3e-7 of themselves, losses were off
        # by 1.2e-4 and the IoU by 0.37.
        ({"decoder_type": "conv-4"}, 1e-3, 2.0),
    ],
    ids=["linear", "conv-4", "conv-4-pytorch"],
)
def test_losses_and_iou_are_those_of_a_float32_store(
    store_in, tmp_path, monkeypatch, decoder, loss_limit, iou_limit
):
    losses: list[float] = []
    step = learner.training_loss

    def recorded(*arguments):
        loss = step(*arguments)
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(learner, "training_loss", recorded)
    widths = (8, 8, 4, 4) if decoder["decoder_type"] == "conv-4" else None
    options = {**decoder, "widths": widths, "epochs": 5}
    cached = trained([store_in("float32")], tmp_path, **options)
    expected = list(losses)
    losses.clear()
    # What a store rounds its features to does not matter: they are not read.
    run = trained([store_in("float16")], tmp_path, no_cache=True, **options)
    assert len(losses) == len(expected) == 20
    assert losses == pytest.approx(expected, abs=loss_limit)
    assert losses[-4:] != pytest.approx(losses[:4], abs=1e-3), "it learned something"
    ious = [[epoch["valid_iou"] for epoch in each.epochs()] for each in (run, cached)]
    assert ious[0] == pytest.approx(ious[1], abs=iou_limit)


def test_it_is_a_run_of_its_own(store_in, tmp_path):
    store = store_in("int8")
    cached, run = trained([store], tmp_path), trained([store], tmp_path, no_cache=True)
    assert cached.path != run.path
    assert run.config()["uncached"] is True
    assert run.config()["inputs"] == [{"dtype": "float32", "provenance": store.provenance}]
    assert "uncached" not in cached.config()
    assert cached.config()["inputs"][0]["dtype"] == "int8"


@pytest.mark.slow
def test_pictures_that_are_not_here_are_refused(own_store, dataset, tmp_path):
    elsewhere = dataset.rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError) as caught:
        trained([own_store], tmp_path / "runs", no_cache=True)
    assert str(caught.value) == (
        f"{own_store.location} was made from the images in {dataset}, which is not here; "
        "`uncached=True` reads them again: bring them back, or leave it out"
    )
    elsewhere.rename(dataset)
    own_store.provenance.pop("root")
    with pytest.raises(StoreError, match="does not say where its images are; `uncached=True`"):
        trained([own_store], tmp_path / "runs", no_cache=True)


@pytest.mark.slow
def test_a_picture_that_changed_or_is_gone_is_refused(own_store, dataset, tmp_path):
    first, second = sorted((dataset / "images" / "train").iterdir())[:2]
    content = first.read_bytes()
    shutil.copy(second, first)
    with pytest.raises(StoreError) as caught:
        trained([own_store], tmp_path / "runs", no_cache=True)
    assert str(caught.value) == (
        f"{first} has changed since its dataset was first read; bring the former file back, or "
        "run `declip-pipe extract` on the dataset as it is now"
    )
    first.unlink()
    with pytest.raises(StoreError, match=r"cannot be read any more \(No such file.*bring it back"):
        trained([own_store], tmp_path / "runs", no_cache=True)
    first.write_bytes(content)
    assert trained([own_store], tmp_path / "runs", no_cache=True).summary()["epochs"] == 1


@pytest.mark.slow
def test_other_weights_are_refused(own_store, tmp_path):
    own_store.provenance["weights"] = [str(TINY_RESNET)]
    with pytest.raises(IdentityMismatchError) as caught:
        trained([own_store], tmp_path / "runs", no_cache=True)
    assert str(caught.value).startswith(
        f"weights_sha256 differs: {own_store.location} was made with "
    )
    assert str(caught.value).endswith("; bring those weights back, or extract with these")


@pytest.mark.slow
def test_the_command_trains_one_and_a_grid(
    program, refused, own_store, dataset, tmp_path, forward_passes
):
    command = ("train", own_store.location, "--no-cache", "--epochs", 1, "--batch-size", 4)
    runs = ("-o", tmp_path / "runs")
    one = program(*command, "--layers", "layer1", "--decoders", "linear", *runs)
    assert one.code == 0, one
    assert "layer1: 8 images, read and computed anew each time by CLIP:from-file" in one.err
    forward_passes.clear()
    grid = program(*command, "--layers", "layer0-2", "--decoders", "linear", *runs)
    assert grid.code == 0, grid
    assert "3 of 3 runs done" in grid.err
    # layer1 is finished; the others, side by side, share their forward passes: two steps, then
    # those of the validation and of the threshold.
    assert forward_passes == [(size, ("layer0", "layer2")) for size in (4, 4, 3, 3)]
    shutil.rmtree(dataset)
    again = program(*command, "--layers", "layer1", "--decoders", "linear", *runs)
    assert "finished already" in again.err, "what is finished needs no images"
    line = refused(*command, "--layers", "layer3", "--decoders", "linear", *runs, code=1)
    assert line.startswith(f"{own_store.location} was made from the images in {dataset}")
