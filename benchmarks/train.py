"""Training from a store: beside the bare decoder, beside a loop without a cache, and in one pass.

python benchmarks/train.py [--parts bare,cache,ablation] [--decoders conv-4] [--device cuda]

Features of ViT-L/14's shape, half a megabyte an image. Steps are timed without validation and
checkpoints, contestants in turns, a median over rounds. Against the loop without a cache whole
epochs are timed, training and validation, once: the second from the store, the only one without.
The ablation is timed once, with reading and writing.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from extract import write_pictures
from reporting import report
from store import SHAPE, fill, in_turns, new_writer

from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.compute import mapping_parts, multiply_accumulates
from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.extraction.extract import extract_store
from declip_pipeline.feeding.feed import Feed
from declip_pipeline.store.reader import Store
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.learner import GradientLearner
from declip_pipeline.training.recipe import Recipe, choose_precision
from declip_pipeline.training.run import Run
from declip_pipeline.training.runs import plan_run, train_runs
from declip_pipeline.training.side_by_side import take_steps
from declip_pipeline.training.train import Training

DECODERS = ("linear", "attention", "conv-4", "conv-20")
# Of an epoch's seconds over the bare decoder's.
GOAL_OVER_BARE = {"linear": 1.5, "conv-4": 1.10, "conv-20": 1.10}
# Of the loop's seconds over an epoch's.
GOAL_OVER_CACHE = {"cpu": {"linear": 300, "conv-4": 6, "conv-20": 3}, "cuda": {"conv-20": 8}}
LAYERS = [f"layer{number}" for number in range(24)]
PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12}


def main() -> None:
    options = _options()
    settings = {key: value for key, value in vars(options).items() if key != "folder"}
    parts = {
        "bare": beside_the_bare_decoder,
        "cache": beside_no_cache,
        "ablation": in_one_pass,
    }
    for name in options.parts.split(","):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            report(f"{options.name}_{name}", parts[name](Path(folder) / name, options), settings)


def _options() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--parts", default="bare,cache,ablation")
    arguments.add_argument("--decoders", default=",".join(DECODERS), help="of the bare part")
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--images", type=int, default=64, help="of an epoch; linear takes 8x")
    arguments.add_argument("--ablation-images", type=int, default=256)
    arguments.add_argument("--batch-size", type=int, default=32)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--compile", action="store_true", help="ours with torch.compile, too")
    arguments.add_argument("--folder", type=Path, default=None, help="where to write; default: tmp")
    arguments.add_argument("--name", default="train", help="of the JSON file in results/")
    return arguments.parse_args()


def row(measure: str, contestant: str, seconds: float, ratio: str = "", goal: str = "") -> dict:
    return {
        "measure": measure,
        "contestant": contestant,
        "seconds": seconds,
        "ratio": ratio,
        "goal": goal,
    }


def beside_the_bare_decoder(root: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Epochs from the store over forward, backward and step on tensors that are there already."""
    device = torch.device(options.device)
    images = 8 * options.images
    features = np.random.default_rng(0).standard_normal((64, *SHAPE.array_shape))
    writer = new_writer(root, images)
    fill(writer, features.astype(np.float16), writer.pending_shards())
    writer.finish()
    store = Store(root)
    rows = []
    for decoder_type in options.decoders.split(","):
        count = images if decoder_type == "linear" else options.images
        for precision in dict.fromkeys(("float32", choose_precision("auto", decoder_type, device))):
            recipe = Recipe(decoder_type, batch_size=options.batch_size, precision=precision)
            bare = bare_epoch(recipe, count, device)
            contestants = {"bare": bare}
            for tier in ("device", "memory", "stream"):
                if tier == "device" and device.type == "cpu":
                    continue
                contestants[f"from the store, {tier}"] = cached_epoch(
                    store, recipe, count, device, tier
                )
            if options.compile:
                compiled = replace(recipe, compile=True)
                contestants["from the store, compiled"] = cached_epoch(
                    store, compiled, count, device, "auto"
                )
            seconds = timed(contestants, options.rounds, device)
            flops = flops_of_step(recipe, device)
            for name, found in seconds.items():
                each = found / count
                share = flops / each / peak() if peak() else None
                rows.append(
                    row(
                        f"{decoder_type}, {precision}, ms an image",
                        name + (f", {100 * share:.0f}% of peak" if share else ""),
                        1e3 * each,
                        f"{found / seconds['bare']:.2f}x of bare",
                        ""
                        if name == "bare" or decoder_type not in GOAL_OVER_BARE
                        else f"at most {GOAL_OVER_BARE[decoder_type]}x",
                    )
                )
    return rows


