import pytest
import torch

from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.errors import InputError
from declip_pipeline.features import FeatureShape, rounded_features

LEVELS = torch.arange(256, dtype=torch.uint8)


def test_it_gives_the_picture_scaled_as_xception_has_it() -> None:
    backbone = open_backbone("pixels:299", device="cpu")
    assert backbone.name == "pixels:299"
    assert backbone.layers == {"pixels": FeatureShape(3, 299, 299)}
    assert (backbone.preprocessing.height, backbone.preprocessing.width) == (299, 299)
    assert backbone.preprocessing.interpolation == "bilinear"
    picture = torch.randint(0, 256, (1, 3, 299, 299), generator=torch.Generator().manual_seed(0))
    found = backbone.features(picture.to(torch.uint8), ["pixels"])["pixels"]
    torch.testing.assert_close(found, picture / 127.5 - 1, rtol=0, atol=1e-6)
    assert (found.min(), found.max()) == (-1, 1)


def test_half_precision_keeps_the_levels_apart() -> None:
    """The error of float16 is at most 1/32 of a level, that of one byte a number half of one."""
    pictures = LEVELS.repeat(12).view(1, 3, 32, 32)
    exact = open_backbone("pixels:32", device="cpu").features(pictures, ["pixels"])["pixels"]
    level = 2 / 255
    errors = {
        dtype: float((rounded_features(exact, dtype, is_grid=True) - exact).abs().max() / level)
        for dtype in ("float16", "int8-per-channel")
    }
    assert 0.02 < errors["float16"] <= 1 / 32
    assert errors["int8-per-channel"] <= 0.51


@pytest.mark.parametrize(
    "name", ["pixels", "pixels:", "pixels:abc", "pixels:8", "pixels:31", "pixels:1025", "pixels:-9"]
)
def test_other_sides_are_refused(name: str) -> None:
    message = (
        f"arch '{name}'; expected pixels:SIDE with a whole number from 32 to 1024, such as "
        "pixels:299"
    )
    with pytest.raises(InputError) as caught:
        open_backbone(name, device="cpu")
    assert str(caught.value) == message


@pytest.mark.parametrize("weights", ["random:0", "xception.pth"])
def test_weights_are_refused(weights: str) -> None:
    message = f"weights '{weights}' for pixels:64, which is the image itself and has none; leave"
    with pytest.raises(InputError, match=message):
        open_backbone("pixels:64", weights=[weights], device="cpu")
