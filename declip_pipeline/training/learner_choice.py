"""Choice of the learner for a recipe's decoder type."""

from collections.abc import Sequence

import torch

from declip_pipeline.decoders.building import build_decoder
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.decoders.names import (
    LDA,
    PATCH_FORENSICS,
    TAKERS_OF_WIDTHS,
    DecoderType,
    is_fitted,
    read_decoder_type,
)
from declip_pipeline.errors import InputError
from declip_pipeline.features import FeatureShape
from declip_pipeline.options import FusionMode
from declip_pipeline.training.discriminant import MOST_CHANNELS, DiscriminantLearner
from declip_pipeline.training.learner import GradientLearner, Learner
from declip_pipeline.training.recipe import Recipe

_PLAIN = Recipe()
_FITTED_BY = {
    "probe": "learned by scikit-learn",
    LDA: "computed from one look at the images as they are",
}
_NOT_OF_FITTED = ("weight_decay", "loss", "positive_weight", "average")
_NOT_OF_LDA = (
    *("most_epochs", "schedule", "patience", "learning_rate", "initialization"),
    *("flips", "channel_dropout", "feature_noise", "mixup"),
)


def learner_of(
    recipe: Recipe, shapes: Sequence[FeatureShape], fusion: FusionMode, device: torch.device
) -> Learner:
    """Return the learner for a recipe that `decoder_of` accepts."""
    kind = read_decoder_type(recipe.decoder_type).kind
    if kind == "probe":
        # scikit-learn takes a second to import.
        from declip_pipeline.training.probe import ProbeLearner

        return ProbeLearner(recipe, shapes, fusion, device)
    if kind == LDA:
        return DiscriminantLearner(recipe, shapes, fusion, device)
    if kind == "patch-forensics":
        # timm takes seconds to import.
        from declip_pipeline.training.patch_forensics import PatchForensicsLearner

        return PatchForensicsLearner(recipe, shapes, fusion, device)
    return GradientLearner(recipe, shapes, fusion, device)


def decoder_of(recipe: Recipe, shapes: Sequence[FeatureShape], fusion: FusionMode) -> Decoder:
    """Return the decoder that a training by a recipe ends with; of a fitted type, a linear one.

    Raises:
        UnknownNameError: A type that is not known.
        InputError: Options that do not fit the type.
        DecoderError: A decoder of one's own that cannot be imported, or breaks the contract.
        WeightsError: Initial weights that do not fit or cannot be downloaded.
    """
    kind = read_decoder_type(recipe.decoder_type)
    if recipe.initialization == "imagenet" and kind.kind != PATCH_FORENSICS:
        raise InputError(
            f'`initialization="imagenet"` for {kind.name}, of which there are no such weights; '
            f'expected {PATCH_FORENSICS}, or `initialization="paper"` or pytorch'
        )
    if recipe.shrinkage != _PLAIN.shrinkage and kind.kind != LDA:
        raise InputError(
            f"`shrinkage={recipe.shrinkage:g}` for {kind.name}; it is for {LDA}, leave it out"
        )
    if is_fitted(kind.name):
        return _decoder_of_fitted(recipe, kind, shapes, fusion)
    if kind.kind == PATCH_FORENSICS and (recipe.losses != ("bce",) or recipe.positive_weight != 1):
        name = "loss" if recipe.losses != ("bce",) else "positive_weight"
        raise InputError(
            f"`{name}={getattr(recipe, name)}` for {kind.name}, which learns by the cross-entropy "
            "of its patches; leave it out"
        )
    decoder = build_decoder(
        kind,
        shapes,
        fusion=fusion,
        normalize=recipe.normalization,
        widths=recipe.widths,
        options=recipe.decoder_options,
        pooling=recipe.pooling,
    )
    if recipe.initialization == "imagenet":
        from declip_pipeline.training.patch_forensics import imagenet_tensors

        imagenet_tensors(decoder.get_submodule("trunk"), recipe.initial_weights)
    return decoder


def _decoder_of_fitted(
    recipe: Recipe, kind: DecoderType, shapes: Sequence[FeatureShape], fusion: FusionMode
) -> Decoder:
    name, components = kind.name, kind.components
    if recipe.pooling is not None:
        raise InputError(
            f"{name} learns which patches are fake, from masks; detection learns from labels of "
            "images, take another decoder such as linear"
        )
    if recipe.widths is not None:
        raise InputError(
            f"{name} got widths {list(recipe.widths)}, expected none; "
            f"leave them out or choose {TAKERS_OF_WIDTHS}"
        )
    if recipe.compile:
        raise InputError(
            f"{name} is {_FITTED_BY[kind.kind]}, which torch.compile cannot compile; leave out "
            "`compile`"
        )
    if kind.kind == "probe" and recipe.normalization != "none":
        raise InputError(
            f"{name} standardises patches by itself; leave out `normalize`, or take another "
            "decoder such as linear"
        )
    if kind.kind == LDA and recipe.normalization == "channel":
        raise InputError(
            f"{name} does not depend on the scale of channels; leave out `normalize`, or take "
            "none, instance or layernorm"
        )
    plain = Recipe(kind.name) if kind.kind == LDA else _PLAIN
    for option in (*_NOT_OF_FITTED, *(_NOT_OF_LDA if kind.kind == LDA else ())):
        if getattr(recipe, option) != getattr(plain, option):
            named = "epochs" if option == "most_epochs" else option
            raise InputError(
                f"`{named}={getattr(recipe, option)}` for {name}, which is "
                f"{_FITTED_BY[kind.kind]}; leave it out or choose another decoder"
            )
    if len(shapes) > 1 and fusion == "weighted":
        raise InputError(
            f"{name} cannot learn the weights of a weighted sum of {len(shapes)} layers; take "
            '`fusion="concat"`'
        )
    decoder = build_decoder("linear", shapes, fusion=fusion, normalize=recipe.normalization)
    channels = decoder.shape.channels
    if components is not None and components > channels:
        raise InputError(
            f"{name} asks for {components} components of features of {channels} channels; "
            f"expected at most {channels}"
        )
    if kind.kind == LDA and channels > MOST_CHANNELS:
        raise InputError(
            f"{name} on {channels} channels, whose covariance would take "
            f"{channels**2 * 8 / 1e9:.0f} GB; expected at most {MOST_CHANNELS}, take fewer layers"
        )
    return decoder
