"""`import-checkpoint` and `export --checkpoint`, as a user runs them."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants

from declip_pipeline.backbones import weights
from declip_pipeline.decoders.building import build_decoder, initialize
from declip_pipeline.features import FeatureShape
from declip_pipeline.training.run import Run


@pytest.fixture(scope="session")
def published(tiny_run, tmp_path_factory) -> Path:
    """The tiny run's decoder in the published format."""
    from declip_pipeline.exchange.published_run import export_published

    path = tmp_path_factory.mktemp("published") / "ViT_layer1_conv-4_noisy.pth"
    export_published(Run(tiny_run), path)
    return path


def ious(file: Path) -> list[float]:
    return [float(row["iou"]) for row in csv.DictReader(file.read_text().splitlines())]


@pytest.mark.slow
def test_an_imported_run_is_judged_and_predicts_as_the_exported_one(
    program, tiny_run, tiny_store, tiny_arch, published, golden, tmp_path
):
    imported = program("import-checkpoint", published, *tiny_arch, "-o", tmp_path / "runs")
    assert imported.code == 0, imported.err
    assert "the conv-4 decoder for layer1 of CLIP:from-file, trained on noisy" in imported.err
    run = Path(imported.last_line)
    again = program("import-checkpoint", published, *tiny_arch, "-o", tmp_path / "runs")
    assert again.last_line == str(run)

    judged = program("evaluate", tiny_run, run, "--on", tiny_store.location)
    assert judged.code == 0, judged.err
    (file,) = run.glob("evaluations/*/per_image.csv")
    # The tiny run is every test's, and may have been judged on other stores, too.
    assert ious(file) == ious(tiny_run / file.relative_to(run))

    maps = []
    for name, one in (("own", tiny_run), ("imported", run)):
        out = tmp_path / name
        outcome = program("predict", one, "-i", golden / "images" / "chelsea.png", "-o", out)
        assert outcome.code == 0, outcome.err
        maps.append(np.load(out / "chelsea_map.npz")["map"])
    # The one's features are rounded as in its store, the other's are not.
    np.testing.assert_allclose(maps[1], maps[0], atol=2e-3)


def test_exported_again_it_is_the_same(program, tiny_arch, published, tmp_path):
    run = program("import-checkpoint", published, *tiny_arch, "-o", tmp_path / "runs").last_line
    file = tmp_path / "again.pth"
    outcome = program("export", run, "--checkpoint", file)
    assert (outcome.code, outcome.last_line) == (0, str(file))
    before, after = (torch.load(path, weights_only=True) for path in (published, file))
    assert after["total_steps"] == before["total_steps"] > 0
    assert (after["feature_layer"], after["decoder_type"]) == ("layer1", "conv-4")
    assert before["model"].keys() == after["model"].keys()
    assert all(torch.equal(after["model"][name], v) for name, v in before["model"].items())


@pytest.mark.slow
def test_what_the_file_does_not_say_is_asked_for(program, refused, tiny_arch, tmp_path):
    decoder = build_decoder("linear", FeatureShape(128, 16, 16, 1))
    initialize(decoder, "pytorch", seed=0)
    file = tmp_path / "model_epoch_best.pth"
    torch.save({"model": decoder.state_dict()}, file)
    common = ("import-checkpoint", file, *tiny_arch, "-o", tmp_path / "runs")
    text = refused(*common)
    assert "fits 4 of them (layer0 to layer3); say it with --feature-layer" in text
    said = program(*common, "--feature-layer", "layer3", "--train-on", "ldm,lama")
    assert said.code == 0, said.err
    assert "trained on lama, ldm" in said.err
    unknown = program(*common, "--feature-layer", "layer3")
    assert "what it was trained on is not known; --train-on says it" in unknown.err
    text = refused(*common, "--feature-layer", "layer3", "--decoder-type", "attention")
    assert "is no attention decoder for layer3" in text
    assert "missing: att1.attn.in_proj_weight 384x128" in text
    assert "unknown layer of CLIP:from-file 'layer9'" in refused(
        *common, "--feature-layer", "layer9"
    )


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch '{self.target}'",)


