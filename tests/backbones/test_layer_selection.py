import pytest

from declip_pipeline.backbones.registry import select_layers
from declip_pipeline.errors import InputError, UnknownNameError

VIT = [f"layer{block}" for block in range(24)]
RESNET = ["layer1", "layer2", "layer3", "layer4"]


@pytest.mark.parametrize(
    ("text", "known", "expected"),
    [
        ("all", RESNET, RESNET),
        ("0-23", VIT, VIT),
        ("layer8,layer20", VIT, ["layer8", "layer20"]),
        ("layer20, layer8 ,layer20", VIT, ["layer8", "layer20"]),
        ("8", VIT, ["layer8"]),
        ("1", RESNET, ["layer1"]),
        ("8-10", VIT, ["layer8", "layer9", "layer10"]),
        ("layer8-layer10", VIT, ["layer8", "layer9", "layer10"]),
        ("22-23,3,layer1", VIT, ["layer1", "layer3", "layer22", "layer23"]),
        ("3-3", RESNET, ["layer3"]),
        ("2,all", RESNET, RESNET),
        ("pixels", ["pixels"], ["pixels"]),
    ],
)
def test_selects_in_order_of_depth(text: str, known: list[str], expected: list[str]) -> None:
    assert select_layers(text, known) == expected


@pytest.mark.parametrize("text", ["", "layer1,", ",", "layer1,,layer2"])
def test_empty_item(text: str) -> None:
    with pytest.raises(InputError, match=r"hold an empty item; write all, layer8,layer20 or 0-3"):
        select_layers(text, RESNET)


@pytest.mark.parametrize(
    ("text", "named"),
    [("0", "layer0"), ("layer5", "layer5"), ("2-99999999999", "layer5"), ("stem", "stem")],
)
def test_unknown_layers_are_named_with_the_known_ones(text: str, named: str) -> None:
    message = rf"unknown layer '{named}'; .*known: layer1, layer2, layer3, layer4"
    with pytest.raises(UnknownNameError, match=message):
        select_layers(text, RESNET)


def test_backward_range_says_how_to_write_it() -> None:
    with pytest.raises(InputError, match=r"layers '4-2' run backwards; write 2-4"):
        select_layers("4-2", RESNET)
