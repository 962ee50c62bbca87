"""Bounds of the IoU of light decoders: the grid, training images, their photographs, generators.

python benchmarks/bounds.py --folder DIR [--part NAME ...]

Of the grid: a map that knows the mask, as the mean over each position of a coarse grid, enlarged
and compared with the mask. Of the data: decoders trained on crops of more or fewer
photographs, tested on the same images; mlp for as many steps as 20 epochs on 144 images, or for 8
epochs, lda in its one look. Of the generators: lda trained on one to four of them at
a time, on all images of each or on as many in all as one has, tested on each.

What is in DIR is not done again, so an interrupted command goes on where it was.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from reporting import report

import declip_pipeline as dp
from declip_pipeline.datasets.demo.build import GENERATORS, build_demo_set
from declip_pipeline.decoders.decoder import enlarge
from declip_pipeline.evaluation.files import EVALUATIONS
from declip_pipeline.images.masks import decode_mask

GENERATOR = "telea"
LAYERS = ["layer2", "layer4", "layer6", "layer8", "layer10", "layer11"]
# The study's, for its discriminant and its demo set.
ODD_LAYERS = ["layer1", "layer3", "layer5", "layer7", "layer9", "layer11"]
COUNTS = (144, 32, 48)
SIDES = (16, 32, 64, 128)
# Training images, and photographs that they are crops of; None takes all.
SETS = ((144, 2), (144, 5), (144, None), (300, None), (1000, None))
DECODERS = ("mlp", "lda")
BATCH_SIZE, STEPS, LEAST_EPOCHS = 8, 360, 8
PARTS = ("grid", "data", "generators")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--folder", type=Path, required=True, help="keeps data, stores, runs")
    arguments.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    arguments.add_argument("--seeds", type=int, default=3, help="of trainings; lda has none")
    arguments.add_argument(
        "--images",
        type=int,
        nargs=3,
        default=COUNTS,
        help="of training, validation and test, in the part generators",
    )
    options = arguments.parse_args()
    if "generators" in options.part:
        dataset = demo_set(options.folder / "study", options.images)
        settings: dict[str, Any] = {"decoder": "lda", "layers": ODD_LAYERS}
        settings |= {"images": options.images, "seed": 0}
        report("bounds_generators", list(of_generators(dataset, options.folder)), settings)
    if not {"grid", "data"} & {*options.part}:
        return
    dataset = demo_set(options.folder / "data", (1000, *COUNTS[1:]), [GENERATOR])
    if "grid" in options.part:
        report("bounds_grid", list(of_grids(dataset)), {"generator": GENERATOR})
    if "data" in options.part:
        settings = {"generator": GENERATOR, "layers": LAYERS, "decoders": DECODERS}
        settings |= {"seeds": options.seeds, "steps": STEPS}
        report("bounds_data", list(of_data(dataset, options)), settings)


def demo_set(
    folder: Path, counts: Sequence[int], generators: Sequence[str] = GENERATORS
) -> dp.Dataset:
    """Open a demo set, and build it first if it is not there."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        names = ("train_count", "valid_count", "test_count")
        build_demo_set(folder, **dict(zip(names, counts, strict=True)))
    return dp.open_dataset(folder / "demo", generators=generators)


