"""Evaluations made of numbers, as if runs had been evaluated."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from declip_pipeline.evaluation.evaluation import EvaluatedStore, Evaluation
from declip_pipeline.evaluation.metrics import METRICS

FEATURES = {"backbone": "net", "weights_sha256": "0" * 64, "preprocessing": {}, "layer": "layer1"}


def config_of(learned, seed=0, dataset="set", **changes):
    """A run's config.yaml; `learned` is a generator, or several joined by "+"."""
    names = learned.split("+")
    config = {
        "layer": "layer1",
        "train_on": names,
        "decoder_type": "linear",
        "learning_rate": 1e-3,
        "seed": seed,
        "features": FEATURES,
        "stores": [["training store"]],
        "inputs": [{"dtype": "float16"}],
        "datasets": {dataset: names},
        **changes,
    }
    return {**config, "run_sha256": str(sorted(config.items(), key=str))}


def store_of(name="store", dataset="set", view="clean", dtype="float16", generators=()):
    return EvaluatedStore(name, dataset, view, dtype, name, tuple(generators), {}, f"{name}-folder")


def localized(
    learned,
    seed=0,
    *,
    store="store",
    dataset="set",
    view="clean",
    scenes="",
    config=None,
    real_scores=(),
    scores=None,
    threshold=None,
    **ious,
):
    """A run's IoU (None: an image without a fake pixel) of images of each generator.

    `scenes` names photographs: the n-th image of every generator is made of the n-th. `real_scores`
    are those of real images, `scores` of the fakes, `threshold` the run's own for these. Of an
    image with n pixels that are fake, for the n-th from 1 on, as many are found as its IoU says.
    """
    about = store_of(store, dataset, view, generators=ious)
    images = [(name, n, iou) for name, values in ious.items() for n, iou in enumerate(values)]
    count = len(images)
    values = np.array([0.0 if iou is None else iou for *_, iou in images], float)
    table = _table(
        about,
        [f"{name}{n}" for name, n, _ in images],
        [name for name, *_ in images],
        [f"{scenes}/{n}" if scenes else f"{name}{n}" for name, n, _ in images],
        np.ones(count, np.int8),
        {
            **{name: np.full(count, 0.5) for name in METRICS},
            "has_fake": np.array([iou is not None for *_, iou in images], bool),
            "iou": values,
            "iou_valid_threshold": values,
            "iou_min_region": values,
            "f1_best": values / 100,
            "f1_fixed": values / 200,
            "ap": np.full(count, 0.75),
            **_counts(values),
            **_scores(np.full(count, 0.1) if scores is None else np.array(scores, float)),
            "fake_share": np.full(count, 0.2),
            "fake_share_valid_threshold": np.full(count, 0.3),
            "fake_share_min_region": np.full(count, 0.1),
        },
    )
    count = len(real_scores)
    of_real = _table(
        about,
        [f"real{n}" for n in range(count)],
        [None] * count,
        [f"real{n}" for n in range(count)],
        np.zeros(count, np.int8),
        {
            **_scores(np.array(real_scores, float)),
            "fake_share": np.full(count, 0.2),
            "fake_share_valid_threshold": np.full(count, 0.3),
            "fake_share_min_region": np.full(count, 0.1),
        },
    )
    run = config or config_of(learned, seed)
    return Evaluation(
        Path(f"{learned}_seed{run.get('seed')}"),
        run,
        "localization",
        "test",
        (about,),
        table,
        table[:0],
        of_real,
        score_threshold=threshold,
    )


def _scores(values):
    return {"score": values, "score_max": values, "score_top": values}


def _counts(ious):
    """Pixel counts of images of which nothing is called fake wrongly."""
    fake = 100 * np.arange(1, len(ious) + 1)
    found = (fake * ious / 100).round().astype(np.int64)
    return {"found_pixels": found, "called_pixels": found, "fake_pixels": fake}


def detected(learned, seed=0, *, store="store", dataset="set", config=None, real, **fakes):
    """A run's scores of real images and of fakes; the n-th of each is of the n-th photograph."""
    about = store_of(store, dataset, generators=fakes)
    images = [
        (name, n, score, int(name != "real"))
        for name, scores in (("real", real), *fakes.items())
        for n, score in enumerate(scores)
    ]
    table = _table(
        about,
        [f"{name}{n}" for name, n, *_ in images],
        [name for name, *_ in images],
        [f"scene{n}" for _, n, *_ in images],
        np.array([label for *_, label in images], np.int8),
        {"mean_sigmoid": np.array([score for *_, score, _ in images], float)},
    )
    run = config or config_of(learned, seed)
    place = Path(f"{learned}_seed{run.get('seed')}")
    return Evaluation(place, run, "detection", "test", (about,), table, table, table[:0])


def _table(about, ids, generators, scenes, labels, values):
    count = len(ids)
    same = {"store": about.location, "dataset": about.dataset, "view": about.view}
    columns = {"run": ["run"] * count, **{name: [text] * count for name, text in same.items()}}
    columns |= {"id": ids, "split": ["test"] * count, "generator": generators}
    columns |= {"label": labels, "scene": scenes}
    hashes = {
        name: pa.array([None] * count, pa.binary(32)) for name in ("image_sha256", "mask_sha256")
    }
    columns = {name: pa.array(value) for name, value in {**columns, **values}.items()}
    return pa.table(columns | hashes)
