"""Values of a recipe that are not given: those that suit decoder and images, or the paper's."""

from collections.abc import Mapping
from typing import Any, get_args

from declip_pipeline.decoders.names import LDA, LIGHT_TYPES, PATCH_FORENSICS, read_decoder_type
from declip_pipeline.errors import UnknownNameError
from declip_pipeline.options import RecipeName

CHOSEN = ("epochs", "batch_size", "learning_rate", "schedule", "initialization")
"""Fields of a recipe that `recipe_defaults` may choose."""

STEPS_AT_100_IMAGES = 400
"""Steps on 100 training images; they grow with the cube root of the number of images."""

LEAST_EPOCHS = 3

MOST_STEPS_OF_AN_EPOCH = 320
"""Steps an epoch above which batches are larger, up to the paper's."""

PAPER_BATCH = 64

HIGHEST_RATES = {
    "linear": 3e-2,
    **dict.fromkeys(LIGHT_TYPES, 1e-2),
    "conv": 2e-3,
}
"""Highest learning rates by the kind of decoder; see benchmarks/recipes.py."""

OTHER_RATE = 1e-3
"""That of other decoders."""


def recipe_defaults(
    name: RecipeName, decoder_type: str, images: int, given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the fields of a recipe that are to be other than the paper's, by their names.

    "auto" trains for a number of steps rather than of epochs, so that small splits are not left
    after a few updates: 400 on 100 images, 862 on 1,000, 1,857 on 10,000. Batches are of 8 images,
    of large splits up to the paper's 64. The learning rate follows one cycle up to that of
    `HIGHEST_RATES`, from PyTorch's initial weights.

    The values come from validation scores on a demo set with another seed than the default.
    `benchmarks/recipes.py` compares them with a grid of others on the default one.

    Args:
        name: "paper", whose values are the defaults of `Recipe`, or "auto".
        decoder_type: Name of the decoder; lda, probes and Patch Forensics keep their own recipes,
            in batches that the images fill.
        images: Number of images of an epoch.
        given: Fields that the caller sets: a `batch_size` is what the steps are counted in, and the
            schedule "plateau", which stops by itself, leaves the epochs to the paper's bound.

    Raises `UnknownNameError` for another name or decoder.
    """
    if name not in get_args(RecipeName):
        raise UnknownNameError("recipe", name, get_args(RecipeName))
    kind = read_decoder_type(decoder_type).kind
    if name == "paper":
        return {}
    if kind in ("probe", LDA, PATCH_FORENSICS):
        own = {"epochs": 1} if kind == LDA else {}
        return own if images >= PAPER_BATCH else own | {"batch_size": images}
    fixed = given or {}
    batch_size = fixed.get("batch_size", _batch_size(images))
    steps = STEPS_AT_100_IMAGES * (images / 100) ** (1 / 3)
    values = {
        "schedule": "one-cycle",
        "epochs": max(LEAST_EPOCHS, round(steps / -(-images // batch_size))),
        "batch_size": batch_size,
        "learning_rate": HIGHEST_RATES.get(kind, OTHER_RATE),
        "initialization": "pytorch",
    }
    if fixed.get("schedule") == "plateau":
        del values["epochs"]
    return values


def _batch_size(images: int) -> int:
    """Return 8 up to 2,560 images, then the power of 2 for 160 to 320 steps an epoch, up to 64."""
    size = 8
    while size < PAPER_BATCH and images / size > MOST_STEPS_OF_AN_EPOCH:
        size *= 2
    return max(1, min(size, images // 4))
