"""Published checkpoints as runs: the golden decoders through this path, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from declip_pipeline.backbones.backbone import Backbone, Preprocessing
from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.decoders.building import build_decoder, initialize
from declip_pipeline.errors import InputError, WeightsError
from declip_pipeline.exchange.published_decoder import PUBLISHED
from declip_pipeline.exchange.published_file import read_published
from declip_pipeline.exchange.published_run import export_published, import_published
from declip_pipeline.features import FeatureShape

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = {case["case"]: case for case in json.loads((GOLDEN / "decoders.json").read_text())}
TINY = {"vit": str(GOLDEN / "tiny_vit_openai.pt"), "rn": str(GOLDEN / "tiny_rn_openai.pt")}


class NamedBackbone(Backbone):
    """A published backbone's name and layers, without its 1.2 GB of weights."""

    weights_sha256 = "0" * 64
    device = torch.device("cpu")

    def __init__(self, name):
        self.name = name
        self.layers = dict(PUBLISHED[name])
        self.preprocessing = Preprocessing(224, 224, "bilinear", (0.5,) * 3, (0.25,) * 3)

    def to(self, device):
        return self

    def features(self, images, layers):
        raise AssertionError("an import needs no features")


def opened_tiny(kind: str):
    return lambda name: open_backbone(name, weights=[TINY[kind]], device="cpu")


