"""torch.compile: the same features up to rounding, and one line where it cannot be done."""

import numpy as np
import pytest
import torch
from conftest import TINY_RESNET, TINY_VIT

from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.errors import DeclipError


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    """What other tests of the process compiled counts against a limit of recompilations."""
    torch.compiler.reset()


def pictures(count):
    random = np.random.default_rng(0)
    return torch.from_numpy(random.integers(0, 256, (count, 3, 224, 224), np.uint8))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "weights"),
    [
        ("CLIP:from-file", [TINY_VIT]),
        ("CLIP:from-file", [TINY_RESNET]),
        ("CLIP:from-file,CLIP:from-file", [TINY_VIT, TINY_RESNET]),
    ],
)
def test_a_compiled_backbone_gives_the_same_layers(arch, weights):
    backbone = open_backbone(arch, weights=[str(file) for file in weights], device="cpu")
    asked = [next(iter(backbone.layers)), list(backbone.layers)[-1]]
    # Of the last batch of a shard, the size differs.
    expected = [backbone.features(pictures(count), asked) for count in (3, 2)]
    assert not backbone.is_compiled
    # This back end traces as all do, and needs no C++ compiler.
    assert backbone.compile("aot_eager") is backbone
    assert backbone.is_compiled
    for count, layers in zip((3, 2), expected, strict=True):
        compiled = backbone.features(pictures(count), asked)
        assert list(compiled) == list(layers)
        for name, values in layers.items():
            torch.testing.assert_close(compiled[name], values, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_machine_that_cannot_compile_says_so_in_one_line():
    def broken(graph, examples):
        raise RuntimeError("no compiler found\nand a long story")

    backbone = open_backbone("CLIP:from-file", weights=[str(TINY_VIT)], device="cpu").compile(
        broken
    )
    with pytest.raises(
        DeclipError, match="cannot be compiled here: .*; leave out `compile=True`"
    ) as at:
        backbone.features(pictures(1), ["layer0"])
    assert "\n" not in str(at.value)
