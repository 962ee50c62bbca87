"""A reader's memory stays what it is, however long it reads."""

import subprocess
import sys

import numpy as np
import pytest

from declip_pipeline.datasets.sample import Sample
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.features import FeatureShape
from declip_pipeline.store import format as fmt
from declip_pipeline.store.identity import StoreIdentity, manifest_sha256
from declip_pipeline.store.writer import StoreWriter

SHAPE = FeatureShape(512, 16, 16, 1)
ROWS, BATCH, BATCHES = 64, 16, 2000

READING = """
import sys
import numpy as np
from declip_pipeline.store.reader import Store

def resident_megabytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6

import torch
before = resident_megabytes()
store = Store(sys.argv[1])
random = np.random.default_rng(0)
most = 0.0
for _ in range(int(sys.argv[3])):
    rows = random.integers(0, len(store.samples), int(sys.argv[2]))
    store.read_layer("layer0", rows)
    store.read_targets(rows[:1])
    most = max(most, resident_megabytes() - before)
print(most)
"""


@pytest.mark.slow
def test_two_thousand_batches_stay_below_three_batches_and_64_megabytes(tmp_path):
    samples = Samples.from_rows(
        Sample(
            **{"id": f"{row:03d}", "image": f"{row}.png", "mask": "m.png", "split": "train"},
            **{"generator": "made", "label": 1, "source": "made", "height": 8, "width": 8},
            **{"image_sha256": f"{row:064x}", "mask_sha256": "0" * 64},
        )
        for row in range(ROWS)
    )
    writer = StoreWriter(
        str(tmp_path / "store"),
        identity=StoreIdentity(
            backbone="made",
            weights_sha256="0" * 64,
            preprocessing={},
            view="clean",
            layers=("layer0",),
            dtype="float16",
            manifest_sha256=manifest_sha256(True, samples),
            format_version=fmt.FORMAT_VERSION,
        ),
        layers={"layer0": SHAPE},
        dataset="made",
        provenance={},
        samples=samples,
        fake_is_white=True,
    )
    random = np.random.default_rng(0)
    arrays = {
        name: [random.integers(0, 2, array.row_shape).astype(array.dtype) for _ in range(ROWS)]
        for name, array in writer.arrays.items()
    }
    writer.write_shard(0, range(ROWS), arrays, {})
    writer.finish()
    command = [sys.executable, "-c", READING, writer.location, str(BATCH), str(BATCHES)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    batch_megabytes = BATCH * int(np.prod(SHAPE.array_shape)) * 2 / 1e6
    assert float(run.stdout) < 3 * batch_megabytes + 64
