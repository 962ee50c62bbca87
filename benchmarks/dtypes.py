"""Size of each dtype of stored features, and its effect on features and decoders.

python benchmarks/dtypes.py

On the demo's photographs, forged by Telea's inpainting. Everything is measured against float32: the
features' error, the IoU of decoders trained on float32 when they read another dtype, and that of
decoders trained and tested on it, the mean over seeds.
"""

from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import torch
from reporting import report

from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.datasets.demo.build import build_demo_set
from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.evaluation.evaluate import evaluate
from declip_pipeline.extraction.extract import extract_store
from declip_pipeline.features import FEATURE_DTYPES
from declip_pipeline.store.comparison import compare_layers
from declip_pipeline.store.reader import Store
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.run import Run
from declip_pipeline.training.runs import train_run

SEEDS = (0, 1, 2, 3, 4, 5)
DECODERS = {
    "linear": {"decoder_type": "linear", "epochs": 12},
    "conv-4": {"decoder_type": "conv-4", "epochs": 5, "widths": (32, 16, 16, 16)},
}
TRAINED_LAYER = {"linear": "layer2", "conv-4": "layer3"}
DEVICE = torch.device("cpu")


def main() -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        build_demo_set(root / "demo", seed=0, train_count=144, valid_count=32, test_count=96)
        stores = {dtype: stored(root, dtype) for dtype in ("float32", *FEATURE_DTYPES)}
        rows = error_rows(stores)
        report("dtypes_features", rows, {"backbone": "efficientnet-lite0", "images": 256})
        runs = {dtype: trained(root, stores[dtype], dtype) for dtype in stores}
        report("dtypes_iou", iou_rows(stores, runs), {"seeds": SEEDS, "decoders": DECODERS})


def stored(root: Path, dtype: str) -> Store:
    """A store of the demo's telea forgeries; after the first, out of the float32 one."""
    dataset = open_dataset(root / "demo", generators=["telea"])
    backbone = open_backbone("efficientnet-lite0", device="cpu")
    layers = list(backbone.layers)
    found = extract_store(dataset, backbone, layers=layers, root=root / "cache", dtype=dtype)
    return Store(found.location)


def error_rows(stores: dict[str, Store]) -> list[dict]:
    return [
        {
            "dtype": dtype,
            "layer": layer.layer,
            "kB/image": layer.bytes_per_image[1] / 1e3,
            "of float16": layer.bytes_per_image[1] / stores["float16"].bytes_per_row(layer.layer),
            "images/s": layer.images_per_second[1],
            "error %": 100 * layer.relative_error,
            "largest error": layer.largest_error,
            "cosine": f"{layer.cosine:.6f}",
        }
        for dtype, store in stores.items()
        if dtype != "float32"
        for layer in compare_layers(stores["float32"], store)
    ]


def trained(root: Path, store: Store, dtype: str) -> dict[tuple[str, int], Run]:
    return {
        (name, seed): train_run(
            TrainingData([store], device=DEVICE),
            root / "runs" / dtype,
            layer=TRAINED_LAYER[name],
            recipe=Recipe(
                seed=seed, initialization="pytorch", batch_size=8, learning_rate=2e-3, **settings
            ),
        )
        for name, settings in DECODERS.items()
        for seed in SEEDS
    }


def iou_rows(stores: dict[str, Store], runs: dict) -> list[dict]:
    exact = {key: iou(run, stores["float32"]) for key, run in runs["float32"].items()}
    rows = []
    for dtype, store in stores.items():
        for name in DECODERS:
            read = [iou(runs["float32"][name, seed], store) for seed in SEEDS]
            own = [iou(runs[dtype][name, seed], store) for seed in SEEDS]
            reference = mean(exact[name, seed] for seed in SEEDS)
            changes = [value - exact[name, seed] for value, seed in zip(read, SEEDS, strict=True)]
            rows.append(
                {
                    "dtype": dtype,
                    "decoder": f"{name} on {TRAINED_LAYER[name]}",
                    "float32 IoU": f"{reference:.2f}",
                    "read in dtype": f"{mean(changes):+.2f}",
                    "largest change": f"{max(changes, key=abs):+.2f}",
                    "trained in dtype": f"{mean(own) - reference:+.2f}",
                    "spread over seeds": f"{max(own) - min(own):.2f}",
                }
            )
    return rows


def iou(run: Run, store: Store) -> float:
    return evaluate(run, store, device=DEVICE).mean("iou")


if __name__ == "__main__":
    main()
