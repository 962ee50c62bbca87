"""Backbones of one's own: passed as an object, or named by an entry point of another package."""

import pytest
import torch
from support.own_backbone import install_own_backbone

from declip_pipeline.backbones.registry import known_backbones, open_backbone
from declip_pipeline.errors import DeclipError, InputError, UnknownNameError


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch):
    install_own_backbone(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def test_an_entry_point_is_opened_by_its_name():
    backbone = open_backbone("cells", device="cpu")
    assert (backbone.name, list(backbone.layers)) == ("cells", ["layer0"])
    features = backbone.features(torch.rand(1, 3, 224, 224), ["layer0"])["layer0"]
    assert features.shape == (1, 8, 16, 16)


def test_an_entry_point_gets_the_weights_file(tmp_path):
    tensors = {"weight": torch.zeros(8, 3, 14, 14), "bias": torch.ones(8)}
    torch.save(tensors, tmp_path / "weights.pt")
    backbone = open_backbone("cells", weights=tmp_path / "weights.pt", device="cpu")
    assert torch.equal(backbone.networks[0].bias, torch.ones(8))
    assert backbone.weights_sha256 != open_backbone("cells").weights_sha256
    with pytest.raises(
        InputError, match="weights 'random:0' for entry point 'cells' .* takes only a file"
    ):
        open_backbone("cells", weights="random:0")


def test_an_object_is_returned_unchanged():
    backbone = open_backbone("cells", device="cpu")
    assert open_backbone(backbone, device="cpu", precision="bfloat16") is backbone
    assert backbone.precision == "float32"
    with pytest.raises(InputError, match="a backbone of type Conv2d; expected a name or a `Back"):
        open_backbone(backbone.networks[0])


def test_precision_and_device_are_chosen():
    assert open_backbone("cells", device="cpu", precision="auto").precision == "float32"
    assert open_backbone("cells", device="cpu", precision="bfloat16").precision == "bfloat16"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "gone",
            "entry point 'gone' of own-cells 1.2 (declip_pipeline.backbones, "
            "own_cells_that_is_gone:open_it) cannot be imported (ModuleNotFoundError: No module "
            "named 'own_cells_that_is_gone'); repair or uninstall it",
        ),
        (
            "badly",
            "entry point 'badly' of own-cells 1.2 (declip_pipeline.backbones, "
            "own_cells:open_badly) failed to open (ValueError: no such mirror)",
        ),
        (
            "nothing",
            "entry point 'nothing' of own-cells 1.2 (declip_pipeline.backbones, "
            "own_cells:open_nothing) returned a NoneType, expected a `Backbone`",
        ),
        (
            "renamed",
            "entry point 'renamed' of own-cells 1.2 (declip_pipeline.backbones, "
            "own_cells:open_cells) returned a backbone named 'cells', expected 'renamed': by it a "
            "run opens it again",
        ),
    ],
)
def test_a_faulty_entry_point_is_named_in_one_line(name, message):
    with pytest.raises(DeclipError) as caught:
        open_backbone(name)
    assert str(caught.value) == message


def test_the_others_work_beside_a_faulty_one():
    assert {"cells", "gone"} <= set(known_backbones())
    assert open_backbone("timm:test_vit", weights="random:0").name == "timm:test_vit[random:0]"
    with pytest.raises(UnknownNameError, match=r"architecture 'cell'; did you mean 'cells'\? kno"):
        open_backbone("cell")
