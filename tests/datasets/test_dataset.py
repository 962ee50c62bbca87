from dataclasses import replace
from pathlib import Path

import pytest

from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.sample import Sample
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.errors import InputError, UnknownNameError


def fake(sample_id: str, split: str = "train", generator: str = "ldm") -> Sample:
    image, mask = f"images/{sample_id}.png", f"masks/{sample_id}.png"
    return Sample(sample_id, image, mask, split, generator, 1, "celebahq")


def real(sample_id: str, split: str = "train") -> Sample:
    return Sample(sample_id, f"real/{sample_id}.png", None, split, "real", 0, "celebahq")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    samples = Samples.from_rows([fake("b", "test", "lama"), real("c"), fake("a")])
    return Dataset("dolos", tmp_path, False, samples, ("masks/z.png",))


def test_samples_and_names_are_sorted(dataset: Dataset) -> None:
    assert dataset.samples.ids == ["a", "b", "c"]
    assert len(dataset) == 3
    assert dataset.splits == ("test", "train")
    assert dataset.generators == ("lama", "ldm", "real")
    assert not dataset.is_scanned


def test_select_keeps_splits_and_generators(dataset: Dataset) -> None:
    assert dataset.select() == dataset
    assert dataset.select(splits=["train"]).samples.ids == ["a", "c"]
    assert dataset.select("train").samples.ids == ["a", "c"]
    assert dataset.select(["train"], ["ldm", "lama"]).samples.ids == ["a"]
    with pytest.raises(InputError) as caught:
        dataset.select(["test"], ["real", "ldm"])
    assert str(caught.value) == (
        "no image of generator ldm, real is in split test; test has lama; train has ldm, real"
    )


def test_selecting_an_unknown_name_lists_the_existing_ones(dataset: Dataset) -> None:
    with pytest.raises(UnknownNameError) as caught:
        dataset.select(splits=["valid"])
    assert str(caught.value) == "unknown split 'valid'; known: test, train"
    with pytest.raises(UnknownNameError) as caught:
        dataset.select(generators=["ldm", "lam"])
    message = "unknown generator 'lam'; did you mean 'lama'? known: lama, ldm, real"
    assert str(caught.value) == message


def test_an_id_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    twin = replace(fake("a"), image="images/other.png")
    with pytest.raises(InputError) as caught:
        Dataset("x", tmp_path, True, Samples.from_rows([fake("a"), fake("0"), twin]))
    assert str(caught.value) == (
        "two samples have the id a (images/a.png and images/other.png); "
        "give each image its own name"
    )


def test_a_dataset_may_be_empty(tmp_path: Path) -> None:
    empty = Dataset("x", tmp_path, True, Samples.from_rows([]))
    assert (len(empty), empty.splits, empty.select()) == (0, (), empty)
