"""Small forgeries on large images, seen whole and in tiles: IoU, recall of regions and seconds.

python benchmarks/resolution.py --folder DIR [--canvases 14 3 12] [--seeds 0 1 2] [--steps 150]
    [--models dinov2-vit-s14 efficientnet-lite0] [--decoder pup] [--overlap 0.125] [--name NAME]
python benchmarks/resolution.py --folder DIR --choose [--decoders linear mlp pup]

Writes results/NAME.json, by default resolution.json. The images are the demo's large set: canvases
of 2 to 12 megapixels, of which 0.05% to 1% is forged. Of each canvas one forgery is taken, by the
four generators in turn, so all of them are learned and tested. Rows are what the backbone sees: the
whole image at 224 or 448 pixels, tiles of 224 or 448 pixels at native resolution, or tiles of 224
with the whole image at 224 beside. Images, layers, decoder, seeds, batches and the number of steps
are the same in all rows; a third of the epochs without a better validation IoU ends a plateau.

IoU: mean over test images at their own size, with its interval over scenes and seeds. "of 224": how
many times that of the whole image at 224 pixels. Recall of regions: a region is a connected part of
the mask (8 neighbours), and found where at least half of its pixels are called fake; the share over
all regions and seeds. Seconds: extraction of all canvases; prediction from file to map of the first
seed's run, on the smallest, a middle and the largest canvas of the test split. "growth" is the
largest one's seconds a megapixel over the smallest one's: 1 is linear, less is better.

--choose compares decoders by the validation IoU of the first seed, and looks at no test image.

What is in DIR is not done again, so an interrupted command goes on where it was. Seconds of an
extraction that was interrupted are left out.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from reporting import report
from scipy import ndimage

import declip_pipeline as dp
from declip_pipeline.datasets.demo.build import GENERATORS, build_demo_set
from declip_pipeline.datasets.scan import scan_dataset
from declip_pipeline.decoders.averaged import AveragedDecoders, mean_logits
from declip_pipeline.decoders.decoder import probability_maps
from declip_pipeline.evaluation.intervals import localization_figures
from declip_pipeline.evaluation.joined_scores import joined_maps
from declip_pipeline.evaluation.scores import logits_of
from declip_pipeline.feeding.inputs import inputs_like
from declip_pipeline.files import write_json
from declip_pipeline.images.tiles import Tiling
from declip_pipeline.training.run import Run
from declip_pipeline.training.tile_choice import learned_tiles

# Layers of each backbone, the same in all rows. For the CNN, layer2 beside layer3 may be better,
# and a step takes twice as long.
LAYERS = {
    "dinov2-vit-s14": ["layer5", "layer9"],
    "efficientnet-lite0": ["layer3"],
}
RECIPE: dict[str, Any] = {
    "recipe": "paper",
    "initialization": "pytorch",
    "learning_rate": 2e-3,
}
BATCH_SIZE = 8
TILES_AT_ONCE = 16
GOAL = 3.0
FOUND_SHARE = 0.5
PROGRESS_SECONDS = 15.0


@dataclass(frozen=True)
class View:
    """View of a backbone: the whole image, or tiles of it, maybe with the whole image beside."""

    size: int
    in_tiles: bool = False
    beside: "View | None" = None

    @property
    def seen(self) -> str:
        return f"tiles of {self.size}" if self.in_tiles else f"whole, {self.size}"

    @property
    def name(self) -> str:
        return self.seen if self.beside is None else f"{self.seen} + {self.beside.seen}"


WHOLE = View(224)
VIEWS = (
    WHOLE,
    View(448),
    View(224, in_tiles=True),
    View(448, in_tiles=True),
    View(224, in_tiles=True, beside=WHOLE),
)


def main() -> None:
    options = _options()
    settings = {
        key: value
        for key, value in vars(options).items()
        if key not in ("folder", "name", "choose", "decoder", "decoders")
    }
    settings |= {"layers": {model: LAYERS[model] for model in options.models}}
    work = Work(options)
    if options.choose:
        rows = [row for model in options.models for row in work.choice(model)]
        report(f"{options.name}_choice", rows, settings)
        return
    rows = [row for model in options.models for row in work.rows(model)]
    report(options.name, rows, {**settings, "decoder": options.decoder})


def _options() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--folder", type=Path, required=True, help="keeps data, stores, runs")
    arguments.add_argument(
        "--canvases", type=int, nargs=3, default=[14, 3, 12], metavar=("TRAIN", "VALID", "TEST")
    )
    arguments.add_argument("--models", nargs="+", choices=list(LAYERS), default=list(LAYERS))
    arguments.add_argument("--decoder", default="pup")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--steps", type=int, default=150, help="of a training")
    arguments.add_argument("--overlap", type=float, default=0.125, help="of tiles")
    arguments.add_argument("--choose", action="store_true", help="compare decoders on valid")
    arguments.add_argument("--decoders", nargs="+", default=["linear", "mlp", "pup"])
    arguments.add_argument("--name", default="resolution", help="of the JSON file in results/")
    return arguments.parse_args()


class Work:
    """The stages, each of which finds in the folder what was done before."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.folder: Path = options.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.notes = Notes(self.folder / "notes.json")
        self._stores: dict[str, dp.Store] = {}
        images = {"canvases": options.canvases, "overlap": options.overlap}
        found = self.notes.of("images", lambda: images)
        if found != images:
            raise SystemExit(f"{self.folder} is of {found}, not of {images}; name another folder")
        data = self.folder / "data"
        if not data.exists():
            train, valid, test = options.canvases
            build_demo_set(
                data,
                size="large",
                train_count=train,
                valid_count=valid,
                test_count=test,
                progress=shown("canvases built"),
            )
        self.dataset = one_forgery_each(dp.open_dataset(data / "demo"))

    def rows(self, model: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of a backbone."""
        baseline = None
        for view in VIEWS:
            runs = [self.trained(model, view, self.options.decoder, s) for s in self.options.seeds]
            store, beside = self.stores(model, view)
            evaluations = []
            for run in runs:
                one = dp.evaluate(run, store, beside=beside, batch_size=TILES_AT_ONCE, reuse=True)
                one.save()
                evaluations.append(one)
            figures = localization_figures(evaluations)
            iou, low, high = (figures[name] for name in ("iou", "iou_low", "iou_high"))
            baseline = iou if view == WHOLE else baseline
            found = [self.region_counts(run, store, beside) for run in runs]
            seconds = np.asarray(self.prediction_seconds(runs[0]))
            say(f"{model}, {view.name}: IoU {iou:.1f}")
            yield {
                "model": model,
                "view": view.name,
                "IoU": iou,
                "interval": "" if low is None else f"{low:.1f} to {high:.1f}",
                "of 224": f"{iou / baseline:.1f}x" if baseline else "",
                "goal": f"{GOAL:g}x" if view.in_tiles else "",
                "recall of regions": sum(n for n, _ in found) / sum(n for _, n in found),
                "extraction s/MP": self.extraction_seconds(model, view),
                "prediction s/MP": float(seconds[:, 1].sum() / seconds[:, 0].sum()),
                "growth": f"{growth(seconds):.2f}",
            }

    def choice(self, model: str) -> Iterator[dict[str, Any]]:
        """Yield the validation IoU of each decoder on each view."""
        for decoder in self.options.decoders:
            runs = {
                view.name: self.trained(model, view, decoder, self.options.seeds[0])
                for view in VIEWS
            }
            scores = {name: run.best_score for name, run in runs.items()}
            yield {"model": model, "decoder": decoder, **scores, "mean": fmean(scores.values())}

    def store(self, model: str, view: View) -> dp.Store:
        """Return the store of a view without what is beside, and note its seconds."""
        key = extraction_key(model, view)
        if key not in self._stores:
            is_new = key not in self.notes.known
            if is_new:
                self.notes.keep(key, None)  # what stays of an extraction that is interrupted
            started = time.perf_counter()
            self._stores[key] = dp.extract(
                self.dataset,
                model,
                layers=LAYERS[model],
                cache=self.folder / "cache",
                image_size=None if view.in_tiles else view.size,
                tiles=Tiling(view.size, self.options.overlap) if view.in_tiles else None,
                progress=shown(f"{model}, {view.seen}: extracted"),
            )
            if is_new:
                self.notes.keep(key, time.perf_counter() - started)
        return self._stores[key]

    def stores(self, model: str, view: View) -> tuple[dp.Store, list[dp.Store]]:
        """Return the store of a view, and those beside it."""
        beside = [] if view.beside is None else [self.store(model, view.beside)]
        return self.store(model, view), beside

    def extraction_seconds(self, model: str, view: View) -> float | str:
        """Return the seconds a megapixel of all stores of a view; "" where one is not known."""
        views = [view] if view.beside is None else [view, view.beside]
        found = [self.notes.known[extraction_key(model, one)] for one in views]
        if None in found:
            return ""
        return float(sum(found) / megapixels(self.dataset).sum())

    def trained(self, model: str, view: View, decoder: str, seed: int) -> Run:
        """Return a run of about as many steps as every other, whatever the number of samples."""
        store, beside = self.stores(model, view)
        rows = store.fake_rows("train")
        count = len(rows if store.tiling is None else learned_tiles(store, rows))
        batch_size = min(BATCH_SIZE, count)
        epochs = -(-self.options.steps // -(-count // batch_size))
        started = time.perf_counter()
        run = dp.train(
            store,
            layer=LAYERS[model],
            decoder=decoder,
            beside=[(one, layer) for one in beside for layer in LAYERS[model]],
            runs=self.folder / "runs",
            seed=seed,
            epochs=epochs,
            patience=max(1, epochs // 3),
            batch_size=batch_size,
            **RECIPE,
        )
        say(
            f"{model}, {view.name}: {decoder}, seed {seed}, {count} samples, {epochs} epochs, "
            f"valid {run.best_score:.1f} ({time.perf_counter() - started:.0f} s)"
        )
        return run

    def region_counts(
        self, run: Run, store: dp.Store, beside: Sequence[dp.Store]
    ) -> tuple[int, int]:
        """Return how many forged regions of the test split a run finds, and how many there are."""

        def count() -> list[int]:
            both = [found_regions(*pair) for pair in maps_and_masks(run, store, beside)]
            return [sum(found for found, _ in both), sum(regions for _, regions in both)]

        found, regions = self.notes.of(f"regions, {run.path.name}", count)
        return found, regions

    def prediction_seconds(self, run: Run) -> list[list[float]]:
        """Return megapixels and seconds, from file to map, of images from small to large."""

        def measure() -> list[list[float]]:
            tested = self.dataset.select(splits="test")
            sizes = megapixels(tested)
            order = np.argsort(sizes).tolist()
            files = [tested.root / one.image for one in tested.samples]
            predictor = run.predictor()
            predictor(files[order[0]])  # not counted: memory that comes with the first batches
            found = []
            for row in dict.fromkeys([order[0], order[len(order) // 2], order[-1]]):
                started = time.perf_counter()
                predictor(files[row])
                found.append([float(sizes[row]), time.perf_counter() - started])
            return found

        seconds: list[list[float]] = self.notes.of(f"prediction, {run.path.name}", measure)
        return seconds


class Notes:
    """Measurements that are kept in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    def keep(self, key: str, value: Any) -> None:
        """Keep a note."""
        self.known[key] = value
        write_json(self._file, self.known)

    def of(self, key: str, measure: Callable[[], Any]) -> Any:
        """Return a note, measured now unless it is there."""
        if key not in self.known:
            self.keep(key, measure())
        return self.known[key]


def extraction_key(model: str, view: View) -> str:
    return f"extraction, {model}, {view.seen}"


def megapixels(dataset: dp.Dataset) -> np.ndarray:
    """Return the sizes of images, (N,) float64."""
    sizes: np.ndarray = dataset.samples.sizes.astype(np.float64).prod(axis=1) / 1e6
    return sizes


def one_forgery_each(dataset: dp.Dataset) -> dp.Dataset:
    """Keep one forgery of each canvas, by the generators in turn; scanned."""
    numbers = {scene: number for number, scene in enumerate(dataset.samples.names("scene"))}
    rows = [
        row
        for row, sample in enumerate(dataset.samples)
        if sample.generator == GENERATORS[numbers[sample.scene] % len(GENERATORS)]
    ]
    return scan_dataset(replace(dataset, samples=dataset.samples.take(rows))).dataset


def maps_and_masks(
    run: Run, store: dp.Store, beside: Sequence[dp.Store]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the map and mask of each test image, (H, W) at its own size."""
    decoder, features = run.best_decoder()
    decoders = AveragedDecoders([decoder])
    sources = inputs_like(features, store, beside, decoder=str(run)).sources
    rows, device = store.fake_rows("test"), torch.device("cpu")
    if store.tiling is not None:
        yield from joined_maps(
            decoders, store, sources, rows, device=device, batch_size=TILES_AT_ONCE
        )
        return
    for positions, logits in logits_of(decoders, store, sources, rows, "masks", device, 1):
        mask = store.read_masks(rows[positions])[0]
        yield probability_maps(mean_logits(logits), *mask.shape)[0].numpy(), mask


def found_regions(probability: np.ndarray, mask: np.ndarray) -> tuple[int, int]:
    """Return how many connected regions of a mask are found, and how many there are."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    shares = ndimage.mean(probability > 0.5, labels, np.arange(1, count + 1))
    return int((np.asarray(shares) >= FOUND_SHARE).sum()), int(count)


def growth(seconds: np.ndarray) -> float:
    """Return the last image's seconds a megapixel over the first one's, of (N, 2)."""
    rates = seconds[:, 1] / seconds[:, 0]
    return float(rates[-1] / rates[0])


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def shown(what: str) -> Callable[[int, int], None]:
    """Return a progress function that prints now and then."""
    last = time.perf_counter()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.perf_counter() - last > PROGRESS_SECONDS:
            last = time.perf_counter()
            say(f"{what} {done} of {total}")

    return progress


if __name__ == "__main__":
    main()