def tiny_checkpoint(path: Path, channels: int, kind: str = "linear", **more: object) -> Path:
    """A checkpoint of a decoder for the tiny ViT, or with `shape` for another."""
    shape = more.pop("shape", FeatureShape(channels, 16, 16, 1))
    decoder = build_decoder(kind, shape, widths=[8, 8, 4, 4] if "conv" in kind else None)
    initialize(decoder, "pytorch", seed=1)
    torch.save({"model": decoder.state_dict(), "optimizer": {}, "total_steps": 3, **more}, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_golden_decoders_through_import(name, recipe, tmp_path):
    arch, layer, kind = name.split("|")
    case = CASES[name]
    weights = {key: torch.tensor(v) for key, v in recipe.fill(case["parameters"]).items()}
    file = tmp_path / ("RN50_layer4_conv-4_lama.pth" if arch == "RN50" else "model.pth")
    content = {"model": weights, "optimizer": {}, "total_steps": 5, "feature_layer": layer}
    torch.save({**content, "decoder_type": kind}, file)
    run = import_published(file, tmp_path / "runs", NamedBackbone)
    decoder, features = run.best_decoder()
    names = {"ViT-L/14": "CLIP:ViT-L/14", "RN50": "CLIP:RN50"}
    assert features["backbone"] == names.get(arch, "CLIP:ViT-L/14,CLIP:RN50")
    assert features["layer"] == layer
    given = torch.from_numpy(recipe.features(case["features_seed"], case["features_shape"]))
    with torch.inference_mode():
        output = decoder(given)[:, ::4, ::4].numpy()
    expected = np.load(GOLDEN / "decoders.npz")[name]
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-L/14|layer20|attention", "RN50|layer1|conv-4"])
def test_exported_again_golden_decoders_are_the_same(name, recipe, tmp_path):
    _, layer, kind = name.split("|")
    parameters = CASES[name]["parameters"]
    weights = {key: torch.tensor(value) for key, value in recipe.fill(parameters).items()}
    content = {"model": weights, "optimizer": {}, "total_steps": 5, "feature_layer": layer}
    torch.save({**content, "decoder_type": kind}, tmp_path / "model.pth")
    run = import_published(tmp_path / "model.pth", tmp_path / "runs", NamedBackbone)
    export_published(run, tmp_path / "again.pth")
    again = read_published(tmp_path / "again.pth")
    assert (again.feature_layer, again.decoder_type, again.total_steps) == (layer, kind, 5)
    assert set(again.decoder) == set(weights)
    assert all(torch.equal(again.decoder[key], value) for key, value in weights.items())


def test_the_run_says_what_it_is(tmp_path):
    path = tiny_checkpoint(tmp_path / "a.pth", 128, feature_layer="layer2", decoder_type="linear")
    arguments = {"arch": "CLIP:from-file", "weights": [TINY["vit"]], "train_on": ["lama", "ldm"]}
    run = import_published(path, tmp_path / "runs", opened_tiny("vit"), **arguments)
    assert run.path.name.startswith("linear_layer2_lama+ldm_imported_")
    config = run.config()
    assert config["train_on"] == ["lama", "ldm"]
    assert config["features"]["shape"]["channels"] == 128
    assert config["imported"]["total_steps"] == 3
    provenance = {"arch": "CLIP:from-file", "weights": [TINY["vit"]]}
    assert config["inputs"] == [{"dtype": "float32", "provenance": provenance}]
    assert run.summary()["best_valid_iou"] is None
    assert run.summary()["parameters"] == 129
    before = run.best_checkpoint.stat().st_mtime_ns
    again = import_published(path, tmp_path / "runs", opened_tiny("vit"), **arguments)
    assert again.path == run.path
    assert run.best_checkpoint.stat().st_mtime_ns == before


def test_an_import_that_was_cut_off_is_finished_by_the_next(tmp_path):
    path = tiny_checkpoint(tmp_path / "a.pth", 128, feature_layer="layer2")
    run = import_published(path, tmp_path, opened_tiny("vit"), arch="CLIP:from-file")
    (run.path / "summary.json").unlink()
    run.best_checkpoint.unlink()
    again = import_published(path, tmp_path, opened_tiny("vit"), arch="CLIP:from-file")
    assert again.path == run.path
    assert again.is_finished
    assert again.best_decoder()[0].decoder_type == "linear"


def test_a_file_that_says_no_steps_is_exported_with_none_taken(tmp_path):
    path = tiny_checkpoint(tmp_path / "a.pth", 128, feature_layer="layer2", total_steps=None)
    run = import_published(path, tmp_path, opened_tiny("vit"), arch="CLIP:from-file")
    export_published(run, tmp_path / "b.pth")
    assert read_published(tmp_path / "b.pth").total_steps == 0


def test_what_nothing_says_it_was_trained_on_is_unknown(tmp_path):
    path = tiny_checkpoint(tmp_path / "a.pth", 128, feature_layer="layer2")
    run = import_published(path, tmp_path, opened_tiny("vit"), arch="CLIP:from-file")
    assert run.config()["train_on"] == ["unknown"]
    named = tmp_path / "ViT_layer2_linear_repaint-p2-9k.pth"
    path.rename(named)
    run = import_published(named, tmp_path, opened_tiny("vit"), arch="CLIP:from-file")
    assert run.config()["train_on"] == ["repaint-p2-9k"]


def test_widths_are_read_off_the_shapes(tmp_path):
    path = tiny_checkpoint(tmp_path / "a.pth", 128, "conv-8", feature_layer="layer0")
    run = import_published(path, tmp_path / "runs", opened_tiny("vit"), arch="CLIP:from-file")
    decoder, _ = run.best_decoder()
    assert (decoder.decoder_type, decoder.widths) == ("conv-8", (8, 8, 4, 4))
    assert run.config()["widths"] == [8, 8, 4, 4]


def visual_of(kind: str) -> dict[str, torch.Tensor]:
    tensors = torch.load(TINY[kind], weights_only=True)
    return {f"model.{name}": tensor for name, tensor in tensors.items()}


def with_backbone(path: Path, visual: dict[str, torch.Tensor]) -> Path:
    content = torch.load(path, weights_only=True)
    content["model"] |= visual
    torch.save(content, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_backbone_weights_in_the_file_must_be_those_opened(kind, tmp_path):
    backbone = opened_tiny(kind)("CLIP:from-file")
    layer = "layer2"
    path = tiny_checkpoint(tmp_path / "a.pth", 0, shape=backbone.layers[layer], feature_layer=layer)
    visual = visual_of(kind)
    with_backbone(path, {key: value.float() for key, value in visual.items()})
    run = import_published(path, tmp_path / "runs", opened_tiny(kind), arch="CLIP:from-file")
    assert run.is_finished
    changed = {"vit": "model.visual.proj", "rn": "model.visual.layer2.0.bn1.running_mean"}[kind]
    with_backbone(path, {changed: visual[changed].float() + 0.25})
    name = changed.removeprefix("model.visual.")
    words = rf"trained on other weights of CLIP:from-file: 1 tensors differ, {name} by up to 0.25"
    with pytest.raises(WeightsError, match=words):
        import_published(path, tmp_path / "runs", opened_tiny(kind), arch="CLIP:from-file")
    with_backbone(path, {"model.visual.more": torch.ones(2)})
    with pytest.raises(WeightsError, match=r"another backbone than CLIP:from-file \(1 unexpected"):
        import_published(path, tmp_path / "runs", opened_tiny(kind), arch="CLIP:from-file")


@pytest.mark.slow
def test_a_fusion_takes_no_file_with_a_backbone(tmp_path):
    def opened(name):
        return open_backbone(
            "CLIP:from-file,CLIP:from-file", weights=[TINY["vit"], TINY["rn"]], device="cpu"
        )

    shape = opened("").layers["layer1"]
    path = tiny_checkpoint(tmp_path / "a.pth", 0, shape=shape, feature_layer="layer1")
    assert import_published(path, tmp_path / "runs", opened, arch="fusion").is_finished
    with_backbone(path, visual_of("vit"))
    with pytest.raises(InputError, match=r"holds the weights of one backbone, and CLIP:from-file,"):
        import_published(path, tmp_path / "runs", opened, arch="fusion")


def test_weights_that_are_not_finite_are_refused(tmp_path):
    path = tiny_checkpoint(tmp_path / "a.pth", 128, feature_layer="layer2")
    with_backbone(path, {"fc.0.bias": torch.tensor([float("nan")])})
    with pytest.raises(InputError, match=r"fc.0.bias holds values that are not finite"):
        import_published(path, tmp_path / "runs", opened_tiny("vit"), arch="CLIP:from-file")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_maps_equal_the_published_chain_end_to_end(recipe, tmp_path):
    """Image to logits through backbone and imported decoder, on the golden features."""
    from declip_pipeline.decoders.decoder import probability_maps
    from declip_pipeline.images.decode import decode_image
    from declip_pipeline.training.predictor import Predictor

    published = np.load(GOLDEN / "backbones.npz")
    for kind, layer, decoder_type in (
        ("vit", "layer2", "attention"),
        ("vit", "layer3", "conv-4"),
        ("rn", "layer3", "conv-4"),
    ):
        backbone = opened_tiny(kind)("CLIP:from-file")
        shape = backbone.layers[layer]
        decoder = build_decoder(decoder_type, shape)
        shapes = {name: value.shape for name, value in decoder.state_dict().items()}
        weights = {name: torch.tensor(value) for name, value in recipe.fill(shapes).items()}
        decoder.load_state_dict(weights)
        path = tmp_path / f"{kind}{layer}.pth"
        content = {"model": weights, "feature_layer": layer, "decoder_type": decoder_type}
        torch.save(content, path)
        run = import_published(path, tmp_path, lambda _, b=backbone: b, arch="CLIP:from-file")
        imported, features = run.best_decoder()
        predictor = Predictor([backbone], imported, features, dtypes=["float32"])
        with torch.inference_mode():
            logits = decoder.eval()(torch.tensor(published[f"{kind}/{layer}"]))
        for name, its_logits in zip(published["names"], logits, strict=True):
            picture = decode_image(GOLDEN / "images" / str(name))
            expected = probability_maps(its_logits[None], *picture.shape[:2])[0].numpy()
            np.testing.assert_allclose(predictor.map(picture), expected, atol=1e-4)


def test_a_file_does_not_choose_what_is_imported(tmp_path):
    path = tiny_checkpoint(
        tmp_path / "a.pth", 128, decoder_type="os:system", feature_layer="layer2"
    )
    with pytest.raises(InputError, match="unknown decoder type 'os:system'; known: linear, att"):
        import_published(path, tmp_path / "runs", opened_tiny("vit"))
