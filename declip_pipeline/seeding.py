"""Random numbers that depend on a seed and a purpose, and on nothing that ran before."""

import hashlib

import numpy as np
from numpy.random import PCG64, Generator


def derived_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, e.g. `derived_seed(0, "shuffle", epoch)`."""
    text = "/".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def generator(seed: int, *purpose: str | int) -> Generator:
    """A NumPy generator for one purpose."""
    return Generator(PCG64(derived_seed(seed, *purpose)))


def permutation(length: int, seed: int, *purpose: str | int) -> np.ndarray:
    """The numbers 0..length-1 (int64) in an order that the seed and the purpose fix."""
    return generator(seed, *purpose).permutation(length)
