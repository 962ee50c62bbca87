"""Decoders of one's own: named, found by their names, built, and refused in words."""

import importlib
import sys
from functools import partial

import pytest
import torch
from support.installed_package import install
from torch import nn

from declip_pipeline.decoders.building import build_decoder, initialize
from declip_pipeline.decoders.factories import ENTRY_POINTS, _passed
from declip_pipeline.decoders.file import load_decoder, save_decoder
from declip_pipeline.decoders.names import known_decoder_types, read_decoder_type
from declip_pipeline.errors import DecoderError, InputError, UnknownNameError
from declip_pipeline.features import FeatureShape

SHAPE = FeatureShape(6, 4, 4, prefix_tokens=1)
FEATURES = {"shape": SHAPE.to_json()}
MODULE = """
import torch
from torch import nn

class Own(nn.Module):
    def __init__(self, shape, scale=1.0, widths=(3,)):
        super().__init__()
        self.scale, self.shape = scale, shape
        self.last = nn.Linear(shape.channels, 1)
        nn.init.constant_(self.last.bias, 2.0)

    def forward(self, features):
        skipped = self.shape.prefix_tokens or 0
        grid = self.last(features[:, skipped:]).reshape(-1, 1, self.shape.height, self.shape.width)
        return self.scale * nn.functional.interpolate(grid, 256)[:, 0]

def plain(shape):
    return Own(shape)
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An importable module own_decoders, forgotten with the test."""
    (tmp_path / "own_decoders.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield importlib.import_module("own_decoders")
    sys.modules.pop("own_decoders", None)
    _passed.clear()


def forget(package) -> None:
    """What a new process no longer has: the module, and what was passed."""
    sys.modules.pop(package.__name__, None)
    _passed.clear()


def same_maps(one, other) -> bool:
    features = torch.randn(2, *SHAPE.array_shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return torch.equal(one.eval()(features), other.eval()(features))


def test_checkpoint_names_a_class_with_its_options(package, tmp_path):
    decoder = build_decoder(partial(package.Own, scale=3.0), SHAPE, widths=(8, 4))
    assert decoder.decoder_type == "own_decoders:Own"
    assert decoder.options == {"scale": 3.0, "widths": [8, 4]}
    save_decoder(tmp_path / "decoder", decoder, FEATURES)
    forget(package)
    loaded, features = load_decoder(tmp_path / "decoder")
    assert features == FEATURES
    assert loaded.options == decoder.options
    assert same_maps(decoder, loaded)


def test_several_layers_are_joined_before(package, tmp_path):
    grid = FeatureShape(5, 8, 8)
    decoder = build_decoder("own_decoders:Own", [SHAPE, SHAPE], fusion="weighted", pooling="mean")
    assert decoder.module.shape == SHAPE
    with pytest.raises(DecoderError, match="fails on features of shape"):
        build_decoder("own_decoders:Own", [SHAPE, grid])
    initialize(decoder, "paper", seed=1)
    save_decoder(tmp_path / "decoder", decoder, FEATURES)
    loaded, _ = load_decoder(tmp_path / "decoder")
    assert (loaded.fusion.mode, loaded.pooling.name) == ("weighted", "mean")


def test_initial_weights_are_the_factorys_own(package):
    decoder = build_decoder(package.plain, SHAPE)
    before = list(decoder.parameters())
    initialize(decoder, "paper", seed=3)
    assert decoder.state_dict()["module.last.bias"].item() == 2.0
    assert all(a is b for a, b in zip(before, decoder.parameters(), strict=True))


def test_a_registered_decoder_is_found_by_its_name(package, tmp_path):
    install(
        tmp_path,
        "declip-own",
        ENTRY_POINTS,
        "own = own_decoders:Own",
        "conv-own = own_decoders:plain",
    )
    assert known_decoder_types()[-2:] == ["conv-own", "own"]
    decoder = build_decoder("own", SHAPE, options={"scale": 2.0})
    assert decoder.origin == {
        "object": "own_decoders:Own",
        "package": "declip-own",
        "version": "1.2",
    }
    assert read_decoder_type("own").takes_widths
    assert not read_decoder_type("conv-own").takes_widths
    save_decoder(tmp_path / "decoder", decoder, FEATURES)
    assert same_maps(decoder, load_decoder(tmp_path / "decoder")[0])


def test_a_removed_package_is_named(package, tmp_path, monkeypatch):
    install(tmp_path, "declip-own", ENTRY_POINTS, "own = own_decoders:Own")
    decoder = build_decoder("own", SHAPE)
    save_decoder(tmp_path / "decoder", decoder, FEATURES)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])
    message = (
        r"decoder: the decoder own is own_decoders:Own of the package declip-own 1\.2, which is "
        r"not installed; pip install declip-own, or pass it from Python, decoder=Own"
    )
    with pytest.raises(DecoderError, match=message):
        load_decoder(tmp_path / "decoder")
    loaded, _ = load_decoder(tmp_path / "decoder", package.Own)
    assert same_maps(decoder, loaded)


