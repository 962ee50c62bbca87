"""Images of an epoch: every fake once, in a seeded order, and a share of real images."""

import numpy as np

from declip_pipeline.compute import permutation


def real_count(fakes: int, real_share: float) -> int:
    """Return the number of real images of an epoch with so many fakes.

    `real_share` is their share of the epoch's images, in [0, 1).
    """
    return round(fakes * real_share / (1 - real_share))


def epoch_order(labels: np.ndarray, seed: int, epoch: int, real_share: float = 0.0) -> np.ndarray:
    """Return the positions (int64) of the images of an epoch, in their order.

    With a share of real images, `real_count` of them are drawn, each as often as any other give or
    take once. All of it depends on (seed, epoch) alone.

    Args:
        labels: (N,) labels of the images at the positions, 1 = fake.
        seed: Seed of the training.
        epoch: Number of the epoch.
        real_share: Share of the epoch's images that are real, in [0, 1); 0 takes all images once,
            whatever their labels.
    """
    if not real_share:
        return permutation(len(labels), seed, "epoch", epoch)
    fakes, reals = (np.flatnonzero(labels == label) for label in (1, 0))
    count = real_count(len(fakes), real_share)
    rounds = -(-count // len(reals))
    drawn = [reals[permutation(len(reals), seed, "real", epoch, n)] for n in range(rounds)]
    images: np.ndarray = np.concatenate([fakes, *drawn])[: len(fakes) + count]
    order: np.ndarray = images[permutation(len(images), seed, "epoch", epoch)]
    return order
