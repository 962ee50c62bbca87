"""What learns: a decoder, and how it takes in batches."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from declip_pipeline.compute import exact_float32
from declip_pipeline.decoders.building import build_decoder
from declip_pipeline.decoders.decoder import Decoder, PositionDecoder
from declip_pipeline.decoders.initialization import initialize
from declip_pipeline.features import FeatureShape
from declip_pipeline.options import FusionMode
from declip_pipeline.training.enlarged_loss import enlarged_cross_entropy
from declip_pipeline.training.recipe import Recipe

# Features that fit into a processor's cache, so that forward and backward pass read them from
# memory once: a linear decoder does nothing else for long.
CACHED_BYTES = 4 * 2**20


class Learner(ABC):
    """A decoder that learns from pieces of batches; `piece_size` is how many pictures it takes.

    Used as: for each epoch `begin_epoch`; for each of its batches `compute` and `accumulate` every
    piece in order, then `update`. `threads` says how many pieces are best computed at a time, each
    on one core.
    """

    decoder: Decoder
    piece_size: int
    threads: int = 1

    @abstractmethod
    def begin_epoch(self, learning_rate: float) -> None:
        """Get ready to learn at a rate."""

    @abstractmethod
    def compute(self, inputs: Sequence[Tensor], targets: Tensor, share: float) -> Any:
        """Compute what a piece that is `share` of its batch teaches; changes nothing else.

        `inputs` are what the decoder is called with, `targets` (N, 256, 256) float32, or (N,) for
        a decoder with a pooling.
        """

    @abstractmethod
    def accumulate(self, computed: Any) -> Tensor:
        """Take in what `compute` gave; returns the piece's mean loss, on the device."""

    @abstractmethod
    def update(self) -> None:
        """Change the decoder by what the batch taught."""

    @abstractmethod
    def logits(self, inputs: Sequence[Tensor]) -> Tensor:
        """The decoder's map (N, 256, 256) of logits."""

    def is_finite(self) -> bool:
        """Whether all of the decoder's numbers are."""
        numbers = [
            value for value in self.decoder.state_dict().values() if value.is_floating_point()
        ]
        return bool(torch.stack([value.isfinite().all() for value in numbers]).all())

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """All that is needed to go on, as tensors and plain values."""

    @abstractmethod
    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""


class LookingLearner(Learner):
    """A learner that must see all pictures once before it learns.

    Used as: `look` at every piece, `end_look`, then as any other. A loaded state is all it needs.
    """

    @property
    @abstractmethod
    def has_looked(self) -> bool:
        """Whether it has seen them."""

    @abstractmethod
    def look(self, inputs: Sequence[Tensor], targets: Tensor) -> None:
        """See a piece, given as to `accumulate`."""

    @abstractmethod
    def end_look(self) -> None:
        """All were seen. Raises `TrainingError` if nothing can be learned from them."""


class GradientLearner(Learner):
    """A decoder under AdamW."""

    def __init__(
        self,
        recipe: Recipe,
        shapes: Sequence[FeatureShape],
        fusion: FusionMode,
        device: torch.device,
    ) -> None:
        decoder = build_decoder(
            recipe.decoder_type,
            shapes,
            fusion=fusion,
            widths=recipe.widths,
            pooling=recipe.pooling,
        )
        self.initialize(decoder, recipe)
        # Convolutions are faster on this layout on CPUs and GPUs alike; other layers ignore it.
        decoder.to(device).to(memory_format=torch.channels_last)
        self.decoder = decoder
        self.piece_size = recipe.micro_batch_size or _piece_size(decoder, recipe, device)
        self._optimizer = make_optimizer(decoder, recipe.learning_rate)
        self._parameters = list(decoder.parameters())
        if recipe.decoder_type == "linear" and device.type == "cpu":
            self.threads = torch.get_num_threads()
        self._device = device
        self._precision = recipe.precision
        self._loss = torch.compile(self.loss) if recipe.compile else self.loss

    def loss(self, inputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """What it makes small: a mean over the piece."""
        return training_loss(self.decoder, inputs, targets)

    def initialize(self, decoder: Decoder, recipe: Recipe) -> None:
        """Give a new decoder its initial weights."""
        assert recipe.initialization != "imagenet", "others have no such weights"
        initialize(decoder, recipe.initialization, recipe.seed)

    def begin_epoch(self, learning_rate: float) -> None:
        """Get ready to learn at a rate."""
        self.decoder.train()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate

    def compute(self, inputs: Sequence[Tensor], targets: Tensor, share: float) -> Any:
        """A piece's loss, and the gradients that it adds to its batch's."""
        with exact_float32(self._device):
            with self._autocast():
                loss = self._loss(inputs, targets)
            return loss.detach(), torch.autograd.grad(loss * share, self._parameters)

    def accumulate(self, computed: Any) -> Tensor:
        """Add a piece's gradients to its batch's."""
        loss: Tensor
        loss, gradients = computed
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad += gradient
        return loss

    def update(self) -> None:
        """Take a step of the optimizer."""
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def logits(self, inputs: Sequence[Tensor]) -> Tensor:
        """The decoder's map (N, 256, 256) of logits, in the precision of the training."""
        with exact_float32(self._device), self._autocast():
            logits: Tensor = self.decoder(*inputs)
        return logits

    def state(self) -> dict[str, Any]:
        """Weights and the optimizer's moments."""
        return {"decoder": self.decoder.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.decoder.load_state_dict(state["decoder"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._precision == "float32":
            return nullcontext()
        return torch.autocast(self._device.type, getattr(torch, self._precision))


def training_loss(decoder: Decoder, inputs: Sequence[Tensor], targets: Tensor) -> Tensor:
    """Binary cross-entropy with logits, mean over all pixels of the batch (DeCLIP, section 3).

    Of a decoder with a pooling, mean over its pictures, fake and real ones counted alike.
    """
    if decoder.pooling is not None:
        logits = decoder.pooling(decoder(*inputs).float())
        return F.binary_cross_entropy_with_logits(logits.float(), targets)
    if isinstance(decoder, PositionDecoder):
        logits = decoder.position_logits(decoder.joined(*inputs))
        loss: Tensor = enlarged_cross_entropy(logits, targets)
        return loss
    return F.binary_cross_entropy_with_logits(decoder(*inputs).float(), targets)


def make_optimizer(decoder: Decoder, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW, betas 0.9 and 0.999, no weight decay: the reference's; so it is Adam as well."""
    return torch.optim.AdamW(
        decoder.parameters(), lr=learning_rate, betas=(0.9, 0.999), weight_decay=0.0, fused=True
    )


def _piece_size(decoder: Decoder, recipe: Recipe, device: torch.device) -> int:
    """Pictures computed at once: the batch, or for a linear decoder on a CPU what is cached.

    Without BatchNorm the pieces' gradients add up to the batch's.
    """
    if recipe.decoder_type != "linear" or device.type != "cpu":
        return recipe.batch_size
    picture = sum(4 * torch.Size(shape.array_shape).numel() for shape in decoder.input_shapes)
    return max(1, min(recipe.batch_size, CACHED_BYTES // picture))
