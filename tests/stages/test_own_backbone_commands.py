"""A backbone that an entry point names, on the command line."""

import pytest
from support.own_backbone import install_own_backbone

from declip_pipeline.store.reader import Store


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch):
    install_own_backbone(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def test_extract_train_and_predict(program, shared_dataset, tmp_path):
    extracted = program("extract", shared_dataset, "--arch", "cells", "--cache", tmp_path / "cache")
    assert extracted.code == 0, extracted.err
    store = extracted.last_line
    assert Store(store).identity.backbone == "cells"
    options = ("--feature-layer", "layer0", "--decoder-type", "linear", "--epochs", 1)
    runs = ("--batch-size", 4, "-o", tmp_path / "runs")
    trained = program("train", store, *options, *runs)
    assert trained.code == 0, trained.err
    image = next(path for path in shared_dataset.rglob("*") if path.suffix in (".png", ".jpg"))
    out = tmp_path / "predictions"
    predicted = program("predict", trained.last_line, "-i", image, "-o", out)
    assert predicted.code == 0, predicted.err
    assert predicted.last_line == str(out / "predictions.csv")


def test_one_that_cannot_be_imported_is_named(refused, shared_dataset, tmp_path):
    command = ("extract", shared_dataset, "--arch", "gone", "--cache", tmp_path / "cache")
    line = refused(*command)
    assert line.startswith("entry point 'gone' of own-cells 1.2 (declip_pipeline.backbones, ")
    assert "cannot be imported (ModuleNotFoundError: " in line


@pytest.mark.parametrize("arch", ["gone", "nope", "ViT-L/14,nope"])
def test_a_backbone_that_is_not_there_is_refused_before_any_file_is_read(
    program, shared_dataset, tmp_path, arch
):
    outcome = program("extract", shared_dataset, "--arch", arch, "--cache", tmp_path / "cache")
    assert outcome.code == 2
    assert "reading files" not in outcome.err
