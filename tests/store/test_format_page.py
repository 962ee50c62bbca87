"""The format page says what is so: its snippets run, its names and numbers are the code's."""

import re
from pathlib import Path

import numpy as np
import pytest

from declip_pipeline.features import FEATURE_DTYPES
from declip_pipeline.store import format as fmt
from declip_pipeline.store.hdf5 import export_store

PAGE = (Path(__file__).parents[2] / "cache" / "README.md").read_text()
SAMPLES, PLAIN, ANY_DTYPE, TENSORSTORE, HDF5 = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def features_of(snippet, store, file=None):
    names = {"store": store.location, "layer": "layer2", "file": file}
    exec(compile(snippet, "cache/README.md", "exec"), names)
    return names["features"]


@pytest.mark.parametrize("snippet", [PLAIN, TENSORSTORE], ids=["zarr-python", "TensorStore"])
def test_a_snippet_reads_a_store(snippet, tiny_store):
    expected = tiny_store.read_layer("layer2", np.arange(4)).values
    np.testing.assert_array_equal(features_of(snippet, tiny_store), expected)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", FEATURE_DTYPES)
def test_a_snippet_decodes_every_dtype(dtype, store_in):
    store = store_in(dtype)
    expected = store.read_layer("layer2", np.arange(4)).decoded().numpy()
    np.testing.assert_array_equal(features_of(ANY_DTYPE, store), expected)


def test_a_snippet_reads_an_exported_store(tiny_store, tmp_path):
    export_store(tiny_store, tmp_path / "store.h5")
    expected = tiny_store.read_layer("layer2", np.arange(4)).values
    found = features_of(HDF5, tiny_store, tmp_path / "store.h5")
    np.testing.assert_array_equal(found, expected)


def test_a_snippet_reads_the_samples(tiny_store):
    scope = {"store": tiny_store.location}
    exec(SAMPLES, scope)
    assert scope["rows"] == tiny_store.samples.rows(splits=["train"]).tolist()
    assert scope["samples"]["id"].to_pylist() == tiny_store.samples.ids


def test_its_numbers_are_the_codes():
    assert f"format version {fmt.FORMAT_VERSION}" in PAGE
    assert f"`format_version` ({fmt.FORMAT_VERSION})" in PAGE
    assert f"A shard holds {fmt.ROWS_PER_SHARD} rows" in PAGE
    assert f"(N, {fmt.TARGET_SIZE}, {fmt.TARGET_SIZE})" in PAGE
    assert f"(N, {fmt.THUMBNAIL_SIZE}, {fmt.THUMBNAIL_SIZE}, 3)" in PAGE
    assert f"(1, {fmt.MASK_TILE}, {fmt.MASK_TILE})" in PAGE
    assert f"`zstd` has level {fmt.ZSTD_LEVEL}" in PAGE
    assert f"`{fmt.ATTRIBUTES}`" in PAGE
    for dtype in FEATURE_DTYPES:
        assert f"`{dtype}`" in PAGE


def test_every_file_of_a_store_is_on_the_page(store_in):
    folder = Path(store_in("int8").location)
    names = {"layers": "layers/NAME", "scales": "scales/NAME", "ledger": "ledger/NNNNNN.json"}
    for file in folder.rglob("*"):
        if file.is_file():
            first = file.relative_to(folder).parts[0]
            assert f"`{names.get(first, first)}`" in PAGE, file
