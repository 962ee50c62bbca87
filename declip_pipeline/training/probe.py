"""Probes: logistic regression on patches by scikit-learn, a cheap first look at a layer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import SGDClassifier
from torch import Tensor

from declip_pipeline.compute import derived_seed
from declip_pipeline.decoders.building import build_decoder
from declip_pipeline.decoders.names import probe_components
from declip_pipeline.errors import TrainingError
from declip_pipeline.features import FeatureShape
from declip_pipeline.options import FusionMode
from declip_pipeline.training.learner import LookingLearner
from declip_pipeline.training.patch_moments import PatchMoments
from declip_pipeline.training.patches import patch_features, patch_labels
from declip_pipeline.training.recipe import Recipe

# Weight of the L2 penalty. It only bounds the weights where patches are separable without error;
# on a layer of the demo set, 1e-4 makes no difference.
ALPHA = 1e-6


class ProbeLearner(LookingLearner):
    """Linear decoder with weights from scikit-learn's `SGDClassifier`, by `partial_fit`.

    A patch is fake where more than half of its area is; all patches have the same weight. Patches
    are standardised, and projected by PCA for `probe-pca-K`; both are folded into the decoder.
    scikit-learn computes on the CPU.

    Source: the CLIP-linear baseline of DeCLIP (Smeu et al., WACV 2025, arXiv 2409.08849).
    """

    def __init__(
        self,
        recipe: Recipe,
        shapes: Sequence[FeatureShape],
        fusion: FusionMode,
        device: torch.device,
    ) -> None:
        """Prepare a probe for a recipe, shapes and fusion that `decoder_of` accepts."""
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
            # Shuffles a piece's patches. An integer, so that each call is reproducible by itself.
            shuffle=True,
            random_state=derived_seed(recipe.seed, "probe") % 2**32,
        )
        width = self._components or channels
        self._set_weights(np.zeros(width, np.float32), np.zeros(1, np.float32), 1.0)

    @property
    def has_looked(self) -> bool:
        """Return whether means, variances and principal components are known."""
        return self._projection is not None

    def look(self, inputs: Sequence[Tensor], targets: Tensor) -> None:
        """Add the patches of a piece to the means and variances."""
        self._moments.add(self._patches(inputs))
        self._fakes += int(self._labels(targets).sum())

    def end_look(self) -> list[list[int]]:
        """Fix the projection. Raises `TrainingError` if no patch was fake."""
        if self._fakes == 0:
            shape = self.decoder.shape
            raise TrainingError(
                f"none of the {self._moments.count} training patches is more than half fake, at "
                f"{shape.height}x{shape.width} patches an image; a probe needs some: take a layer "
                "with a finer grid, or another decoder"
            )
        self._projection = PatchProjection.of(self._moments, self._components)
        return [self._moments.constant_channels]

    def begin_epoch(self, learning_rate: float) -> None:
        """Begin an epoch with a learning rate."""
        self.set_learning_rate(learning_rate)

    def set_learning_rate(self, learning_rate: float) -> None:
        """Change the learning rate of the next step."""
        self._classifier.set_params(eta0=learning_rate)

    def compute(self, inputs: Sequence[Tensor], targets: Tensor, share: float) -> Any:
        """Return a piece's projected patches and their labels, on the CPU."""
        assert self._projection is not None
        return self._projection(self._patches(inputs)).cpu(), self._labels(targets).cpu()

    def accumulate(self, computed: Any) -> Tensor:
        """Fit a piece at once; return the mean log loss of its patches before that."""
        patches, labels = computed
        weights = torch.from_numpy(self._classifier.coef_[0])
        logits = patches @ weights + torch.from_numpy(self._classifier.intercept_)
        loss = F.binary_cross_entropy_with_logits(logits, labels.float())
        try:
            self._classifier.partial_fit(patches.numpy(), labels.numpy())
        except ValueError:
            # scikit-learn's error for non-finite numbers; the training stops at this step.
            return torch.full_like(loss, torch.nan)
        return loss

    def update(self) -> None:
        """Write the fitted weights into the decoder."""
        assert self._projection is not None
        weights, bias = self._projection.folded(
            torch.from_numpy(self._classifier.coef_[0]).double(),
            torch.from_numpy(self._classifier.intercept_).double()[0],
        )
        with torch.no_grad():
            for parameter, value in zip(self.decoder.parameters(), (weights, bias), strict=True):
                parameter.copy_(value.view_as(parameter))

    def logits(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the decoder's maps of logits (N, 256, 256)."""
        logits: Tensor = self.decoder(*inputs)
        return logits

    def state(self) -> dict[str, Any]:
        """Return the projection, and the classifier's weights and count of patches."""
        assert self._projection is not None
        return {
            "slope": self._projection.slope,
            "shift": self._projection.shift,
            "weights": torch.tensor(self._classifier.coef_[0]),
            "bias": torch.tensor(self._classifier.intercept_),
            "patches": float(self._classifier.t_),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self._projection = PatchProjection(state["slope"], state["shift"])
        self._set_weights(state["weights"].numpy(), state["bias"].numpy(), state["patches"])
        self.update()

    def _set_weights(self, weights: np.ndarray, bias: np.ndarray, patches: float) -> None:
        """Give the classifier the state of a fitted one."""
        self._classifier.classes_ = np.array([0, 1])
        self._classifier.coef_ = weights[None].copy()
        self._classifier.intercept_ = bias.copy()
        self._classifier.t_ = patches

    def _patches(self, inputs: Sequence[Tensor]) -> Tensor:
        return patch_features(self.decoder, inputs)

    def _labels(self, targets: Tensor) -> Tensor:
        return patch_labels(targets, self.decoder.shape)


class PatchProjection:
    """Affine map of a patch x before it is classified: slope * x + shift.

    `slope` is (channels,), or (channels, K) for a projection onto K components; `shift` is
    (channels,) or (K,). Both are float64.
    """

    def __init__(self, slope: Tensor, shift: Tensor) -> None:
        self.slope = slope
        self.shift = shift

    @classmethod
    def of(cls, moments: PatchMoments, components: int | None) -> "PatchProjection":
        """Return the map that standardises and, given a number of components, projects."""
        slope = 1 / moments.spread
        if components is not None:
            slope = slope[:, None] * moments.components(components).T
            return cls(slope, -(moments.mean @ slope))
        return cls(slope, -moments.mean * slope)

    def __call__(self, patches: Tensor) -> Tensor:
        """Map patches (P, channels) to (P, channels or K), in their dtype, on their device."""
        slope, shift = self.slope.to(patches), self.shift.to(patches)
        if slope.ndim == 1:
            return torch.addcmul(shift, patches, slope)
        return torch.addmm(shift, patches, slope)

    def folded(self, weights: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights (channels,) and bias () for patches, from those for projected patches.

        The logits are the same; both are float64.
        """
        straight = self.slope * weights if self.slope.ndim == 1 else self.slope @ weights
        return straight, bias + self.shift @ weights
