"""Values of a recipe that are not given: the paper's, or those that suit decoder and images."""

from math import sqrt
from typing import Any, get_args

from declip_pipeline.decoders.names import PATCH_FORENSICS, read_decoder_type
from declip_pipeline.errors import UnknownNameError
from declip_pipeline.options import RecipeName

CHOSEN = ("epochs", "batch_size", "learning_rate", "schedule", "initialization")
"""Fields of a recipe that `recipe_defaults` may choose."""

STEPS_AT_100_IMAGES = 400
"""Steps on 100 training images; they grow with the square root of the number of images."""

LEAST_EPOCHS = 5

PAPER_BATCH = 64


def recipe_defaults(name: RecipeName, decoder_type: str, images: int) -> dict[str, Any]:
    """Return the fields of a recipe that are to be other than the paper's, by their names.

    "auto" trains for a number of steps rather than of epochs, so that small splits are not left
    after a few updates: 400 on 100 images, 1,265 on 1,000. Batches are of 8 images up to 1,000 of
    them, and grow to the paper's 64, so that an epoch has steps enough. The learning rate follows
    one cycle up to 3e-2 for a linear decoder, 3e-3 for others, from PyTorch's initial weights.

    The values come from trials with one seed, most of them of linear decoders, on a demo set of
    another seed; how near they come to the best recipe of other decoders is open.

    Args:
        name: "paper", whose values are the defaults of `Recipe`, or "auto".
        decoder_type: Name of the decoder; probes and Patch Forensics keep their papers' recipes,
            in batches that the images fill.
        images: Number of images of an epoch.

    Raises `UnknownNameError` for another name or decoder.
    """
    if name not in get_args(RecipeName):
        raise UnknownNameError("recipe", name, get_args(RecipeName))
    kind = read_decoder_type(decoder_type).kind
    if name == "paper":
        return {}
    if kind in ("probe", PATCH_FORENSICS):
        return {} if images >= PAPER_BATCH else {"batch_size": images}
    batch_size = _batch_size(images)
    steps = STEPS_AT_100_IMAGES * sqrt(images / 100)
    return {
        "schedule": "one-cycle",
        "epochs": max(LEAST_EPOCHS, round(steps / -(-images // batch_size))),
        "batch_size": batch_size,
        "learning_rate": 3e-2 if kind == "linear" else 3e-3,
        "initialization": "pytorch",
    }


def _batch_size(images: int) -> int:
    """Return 8 up to 1,000 images, then the power of 2 for 125 to 250 steps an epoch, up to 64."""
    size = 8
    while size < PAPER_BATCH and images / size > 250:
        size *= 2
    return max(1, min(size, images // 4))
