"""Prediction against the bare forward pass, and the memory that it takes.

python benchmarks/predict.py [--parts rates tiles memory] [--images 500] [--rounds 5]
    [--batch-size 16] [--models efficientnet-lite0 dinov2-vit-s14] [--few 1000] [--many 10000]

Writes results/predict_PART.json for each part, with --name NAME in place of predict.

Rates: the pipeline of `declip-pipe predict`, from JPEG files of 512x512 pixels to results on the
disk, beside "bare", backbone and decoder alone on batches that are tensors already. Each round
gives every contestant a turn; ratios are taken within a round, and their median is shown. The
decoder is a linear one, the cheapest there is. The machine may be busy with other things; "CPU ms"
is the processor time of an image, and its ratio is what a quiet machine would come near to.

Tiles: one image of 12 megapixels in windows of 224 pixels that overlap by a quarter, all kinds of
files saved, beside the bare forward pass of as many windows.

Memory: peaks (`VmHWM`) of processes of their own: many small images, and single images of several
sizes, whole and in tiles, with the cheapest backbone; "bytes a pixel" is what an image takes more
than the smallest.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from reporting import report

import declip_pipeline as dp
from declip_pipeline.images.decode import image_size
from declip_pipeline.images.tiles import Tiling
from declip_pipeline.prediction.predict import FolderPrediction
from declip_pipeline.training.run import Run

SIDE = 512
LAYERS = {
    "efficientnet-lite0": "layer3",
    "dinov2-vit-s14": "layer9",
    "pixels:32": "pixels",
    "pixels:224": "pixels",
}
MASKS = ("mask",)
ALL = ("mask", "map", "overlay")
GOALS = {
    ("efficientnet-lite0", MASKS): 0.75,
    ("efficientnet-lite0", ALL): 0.55,
    ("dinov2-vit-s14", MASKS): 0.85,
    ("dinov2-vit-s14", ALL): 0.7,
}
TILES = "224:0.25"
TILES_GOAL = 0.5
CHEAPEST, CHEAPEST_OF_TILES = "pixels:32", "pixels:224"
SMALL_SIDE = 64
MEGAPIXELS = (1, 25, 100)
TILED_MEGAPIXELS = 12


def main() -> None:
    options = _options()
    if options.child:
        child(options.child)
        return
    settings = {key: value for key, value in vars(options).items() if key not in ("child", "name")}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if "rates" in options.parts:
            write_photos(root / "photos", options.images, SIDE)
            rows = [row for model in options.models for row in rates(root, model, options)]
            report(f"{options.name}_rates", rows, settings)
        if "tiles" in options.parts:
            rows = [row for model in options.models for row in tiles(root, model, options)]
            report(f"{options.name}_tiles", rows, settings)
        if "memory" in options.parts:
            report(f"{options.name}_memory", memory(root, options), settings)


def _options() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--parts", nargs="+", default=["rates", "tiles", "memory"])
    arguments.add_argument("--images", type=int, default=500)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--batch-size", type=int, default=16)
    arguments.add_argument("--models", nargs="+", default=["efficientnet-lite0", "dinov2-vit-s14"])
    arguments.add_argument("--few", type=int, default=1_000)
    arguments.add_argument("--many", type=int, default=10_000)
    arguments.add_argument("--megapixels", type=float, nargs="+", default=list(MEGAPIXELS))
    arguments.add_argument("--tiled-megapixels", type=float, default=TILED_MEGAPIXELS)
    arguments.add_argument("--name", default="predict", help="of the JSON files in results/")
    arguments.add_argument("--child", help=argparse.SUPPRESS)
    return arguments.parse_args()


def write_photos(folder: Path, count: int, side: int) -> None:
    """Write JPEG files of photographs, each shifted around its edges by another distance."""
    from skimage import data

    folder.mkdir(parents=True)
    sources = [
        np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC))
        for one in (data.astronaut(), data.chelsea(), data.coffee(), data.rocket())
    ]
    random = np.random.default_rng(0)
    for number in range(count):
        shift = tuple(random.integers(0, side, 2).tolist())
        moved = np.roll(sources[number % len(sources)], shift, axis=(0, 1))
        Image.fromarray(moved).save(folder / f"{number:06d}.jpg", quality=90)


def made_run(root: Path, model: str, tiles: str | None = None) -> Run:
    """Train a linear decoder for a moment: its maps cross the threshold, as real ones do."""
    data = root / "data"
    if not data.exists():
        random = np.random.default_rng(1)
        for split in ("train", "valid"):
            for kind in ("images", "masks"):
                (data / kind / split).mkdir(parents=True)
            for number in range(4):
                pixels = random.integers(0, 256, (256, 256, 3), np.uint8)
                mask = np.zeros((256, 256), np.uint8)
                mask[32 * number : 32 * number + 96, 32:160] = 255
                name = f"{split}{number}.png"
                Image.fromarray(pixels).save(data / "images" / split / name)
                Image.fromarray(mask).save(data / "masks" / split / name)
    layer = LAYERS[model]
    store = dp.extract(
        dp.open_dataset(data), model, layers=[layer], tiles=tiles, cache=root / "cache"
    )
    return dp.train(
        store,
        layer=layer,
        decoder="linear",
        initialization="pytorch",
        learning_rate=1e-6,
        epochs=1,
        batch_size=4,
        runs=root / "runs",
    )


def rates(root: Path, model: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one backbone."""
    run = made_run(root, model)
    backbone = dp.open_backbone(model)
    contestants: dict[str, Callable[[], object]] = {
        "bare": bare_forward(run, model, backbone, options.images, options.batch_size)
    }
    named = {"masks": MASKS, "masks, maps, overlays": ALL}
    for name, save in named.items():
        contestants[name] = prediction_turn(root, run, backbone, save, options.batch_size)
    seconds = measured(contestants, options.rounds)
    return [
        {
            "model": model,
            "contestant": name,
            "images/s": options.images / median(seconds[name].walls),
            **seconds[name].beside(seconds["bare"]),
            "goal": GOALS.get((model, named.get(name, ())), ""),
            "CPU ms an image": 1e3 * median(seconds[name].works) / options.images,
        }
        for name in contestants
    ]


