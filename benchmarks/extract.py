"""Extraction against the bare forward pass, and against plain loops that do the same work.

python benchmarks/extract.py [--model ViT-B-32] [--images 256] [--device cpu]
    [--precision float32 ...] [--layers one,four,all] [--batch-size 32] [--rounds 3] [--compile]

Writes results/extract_MODEL.json, or --name.

Rates are images per second, medians of rounds in which each contestant has its turn. The images
are of Dolos' size and kind (256x256 PNG, with masks). "extraction" is what `declip-pipe extract`
does once the backbone is open: listing and hashing the files, decoding, computing, writing durably.
The plain loops decode, compute with forward hooks, and write features and masks batch by batch;
they leave out hashing, checksums, thumbnails, durability and going on after an interruption.
"bound by" names the stage that is busy for the largest share of the time.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import zarr
from PIL import Image
from reporting import report

from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.compute import multiply_accumulates
from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.extraction.extract import extract_store
from declip_pipeline.extraction.shard_filling import SHARDS_BEING_WRITTEN
from declip_pipeline.extraction.stage_times import StageTimes

SIDE = 256
GOAL = {"cpu": 0.90, "cuda": 0.85}
# Dense peaks without sparsity, in FLOP/s, as NVIDIA's data sheets have them. float32 products run
# without TF32 here, as PyTorch has it by default.
PEAKS = {
    "H200": {"float32": 67e12, "bfloat16": 989e12, "float16": 989e12},
    "H100": {"float32": 67e12, "bfloat16": 989e12, "float16": 989e12},
    "A100": {"float32": 19.5e12, "bfloat16": 312e12, "float16": 312e12},
}


def main() -> None:
    options = _options()
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root = Path(folder)
        write_pictures(root / "data", options.images)
        backbone = open_backbone(options.model, weights=["random:0"], device=options.device)
        if options.compile:
            backbone.compile()
        for precision in options.precision:
            backbone.in_precision(precision)
            for layers in options.layers.split(","):
                rows += measure(root, backbone, layers, options)
    settings = {key: value for key, value in vars(options).items() if key != "folder"}
    report(options.name or f"extract_{options.model}", rows, settings)


def _options() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--model", default="ViT-B-32")
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--precision", nargs="+", default=["float32"])
    arguments.add_argument("--layers", default="one", help="comma-separated: one, four, all")
    arguments.add_argument("--images", type=int, default=256)
    arguments.add_argument("--batch-size", type=int, default=32)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--compile", action="store_true", help="with torch.compile")
    arguments.add_argument("--loops", action=argparse.BooleanOptionalAction, default=True)
    arguments.add_argument("--folder", type=Path, default=None, help="where to write; default: tmp")
    arguments.add_argument("--name", default=None, help="of the JSON file in results/")
    return arguments.parse_args()


def write_pictures(root: Path, count: int) -> None:
    """Smooth images with some grain, and a mask for each."""
    random = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind / "train").mkdir(parents=True)
    for number in range(count):
        coarse = random.integers(0, 256, (8, 8, 3), np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        grain = random.normal(0, 4, smooth.shape)
        picture = np.clip(smooth + grain, 0, 255).astype(np.uint8)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        top, left = random.integers(0, SIDE // 2, 2)
        mask[top : top + SIDE // 2, left : left + SIDE // 3] = 255
        name = f"{number:06d}.png"
        Image.fromarray(picture).save(root / "images" / "train" / name)
        Image.fromarray(mask).save(root / "masks" / "train" / name)


def measure(
    root: Path, backbone: Backbone, layers: str, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """The rows of one backbone, precision and set of layers."""
    chosen = _chosen(list(backbone.layers), layers)
    dataset = open_dataset(root / "data")
    times = StageTimes()

    def extraction() -> None:
        extract_store(
            open_dataset(root / "data"),
            backbone,
            layers=chosen,
            root=root / "cache",
            batch_size=options.batch_size,
            times=times,
        )

    contestants: dict[str, Callable[[], object]] = {
        "bare forward": bare_forward(backbone, chosen, options.images, options.batch_size),
        "extraction": extraction,
    }
    if options.loops:
        contestants["plain loop, np.save"] = lambda: plain_loop(
            root, dataset, backbone, chosen, options.batch_size, save_files
        )
        contestants["plain loop, zarr-python"] = lambda: plain_loop(
            root, dataset, backbone, chosen, options.batch_size, save_zarr
        )
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    # Not counted: compiling, and memory that comes with the first batches.
    contestants["bare forward"]()
    turns = deque(contestants.items())
    for _ in range(options.rounds):
        for name, run in turns:
            shutil.rmtree(root / "cache", ignore_errors=True)
            shutil.rmtree(root / "loop", ignore_errors=True)
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
        # Nobody is always the first, or the one after the longest.
        turns.rotate(1)
    bare = median(seconds["bare forward"])
    flops = flops_of_picture(backbone.name, chosen)
    peak = _peak(backbone)
    found = []
    for name, values in seconds.items():
        rate = options.images / median(values)
        row: dict[str, Any] = {
            "model": backbone.name,
            "layers": layers,
            "precision": backbone.precision + (" compiled" if backbone.is_compiled else ""),
            "contestant": name,
            "images/s": rate,
            "of bare": f"{bare / median(values):.2f}",
            "spread": f"{(max(values) - min(values)) / median(values):.0%}",
            "goal": GOAL[backbone.device.type] if name == "extraction" and layers == "one" else "",
            "TFLOP/s": rate * flops / 1e12,
        }
        if peak is not None:
            row["of peak"] = f"{rate * flops / peak:.2f}"
        if name == "extraction":
            mean = {stage: value / options.rounds for stage, value in times.seconds.items()}
            row["bound by"] = busiest(mean, sum(values) / options.rounds)
            row |= {f"{stage} s": value for stage, value in mean.items()}
        found.append(row)
    return [found[1] | dict.fromkeys(found[1], "") | row for row in found]


def _chosen(names: Sequence[str], layers: str) -> list[str]:
    """One layer is the last but a sixth, as layer20 of 24; four are spread; or all."""
    depth = len(names)
    if layers == "all":
        return list(names)
    if layers == "four":
        return [names[(depth * part) // 4 - 1] for part in range(1, 5)]
    return [names[depth - 1 - depth // 8]]


def bare_forward(
    backbone: Backbone, layers: Sequence[str], images: int, batch_size: int
) -> Callable[[], object]:
    """The backbone alone, on images that are on the device already."""
    shape = (batch_size, 3, backbone.preprocessing.height, backbone.preprocessing.width)
    batch = torch.randint(0, 256, shape, dtype=torch.uint8).to(backbone.device)

    def run() -> None:
        for first in range(0, images, batch_size):
            backbone.features(batch[: images - first], layers)
        if backbone.device.type == "cuda":
            torch.cuda.synchronize()

    return run


def flops_of_picture(name: str, layers: Sequence[str]) -> float:
    """Floating-point operations of one image, as far as the layers asked for."""
    backbone = open_backbone(name, device="cpu")
    shape = (1, 3, backbone.preprocessing.height, backbone.preprocessing.width)
    images = torch.zeros(shape, dtype=torch.uint8)
    return 2.0 * multiply_accumulates(lambda: backbone.features(images, layers))


def busiest(seconds: Mapping[str, float], wall: float) -> str:
    """The stage that is busy for the largest share of `wall` seconds, with that share."""
    threads = {"decode": os.cpu_count() or 1, "write": SHARDS_BEING_WRITTEN}
    shares = {
        stage: seconds[stage] / threads.get(stage, 1) / wall
        for stage in ("hash", "decode", "copy", "forward", "encode", "write")
    }
    stage = max(shares, key=lambda name: shares[name])
    return f"{stage} {shares[stage]:.0%}"


def _peak(backbone: Backbone) -> float | None:
    if backbone.device.type != "cuda":
        return None
    name = torch.cuda.get_device_name()
    return next((peaks[backbone.precision] for card, peaks in PEAKS.items() if card in name), None)


Save = Callable[[Path, str, Sequence[str], list[np.ndarray], int, int], None]


def plain_loop(
    root: Path,
    dataset: Dataset,
    backbone: Backbone,
    layers: Sequence[str],
    batch_size: int,
    save: Save,
) -> None:
    """Decode, compute with forward hooks, and save, one after the other."""
    network = backbone.network  # type: ignore[attr-defined]
    caught: dict[str, torch.Tensor] = {}
    # open_clip's ViTs or timm's.
    blocks = network.transformer.resblocks if hasattr(network, "transformer") else network.blocks
    hooks = [
        blocks[int(layer.removeprefix("layer"))].register_forward_hook(
            lambda module, inputs, output, layer=layer: caught.update({layer: output})
        )
        for layer in layers
    ]
    mean = torch.tensor(backbone.preprocessing.mean).view(1, 3, 1, 1).to(backbone.device)
    std = torch.tensor(backbone.preprocessing.std).view(1, 3, 1, 1).to(backbone.device)
    for first, names, pictures, masks in _batches(root / "data", dataset, batch_size):
        batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).to(backbone.device)
        with (
            torch.no_grad(),
            torch.autocast(
                backbone.device.type,
                dtype=getattr(torch, backbone.precision),
                enabled=backbone.precision != "float32",
            ),
        ):
            network((batch.float() / 255 - mean) / std)
        for layer in layers:
            features = caught[layer].half().cpu().numpy()
            save(root / "loop", layer, names, list(features), first, len(dataset.samples))
        save(root / "loop", "masks", names, masks, first, len(dataset.samples))
    for hook in hooks:
        hook.remove()


def _batches(
    data: Path, dataset: Dataset, batch_size: int
) -> Iterator[tuple[int, list[str], list[np.ndarray], list[np.ndarray]]]:
    for first in range(0, len(dataset.samples), batch_size):
        samples = dataset.samples[first : first + batch_size]
        pictures, masks = [], []
        for sample in samples:
            with Image.open(data / sample.image) as picture:
                resized = picture.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
                pictures.append(np.asarray(resized))
            with Image.open(data / str(sample.mask)) as mask:
                masks.append(np.asarray(mask.convert("L")) >= 128)
        yield first, [Path(sample.image).stem for sample in samples], pictures, masks


def save_files(
    root: Path, kind: str, names: Sequence[str], values: list[np.ndarray], first: int, count: int
) -> None:
    """A file for each image."""
    (root / kind).mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, values, strict=True):
        np.save(root / kind / f"{name}.npy", value)


def save_zarr(
    root: Path, kind: str, names: Sequence[str], values: list[np.ndarray], first: int, count: int
) -> None:
    """One Zarr array, a chunk for each image, zarr-python's own settings."""
    group = zarr.open_group(root / "store", mode="a")
    if kind not in group:
        shape = values[0].shape
        group.create_array(kind, shape=(count, *shape), chunks=(1, *shape), dtype=values[0].dtype)
    group[kind][first : first + len(values)] = np.stack(values)


if __name__ == "__main__":
    main()