def of_generators(dataset: dp.Dataset, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the IoU on generators that were learned and not, by the number that were learned."""
    images = len(stems_of(dataset))
    # All images of each, and as many in all as one generator has.
    sizes = [(count, images) for count in range(1, len(GENERATORS) + 1)]
    sizes += [(count, images // count) for count, _ in sizes[1:]]
    for count, of_each in sizes:
        store = dp.extract(
            subset(dataset, of_each, None),
            "dinov2-vit-s14",
            layers=ODD_LAYERS,
            cache=folder / "cache",
        )
        learned, unknown = [], []
        for chosen in combinations(GENERATORS, count):
            run = dp.train(
                store,
                layer=ODD_LAYERS,
                decoder="lda",
                train_on=list(chosen),
                runs=folder / "runs",
            )
            evaluation = dp.evaluate(run, store, reuse=True)
            evaluation.save(run.path / EVALUATIONS)
            for generator in GENERATORS:
                side = learned if generator in chosen else unknown
                side.append(evaluation.mean("iou", generator=generator))
        yield {
            "generators learned": count,
            "training images": int(run.summary()["train_images"]),
            "trainings": len(learned) // count,
            "IoU on a learned one": fmean(learned),
            "IoU on an unknown one": fmean(unknown) if unknown else None,
            "lowest of these": min(unknown, default=None),
        }


def of_grids(dataset: dp.Dataset) -> Iterator[dict[str, Any]]:
    """Yield the IoU of maps that know the mask at every position of a grid."""
    masks = np.stack(
        [
            decode_mask(dataset.root / str(one.mask), fake_is_white=dataset.fake_is_white)
            for one in dataset.samples
            if one.split == "test"
        ]
    )
    truth = torch.from_numpy(masks > 0)
    for side in SIDES:
        grid = F.adaptive_avg_pool2d(truth[:, None].float(), side)[:, 0]
        called = enlarge(grid, truth.shape[-1]) > 0.5
        found = (called & truth).sum((1, 2)) / (called | truth).sum((1, 2))
        yield {"grid": f"{side}x{side}", "IoU of a map that knows": 100 * float(found.mean())}


def of_data(dataset: dp.Dataset, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the IoU of decoders trained on some of the images."""
    for (images, photographs), decoder in product(SETS, DECODERS):
        chosen = subset(dataset, images, photographs)
        store = dp.extract(chosen, "dinov2-vit-s14", layers=LAYERS, cache=options.folder / "cache")
        found = []
        for seed in range(options.seeds if decoder != "lda" else 1):
            run = dp.train(
                store,
                layer=LAYERS,
                decoder=decoder,
                runs=options.folder / "runs",
                seed=seed,
                normalize="instance",
                **({} if decoder == "lda" else recipe(images)),
            )
            evaluation = dp.evaluate(run, store, reuse=True)
            evaluation.save(run.path / EVALUATIONS)
            found.append((run.best_score, evaluation.mean("iou")))
        valid, test = (fmean(some) for some in zip(*found, strict=True))
        names = {photograph(one.image) for one in chosen.samples if one.split == "train"}
        print(
            f"{time.strftime('%H:%M:%S')} {decoder}, {images} of {len(names)}: {test:.1f}",
            flush=True,
        )
        yield {
            "decoder": decoder,
            "training images": images,
            "of photographs": len(names),
            "IoU on valid, ID": valid,
            "IoU on test, ID": test,
        }


def recipe(images: int) -> dict[str, Any]:
    """Return the options of a training on so many images."""
    return {
        "flips": True,
        "channel_dropout": 0.2,
        "weight_decay": 0.05,
        "schedule": "one-cycle",
        "learning_rate": 3e-3,
        "batch_size": BATCH_SIZE,
        "epochs": max(LEAST_EPOCHS, round(STEPS / -(-images // BATCH_SIZE))),
    }


def subset(dataset: dp.Dataset, images: int, photographs: int | None) -> dp.Dataset:
    """Keep the first training images of the first photographs, by name, and all other splits.

    Of an image all forgeries are kept.
    """
    stems = stems_of(dataset)
    names: Sequence[str] = sorted({photograph(one) for one in stems})[:photographs]
    learned = [one for one in stems if photograph(one) in names]
    if len(learned) < images:
        raise SystemExit(
            f"{dataset.root} has {len(learned)} training images of {len(names)} photographs, "
            f"expected {images}; give another --folder, where more are made"
        )
    learned.sort(key=lambda one: one.rpartition("_")[2])
    kept = {*learned[:images]}
    rows = [
        row
        for row, one in enumerate(dataset.samples)
        if one.split != "train" or Path(one.image).stem in kept
    ]
    return replace(dataset, samples=dataset.samples.take(rows))


def stems_of(dataset: dp.Dataset) -> list[str]:
    """Return the names of the training images, sorted; an image's forgeries have its name."""
    return sorted({Path(one.image).stem for one in dataset.samples if one.split == "train"})


def photograph(image: str) -> str:
    """Return the name of the photograph that a crop was taken from."""
    return Path(image).stem.rpartition("_")[0]


if __name__ == "__main__":
    main()
