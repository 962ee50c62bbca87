"""Decoders built by a factory of one's own (`DecoderFactory`), checked against the contract."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from declip_pipeline.decoders.decoder import Decoder, draw_defaults
from declip_pipeline.decoders.factories import FoundFactory, checked_options
from declip_pipeline.entry_points import one_line
from declip_pipeline.errors import DeclipError, DecoderError
from declip_pipeline.features import FeatureShape

OUTPUT_SIZE = 256
"""Side of a custom decoder's map in pixels."""


class CustomDecoder(Decoder):
    """Decoder around the module of a `DecoderFactory`, which is built and tried out at once.

    Raises `DecoderError` when the factory fails, or its module does not keep the contract.
    """

    def __init__(
        self,
        decoder_type: str,
        found: FoundFactory,
        shape: FeatureShape,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(decoder_type, shape, OUTPUT_SIZE)
        self.options = checked_options(decoder_type, options)
        self.origin = dict(found.origin)
        self._factory = found.factory
        self.module = self._built()
        self._try_out()

    def decode(self, features: Tensor) -> Tensor:
        """Return logits (N, 256, 256)."""
        logits: Tensor = self.module(features)
        return logits

    def draw_weights(self) -> None:
        """Take the weights of a newly built module; fusion and pooling draw theirs."""
        for part in (self.fusion, self.pooling):
            if part is not None:
                part.apply(draw_defaults)
        self.module.load_state_dict(self._built().state_dict())

    def _built(self) -> nn.Module:
        try:
            module = self._factory(self.shape, **self.options)
        except DeclipError:
            raise
        except Exception as error:  # whatever the factory's own code raises
            raise DecoderError(
                f"{self.decoder_type} decoder cannot be built for {self.shape} with options "
                f"{self.options} ({one_line(error)}); expected factory(shape, **options)"
            ) from error
        if not isinstance(module, nn.Module):
            raise DecoderError(
                f"{self.decoder_type} decoder is of type {type(module).__name__}; expected "
                "a factory that returns a torch.nn.Module"
            )
        return module

    def _try_out(self) -> None:
        """Decode two images of zeros, without a gradient, and check what comes back."""
        parameters = list(self.module.parameters())
        if not any(parameter.requires_grad for parameter in parameters):
            raise DecoderError(
                f"{self.decoder_type} decoder has no parameters to train; expected at least one"
            )
        others = [k for k, v in self.module.state_dict().items() if not isinstance(v, Tensor)]
        if others:
            raise DecoderError(
                f"{self.decoder_type} decoder keeps {others[0]} in its state dict, which is not a "
                "tensor; expected tensors alone"
            )
        given = (2, *self.shape.array_shape)
        features = torch.zeros(given, dtype=parameters[0].dtype, device=parameters[0].device)
        modes = [(part, part.training) for part in self.module.modules()]
        self.module.eval()
        try:
            with torch.no_grad():
                found = self.module(features)
        except DeclipError:
            raise
        except Exception as error:  # whatever the module's own code raises
            raise DecoderError(
                f"{self.decoder_type} decoder fails on features of shape {given} "
                f"({one_line(error)}); expected logits of shape {(2, OUTPUT_SIZE, OUTPUT_SIZE)}"
            ) from error
        finally:
            for part, training in modes:
                part.training = training
        expected = (2, OUTPUT_SIZE, OUTPUT_SIZE)
        kind = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if kind != expected or not found.is_floating_point():
            what = f"shape {kind}" if isinstance(found, Tensor) else f"a {kind}"
            if kind == expected:
                what = f"dtype {found.dtype}"
            raise DecoderError(
                f"{self.decoder_type} decoder returned {what} for features of shape {given}; "
                f"expected floating-point logits of shape {expected}"
            )


def build_custom(
    decoder_type: str, found: FoundFactory, shape: FeatureShape, options: Mapping[str, Any]
) -> CustomDecoder:
    """Build a decoder of one's own. Raises `DecoderError` as `CustomDecoder` does.

    Where memory is not to be taken (torch's default device is "meta"), it is built and tried out
    there, or on the CPU if its code cannot do without numbers.
    """
    if torch.get_default_device().type == "meta":
        try:
            return CustomDecoder(decoder_type, found, shape, options)
        except DecoderError:
            with torch.device("cpu"):
                return CustomDecoder(decoder_type, found, shape, options)
    return CustomDecoder(decoder_type, found, shape, options)
