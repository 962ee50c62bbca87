"""Lossless codecs on real features: what they save, and what they cost.

python benchmarks/codecs.py

Features are EfficientNet-Lite0's (ImageNet weights) of the demo's photographs, one chunk an image.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from awscrt.checksums import crc32c
from numcodecs import LZ4, Blosc, Zlib, Zstd
from reporting import report

from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.datasets.demo.build import build_demo_set
from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.features import encode_features
from declip_pipeline.images.decode import decode_image
from declip_pipeline.images.resize import resize_image

IMAGES = 24
REPEATS = 5


def codecs(item_size: int) -> dict[str, tuple[Callable, Callable]]:
    """Name to (encode, decode); byte shuffling needs to know the size of a number."""
    blosc = {
        f"blosc {name} {mode}": Blosc(name, level, shuffle, typesize=item_size)
        for name, level in (("lz4", 5), ("zstd", 3))
        for mode, shuffle in (("shuffle", Blosc.SHUFFLE), ("bitshuffle", Blosc.BITSHUFFLE))
    }
    plain = {
        "lz4": LZ4(),
        "zstd 1": Zstd(1),
        "zstd 3": Zstd(3),
        "zstd 9": Zstd(9),
        "zlib 4": Zlib(4),
    }
    found = {"none": (bytes, bytes)}
    return found | {name: (c.encode, c.decode) for name, c in (plain | blosc).items()}


def main() -> None:
    rows = []
    for dtype, chunks in features().items():
        for layer, parts in chunks.items():
            rows += measured(dtype, layer, parts)
    report("codecs", rows, {"images": IMAGES, "repeats": REPEATS, "backbone": "efficientnet-lite0"})


def features() -> dict[str, dict[str, list[np.ndarray]]]:
    """Stored values by dtype and layer, an array an image."""
    backbone = open_backbone("efficientnet-lite0", device="cpu")
    with TemporaryDirectory() as folder:
        root = Path(folder) / "demo"
        build_demo_set(root, seed=0, train_count=IMAGES, valid_count=4, test_count=4)
        dataset = open_dataset(root, generators=["telea"], splits=["train"])
        pictures = [
            resize_image(
                decode_image(dataset.root / sample.image),
                backbone.preprocessing.height,
                backbone.preprocessing.width,
                backbone.preprocessing.interpolation,
            )
            for sample in dataset.samples
        ]
    batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    outputs = backbone.features(batch, list(backbone.layers))
    return {
        dtype: {
            layer: list(encode_features(values, dtype, is_grid=True).values.numpy())
            for layer, values in outputs.items()
        }
        for dtype in ("float16", "int8-per-channel")
    }


def measured(dtype: str, layer: str, parts: list[np.ndarray]) -> list[dict]:
    size = sum(part.nbytes for part in parts)
    rows = []
    for name, (encode, decode) in codecs(parts[0].itemsize).items():
        encoded = [encode(part) for part in parts]
        for part, data in zip(parts, encoded, strict=True):
            assert bytes(decode(data)) == part.tobytes(), f"{name} is not lossless"
        encoding = seconds(partial(encode_all, encode, parts))
        rows.append(
            {
                "dtype": dtype,
                "layer": layer,
                "codec": name,
                "size": f"{sum(map(len, encoded)) / size:.3f}",
                "encode MB/s": f"{size / encoding / 1e6:.0f}",
                "decode and check MB/s": f"{size / seconds(reader(decode, encoded)) / 1e6:.0f}",
            }
        )
    return rows


def encode_all(encode: Callable, parts: list[np.ndarray]) -> None:
    for part in parts:
        encode(part)


def reader(decode: Callable, encoded: list[bytes]) -> Callable[[], object]:
    def read() -> None:
        for data in encoded:
            crc32c(data)
            decode(data)

    return read


def seconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return median(times)


if __name__ == "__main__":
    main()
