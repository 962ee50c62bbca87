"""A store as a PyTorch dataset."""

import pickle
import shutil

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from declip_pipeline.errors import InputError, StoreError, UnknownNameError
from declip_pipeline.feeding.torch_dataset import StoreDataset
from declip_pipeline.store.reader import Store


def first_channel(item):
    """A transform that workers can import."""
    features, target = item
    return features[:, 0], target


def test_items_are_the_stored_rows_in_the_order_of_ids(tiny_store):
    dataset = StoreDataset(tiny_store, "layer2", split="train")
    rows = tiny_store.fake_rows("train")
    assert len(dataset) == len(rows) == 8
    assert dataset.samples.ids == tiny_store.samples.take(rows).ids
    expected = tiny_store.read_layer("layer2", rows).decoded()
    targets = torch.from_numpy(tiny_store.read_targets(rows)).float() / 255
    for index in (0, 5, -1):
        features, target = dataset[index]
        assert features.dtype == target.dtype == torch.float32
        assert torch.equal(features, expected[index])
        assert torch.equal(target, targets[index])
    with pytest.raises(IndexError, match="item 8 of 8"):
        dataset[8]


def test_a_batch_is_read_in_one_go(tiny_store, monkeypatch):
    dataset = StoreDataset(tiny_store, ["layer1", "layer2"], targets=None)
    read = []
    begin = tiny_store.begin_reading_layer
    monkeypatch.setattr(
        tiny_store,
        "begin_reading_layer",
        lambda layer, rows: read.append((layer, len(rows))) or begin(layer, rows),
    )
    (one, other), *_ = DataLoader(dataset, batch_size=5)
    assert one.shape == other.shape == (5, *tiny_store.layers["layer1"].array_shape)
    assert read == [("layer1", 5), ("layer2", 5)] * 3


@pytest.mark.slow
def test_labels_and_generators_are_chosen(mixed_store):
    dataset = StoreDataset(
        mixed_store, "layer1", "train", generators=("ldm", "real"), targets="labels"
    )
    labels = torch.stack([label for _, label in dataset])
    assert labels.dtype == torch.float32
    assert labels.tolist() == dataset.samples.labels.tolist()
    assert dataset.samples.names("generator") == ("ldm", "real")
    assert (labels == 1).sum() == 8 and (labels == 0).sum() == 10
    fakes = StoreDataset(mixed_store, "layer1", "train", generators=mixed_store.generators)
    assert fakes.samples.ids == mixed_store.samples.take(mixed_store.fake_rows("train")).ids
    real = StoreDataset(mixed_store, "layer1", generators="real")
    assert not real[0][1].any()


@pytest.mark.slow
def test_spawned_workers_open_the_store_again(tiny_store):
    dataset = StoreDataset(tiny_store, "layer2", transform=first_channel)
    loaded = DataLoader(
        dataset, batch_size=4, num_workers=2, multiprocessing_context="spawn", shuffle=False
    )
    features = torch.cat([features for features, _ in loaded])
    assert torch.equal(features, torch.stack([dataset[n][0] for n in range(len(dataset))]))


def test_forked_workers_are_refused(tiny_store):
    dataset = StoreDataset(tiny_store, "layer2")
    dataset[0]
    loader = DataLoader(dataset, num_workers=1, multiprocessing_context="fork")
    with pytest.raises(InputError, match='`multiprocessing_context="spawn"`'):
        next(iter(loader))


@pytest.mark.slow
def test_a_copy_finds_the_store_by_its_location_and_refuses_another(store_in, tmp_path):
    place = tmp_path / "store"
    shutil.copytree(store_in("float16").location, place)
    dataset = StoreDataset(place, "layer2")
    pickled = pickle.dumps(dataset)
    assert torch.equal(pickle.loads(pickled)[3][0], dataset[3][0])
    shutil.rmtree(place)
    shutil.copytree(store_in("int8").location, place)
    with pytest.raises(StoreError, match="holds another store than when the dataset was made"):
        pickle.loads(pickled)[0]


def test_wrong_choices_are_refused_in_one_line(tiny_store, mixed_store, tmp_path):
    with pytest.raises(UnknownNameError, match="unknown layer in .* 'layer9'.* known: layer0, l"):
        StoreDataset(tiny_store, "layer9")
    with pytest.raises(InputError, match="no layer was given; known: layer0"):
        StoreDataset(tiny_store, [])
    with pytest.raises(UnknownNameError, match="unknown split in .* 'tset'; did you mean 'test'"):
        StoreDataset(tiny_store, "layer1", "tset")
    with pytest.raises(UnknownNameError, match="unknown generator in .* 'lama2'; did you mean 'la"):
        StoreDataset(mixed_store, "layer1", generators="lama2")
    with pytest.raises(UnknownNameError, match="unknown kind of targets 'mask'; did you mean 'mas"):
        StoreDataset(tiny_store, "layer1", targets="mask")
    with pytest.raises(StoreError):
        StoreDataset(tmp_path, "layer1")


def test_every_dtype_comes_as_float32(store_in):
    for dtype in ("bfloat16", "int8"):
        features, _ = StoreDataset(store_in(dtype), "layer2")[np.int64(1)]
        assert features.dtype == torch.float32
        assert isinstance(store_in(dtype), Store)