def test_a_broken_entry_point_is_named_and_others_work(package, tmp_path):
    install(tmp_path, "declip-own", ENTRY_POINTS, "own = own_decoders:Own")
    install(tmp_path, "declip-broken", ENTRY_POINTS, "broken = no_such_module:Own")
    message = (
        r"entry point 'broken' of declip-broken 1\.2 \(declip_pipeline.decoders, "
        r"no_such_module:Own\) cannot be imported "
        r"\(ModuleNotFoundError: No module named 'no_such_module'\); repair or uninstall it"
    )
    with pytest.raises(DecoderError, match=message):
        build_decoder("broken", SHAPE)
    assert build_decoder("own", SHAPE).decoder_type == "own"
    assert build_decoder("linear", SHAPE).decoder_type == "linear"
    with pytest.raises(UnknownNameError, match="known: linear, .*, probe-pca-64, lda, broken, own"):
        build_decoder("nothing", SHAPE)


def test_one_name_in_two_packages_is_refused(package, tmp_path):
    install(tmp_path, "declip-own", ENTRY_POINTS, "own = own_decoders:Own")
    install(tmp_path, "declip-too", ENTRY_POINTS, "own = own_decoders:plain")
    with pytest.raises(
        DecoderError, match=r"'own' of .* and .* have one name; uninstall all but one"
    ):
        build_decoder("own", SHAPE)


def test_a_class_of_a_function_can_be_passed_again(tmp_path):
    class Inner(nn.Module):
        def __init__(self, shape):
            super().__init__()
            self.logit = nn.Parameter(torch.zeros(1))

        def forward(self, features):
            return self.logit.expand(len(features), 256, 256)

    decoder = build_decoder(Inner, SHAPE)
    save_decoder(tmp_path / "decoder", decoder, FEATURES)
    assert same_maps(decoder, load_decoder(tmp_path / "decoder")[0])
    _passed.clear()
    with pytest.raises(DecoderError, match=r"<locals>\.Inner cannot be imported .* decoder=Inner"):
        load_decoder(tmp_path / "decoder")
    assert same_maps(decoder, load_decoder(tmp_path / "decoder", Inner)[0])


def test_a_module_that_is_gone_is_named(package, tmp_path):
    save_decoder(tmp_path / "decoder", build_decoder(package.Own, SHAPE), FEATURES)
    (tmp_path / "own_decoders.py").unlink()
    forget(package)
    importlib.invalidate_caches()
    message = (
        r"the decoder own_decoders:Own cannot be imported \(ModuleNotFoundError: No module named "
        r"'own_decoders'\); add the folder of own_decoders to PYTHONPATH"
    )
    with pytest.raises(DecoderError, match=message):
        load_decoder(tmp_path / "decoder")


def test_changed_code_is_not_taken_for_a_damaged_file(package, tmp_path):
    save_decoder(tmp_path / "decoder", build_decoder(package.Own, SHAPE), FEATURES)
    with pytest.raises(DecoderError, match=r"has other tensors than when it was trained \(.*last"):
        load_decoder(tmp_path / "decoder", lambda shape, **_: Scaled(shape))


class Scaled(nn.Module):
    def __init__(self, shape, side=256, result=None):
        super().__init__()
        self.side, self.result = side, result
        self.other = nn.Parameter(torch.ones(1))

    def forward(self, features):
        if self.result is not None:
            return self.result
        return self.other.expand(len(features), self.side, self.side)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (
            partial(Scaled, side=16),
            r"Scaled decoder returned shape \(2, 16, 16\) for features of shape \(2, 17, 6\); "
            r"expected floating-point logits of shape \(2, 256, 256\)",
        ),
        (partial(Scaled, result="map"), "Scaled decoder returned a str"),
        (partial(Scaled, other=1), "cannot be built for .* unexpected keyword argument 'other'"),
        (lambda shape: nn.Identity(), "has no parameters to train"),
        (
            lambda shape: shape,
            "is of type FeatureShape; expected a factory that returns",
        ),
        (lambda shape: nn.Linear(5, 1), r"fails on features of shape \(2, 17, 6\)"),
        (Scaled(SHAPE), "decoder is of type Scaled; expected a class or function that builds"),
        (partial(Scaled, 3), "decoder is of type partial; .* with keywords alone"),
        (partial(Scaled, side=torch.ones(1)), "has options that a checkpoint cannot hold"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_breaks_the_contract_is_refused(factory, message, device):
    with pytest.raises(DecoderError, match=message), torch.device(device):
        build_decoder(factory, SHAPE)


def test_code_that_needs_numbers_is_tried_on_the_cpu():
    class Looking(Scaled):
        def forward(self, features):
            assert features.sum().item() == 0
            return super().forward(features)

    with torch.device("meta"):
        assert build_decoder(Looking, SHAPE).module.other.device.type == "cpu"
        assert build_decoder(Scaled, SHAPE).module.other.device.type == "meta"


def test_options_and_widths_are_for_those_that_take_them(package):
    with pytest.raises(InputError, match=r"linear decoder got options \{'scale': 2\}"):
        build_decoder("linear", SHAPE, options={"scale": 2})
    with pytest.raises(InputError, match=r"own_decoders:plain decoder got widths \[3\], expected"):
        build_decoder(package.plain, SHAPE, widths=(3,))
    with pytest.raises(InputError, match="got output size 64 for own_decoders:plain"):
        build_decoder(package.plain, SHAPE, output_size=64)
