"""The four localization metrics: batched, beside SciPy and scikit-learn picture by picture."""

import numpy as np
import torch
from reporting import median_seconds, report
from scipy.ndimage import maximum_filter, minimum_filter
from sklearn.metrics import average_precision_score, precision_recall_curve

from declip_pipeline.metrics.localization import localization_metrics

PICTURES, SIDE, REPEATS = 32, 256, 5


def one_by_one(maps: np.ndarray, masks: np.ndarray) -> None:
    """The same figures with well-known parts, one picture after another."""
    for heat_map, mask in zip(maps, masks, strict=True):
        called = heat_map > 0.5
        _ = (called & mask).sum() / (called | mask).sum()
        fake = minimum_filter(mask, 15)
        judged = fake | ~maximum_filter(mask, 11)
        precision, recall, _ = precision_recall_curve(fake[judged], heat_map[judged])
        _ = (2 * precision * recall / np.maximum(precision + recall, 1e-9)).max()
        average_precision_score(mask.ravel(), heat_map.ravel())


def main() -> None:
    rng = np.random.default_rng(0)
    maps = rng.random((PICTURES, SIDE, SIDE), np.float32)
    masks = np.zeros((PICTURES, SIDE, SIDE), bool)
    for mask, (top, left) in zip(masks, rng.integers(0, SIDE // 2, (PICTURES, 2)), strict=True):
        mask[top : top + SIDE // 3, left : left + SIDE // 2] = True
    maps[masks] += 0.3
    maps = maps.clip(0, 1)
    batch, truth = torch.from_numpy(maps), torch.from_numpy(masks)
    ours = median_seconds(lambda: localization_metrics(batch, truth), REPEATS)
    reference = median_seconds(lambda: one_by_one(maps, masks), REPEATS)
    rows = [
        {"what": name, "ms a picture": seconds / PICTURES * 1e3, "ratio": reference / seconds}
        for name, seconds in (("SciPy and scikit-learn", reference), ("batched", ours))
    ]
    report("metrics", rows, {"pictures": PICTURES, "side": SIDE, "repeats": REPEATS})


if __name__ == "__main__":
    main()
