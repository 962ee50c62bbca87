"""Probes: logistic regression on patches by scikit-learn, the cheap first look at a layer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import SGDClassifier
from torch import Tensor

from declip_pipeline.compute import derived_seed
from declip_pipeline.decoders.building import build_decoder
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.errors import TrainingError
from declip_pipeline.features import FeatureShape
from declip_pipeline.options import FusionMode
from declip_pipeline.training.learner import LookingLearner
from declip_pipeline.training.patch_labels import patch_labels
from declip_pipeline.training.patch_projection import PatchMoments, PatchProjection
from declip_pipeline.training.probe_type import probe_components
from declip_pipeline.training.recipe import Recipe

# Of the weights' squares: it only keeps them from growing without end where patches can be told
# apart without error. On a layer of the demo set, 1e-4 makes no difference.
ALPHA = 1e-6


class ProbeLearner(LookingLearner):
    """A linear decoder whose weights come from scikit-learn's `SGDClassifier`, by `partial_fit`.

    A patch is fake where more than half of its area is, each patch counts the same, and a map is
    cut at probability 0.5. Patches are standardised, and projected by PCA for `probe-pca-K`; all of
    that is folded into the decoder. scikit-learn computes on the CPU.
    Source: the CLIP-linear baseline of DeCLIP (Smeu et al., WACV 2025, arXiv 2409.08849).
    """

    def __init__(
        self,
        recipe: Recipe,
        shapes: Sequence[FeatureShape],
        fusion: FusionMode,
        device: torch.device,
    ) -> None:
        """`recipe`, `shapes` and `fusion` as `decoder_of` lets them pass."""
        self.decoder = build_decoder("linear", shapes, fusion=fusion).to(device)
        self.piece_size = recipe.micro_batch_size or recipe.batch_size
        self._components = probe_components(recipe.decoder_type)
        channels = self.decoder.shape.channels
        self._moments = PatchMoments(channels, joint=self._components is not None)
        self._projection: PatchProjection | None = None
        self._fakes = 0
        self._classifier = SGDClassifier(
            loss="log_loss",
            alpha=ALPHA,
            learning_rate="constant",
            eta0=recipe.learning_rate,
            # Of a piece's patches. A seed, not a generator: each call is the same by itself.
            shuffle=True,
            random_state=derived_seed(recipe.seed, "probe") % 2**32,
        )
        width = self._components or channels
        self._set_weights(np.zeros(width, np.float32), np.zeros(1, np.float32), 1.0)

    @property
    def has_looked(self) -> bool:
        """Whether means, variances and components are known."""
        return self._projection is not None

    def look(self, inputs: Sequence[Tensor], targets: Tensor) -> None:
        """Take in what the patches of a piece are like."""
        self._moments.add(self._patches(inputs))
        self._fakes += int(self._labels(targets).sum())

    def end_look(self) -> None:
        """Standardise and project by what was seen. Raises `TrainingError` if nothing was fake."""
        if self._fakes == 0:
            shape = self.decoder.shape
            raise TrainingError(
                f"none of the {self._moments.count} training patches is more than half fake, at "
                f"{shape.height}x{shape.width} patches a picture; a probe needs some: take a layer "
                "with a finer grid, or another decoder"
            )
        self._projection = PatchProjection.of(self._moments, self._components)

    def begin_epoch(self, learning_rate: float) -> None:
        """Get ready to learn at a rate."""
        self._classifier.set_params(eta0=learning_rate)

    def compute(self, inputs: Sequence[Tensor], targets: Tensor, share: float) -> Any:
        """A piece's projected patches and their labels, on the CPU."""
        assert self._projection is not None
        return self._projection(self._patches(inputs)).cpu(), self._labels(targets).cpu()

    def accumulate(self, computed: Any) -> Tensor:
        """Learn a piece at once; returns the mean log loss over its patches from before."""
        patches, labels = computed
        weights = torch.from_numpy(self._classifier.coef_[0])
        logits = patches @ weights + torch.from_numpy(self._classifier.intercept_)
        loss = F.binary_cross_entropy_with_logits(logits, labels.float())
        try:
            self._classifier.partial_fit(patches.numpy(), labels.numpy())
        except ValueError:
            # scikit-learn's word for numbers that are not finite; the training stops at this step.
            return torch.full_like(loss, torch.nan)
        return loss

    def update(self) -> None:
        """Write what was learned into the decoder."""
        assert self._projection is not None
        weights, bias = self._projection.folded(
            torch.from_numpy(self._classifier.coef_[0]).double(),
            torch.from_numpy(self._classifier.intercept_).double()[0],
        )
        with torch.no_grad():
            for parameter, value in zip(self.decoder.parameters(), (weights, bias), strict=True):
                parameter.copy_(value.view_as(parameter))

    def logits(self, inputs: Sequence[Tensor]) -> Tensor:
        """The decoder's map (N, 256, 256) of logits."""
        logits: Tensor = self.decoder(*inputs)
        return logits

    def state(self) -> dict[str, Any]:
        """The projection, and the classifier's weights and count of patches."""
        assert self._projection is not None
        return {
            "slope": self._projection.slope,
            "shift": self._projection.shift,
            "weights": torch.tensor(self._classifier.coef_[0]),
            "bias": torch.tensor(self._classifier.intercept_),
            "patches": float(self._classifier.t_),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self._projection = PatchProjection(state["slope"], state["shift"])
        self._set_weights(state["weights"].numpy(), state["bias"].numpy(), state["patches"])
        self.update()

    def _set_weights(self, weights: np.ndarray, bias: np.ndarray, patches: float) -> None:
        """Make the classifier one that was fitted so far."""
        self._classifier.classes_ = np.array([0, 1])
        self._classifier.coef_ = weights[None].copy()
        self._classifier.intercept_ = bias.copy()
        self._classifier.t_ = patches

    def _patches(self, inputs: Sequence[Tensor]) -> Tensor:
        """Features of patches (P, channels), picture by picture, in rows of positions."""
        return patch_features(self.decoder, inputs)

    def _labels(self, targets: Tensor) -> Tensor:
        return patch_labels(targets, self.decoder.shape)


def patch_features(decoder: Decoder, inputs: Sequence[Tensor]) -> Tensor:
    """What a decoder is called with, as features of patches (N * height * width, channels).

    Layers are joined, prefix tokens left out; picture by picture, in rows of positions.
    """
    tokens = decoder.without_prefix(decoder.tokens(decoder.joined(*inputs)))
    return tokens.reshape(-1, decoder.shape.channels)
