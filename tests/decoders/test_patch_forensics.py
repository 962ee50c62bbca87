import pytest
import timm
import torch

from declip_pipeline.decoders.building import build_decoder, initialize
from declip_pipeline.errors import InputError
from declip_pipeline.features import FeatureShape

PIXELS = FeatureShape(3, 299, 299)


@pytest.mark.slow
def test_it_is_the_beginning_of_timms_xception() -> None:
    decoder = build_decoder("patch-forensics", PIXELS).eval()
    xception = timm.create_model("legacy_xception", num_classes=0).eval()
    own = decoder.trunk.state_dict()
    theirs = {name: value for name, value in xception.state_dict().items() if name in own}
    assert list(theirs) == list(own)
    decoder.trunk.load_state_dict(theirs)
    pictures = torch.rand(1, 3, 299, 299, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        (block2,) = xception.forward_intermediates(
            pictures, indices=[2], stop_early=True, intermediates_only=True
        )
        # timm's ends with the next block's activation.
        found = decoder.trunk(pictures).relu()
        assert found.shape == (1, 256, 37, 37)
        assert torch.equal(found, block2)
        assert decoder.position_logits(pictures).shape == (1, 37, 37)
        assert decoder(pictures).shape == (1, 256, 256)


def test_a_patch_sees_its_neighbourhood_alone() -> None:
    """The receptive field of block 2 is 43 pixels (Chai et al.), 8 pixels between patches."""
    decoder = build_decoder("patch-forensics", PIXELS).eval()
    pictures = torch.randn(1, 3, 299, 299, generator=torch.Generator().manual_seed(0))
    pictures.requires_grad_()
    decoder.position_logits(pictures)[0, 18, 18].backward()
    rows = pictures.grad.abs().sum((0, 1, 3)).nonzero().ravel()
    assert 35 < int(rows[-1] - rows[0]) + 1 <= 43
    assert abs(float(rows[0] + rows[-1]) / 2 - 149) < 4


def test_published_initial_weights_are_pytorchs() -> None:
    one, other = (build_decoder("patch-forensics", FeatureShape(3, 32, 32)) for _ in range(2))
    initialize(one, "paper", seed=3)
    initialize(other, "pytorch", seed=3)
    assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))
    assert (one.trunk.bn1.weight == 1).all()


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        (FeatureShape(112, 14, 14), "112 channels on 14x14 (grid)"),
        (FeatureShape(3, 64, 64, prefix_tokens=0), "3 channels on 64x64 (tokens)"),
        (FeatureShape(3, 31, 64), "3 channels on 31x64 (grid)"),
    ],
)
def test_other_layers_than_pixels_are_refused(shape: FeatureShape, found: str) -> None:
    with pytest.raises(InputError) as caught:
        build_decoder("patch-forensics", shape)
    assert str(caught.value) == (
        f"patch-forensics decoder got a layer of {found}; expected pixels, 3 channels on at least "
        '32x32: extract with `arch="pixels:299"` and give it that store\'s layer pixels'
    )


def test_joined_with_another_layer_it_is_refused() -> None:
    with pytest.raises(InputError, match="got a layer of 10 channels on 64x64"):
        build_decoder("patch-forensics", [FeatureShape(3, 64, 64), FeatureShape(7, 8, 8)])


def test_widths_are_refused() -> None:
    with pytest.raises(InputError, match="patch-forensics decoder got widths .*expected none"):
        build_decoder("patch-forensics", PIXELS, widths=(8, 8, 8, 8))
