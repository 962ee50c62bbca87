"""Initial weights of a decoder, fixed by a seed and by nothing else."""

from typing import get_args

import torch
from torch import nn

from declip_pipeline.compute import derived_seed
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.errors import UnknownNameError
from declip_pipeline.options import InitializationScheme


def initialize(decoder: Decoder, scheme: InitializationScheme, seed: int) -> None:
    """Draw all parameters of `decoder` anew, in place, and reset its running statistics.

    "pytorch" gives PyTorch's own defaults. "paper" gives them too, then draws every weight (the
    projections of attention and the scales of BatchNorm and LayerNorm included) from N(0, 0.02);
    biases keep PyTorch's values: zero in BatchNorm, LayerNorm and attention, uniform elsewhere. Of
    a decoder from another paper, "paper" are that one's weights: Patch Forensics has PyTorch's.

    The draw is made on the CPU, whatever the decoder's device, and leaves the global random state
    as it was.

    Raises `UnknownNameError` for another scheme.
    Source: DeCLIP's published training code, which draws the weights in `fc` so: all of linear and
    conv-N, but not the two transformer blocks of attention, which "paper" draws here as well.
    """
    schemes = get_args(InitializationScheme)
    if scheme not in schemes:
        raise UnknownNameError("initialization", scheme, schemes)
    device = next(decoder.parameters()).device
    decoder.to("cpu")
    # fork_rng without devices, and the CPU's generator rather than torch.manual_seed: the latter
    # would also seed the accelerator.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(derived_seed(seed, "decoder", "initialization"))
        decoder.apply(_draw_defaults)
        if scheme == "paper" and decoder.published_deviation is not None:
            for name, parameter in decoder.named_parameters():
                if name.endswith("weight"):
                    nn.init.normal_(parameter, 0.0, decoder.published_deviation)
    decoder.to(device)


def _draw_defaults(module: nn.Module) -> None:
    """Draw one module's own parameters; `Module.apply` comes to the children first."""
    draw = getattr(module, "reset_parameters", None)
    if draw is not None:
        draw()
