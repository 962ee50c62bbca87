"""An epoch of training from the store, beside one that runs the frozen backbone on the pictures."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from reporting import median_seconds, report

from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.datasets.demo.build import build_demo_set
from declip_pipeline.decoders.building import build_decoder
from declip_pipeline.extraction.checked_dataset import open_checked_dataset
from declip_pipeline.extraction.extract import extract
from declip_pipeline.feeding.layer_feed import Batch, LayerFeed
from declip_pipeline.images.decode import decode_image
from declip_pipeline.images.resize import resize_image
from declip_pipeline.store.reader import Store
from declip_pipeline.training.optimization import make_optimizer, training_loss

PICTURES, BATCH, REPEATS, LAYER = 48, 16, 3, "layer3"
DECODERS = {"linear": None, "conv-4": (32, 16, 8, 8)}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        build_demo_set(root / "data", train_count=PICTURES, valid_count=1, test_count=1)
        backbone = open_backbone("efficientnet-lite0")
        manifest, sizes = open_checked_dataset(root / "data", generators=["telea"])
        path = extract(
            manifest, backbone, layers=[LAYER], sizes=sizes, root=root / "cache"
        ).location
        store = Store(path)
        rows = store.fake_rows("train")
        feed = LayerFeed([(store, rows)], LAYER, device=torch.device("cpu"))
        order = np.arange(len(rows))

        def without_store(positions: np.ndarray) -> Batch:
            pictures = [
                resize_image(decode_image(root / "data" / manifest.samples[row].image), 224, 224)
                for row in rows[positions]
            ]
            batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
            targets = torch.from_numpy(store.read_targets(rows[positions])).float() / 255
            return Batch(backbone.forward(batch, [LAYER])[LAYER], targets, positions)

        table = []
        for kind, widths in DECODERS.items():
            decoder = build_decoder(kind, store.layers[LAYER], widths=widths)
            decoder.to(memory_format=torch.channels_last)
            optimizer = make_optimizer(decoder, 1e-3)

            def step(batch: Batch, decoder=decoder, optimizer=optimizer) -> None:
                loss = training_loss(decoder, batch)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()

            def from_store(step=step) -> None:
                for batch in feed.batches(order, BATCH):
                    step(batch)

            def from_pictures(step=step) -> None:
                for first in range(0, len(rows), BATCH):
                    step(without_store(order[first : first + BATCH]))

            cached = median_seconds(from_store, REPEATS)
            uncached = median_seconds(from_pictures, REPEATS)
            table.append(
                {
                    "decoder": kind,
                    "from pictures, ms a picture": uncached / len(rows) * 1e3,
                    "from the store, ms a picture": cached / len(rows) * 1e3,
                    "ratio": uncached / cached,
                }
            )
        report("caching", table, {"backbone": backbone.name, "layer": LAYER, "pictures": PICTURES})


if __name__ == "__main__":
    main()
