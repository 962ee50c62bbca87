"""From a decoder type to what learns it."""

from collections.abc import Sequence

import torch

from declip_pipeline.decoders.building import (
    DECODER_TYPES,
    PATCH_FORENSICS,
    build_decoder,
    is_decoder_type,
)
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.features import FeatureShape
from declip_pipeline.options import FusionMode
from declip_pipeline.training.learner import GradientLearner, Learner
from declip_pipeline.training.probe_type import PROBE_TYPES, is_probe, probe_components
from declip_pipeline.training.recipe import Recipe


def learner_of(
    recipe: Recipe, shapes: Sequence[FeatureShape], fusion: FusionMode, device: torch.device
) -> Learner:
    """What learns the decoder type of a recipe that `decoder_of` lets pass."""
    if is_probe(recipe.decoder_type):
        # scikit-learn takes a second to import.
        from declip_pipeline.training.probe_learner import ProbeLearner

        return ProbeLearner(recipe, shapes, fusion, device)
    if recipe.decoder_type == PATCH_FORENSICS:
        # And so does timm.
        from declip_pipeline.training.patch_forensics_learner import PatchForensicsLearner

        return PatchForensicsLearner(recipe, shapes, fusion, device)
    return GradientLearner(recipe, shapes, fusion, device)


def decoder_of(recipe: Recipe, shapes: Sequence[FeatureShape], fusion: FusionMode) -> Decoder:
    """The decoder that a training by a recipe ends with: of a probe, a linear one.

    Raises `UnknownNameError` for a type that is neither a decoder's nor a probe's, `InputError` for
    what does not fit it, `WeightsError` for initial weights that do not, or cannot be had.
    """
    name = recipe.decoder_type
    if not is_probe(name) and not is_decoder_type(name):
        raise UnknownNameError("decoder type", name, (*DECODER_TYPES, *PROBE_TYPES))
    if recipe.initialization == "imagenet" and name != PATCH_FORENSICS:
        raise InputError(
            f'`initialization="imagenet"` for {name}, of which there are no such weights; expected '
            f'{PATCH_FORENSICS}, or `initialization="paper"` or pytorch'
        )
    if not is_probe(name):
        decoder = build_decoder(
            name, shapes, fusion=fusion, widths=recipe.widths, pooling=recipe.pooling
        )
        if recipe.initialization == "imagenet":
            from declip_pipeline.training.imagenet_weights import imagenet_tensors

            imagenet_tensors(decoder.get_submodule("trunk"), recipe.initial_weights)
        return decoder
    if recipe.pooling is not None:
        raise InputError(
            f"{name} learns which patches are fake, from masks; detection learns from labels of "
            "pictures, take another decoder such as linear"
        )
    if recipe.widths is not None:
        raise InputError(
            f"{name} got widths {list(recipe.widths)}, expected none; "
            "leave them out or choose a conv decoder"
        )
    if recipe.compile:
        raise InputError(
            f"{name} is learned by scikit-learn, which torch.compile cannot compile; leave out "
            "`compile`"
        )
    if len(shapes) > 1 and fusion == "weighted":
        raise InputError(
            f"{name} cannot learn the weights of a weighted sum of {len(shapes)} layers; take "
            '`fusion="concat"`'
        )
    decoder = build_decoder("linear", shapes, fusion=fusion)
    components = probe_components(name)
    if components is not None and components > decoder.shape.channels:
        raise InputError(
            f"{name} asks for {components} components of features of {decoder.shape.channels} "
            f"channels; expected at most {decoder.shape.channels}"
        )
    return decoder
