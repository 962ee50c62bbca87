"""Linear discriminant analysis of patches: a linear decoder in closed form, after one look."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from declip_pipeline.decoders.building import build_decoder
from declip_pipeline.errors import TrainingError
from declip_pipeline.features import FeatureShape
from declip_pipeline.options import FusionMode
from declip_pipeline.training.learner import LookingLearner
from declip_pipeline.training.patch_moments import PatchMoments
from declip_pipeline.training.patches import patch_features, patch_shares
from declip_pipeline.training.recipe import Recipe

MOST_CHANNELS = 16384
"""Channels of all layers together; their covariance in float64 takes 2 GB then."""

# Candidates for the logit from which on a position is predicted fake, and 0 among them. They reach
# further where the classes lie far apart.
_THRESHOLDS = torch.linspace(-12, 12, 193, dtype=torch.float64)


class DiscriminantLearner(LookingLearner):
    """Linear decoder with the weights of a linear discriminant analysis.

    The weights are S^-1 (m1 - m0), for means m1 of fake and m0 of real patches and the covariance S
    that both have within their class. A patch belongs to each class by the share of its area. A
    part `shrinkage` of S is replaced by its diagonal, so that it can be inverted and does not
    follow the few photographs it was seen on.

    The look at the images gives the weights. The one epoch after it gives the bias: that with the
    highest IoU over all positions of the epoch's images together.

    Source: Fisher (1936); shrinkage to the diagonal, Schäfer & Strimmer (2005).
    """

    constant_channels_are = "left out"

    def __init__(
        self,
        recipe: Recipe,
        shapes: Sequence[FeatureShape],
        fusion: FusionMode,
        device: torch.device,
    ) -> None:
        """Prepare a decoder for a recipe, shapes and fusion that `decoder_of` accepts."""
        self.decoder = build_decoder(
            "linear", shapes, fusion=fusion, normalize=recipe.normalization
        ).to(device)
        self.piece_size = recipe.micro_batch_size or recipe.batch_size
        self._shrinkage = recipe.shrinkage
        channels = self.decoder.shape.channels
        self._moments: PatchMoments | None = None
        # Of the fake parts of patches: their area in patches, and their features times it.
        self._fake_area = torch.zeros((), dtype=torch.float64)
        self._fake_sums = torch.zeros(channels, dtype=torch.float64)
        self._weights = torch.zeros(channels, dtype=torch.float64)
        self._bias = torch.zeros((), dtype=torch.float64)
        # Half of the distance between the classes' mean logits.
        self._half_distance = 0.0
        self._has_looked = False
        self._thresholds = _THRESHOLDS
        # At each threshold: areas, in patches, that are predicted fake, and those of them that are.
        self._predicted, self._found = (torch.zeros_like(_THRESHOLDS) for _ in range(2))
        self._fake = torch.zeros((), dtype=torch.float64)

    @property
    def has_looked(self) -> bool:
        """Return whether the weights are known."""
        return self._has_looked

    @torch.no_grad()
    def look(self, inputs: Sequence[Tensor], targets: Tensor) -> None:
        """Add the patches of a piece to the means and the covariance."""
        patches = patch_features(self.decoder, inputs)
        shares = patch_shares(targets, self.decoder.shape).flatten().double()
        if self._moments is None:
            self._moments = PatchMoments(self.decoder.shape.channels, joint=True)
        self._moments.add(patches)
        self._fake_area += shares.sum().cpu()
        self._fake_sums += (shares @ patches.double()).cpu()

    def end_look(self) -> list[list[int]]:
        """Compute the weights.

        Raises `TrainingError` if nothing, or everything, was fake, if features are not finite or
        all constant, or if the covariance cannot be inverted.
        """
        moments, self._moments = self._moments, None
        assert moments is not None
        share = self._fake_area / moments.count
        if not 0 < share < 1:
            raise TrainingError(
                f"{'nothing' if share == 0 else 'everything'} in the training images is fake; lda "
                "compares fake patches with real ones and needs both, take other images"
            )
        within, mean, count = moments.covariance, moments.mean, moments.count
        constant = moments.constant_channels
        del moments  # its squares take as much memory as the covariance
        if not bool(within.diagonal().isfinite().all()):
            raise TrainingError(
                "features of the training images are not finite, or too large for float32; lda "
                "needs finite ones, take another layer"
            )
        if len(constant) == len(mean):
            raise TrainingError(
                f"all {len(mean)} channels are constant over the training images; take other layers"
            )
        fakes = self._fake_sums / self._fake_area
        reals = (mean - share * fakes) / (1 - share)
        between = fakes - reals
        between[constant] = 0
        within.addr_(between, between, alpha=-float(share * (1 - share)))
        variances = within.diagonal().clone()
        variances[constant] = 1.0
        within *= 1 - self._shrinkage
        within.diagonal().copy_(variances)
        factor, problem = torch.linalg.cholesky_ex(within)
        if problem:
            raise TrainingError(
                f"the covariance of {len(mean)} channels over {count} patches cannot be inverted "
                f"with `shrinkage={self._shrinkage:g}`; take a larger one, or fewer layers"
            )
        self._weights = torch.cholesky_solve(between[:, None], factor)[:, 0]
        self._bias = torch.log(share / (1 - share)) - self._weights @ (fakes + reals) / 2
        self._half_distance = float(self._weights @ between) / 2
        self._has_looked = True
        self._set_parameters(self._bias)
        return [constant]

    def begin_epoch(self, learning_rate: float) -> None:
        """Begin to look for the bias; there is no learning rate."""
        self._thresholds = _THRESHOLDS * max(1.0, self._half_distance / 12)
        self._predicted.zero_()
        self._found.zero_()
        self._fake.zero_()

    def set_learning_rate(self, learning_rate: float) -> None:
        """Do nothing: there is no learning rate."""

    @torch.no_grad()
    def compute(self, inputs: Sequence[Tensor], targets: Tensor, share: float) -> Any:
        """Return the cross-entropy of the patches with the analysis' own bias, and areas.

        These are, at each threshold, what is predicted fake and what of it is fake, then all fake.
        """
        patches = patch_features(self.decoder, inputs)
        logits = (patches @ self._weights.to(patches) + self._bias.to(patches)).cpu()
        shares = patch_shares(targets, self.decoder.shape).flatten().cpu()
        # A logit is above the thresholds before its place.
        places = torch.bucketize(logits.double(), self._thresholds)
        predicted, found = (_sums_from(places, area) for area in (torch.ones_like(shares), shares))
        loss = F.binary_cross_entropy_with_logits(logits, shares)
        return loss, predicted, found, shares.sum()

    def accumulate(self, computed: Any) -> Tensor:
        """Add the areas of a piece; return the mean cross-entropy of its patches."""
        loss, predicted, found, fake = computed
        self._predicted += predicted
        self._found += found
        self._fake += fake
        result: Tensor = loss
        return result

    def update(self) -> None:
        """Write the bias that is best so far into the decoder: the middle one of several."""
        if self._fake > 0:
            iou = self._found / (self._predicted + self._fake - self._found)
            (best,) = (iou == iou.max()).nonzero(as_tuple=True)
            self._set_parameters(self._bias - self._thresholds[best[len(best) // 2]])

    def logits(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the decoder's maps of logits (N, 256, 256)."""
        logits: Tensor = self.decoder(*inputs)
        return logits

    def state(self) -> dict[str, Any]:
        """Return the decoder and the weights."""
        return {
            "decoder": self.decoder.state_dict(),
            "weights": self._weights,
            "bias": self._bias,
            "half_distance": self._half_distance,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.decoder.load_state_dict(state["decoder"])
        self._weights, self._bias = state["weights"], state["bias"]
        self._half_distance = state["half_distance"]
        self._has_looked = True

    def _set_parameters(self, bias: Tensor) -> None:
        with torch.no_grad():
            for parameter, value in zip(
                self.decoder.parameters(), (self._weights, bias), strict=True
            ):
                parameter.copy_(value.view_as(parameter))


def _sums_from(places: Tensor, areas: Tensor) -> Tensor:
    """Return for each threshold the sum of the areas whose place is behind it."""
    sums = torch.bincount(places, weights=areas.double(), minlength=len(_THRESHOLDS) + 1)
    return sums.flip(0).cumsum(0).flip(0)[1:]
