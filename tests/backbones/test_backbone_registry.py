from pathlib import Path

import pytest

from declip_pipeline.backbones.registry import known_backbones, open_backbone
from declip_pipeline.errors import InputError, UnknownNameError

TINY_VIT = str(Path(__file__).parents[1] / "golden" / "tiny_vit_openai.pt")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "weights", "name"),
    [
        ("RN50", ["random:3"], "CLIP:RN50[random:3]"),
        ("CLIP:RN50[random:3]", [], "CLIP:RN50[random:3]"),
        ("RN50/YFCC15M", ["random:0"], "open_clip:RN50-quickgelu/yfcc15m[random:0]"),
        ("open_clip:ViT-S-32-alt", ["random:0"], "open_clip:ViT-S-32-alt[random:0]"),
        ("timm:test_vit", ["random:0"], "timm:test_vit[random:0]"),
        ("timm:test_vit[random:0]", ["random:0"], "timm:test_vit[random:0]"),
        ("timm:test_vit.r160_in1k[random:0]", [], "timm:test_vit.r160_in1k[random:0]"),
        ("efficientnet-lite0", [], "efficientnet-lite0"),
        ("CLIP:from-file", [TINY_VIT], "CLIP:from-file"),
    ],
)
def test_names_are_canonical(arch: str, weights: list[str], name: str) -> None:
    assert open_backbone(arch, weights=weights).name == name


def test_known_backbones_are_few_and_cover_every_kind() -> None:
    known = known_backbones()
    assert len(known) < 20
    assert {"efficientnet-lite0", "CLIP:ViT-L/14", "CLIP:RN50"} <= set(known)
    text = " ".join(known)
    assert all(
        kind in text
        for kind in ("ViT-L/14,RN50", "ARCH/TAG", "timm:NAME", "pixels:299", "from-file")
    )


@pytest.mark.parametrize(
    ("arch", "hint"),
    [
        ("ViT-L/41", "did you mean 'ViT-L/14'?"),
        ("CLIP:ViT-L-14", "did you mean 'CLIP:ViT-L/14'?"),
        ("timm:resnt18", "did you mean 'timm:resnet18'?"),
        ("efficientnet_lite0", "did you mean 'efficientnet-lite0'?"),
        ("ViT-B-23/laion2b_s34b_b79k", "did you mean 'ViT-B-32/laion2b_s34b_b79k'?"),
        ("", "known: efficientnet-lite0, dinov2-vit-s14, CLIP:RN50, "),
    ],
)
def test_an_unknown_architecture_gets_the_nearest_names(arch: str, hint: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        open_backbone(arch)
    message = str(caught.value)
    assert message.startswith(f"unknown architecture {arch!r}; ")
    assert hint in message
    assert message.endswith("CLIP:from-file (OpenAI layout, with `weights`)")


def test_weights_are_given_for_each_part_or_for_none() -> None:
    message = r"1 weights for the 2 parts of 'ViT-L/14,RN50'; give one for each part, in the same"
    with pytest.raises(InputError, match=message):
        open_backbone("ViT-L/14,RN50", weights=["random:0"])


def test_a_seed_in_the_name_and_other_weights_disagree() -> None:
    with pytest.raises(InputError, match="asks for random weights, but `weights` gives 'random:1'"):
        open_backbone("CLIP:RN50[random:0]", weights=["random:1"])