def test_bad_files_are_refused_in_a_line_and_leave_nothing(refused, tiny_arch, tmp_path):
    runs, target = tmp_path / "runs", tmp_path / "executed"
    bad = tmp_path / "bad.pth"
    common = (*tiny_arch, "-o", runs)
    torch.save({"model": Bomb(target)}, bad)
    text = refused("import-checkpoint", bad, *common)
    assert "asks to run" in text
    assert "refused, nothing of it was run" in text
    assert not target.exists()
    bad.write_text("hello")
    assert "not a weights file, or damaged" in refused("import-checkpoint", bad, *common)
    torch.save({"state_dict": {}}, bad)
    assert "it holds a dict of state_dict" in refused("import-checkpoint", bad, *common)
    absent = tmp_path / "absent.pth"
    assert "no such file" in refused("import-checkpoint", absent, *common)
    model = build_decoder("linear", FeatureShape(128, 16, 16, 1)).state_dict()
    torch.save({"model": model | {"fc.7.x": torch.ones(2)}, "feature_layer": "layer1"}, bad)
    text = refused("import-checkpoint", bad, *common)
    assert "is no linear decoder for layer1 of CLIP:from-file (1 unexpected: fc.7.x 2)" in text
    assert not runs.exists()


def test_exports_that_cannot_be_are_refused(refused, program, tiny_run, tmp_path):
    assert "nothing to export to; give --checkpoint" in refused("export", tiny_run)
    file = tmp_path / "a.pth"
    file.write_text("mine")
    text = refused("export", tiny_run, "--checkpoint", file, code=1)
    assert text == f"{file} is there already; --overwrite replaces it"
    assert "is a folder" in refused("export", tiny_run, "--checkpoint", tmp_path, code=1)
    assert "is not a run" in refused("export", tmp_path, "--checkpoint", tmp_path / "b.pth")
    assert file.read_text() == "mine"
    assert program("export", tiny_run, "--checkpoint", file, "--overwrite").code == 0
    assert torch.load(file, weights_only=True)["feature_layer"] == "layer1"


def test_a_run_of_several_layers_is_refused(refused, tiny_store, tmp_path, cpu):
    from declip_pipeline.training.data import TrainingData
    from declip_pipeline.training.recipe import Recipe
    from declip_pipeline.training.runs import train_run

    run = train_run(
        TrainingData([tiny_store], device=cpu),
        tmp_path / "runs",
        layer="layer1+layer2",
        recipe=Recipe("linear", epochs=1, batch_size=4),
    )
    file = tmp_path / "a.pth"
    text = refused("export", run.path, "--checkpoint", file)
    assert "joins layer1 of CLIP:from-file, layer2 of CLIP:from-file" in text
    assert "names one layer of one backbone; export it with --onnx" in text
    assert not file.exists()


def test_without_a_network_each_command_names_its_own_ways_out(
    refused, shared_dataset, monkeypatch, tmp_path
):
    monkeypatch.setattr(weights, "_why_unreachable", lambda url: "no route")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    file = tmp_path / "ViT_layer20_linear_ldm.pth"
    torch.save({"model": build_decoder("linear", FeatureShape(1024, 16, 16, 1)).state_dict()}, file)
    text = refused("import-checkpoint", file, "-o", tmp_path / "runs", code=1)
    assert text.startswith("cannot download the weights of CLIP:ViT-L/14 (no route); connect to")
    assert ", or give --weights FILE (an OpenAI .pt" in text
    assert text.endswith("a timm state dict)")
    text = refused("extract", shared_dataset, "--arch", "RN50", "--cache", tmp_path, code=1)
    assert text.startswith("cannot download the weights of CLIP:RN50 (no route); connect to")
    assert text.endswith(", or take --arch efficientnet-lite0, whose weights are installed")