def timed(
    contestants: dict[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, float]:
    """Median seconds of each, in turns, after one that is not counted."""

    def finished(work: Callable[[], object]) -> Callable[[], object]:
        def run() -> None:
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return run

    ready = {name: finished(work) for name, work in contestants.items()}
    if rounds > 1 or device.type == "cuda":
        for work in ready.values():
            work()
    return {name: turn.seconds for name, turn in in_turns(ready, rounds).items()}


def bare_epoch(recipe: Recipe, images: int, device: torch.device) -> Callable[[], object]:
    """The decoder, its loss and its optimizer in plain PyTorch, on one batch again and again."""
    learner = GradientLearner(replace(recipe, micro_batch_size=None), [SHAPE], "concat", device)
    features = torch.randn(recipe.batch_size, *SHAPE.array_shape, device=device)
    targets = torch.rand(recipe.batch_size, 256, 256, device=device)
    decoder, optimizer = learner.decoder.train(), learner._optimizer
    is_float32 = recipe.precision == "float32"

    def epoch() -> None:
        for _ in range(0, images, recipe.batch_size):
            with torch.autocast(device.type, torch.bfloat16, enabled=not is_float32):
                logits = decoder(features)
            loss = F.binary_cross_entropy_with_logits(logits.float(), targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return epoch


def cached_epoch(
    store: Store, recipe: Recipe, images: int, device: torch.device, tier: str
) -> Callable[[], object]:
    """The steps of an epoch as a training takes them."""
    inputs = TrainingData([store], device=device).inputs(next(iter(store.layers)))
    feed = Feed([(store, store.fake_rows("train"))], inputs.sources, device=device, tier=tier)
    learner = GradientLearner(recipe, inputs.shapes, "concat", device)
    training = Training(Run(Path("no-run")), inputs, recipe, learner)
    order = np.random.default_rng(0).permutation(len(feed))[:images]

    def epoch() -> None:
        training.begin_epoch()
        with mapping_parts(learner.threads) as map_pieces:
            training.mean_loss(take_steps([training], feed, order, map_pieces), str)

    return epoch


def flops_of_step(recipe: Recipe, device: torch.device) -> float:
    """Floating point operations of a step, of one image: the MACs of two."""
    learner = GradientLearner(recipe, [SHAPE], "concat", device)
    features = torch.randn(2, *SHAPE.array_shape, device=device)
    return float(multiply_accumulates(lambda: learner.decoder(features).sum().backward()))


def peak() -> float | None:
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((flops for key, flops in PEAK.items() if key in name), None)


def beside_no_cache(root: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """An epoch, with its validation, from the store and from the images (`--no-cache`)."""
    write_pictures(root / "data", options.images)
    as_validation(root / "data", options.images // 4)
    backbone = open_backbone("CLIP:ViT-L/14", weights=["random:0"], device=options.device)
    dataset = open_dataset(root / "data")
    store = Store(
        extract_store(
            dataset,
            backbone,
            layers=["layer20"],
            root=root / "cache",
            dtype="float32",
            provenance={"arch": "CLIP:ViT-L/14", "weights": ["random:0"]},
        ).location
    )
    del backbone
    device = torch.device(options.device)
    rows = []
    for decoder_type in ("linear", "conv-4", "conv-20"):
        precision = choose_precision("auto", decoder_type, device)
        runs = {
            "without a cache, float32": (Recipe(decoder_type), True),
            "from the store, float32": (Recipe(decoder_type), False),
            f"from the store, {precision}": (Recipe(decoder_type, precision=precision), False),
        }
        seconds = {
            name: epoch_seconds(root / "runs", store, recipe, uncached, options)
            for name, (recipe, uncached) in runs.items()
        }
        slow = seconds["without a cache, float32"]
        goal = GOAL_OVER_CACHE[device.type].get(decoder_type)
        for name, found in seconds.items():
            is_goal = goal and name == f"from the store, {precision}"
            rows.append(
                row(
                    f"{decoder_type}, epoch of {options.images} images",
                    name,
                    found,
                    f"{slow / found:.1f}x faster",
                    f"{goal}x" if is_goal else "",
                )
            )
    return rows


def as_validation(root: Path, count: int) -> None:
    """Move the first images to the split `valid`."""
    for kind in ("images", "masks"):
        (root / kind / "valid").mkdir()
        for path in sorted((root / kind / "train").iterdir())[:count]:
            path.rename(root / kind / "valid" / path.name)


def epoch_seconds(
    runs: Path, store: Store, recipe: Recipe, uncached: bool, options: argparse.Namespace
) -> float:
    """Seconds of the second epoch, or of the only one without a cache, with its validation."""
    recipe = replace(recipe, epochs=1 if uncached else 2, batch_size=options.batch_size)
    data = TrainingData([store], device=torch.device(options.device), uncached=uncached)
    run = plan_run(data, runs, layer="layer20", recipe=recipe)
    (error,) = train_runs(data, [run])
    if error is not None:
        raise error
    return float(run.folder.epochs()[-1]["seconds"])


def in_one_pass(root: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Linear decoders on all 24 layers: a command each, a run each, and all in one pass."""
    images = options.ablation_images
    features = np.random.default_rng(0).standard_normal((64, *SHAPE.array_shape))
    writer = new_writer(root / "store", images, LAYERS, valid=images // 8)
    fill(writer, features.astype(np.float16), writer.pending_shards())
    writer.finish()
    recipe = Recipe("linear", epochs=5, batch_size=options.batch_size)
    contestants = {
        "24 commands": lambda runs: commands(root / "store", runs, options, LAYERS),
        "one command": lambda runs: commands(root / "store", runs, options, ["all"]),
        "24 runs in one process": lambda runs: trained(root, runs, recipe, options, 1),
        "24 runs in one pass": lambda runs: trained(root, runs, recipe, options, 24),
    }
    seconds = {}
    for name, work in contestants.items():
        started = time.perf_counter()
        work(root / name)
        seconds[name] = time.perf_counter() - started
    measure = f"linear on 24 layers, {images} images, {recipe.epochs} epochs"
    pairs = (("24 commands", "one command"), ("24 runs in one process", "24 runs in one pass"))
    return [
        line
        for apart, together in pairs
        for line in (
            row(measure, apart, seconds[apart]),
            row(
                measure,
                together,
                seconds[together],
                f"{seconds[together] / seconds[apart]:.2f}x",
                "at most 0.5x",
            ),
        )
    ]


def commands(store: Path, runs: Path, options: argparse.Namespace, layers: Sequence[str]) -> None:
    """`declip-pipe train` for each of these layers, or once for "all"."""
    for layer in layers:
        command = [
            *(sys.executable, "-c", "from stages.app import main; main()"),
            *("train", str(store), "--layers", layer, "--decoder-type", "linear"),
            *("--epochs", "5", "--batch-size", str(options.batch_size), "-o", str(runs)),
            *("--device", options.device),
        ]
        subprocess.run(command, check=True, capture_output=True)


def trained(
    root: Path, runs: Path, recipe: Recipe, options: argparse.Namespace, together: int
) -> None:
    """All layers, so many side by side."""
    data = TrainingData([Store(root / "store")], device=torch.device(options.device))
    planned = [plan_run(data, runs, layer=layer, recipe=recipe) for layer in LAYERS]
    for first in range(0, len(planned), together):
        if any(train_runs(data, planned[first : first + together])):
            raise SystemExit("a run failed")


if __name__ == "__main__":
    main()
