"""All localization metrics: batched, beside SciPy and scikit-learn image by image."""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from reporting import report
from scipy.ndimage import maximum_filter, minimum_filter
from sklearn.metrics import (
    average_precision_score,
    matthews_corrcoef,
    precision_recall_curve,
    precision_recall_fscore_support,
    roc_auc_score,
)

from declip_pipeline.evaluation.scores import BestOnValid, localization_values

SIDE = 256
BEST = BestOnValid(threshold=0.4, min_region=0.01)


def one_by_one(maps: np.ndarray, masks: np.ndarray) -> None:
    """The same figures with well-known parts, one image after another."""
    for heat_map, mask in zip(maps, masks, strict=True):
        called = heat_map > 0.5
        _ = (called & mask).sum() / (called | mask).sum()
        fake = minimum_filter(mask, 15)
        judged = fake | ~maximum_filter(mask, 11)
        precision, recall, _ = precision_recall_curve(fake[judged], heat_map[judged])
        _ = (2 * precision * recall / np.maximum(precision + recall, 1e-9)).max()
        average_precision_score(mask.ravel(), heat_map.ravel())
        roc_auc_score(mask.ravel(), heat_map.ravel())
        precision_recall_fscore_support(mask.ravel(), called.ravel(), average="binary")
        matthews_corrcoef(mask.ravel(), called.ravel())
        precision, recall, _ = precision_recall_curve(mask.ravel(), heat_map.ravel())
        _ = (2 * precision * recall / np.maximum(precision + recall, 1e-9)).max()
        np.partition(heat_map.ravel(), -655)[-655:].mean()


def blobs(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth maps as decoders give them, and masks of one rectangle (14 % of the pixels)."""
    coarse = torch.from_numpy(rng.normal(0, 2, (count, 1, 16, 16)).astype(np.float32))
    logits = torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear")[:, 0]
    masks = np.zeros((count, SIDE, SIDE), bool)
    for mask, (top, left) in zip(masks, rng.integers(0, SIDE // 2, (count, 2)), strict=True):
        mask[top : top + SIDE // 3, left : left + 110] = True
    return (logits + torch.from_numpy(masks)).sigmoid().numpy(), masks


def milliseconds(work: Callable[[], object], count: int) -> tuple[float, float]:
    """Time of an image by the clock, and of all cores together: other programs delay the first."""
    started, computed = time.perf_counter(), time.process_time()
    work()
    ended, computed = time.perf_counter(), time.process_time() - computed
    return (ended - started) / count * 1e3, computed / count * 1e3


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--images", type=int, default=64)
    arguments.add_argument("--rounds", type=int, default=7)
    options = arguments.parse_args()
    maps, masks = blobs(np.random.default_rng(0), options.images)
    batch, truth = torch.from_numpy(maps), torch.from_numpy(masks)
    everything = torch.ones_like(truth)
    most = everything.clone()
    most[:, SIDE * 9 // 10 :] = False
    coarse = (batch * 255).round() / 255
    ways: dict[str, Callable[[], object]] = {
        "SciPy and scikit-learn": lambda: one_by_one(maps, masks),
        "batched": lambda: localization_values(batch, truth, BEST),
        "batched, maps of 8 bits": lambda: localization_values(coarse, truth, BEST),
        "batched, nine tenths fake": lambda: localization_values(batch, most, BEST),
        "batched, every pixel fake": lambda: localization_values(batch, everything, BEST),
    }
    # In turns, so that what else the machine does falls on all alike.
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(1 + options.rounds):
        for name, work in ways.items():
            times[name].append(milliseconds(work, options.images))
    rows: list[dict[str, object]] = []
    for name, spent in times.items():
        by_clock, computed = zip(*spent[1:], strict=True)
        reference = min(one for one, _ in times["SciPy and scikit-learn"][1:])
        rows.append(
            {
                "what": name,
                "best ms an image": min(by_clock),
                "median": statistics.median(by_clock),
                "ratio of bests": reference / min(by_clock),
                "best processor ms": min(computed),
            }
        )
    report("metrics", rows, {"images": options.images, "side": SIDE, "rounds": options.rounds})


if __name__ == "__main__":
    main()
