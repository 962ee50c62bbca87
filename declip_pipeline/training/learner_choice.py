"""Choice of the learner for a recipe's decoder type."""

from collections.abc import Sequence

import torch

from declip_pipeline.decoders.building import build_decoder
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.decoders.names import (
    PATCH_FORENSICS,
    TAKERS_OF_WIDTHS,
    DecoderType,
    read_decoder_type,
)
from declip_pipeline.errors import InputError
from declip_pipeline.features import FeatureShape
from declip_pipeline.options import FusionMode
from declip_pipeline.training.learner import GradientLearner, Learner
from declip_pipeline.training.recipe import Recipe

_PLAIN = Recipe()
_NOT_OF_PROBES = ("weight_decay", "loss", "positive_weight", "average")


def learner_of(
    recipe: Recipe, shapes: Sequence[FeatureShape], fusion: FusionMode, device: torch.device
) -> Learner:
    """Return the learner for a recipe that `decoder_of` accepts."""
    kind = read_decoder_type(recipe.decoder_type).kind
    if kind == "probe":
        # scikit-learn takes a second to import.
        from declip_pipeline.training.probe import ProbeLearner

        return ProbeLearner(recipe, shapes, fusion, device)
    if kind == "patch-forensics":
        # timm takes seconds to import.
        from declip_pipeline.training.patch_forensics import PatchForensicsLearner

        return PatchForensicsLearner(recipe, shapes, fusion, device)
    return GradientLearner(recipe, shapes, fusion, device)


def decoder_of(recipe: Recipe, shapes: Sequence[FeatureShape], fusion: FusionMode) -> Decoder:
    """Return the decoder that a training by a recipe ends with; for a probe, a linear one.

    Raises:
        UnknownNameError: A type that is neither a decoder's nor a probe's.
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
    if kind.kind == "probe":
        return _decoder_of_probe(recipe, kind, shapes, fusion)
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


def _decoder_of_probe(
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
            f"{name} is learned by scikit-learn, which torch.compile cannot compile; leave out "
            "`compile`"
        )
    if recipe.normalization != "none":
        raise InputError(
            f"{name} standardises patches by itself; leave out `normalize`, or take another "
            "decoder such as linear"
        )
    for name in _NOT_OF_PROBES:
        if getattr(recipe, name) != getattr(_PLAIN, name):
            raise InputError(
                f"`{name}={getattr(recipe, name)}` for {kind.name}, which is learned by "
                "scikit-learn; leave it out or choose another decoder"
            )
    if len(shapes) > 1 and fusion == "weighted":
        raise InputError(
            f"{name} cannot learn the weights of a weighted sum of {len(shapes)} layers; take "
            '`fusion="concat"`'
        )
    decoder = build_decoder("linear", shapes, fusion=fusion)
    if components is not None and components > decoder.shape.channels:
        raise InputError(
            f"{name} asks for {components} components of features of {decoder.shape.channels} "
            f"channels; expected at most {decoder.shape.channels}"
        )
    return decoder