def tiles(root: Path, model: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one backbone on a large image in tiles."""
    run = made_run(root, model, TILES)
    backbone = dp.open_backbone(model, image_size=Tiling.parse(TILES).size)
    file = write_large(root / "tiled.jpg", options.tiled_megapixels)
    count = Tiling.parse(TILES).count(*image_size(file))
    contestants = {
        "bare, its windows": bare_forward(run, model, backbone, count, options.batch_size),
        "masks, maps, overlays": prediction_turn(
            root, run, backbone, ALL, options.batch_size, images=file
        ),
    }
    seconds = measured(contestants, options.rounds)
    return [
        {
            "model": model,
            "contestant": name,
            "megapixels": options.tiled_megapixels,
            "windows": count,
            "seconds": median(seconds[name].walls),
            **seconds[name].beside(seconds["bare, its windows"]),
            "goal": "" if "bare" in name else TILES_GOAL,
        }
        for name in contestants
    ]


@dataclass(frozen=True)
class Seconds:
    """Seconds of a contestant's turns, on the clock and of the processor."""

    walls: list[float] = field(default_factory=list)
    works: list[float] = field(default_factory=list)

    def beside(self, bare: "Seconds") -> dict[str, str]:
        """Return the ratio to the bare forward of the same round."""
        ratios = sorted(one / own for one, own in zip(bare.walls, self.walls, strict=True))
        cpu = median(one / own for one, own in zip(bare.works, self.works, strict=True))
        return {
            "of bare": f"{median(ratios):.2f}",
            "range": f"{ratios[0]:.2f} to {ratios[-1]:.2f}",
            "of bare in CPU time": f"{cpu:.2f}",
        }


def measured(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Seconds]:
    """Run rounds in which each contestant has its turn."""
    next(iter(contestants.values()))()  # not counted: memory that comes with the first batches
    seconds = {name: Seconds() for name in contestants}
    turns = deque(contestants.items())
    for _ in range(rounds):
        for name, turn in turns:
            wall, work = turn_of(turn)
            seconds[name].walls.append(wall)
            seconds[name].works.append(work)
        turns.rotate(1)  # nobody is always the first
    return seconds


def turn_of(turn: Callable[[], object]) -> tuple[float, float]:
    """Run a contestant's turn; return its seconds on the clock, and of the processor."""
    started, work = time.perf_counter(), time.process_time()
    # A contestant that prepares something returns the part that counts.
    counted = turn()
    if callable(counted):
        started, work = time.perf_counter(), time.process_time()
        counted()
    return time.perf_counter() - started, time.process_time() - work


def bare_forward(
    run: Run, model: str, backbone: dp.Backbone, images: int, batch_size: int
) -> Callable[[], object]:
    """Backbone and decoder alone, on images of the input's size that are tensors already."""
    layer, decoder = LAYERS[model], run.decoder()
    shape = (batch_size, 3, backbone.preprocessing.height, backbone.preprocessing.width)
    batch = torch.randint(0, 256, shape, dtype=torch.uint8)

    def turn() -> None:
        with torch.inference_mode():
            for first in range(0, images, batch_size):
                decoder(backbone.features(batch[: images - first], [layer])[layer])

    return turn


def prediction_turn(
    root: Path,
    run: Run,
    backbone: dp.Backbone,
    save: Sequence[str],
    batch_size: int,
    images: Path | None = None,
) -> Callable[[], object]:
    """Predict as the command does once the backbone is open."""

    def turn() -> Callable[[], object]:
        out = root / "out"
        shutil.rmtree(out, ignore_errors=True)
        prediction = FolderPrediction(
            run,
            images or root / "photos",
            out=out,
            save=save,
            backbone=backbone,
            batch_size=batch_size,
        )
        return prediction.run

    return turn


def memory(root: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Peaks of processes that predict many small images, or one large image."""
    run = made_run(root, CHEAPEST)
    write_photos(root / "small", options.many, SMALL_SIDE)
    rows = []
    for count in (options.few, options.many):
        peak = peak_of(root, run, [f"{root}/small/{'[0-9]' * 6}.jpg"], ALL, count)
        rows.append(_memory_row(f"{count:,} images of {SMALL_SIDE}x{SMALL_SIDE}", ALL, peak))
    tiled = made_run(root, CHEAPEST_OF_TILES, TILES)
    for how, one, save in (
        ("whole", run, MASKS),
        ("whole", run, (*ALL, "map-full")),
        ("in tiles", tiled, (*ALL, "map-full")),
    ):
        base: tuple[float, float] | None = None
        for megapixels in options.megapixels:
            file = write_large(root / f"large{megapixels:g}.jpg", megapixels)
            peak = peak_of(root, one, [str(file)], save)
            row = _memory_row(f"one image of {megapixels:g} megapixels, {how}", save, peak)
            if base is None:
                base = megapixels, peak
            else:
                row["bytes a pixel"] = (peak - base[1]) / (megapixels - base[0])
            rows.append(row)
    return rows


def _memory_row(what: str, save: Sequence[str], peak: float) -> dict[str, Any]:
    return {"what": what, "saved": ", ".join(save), "peak MB": peak, "bytes a pixel": ""}


def write_large(file: Path, megapixels: float) -> Path:
    """Write a JPEG of so many megapixels, 4 wide to 3 high, unless it is there."""
    if not file.exists():
        from skimage import data

        height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
        width = round(megapixels * 1e6 / height)
        source = Image.fromarray(data.astronaut())
        source.resize((width, height), Image.Resampling.BILINEAR).save(file, quality=90)
    return file


def peak_of(
    root: Path, run: Run, images: Sequence[str], save: Sequence[str], count: int | None = None
) -> float:
    """Return the peak in MB of a process that predicts images, or the first `count` of them."""
    shutil.rmtree(root / "out", ignore_errors=True)
    task = {
        "run": str(run.path),
        "images": list(images),
        "out": str(root / "out"),
        "save": list(save),
        "count": count,
    }
    ended = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps(task)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ,
    )
    return float(ended.stdout.splitlines()[-1])


def child(text: str) -> None:
    """Predict as a task says, and print this process's peak in MB."""
    task = json.loads(text)
    images = task["images"]
    if task["count"] is not None:
        (pattern,) = images
        images = sorted(str(file) for file in Path(pattern).parent.iterdir())[: task["count"]]
    found = dp.predict(task["run"], images, out=task["out"], save=task["save"])
    if found.failed:
        raise SystemExit(found.failed[0].reason)
    status = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in status if line.startswith("VmHWM"))
    print(int(peak) * 1024 / 1e6)


if __name__ == "__main__":
    main()
