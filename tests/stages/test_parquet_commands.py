"""Commands on tables of images: checked, priced, extracted by workers, repaired, and refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_VIT
from support.benchmark_trees import encoded, opensdi_rows, write_opensdi, write_shard

from declip_pipeline.store.reader import Store

TINY = ("--arch", "CLIP:from-file", "--weights", TINY_VIT, "--layers", "layer3")


@pytest.fixture(scope="module")
def train(tmp_path_factory) -> Path:
    return write_opensdi(tmp_path_factory.mktemp("made") / "OpenSDI") / "OpenSDI_train"


def test_check_says_layout_split_and_protocol(program, train):
    outcome = program("data", "check", train)
    lines = outcome.out.splitlines()
    assert outcome.code == 0
    assert lines[:2] == [
        "OpenSDI_train: layout opensdi, 27 images; white is fake, as in layout opensdi",
        "taken as: split train; trained on sd15, tested on five models; published localization is "
        "of the local edits",
    ]
    rows = [line.split() for line in lines]
    assert ["OpenSDI_train", "sd15", "train", "12", "48x40", "20.8", "-"] in rows
    assert ["OpenSDI_train", "sd15-entire", "train", "3", "48x40", "100.0", "-"] in rows
    assert (
        "note: OpenSDI_train sd15-entire train: all images are generated as a whole, 3 in number"
        in lines
    )
    value = json.loads(program("data", "check", train, "--json").out)
    assert value["splits"] == ["train"] and value["use"].startswith("trained on sd15")


def test_columns_are_named_by_option(program, refused, tmp_path):
    rows = [
        {"photo": row["image"], "truth": row["mask"]}
        for row in opensdi_rows("sd15", 3, 1, entire=0)
    ]
    file = write_shard(tmp_path / "mine.parquet", rows)
    line = refused("data", "check", file)
    assert line == (
        f"{file} has no column of images; it has photo, truth; name it with --columns image=NAME"
    )
    outcome = program("data", "check", file, "--columns", "image=photo,mask=truth")
    assert outcome.code == 0 and "mine: layout parquet, 6 images" in outcome.out
    assert "expected WHAT=NAME" in refused("data", "check", file, "--columns", "photo")


@pytest.mark.slow
def test_extraction_and_its_price(program, train, tmp_path):
    command = ("extract", train, *TINY, "--cache", tmp_path / "cache")
    priced = program(*command, "--dry-run")
    assert priced.code == 0 and "images  27" in priced.out
    assert not [*tmp_path.rglob("complete.json")]
    outcome = program(*command)
    assert outcome.code == 0, outcome
    store = Store(outcome.last_line)
    assert store.samples.names("generator") == ("real", "sd15", "sd15-entire")
    assert not store.failures
    whole = store.samples.rows(generators=["sd15-entire"])
    assert all(store.samples[int(row)].mask.endswith("/image#white") for row in whole)
    again = program(*command)
    assert "the store is complete already" in again.err


@pytest.mark.slow
def test_a_corrupt_row_is_a_failed_row(program, tmp_path):
    rows = opensdi_rows("sd15", 6, 1)
    rows[2]["image"] = rows[2]["image"][:200]
    rows[4]["mask"] = b"words"
    root = tmp_path / "OpenSDI_test"
    write_shard(root / "data/sd15-00000-of-00001.parquet", rows)
    command = ("extract", root, *TINY, "--cache", tmp_path / "cache")
    outcome = program(*command)
    assert outcome.code == 1
    shard = "data/sd15-00000-of-00001.parquet"
    assert f"failed: {shard}#2/image: is truncated or damaged" in outcome.err
    assert f"its mask {shard}#4/mask: is not an image" in outcome.err
    assert "2 of 13 images could not be used, --max-failures is 0" in outcome.err
    assert program(*command, "--max-failures", 2).code == 0


@pytest.mark.slow
def test_a_damaged_store_is_repaired_from_the_table(program, tmp_path):
    root = write_opensdi(tmp_path / "OpenSDI") / "OpenSDI_train"
    command = ("extract", root, *TINY, "--cache", tmp_path / "cache", "--device", "cpu")
    store = Path(program(*command).last_line)
    before = {file: file.read_bytes() for file in store.rglob("*") if file.is_file()}
    shard = store / "layers/layer3/c.0.0.0"
    shard.write_bytes(before[shard][:-9])
    repaired = program("cache", "verify", store, "--repair")
    assert repaired.code == 0, repaired
    assert {file: file.read_bytes() for file in before} == before
    shard.write_bytes(before[shard][:-9])
    moved = root.rename(tmp_path / "OpenSDI_train")
    line = program("cache", "verify", store, "--repair").err
    assert "is needed again and cannot be read (No such file or directory)" in line
    assert program("cache", "verify", store, "--repair", "--data", moved).code == 0
    file = moved / "data/sd15-00000-of-00003.parquet"
    rows = opensdi_rows("sd15", 12, 40, entire=3)[:9]
    rows[1]["image"] = encoded(np.zeros((40, 48, 3), np.uint8))
    write_shard(file, rows, names=("real", "fake"))
    shard.write_bytes(before[shard][:-9])
    line = program("cache", "verify", store, "--repair", "--data", moved).err
    assert f"{file}#1/image has changed since the store was made" in line


@pytest.mark.slow
@pytest.mark.cluster
def test_workers_extract_the_same_store(program, train, tmp_path):
    command = ("extract", train, *TINY, "--device", "cpu")
    one = Path(program(*command, "--cache", tmp_path / "one").last_line)
    outcome = program(*command, "--cache", tmp_path / "two", "--dask", "local:1")
    assert outcome.code == 0, outcome
    two = Path(outcome.last_line)
    shards = [*one.rglob("c.*")]
    assert len(shards) > 3
    for file in shards:
        assert (two / file.relative_to(one)).read_bytes() == file.read_bytes()
