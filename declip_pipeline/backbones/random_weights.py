"""Random initialisation, only under its own name `random:SEED`: it teaches a decoder nothing."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from declip_pipeline.compute import derived_seed
from declip_pipeline.errors import InputError


def random_seed(weights: str | None) -> int | None:
    """The seed of "random:SEED"; None for a file or for no weights. Raises `InputError`."""
    if weights is None or not weights.startswith("random:"):
        return None
    text = weights.removeprefix("random:")
    if not re.fullmatch(r"[0-9]+", text):
        raise InputError(f"weights {weights!r}: expected random:SEED with a whole number, random:0")
    return int(text)


def name_with_seed(name: str, seed: int | None) -> str:
    """The canonical name, marked as random where it is: "CLIP:RN50[random:0]"."""
    return name if seed is None else f"{name}[random:{seed}]"


@contextmanager
def initialised_from(seed: int | None) -> Iterator[None]:
    """Build networks inside with weights that depend on `seed` alone; leaves torch's seed as is."""
    with torch.random.fork_rng(devices=[]):
        # The CPU's generator only: torch.manual_seed would also reseed every GPU.
        torch.default_generator.manual_seed(derived_seed(seed or 0, "backbone weights"))
        yield
