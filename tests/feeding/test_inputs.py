"""Stores that stand beside one another hold the same images under the same ids."""

from dataclasses import replace

import pytest

from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.errors import InputError
from declip_pipeline.extraction.extract import extract_store
from declip_pipeline.feeding.inputs import FeatureSource
from declip_pipeline.store.reader import Store


def refusal(fed: Store, beside: Store) -> str:
    with pytest.raises(InputError) as caught:
        FeatureSource("layer1", (beside,)).store_of(fed)
    return str(caught.value)


def test_the_same_images_from_another_folder_are_told_by_what_differs(
    shared_dataset, tiny_backbone, tiny_store, tmp_path
):
    opened = open_dataset(shared_dataset)
    samples = opened.samples
    below = {
        column: [f"noisy/{path}" for path in samples.strings(column)]
        for column in ("id", "image", "mask")
    }
    above = replace(opened, root=opened.root.parent, samples=samples.replace(**below))
    options = {"layers": ["layer1"], "root": tmp_path}
    store = Store(extract_store(above, tiny_backbone, **options).location)
    text = refusal(tiny_store, store)
    assert "its images are the same, but their id differs (noisy/images/" in text
    assert text.endswith(
        "here, as of a dataset listed from another folder); expected a store of the same manifest "
        "and view, extract both from the same DATA with the same options"
    )
    other = replace(opened, samples=samples.replace(split=["all"] * len(samples)))
    store = Store(extract_store(other, tiny_backbone, **options).location)
    assert "but their split differs (all there, " in refusal(tiny_store, store)
    fewer = opened.select(["test"])
    store = Store(extract_store(fewer, tiny_backbone, **options).location)
    assert "): its images are others; expected" in refusal(tiny_store, store)
