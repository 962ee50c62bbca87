"""Distances of standardised features from their mean: whether clipping would change them.

python benchmarks/activations.py [--arch dinov2-vit-s14] [--images 20]

On forged images of the demo set with another seed than the default. For each layer: the least and
largest deviation of a channel over positions; of the features standardised by these, the quantile
99.99% of their magnitudes, the share beyond 5 deviations, the largest one, and the largest one of
the class token.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from reporting import report

from declip_pipeline.datasets.demo.build import build_demo_set
from declip_pipeline.extraction.extract import extract

SEED = 1
BEYOND = 5


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--arch", default="dinov2-vit-s14")
    arguments.add_argument("--images", type=int, default=20)
    options = arguments.parse_args()
    with TemporaryDirectory() as folder:
        root = Path(folder)
        build_demo_set(
            root / "demo", seed=SEED, train_count=options.images, valid_count=1, test_count=1
        )
        store = extract(root / "demo", options.arch, cache=root / "cache", device="cpu")
        rows = store.fake_rows("train")
        found = []
        for layer, shape in store.layers.items():
            features = store.read_layer(layer, rows).decoded()
            if shape.is_grid:
                features = features.flatten(2).transpose(1, 2)
            first = shape.prefix_tokens or 0
            positions = features[:, first:].flatten(0, 1)
            mean, deviation = positions.mean(0), positions.std(0)
            far = ((positions - mean) / deviation).abs()
            prefix = ((features[:, :first] - mean) / deviation).abs()
            found.append(
                {
                    "layer": layer,
                    "least deviation": float(deviation.min()),
                    "largest deviation": float(deviation.max()),
                    "99.99% within": float(far.flatten().sort().values[int(0.9999 * far.numel())]),
                    f"share beyond {BEYOND}": float((far > BEYOND).float().mean()),
                    "largest": float(far.max()),
                    "largest of the class token": float(prefix.max()) if first else "none",
                }
            )
    report("activations", found, {**vars(options), "seed": SEED})


if __name__ == "__main__":
    main()
