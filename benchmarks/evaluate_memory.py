"""Memory of `evaluate`: most bytes a pixel of images of several sizes.

python benchmarks/evaluate_memory.py [--megapixels 4 16 48] [--folder DIR]

One image of each size is extracted, and a map of 256x256 random logits evaluated on it, each in a
process of its own; once a quarter of its pixels are fake, once all are. What a process held at most
beyond one that evaluates a single image of 256x256 pixels, divided by the number of pixels, are the
bytes a pixel. Values of fake pixels that differ are thresholds, and need memory: of random logits
nearly all differ in an image of 4 megapixels, which is the most that a decoder's map can need.
Images of 256x256 pixels are evaluated in a batch, too: maps and masks of several images are in
memory together as long as they have no more than 4 megapixels.
"""

import argparse
import subprocess
import sys
import tempfile
from math import isqrt
from pathlib import Path

import numpy as np
import torch
from PIL import Image

SMALL = 256
BATCH = 64
SHARES = {"a quarter": 0.25, "all": 1.0}
ONE = "one"
LAYER = "pixels"
# Standard deviation of the logits: neither saturated nor close to one another.
SPREAD = 3.0


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--megapixels", type=float, nargs="+", default=[4, 16, 48])
    arguments.add_argument("--folder", type=Path, default=None, help="where to write; default: tmp")
    arguments.add_argument("--evaluate", nargs=2, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.evaluate:
        print(peak_of_evaluating(*options.evaluate))
        return

    from reporting import report

    sides = {f"1 image of {n:g} megapixels": isqrt(round(n * 1e6)) for n in options.megapixels}
    cases = {f"{BATCH} images of {SMALL}x{SMALL}": (SMALL, BATCH)}
    cases |= {name: (side, 1) for name, side in sides.items()}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        store = extracted(Path(folder), cases)
        base = in_process(store, ONE)
        rows = []
        for name, (side, images) in cases.items():
            for fake in SHARES:
                grown = in_process(store, f"{name}, {fake}") - base
                row = {"evaluated": name, "fake pixels": fake, "grown MB": grown / 1e6}
                rows.append(row | {"bytes a pixel": grown / (images * side**2)})
    report("evaluate_memory", rows, {"batch": BATCH, "base_MB": base / 1e6})


def extracted(folder: Path, cases: dict[str, tuple[int, int]]) -> str:
    """Return the store of all images; each case and share of fake pixels is a generator."""
    import declip_pipeline as dp

    wanted = [(ONE, SMALL, 1, 0.25)]
    for name, (side, images) in cases.items():
        wanted += [(f"{name}, {fake}", side, images, share) for fake, share in SHARES.items()]
    table = []
    for place, (generator, side, images, share) in enumerate(wanted):
        mask = np.zeros((side, side), np.uint8)
        mask[:, : round(side * share)] = 255
        Image.fromarray(mask).save(folder / f"{place}-mask.png", compress_level=1)
        for number in range(images):
            image = np.full((side, side, 3), number, np.uint8)
            image[0, 0] = place
            Image.fromarray(image).save(folder / f"{place}-{number}.png", compress_level=1)
            row = {"image": f"{place}-{number}.png", "mask": f"{place}-mask.png"}
            table.append(row | {"split": "test", "generator": generator})
    dataset = dp.Dataset.from_table(table, root=folder, name="sizes")
    return dp.extract(dataset, f"{LAYER}:32", cache=folder / "cache").location


def in_process(store: str, generator: str) -> int:
    """Return the most bytes that a process holds which evaluates a generator's images."""
    command = [sys.executable, __file__, "--evaluate", store, generator]
    return int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def peak_of_evaluating(location: str, generator: str) -> int:
    """Evaluate in this process, and return the most bytes that it held."""
    import declip_pipeline as dp
    from declip_pipeline.decoders.averaged import AveragedDecoders
    from declip_pipeline.decoders.decoder import Decoder
    from declip_pipeline.evaluation.scores import localize
    from declip_pipeline.feeding.inputs import FeatureSource

    class Noise(Decoder):
        """Random logits, the same for every image."""

        def __init__(self, shape: dp.FeatureShape) -> None:
            super().__init__("noise", shape, SMALL)
            random = torch.Generator().manual_seed(0)
            logits = SPREAD * torch.randn(SMALL, SMALL, generator=random)
            self.logits = torch.nn.Parameter(logits)

        def decode(self, features: torch.Tensor) -> torch.Tensor:
            return self.logits.expand(len(features), SMALL, SMALL)

    store = dp.open_store(location)
    localize(
        AveragedDecoders([Noise(store.layers[LAYER])]),
        store,
        [FeatureSource(LAYER)],
        store.fake_rows("test", [generator]),
        device=torch.device("cpu"),
        batch_size=BATCH,
    )
    # Not `resource.getrusage`: what that says starts with what the parent held.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


if __name__ == "__main__":
    main()
