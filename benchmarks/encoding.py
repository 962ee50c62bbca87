"""Encoders of a prediction's files beside Pillow's and NumPy's: time and size.

python benchmarks/encoding.py [--side 512] [--rounds 15]

Writes results/encoding.json. One photograph, a smooth map over it, and the mask of its values above
a half; contestants take turns, medians of processor time over rounds.
"""

import argparse
import io
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from PIL import Image
from reporting import report
from skimage import data

from declip_pipeline.images.png import GreyPng
from declip_pipeline.prediction.files import _jpeg, _npz
from declip_pipeline.reports.overlay import overlaid


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--side", type=int, default=512)
    arguments.add_argument("--rounds", type=int, default=15)
    options = arguments.parse_args()
    side = options.side
    photograph = Image.fromarray(data.astronaut()).resize((side, side))
    coarse = np.random.default_rng(0).random((9, 9)).astype(np.float32)
    smooth = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
    heat = smooth.clip(0, 1)
    small = np.asarray(Image.fromarray(heat).resize((256, 256)))
    mask = (heat > 0.5).view(np.uint8) * np.uint8(255)
    levels = (heat * 65535 + 0.5).astype(np.uint16)
    shown = overlaid(np.asarray(photograph.convert("L")), heat)
    colours = np.ascontiguousarray(shown[..., :3])
    contestants: dict[tuple[str, str], Callable[[], bytes]] = {
        ("mask", "own PNG"): lambda: _png(mask),
        ("mask", "Pillow's PNG"): lambda: _saved(mask, "PNG"),
        ("map-full", "own 16-bit PNG"): lambda: _png(levels),
        ("map-full", "Pillow's 16-bit PNG"): lambda: _saved(levels, "PNG"),
        ("map-full", "float16"): lambda: heat.astype(np.float16).tobytes(),
        ("map", "npz"): lambda: _npz(map=small),
        ("map", "npz, deflated"): lambda: _deflated(small),
        ("overlay", "JPEG"): lambda: _jpeg(shown),
        ("overlay", "PNG, level 1"): lambda: _saved(colours, "PNG", compress_level=1),
        ("overlay", "PNG"): lambda: _saved(colours, "PNG"),
    }
    seconds: dict[tuple[str, str], list[float]] = {name: [] for name in contestants}
    sizes = {name: len(encode()) for name, encode in contestants.items()}
    for _ in range(options.rounds):
        for name, encode in contestants.items():
            started = time.process_time()
            encode()
            seconds[name].append(time.process_time() - started)
    rows = [
        {
            "file": file,
            "encoder": encoder,
            "ms": 1000 * median(values),
            "kB": sizes[file, encoder] / 1e3,
        }
        for (file, encoder), values in seconds.items()
    ]
    report("encoding", rows, vars(options))


def _png(values: np.ndarray) -> bytes:
    file = GreyPng(*values.shape, values.dtype.type)
    file.add(values)
    return file.content()


def _saved(values: np.ndarray, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, form, **options)
    return file.getvalue()


def _deflated(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, map=values)
    return file.getvalue()


if __name__ == "__main__":
    main()
