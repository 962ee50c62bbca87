"""Views of a store's images are found beside it, and nothing else is."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from declip_pipeline.errors import InputError
from declip_pipeline.store import format as fmt
from declip_pipeline.store.catalog import find_view_stores, list_stores
from declip_pipeline.store.hdf5 import export_store
from declip_pipeline.store.identity import store_folder
from declip_pipeline.store.reader import Store
from declip_pipeline.store.storage import folder_of


@pytest.fixture
def folder(tiny_store, tmp_path):
    """A folder with a copy of the tiny store."""
    place = tmp_path / "set" / "backbone" / store_folder(tiny_store.identity)
    shutil.copytree(tiny_store.location, place)
    return place.parent


@pytest.fixture
def add(folder, tiny_store):
    """Puts a store with another identity beside it: its header alone, complete or not."""

    def put(complete=True, **fields):
        identity = replace(tiny_store.identity, **fields)
        header = replace(tiny_store.header, identity=identity)
        header.layers.update(tiny_store.layers)
        place = folder / store_folder(identity)
        place.mkdir()
        attributes = {fmt.ATTRIBUTES: header.to_json()}
        group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        (place / fmt.GROUP).write_text(json.dumps(group))
        (place / fmt.MANIFEST).write_text("{}")
        if complete:
            (place / fmt.COMPLETE).write_text("{}")
        return str(place)

    return put


def test_views_are_complete_stores_of_the_same_pictures_and_features(folder, add, tiny_store):
    own = Store(folder / store_folder(tiny_store.identity))
    blur = add(view="blur-1")
    add(view="jpeg-70", complete=False)
    add(view="jpeg-80", manifest_sha256="0" * 64)
    add(view="jpeg-90", weights_sha256="0" * 64)
    add(view="noise-5", layers=("layer0",))
    found = find_view_stores(own, ["layer1"])
    assert found == {"clean": own.location, "blur-1": blur}
    assert list(find_view_stores(own, ["layer0"])) == ["clean", "blur-1", "noise-5"]


def test_of_several_the_most_alike_is_taken(folder, add, tiny_store):
    own = Store(folder / store_folder(tiny_store.identity))
    coarse = add(view="blur-1", dtype="int8")
    assert find_view_stores(own, ["layer1"])["blur-1"] == coarse
    fewer = add(view="blur-1", layers=("layer0", "layer1"))
    assert find_view_stores(own, ["layer1"])["blur-1"] == fewer
    alike = add(view="blur-1")
    assert find_view_stores(own, ["layer1"])["blur-1"] == alike


def test_a_single_file_has_none_beside_it(tiny_store, tmp_path):
    export_store(tiny_store, tmp_path / "store.h5")
    with pytest.raises(InputError, match="store.h5 is a single file; its views are looked for in"):
        find_view_stores(Store(tmp_path / "store.h5"), ["layer1"])


def test_folders_of_paths_and_urls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert folder_of("a/b/c/") == str(tmp_path / "a" / "b")
    assert folder_of("a/b/c", 3) == str(Path(tmp_path))
    assert folder_of("s3://bucket/root/set/backbone/view", 3) == "s3://bucket/root"
    assert folder_of("s3://bucket/root/set/") == "s3://bucket/root"


WAYS = {
    "missing": lambda file: None,
    "folder": lambda file: file.mkdir(),
    "pipe": os.mkfifo,
    "device": lambda file: file.symlink_to("/dev/zero"),
    "loop": lambda file: file.symlink_to(file),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [fmt.GROUP, fmt.MANIFEST, fmt.COMPLETE, fmt.ledger_key(0)])
def test_a_record_that_is_no_file_is_said_and_other_stores_are_listed(folder, add, name, way):
    (store,) = map(str, folder.iterdir())
    other = add(complete=False, view="blur-1")
    (folder / store / name).unlink()
    WAYS[way](folder / store / name)
    found = {one.location: one for one in list_stores(folder)}
    assert set(found) == {store, other} and found[other].problem is None
    assert not found[store].is_complete
    if (name, way) == (fmt.COMPLETE, "missing"):
        assert found[store].problem is None  # an extraction that goes on
    else:
        assert store in found[store].problem and "\n" not in found[store].problem
        assert found[store].to_json()["problem"] == found[store].problem


def test_a_damaged_completion_is_said(folder):
    (store,) = folder.iterdir()
    (store / fmt.COMPLETE).write_text("{")
    (found,) = list_stores(folder)
    assert "complete.json" in found.problem and not found.is_complete


def test_an_edited_header_is_said(folder):
    (store,) = folder.iterdir()
    group = store / fmt.GROUP
    text = group.read_text()
    assert '"torch"' in text
    group.write_text(text.replace('"torch"', '"toroh"'))
    (found,) = list_stores(folder)
    assert "zarr.json was edited or damaged" in found.problem and not found.is_complete
