"""The format page says what is so: its snippets run, its names and numbers are the code's."""

import re
from pathlib import Path

import numpy as np
import pytest

from declip_pipeline.store import format as fmt

PAGE = (Path(__file__).parents[2] / "cache" / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=["zarr-python", "TensorStore"])
def test_a_snippet_reads_a_store(snippet, tiny_store):
    names = {"store": tiny_store.path.as_posix(), "layer": "layer2"}
    exec(compile(snippet, "cache/README.md", "exec"), names)
    np.testing.assert_array_equal(names["features"], tiny_store.read_layer("layer2", np.arange(4)))


def test_its_numbers_are_the_codes():
    assert f"format version {fmt.FORMAT_VERSION}" in PAGE
    assert f"A shard holds {fmt.ROWS_PER_SHARD} rows" in PAGE
    assert f"(N, {fmt.TARGET_SIZE}, {fmt.TARGET_SIZE})" in PAGE
    assert f"(N, {fmt.THUMBNAIL_SIZE}, {fmt.THUMBNAIL_SIZE}, 3)" in PAGE
    assert f"(1, {fmt.MASK_TILE}, {fmt.MASK_TILE})" in PAGE
    assert f"`{fmt.ATTRIBUTES}`" in PAGE


def test_every_file_of_a_store_is_on_the_page(tiny_store):
    files = {
        file.relative_to(tiny_store.path).as_posix()
        for file in tiny_store.path.rglob("*")
        if file.is_file()
    }
    for path in files:
        name = "layers/NAME" if path.startswith("layers/") else path.split("/")[0]
        name = "ledger/NNNNNN.json" if name == "ledger" else name
        assert f"`{name}`" in PAGE, path
