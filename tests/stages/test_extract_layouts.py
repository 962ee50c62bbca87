"""Each layout goes through `extract` into a store whose masks say what is fake."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.published_trees import flip, write_autosplice, write_coco_sd, write_dolos

from declip_pipeline.store.reader import Store


@pytest.fixture
def extracted(program, tiny_arch, tmp_path):
    """Extracts one layer with the tiny ViT and returns the store."""

    def run(data: Path, *options: object) -> Store:
        cache = ("--cache", tmp_path / "cache")
        outcome = program("extract", data, *tiny_arch, "--layers", "layer0", *cache, *options)
        assert outcome.code == 0, outcome
        return Store(outcome.last_line)

    return run


def fake_shares(store: Store) -> list[float]:
    rows = np.asarray([row for row, sample in enumerate(store.samples) if sample.label])
    return [round(float(share), 2) for share in (store.read_targets(rows) / 255).mean((-2, -1))]


@pytest.mark.slow
def test_autosplice(extracted, tmp_path):
    data = write_autosplice(tmp_path / "AutoSplice", count=4)
    store = extracted(data, "--assign-splits", "50,25,25")
    assert store.generators == ["autosplice-100", "autosplice-75", "autosplice-90"]
    assert len(store.samples) == 4 + 4 * 6
    assert set(fake_shares(store)) == {0.21}
    split_of = {sample.id.rpartition("/")[2]: sample.split for sample in store.samples}
    assert split_of["71695_0"] == split_of["71695_1"] == split_of["71695"]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["coco-sd", "Tp and Gt", "json", "csv"])
def test_all_forms_of_the_same_pictures_give_the_same_masks(extracted, tmp_path, form):
    data = write_coco_sd(tmp_path / "coco-sd")
    names = sorted(path.relative_to(data / "images") for path in data.glob("images/*/*.jpg"))
    pairs = [[f"images/{name}", f"masks/{name.with_suffix('.png')}"] for name in names]
    if form == "Tp and Gt":
        (data / "images").rename(data / "Tp")
        (data / "masks").rename(data / "Gt")
    elif form == "json":
        data /= "list.json"
        data.write_text(json.dumps(pairs))
    elif form == "csv":
        data /= "list.csv"
        rows = [f"{image},{mask},{image.split('/')[1]}" for image, mask in pairs]
        data.write_text("\n".join(["image,mask,split", *rows]))
    store = extracted(data)
    assert fake_shares(store) == [0.21] * 6
    assert store.splits == (["all"] if form == "json" else ["test", "train", "valid"])


@pytest.mark.slow
def test_a_flipped_dolos_is_refused_unless_the_polarity_is_said(
    extracted, refused, tiny_arch, tmp_path
):
    data = write_dolos(tmp_path / "dolos", count=1)
    shutil.rmtree(data / "celebahq/fake/p2")
    assert set(fake_shares(extracted(data, "--generators", "lama"))) == {0.21}
    for masks in data.glob("*/fake/*/masks"):
        flip(masks)
    cache = ("--cache", tmp_path / "other", "--layers", "layer0", "--generators", "lama")
    line = refused("extract", data, *tiny_arch, *cache)
    assert line == (
        "masks of the opposite polarity: black is read as fake, but in 3 of 3 compared with real "
        "images what differs is white; pass --polarity white-is-fake; this is not checked where "
        "--polarity is passed"
    )
    assert not (tmp_path / "other").exists()
    store = extracted(data, "--generators", "lama", "--polarity", "white-is-fake")
    assert set(fake_shares(store)) == {0.21}
