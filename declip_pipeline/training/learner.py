"""Learner: a decoder with its optimizer and loss."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from declip_pipeline.compute import exact_float32
from declip_pipeline.decoders.building import build_decoder, initialize
from declip_pipeline.decoders.decoder import Decoder, PositionDecoder, bicubic_matrix
from declip_pipeline.decoders.fusion import as_grid
from declip_pipeline.features import FeatureShape
from declip_pipeline.options import FusionMode, LossName
from declip_pipeline.training.losses import map_loss
from declip_pipeline.training.patch_moments import PatchMoments
from declip_pipeline.training.recipe import Recipe

# Features that fit into a processor's cache, so that the forward and backward pass of a linear
# decoder, whose time is spent on reading them, read them from memory once.
CACHED_BYTES = 4 * 2**20
# Large maps computed at once, so that they stay in the processor's cache: eight of 256x256.
# benchmarks/light_decoders.py measures what that saves.
CPU_PIXELS_AT_ONCE = 2**19


class Learner(ABC):
    """A decoder that learns from batches, given in pieces.

    For each epoch, call `begin_epoch`; for each batch, `compute` and `accumulate` every piece in
    order, then `update`.

    Attributes:
        decoder: The decoder, trained in place.
        piece_size: Number of images of a piece.
        threads: Number of pieces to compute at a time, each on one core.
    """

    decoder: Decoder
    piece_size: int
    threads: int = 1

    @abstractmethod
    def begin_epoch(self, learning_rate: float) -> None:
        """Begin an epoch with a learning rate."""

    @abstractmethod
    def set_learning_rate(self, learning_rate: float) -> None:
        """Change the learning rate of the next step."""

    @property
    def learned(self) -> Decoder:
        """The decoder to validate and to keep; another than the trained one where it averages."""
        return self.decoder

    @abstractmethod
    def compute(self, inputs: Sequence[Tensor], targets: Tensor, share: float) -> Any:
        """Compute a piece's contribution to its batch, without a side effect.

        Args:
            inputs: The decoder's arguments, one batch of features a layer.
            targets: (N, 256, 256) float32 in [0, 1], or (N,) for a decoder with a pooling.
            share: Size of the piece as a fraction of its batch.

        Returns:
            What `accumulate` takes.
        """

    @abstractmethod
    def accumulate(self, computed: Any) -> Tensor:
        """Add a result of `compute` to its batch; return the piece's mean loss, on the device."""

    @abstractmethod
    def update(self) -> None:
        """Update the decoder after a batch."""

    @abstractmethod
    def logits(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the maps of logits (N, 256, 256) of `learned`."""

    def is_finite(self) -> bool:
        """Return whether all weights and buffers of the decoder are finite."""
        numbers = [
            value for value in self.decoder.state_dict().values() if value.is_floating_point()
        ]
        return bool(torch.stack([value.isfinite().all() for value in numbers]).all())

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return the state to resume from, as tensors and plain values."""

    @abstractmethod
    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""


class LookingLearner(Learner):
    """Learner that needs one pass over an epoch's images before the first epoch.

    Call `look` for every piece, then `end_look`; after `load_state` neither is needed.

    Attributes:
        constant_channels_are: What happens to channels without a spread, in a line.
    """

    constant_channels_are: str = "centred, not scaled"

    @property
    @abstractmethod
    def has_looked(self) -> bool:
        """Return whether that pass is done."""

    @abstractmethod
    def look(self, inputs: Sequence[Tensor], targets: Tensor) -> None:
        """Take in a piece; the arguments are those of `compute`."""

    @abstractmethod
    def end_look(self) -> list[list[int]]:
        """End the pass; return the constant channels of each of the inputs, or of them joined.

        Raises `TrainingError` if nothing can be learned from the images.
        """


class GradientLearner(LookingLearner):
    """Decoder trained with AdamW, after a pass for the statistics of its normalization, if any."""

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
            normalize=recipe.normalization,
            widths=recipe.widths,
            options=recipe.decoder_options,
            pooling=recipe.pooling,
        )
        self.initialize(decoder, recipe)
        # Convolutions are faster with this layout on CPUs and GPUs; other layers ignore it.
        decoder.to(device).to(memory_format=torch.channels_last)
        self.decoder = decoder
        self.piece_size = recipe.micro_batch_size or _piece_size(decoder, recipe, device)
        self._average = averaged_model(decoder, recipe.average) if recipe.average else None
        self._optimizer = make_optimizer(decoder, recipe.learning_rate, recipe.weight_decay)
        self._parameters = [one for one in decoder.parameters() if one.requires_grad]
        if recipe.decoder_type == "linear" and device.type == "cpu":
            self.threads = torch.get_num_threads()
        self._device = device
        self._moments = [PatchMoments(one.channels, joint=False) for one in shapes]
        self._precision = recipe.precision
        self._losses, self._positive_weight = recipe.losses, recipe.positive_weight
        self._loss = torch.compile(self.loss) if recipe.compile else self.loss

    def loss(self, inputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Return the loss to minimise, a mean over the piece."""
        return training_loss(self.decoder, inputs, targets, self._losses, self._positive_weight)

    def initialize(self, decoder: Decoder, recipe: Recipe) -> None:
        """Draw the initial weights of a new decoder."""
        assert recipe.initialization != "imagenet", "others have no such weights"
        initialize(decoder, recipe.initialization, recipe.seed)

    @property
    def has_looked(self) -> bool:
        """Return whether the statistics of the normalization are known, or none are needed."""
        return self.decoder.normalization is None or self.decoder.normalization.is_fitted

    def look(self, inputs: Sequence[Tensor], targets: Tensor) -> None:
        """Add the positions of a piece to the means and variances of each layer."""
        for moments, part, shape in zip(
            self._moments, inputs, self.decoder.input_shapes, strict=True
        ):
            moments.add(as_grid(part, shape).permute(0, 2, 3, 1).reshape(-1, shape.channels))

    def end_look(self) -> list[list[int]]:
        """Fix the statistics of the normalization; return the constant channels of each layer."""
        assert self.decoder.normalization is not None
        statistics = [(moments.mean, moments.spread) for moments in self._moments]
        self.decoder.normalization.fit(statistics, self._moments[0].count)
        return [moments.constant_channels for moments in self._moments]

    def begin_epoch(self, learning_rate: float) -> None:
        """Begin an epoch with a learning rate."""
        self.decoder.train()
        self.set_learning_rate(learning_rate)

    def set_learning_rate(self, learning_rate: float) -> None:
        """Change the learning rate of the next step."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate

    @property
    def learned(self) -> Decoder:
        """The decoder, or that with the average of its weights."""
        if self._average is None:
            return self.decoder
        return cast(Decoder, self._average.module)

    def compute(self, inputs: Sequence[Tensor], targets: Tensor, share: float) -> Any:
        """Return a piece's loss and its part of the batch's gradients."""
        with exact_float32(self._device):
            with self._autocast():
                loss = self._loss(inputs, targets)
            # A decoder of one's own may have parameters that do not bear on this loss.
            gradients = torch.autograd.grad(loss * share, self._parameters, allow_unused=True)
            return loss.detach(), gradients

    def accumulate(self, computed: Any) -> Tensor:
        """Add a piece's gradients to the batch's."""
        loss: Tensor
        loss, gradients = computed
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            if parameter.grad is None:
                parameter.grad = gradient
            elif gradient is not None:
                parameter.grad += gradient
        return loss

    def update(self) -> None:
        """Take a step of the optimizer."""
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._average is not None:
            self._average.update_parameters(self.decoder)

    def logits(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the maps of logits (N, 256, 256) of `learned`, in the training's precision."""
        with exact_float32(self._device), self._autocast():
            logits: Tensor = self.learned(*inputs)
        return logits

    def state(self) -> dict[str, Any]:
        """Return the weights, the optimizer's moments and the average of the weights."""
        state = {"decoder": self.decoder.state_dict(), "optimizer": self._optimizer.state_dict()}
        return state if self._average is None else state | {"average": self._average.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.decoder.load_state_dict(state["decoder"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._precision == "float32":
            return nullcontext()
        return torch.autocast(self._device.type, getattr(torch, self._precision))


def training_loss(
    decoder: Decoder,
    inputs: Sequence[Tensor],
    targets: Tensor,
    losses: Sequence[LossName] = ("bce",),
    positive_weight: float = 1.0,
) -> Tensor:
    """Return the loss of a decoder, a mean over images.

    The default is the binary cross-entropy with logits, a mean over all pixels (DeCLIP, section 3).
    For a decoder with a pooling, it is a mean over images, fake and real ones weighted alike.

    Args:
        decoder: The decoder.
        inputs: Its arguments.
        targets: (N, 256, 256) float32 in [0, 1], or (N,) for a decoder with a pooling.
        losses: Losses that are added up; see `map_loss`.
        positive_weight: Weight of fake pixels, or of fake images, in the cross-entropy.
    """
    if decoder.pooling is not None:
        logits = decoder.pooling(decoder(*inputs).float())
        return map_loss(logits.float(), targets, losses, positive_weight)
    is_plain = tuple(losses) == ("bce",) and positive_weight == 1
    if isinstance(decoder, PositionDecoder) and is_plain:
        logits = decoder.position_logits(decoder.joined(*inputs))
        loss: Tensor = enlarged_cross_entropy(logits, targets)
        return loss
    return map_loss(decoder(*inputs).float(), targets, losses, positive_weight)


def make_optimizer(
    decoder: Decoder, learning_rate: float, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """Return AdamW with betas 0.9 and 0.999; in the reference without weight decay (so Adam)."""
    return torch.optim.AdamW(
        decoder.parameters(),
        lr=learning_rate,
        betas=(0.9, 0.999),
        weight_decay=weight_decay,
        fused=True,
    )


def averaged_model(decoder: Decoder, decay: float) -> AveragedModel:
    """Return an exponential moving average of a decoder's weights and running statistics.

    In the first steps the decay is lower, (1 + n) / (10 + n) after n steps, so that an average of
    few steps is not one of the initial weights.
    """

    def average(averaged: Tensor, current: Tensor, steps: Tensor | int) -> Tensor:
        kept = min(decay, (1 + int(steps)) / (10 + int(steps)))
        return averaged + (1 - kept) * (current - averaged)

    return AveragedModel(decoder, avg_fn=average, use_buffers=True)


def _piece_size(decoder: Decoder, recipe: Recipe, device: torch.device) -> int:
    """Return the number of images to compute at once.

    The whole batch, or for a linear decoder on a CPU as many as fit into its cache: without
    BatchNorm, the pieces' gradients add up to the batch's.
    """
    if recipe.decoder_type != "linear" or device.type != "cpu":
        return recipe.batch_size
    n_bytes = sum(4 * torch.Size(shape.array_shape).numel() for shape in decoder.input_shapes)
    return max(1, min(recipe.batch_size, CACHED_BYTES // n_bytes))


@torch.compiler.disable  # type: ignore[untyped-decorator]
def enlarged_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the binary cross-entropy of `enlarge(logits)`, a mean over all pixels.

    The large maps are never held all at once. `logits` are (N, h, w), converted to float32,
    `targets` (N, size, size) float32 in [0, 1].
    """
    with torch.autocast(logits.device.type, enabled=False):
        loss: Tensor = _EnlargedCrossEntropy.apply(logits.float(), targets)
    return loss


class _EnlargedCrossEntropy(torch.autograd.Function):
    """Computes the gradient along with the loss, part by part of the large maps."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        size = targets.shape[1]
        rows, columns = (bicubic_matrix(side, size, logits.device) for side in logits.shape[1:])
        at_once = len(logits)
        if logits.device.type == "cpu":
            at_once = max(1, CPU_PIXELS_AT_ONCE // size**2)
        gradient = torch.empty_like(logits)
        total = logits.new_zeros(())
        for start in range(0, len(logits), at_once):
            part = slice(start, start + at_once)
            large, truth = rows @ logits[part] @ columns.T, targets[part]
            gradient[part] = rows.T @ torch.sigmoid(large).sub_(truth) @ columns
            # log(1 + exp(x)) - x t, written so that nothing overflows.
            entropy = large.abs().neg_().exp_().add_(1).log_()
            total += entropy.addcmul_(large, truth, value=-1).add_(large.clamp_(min=0)).sum()
        ctx.save_for_backward(gradient / targets.numel())
        return total / targets.numel()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0], None
