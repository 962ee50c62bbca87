"""Folders of maps, as if another tool had written them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from declip_pipeline.datasets.tiles import whole_images


def masks_of(images, split="test"):
    """The mask of each image of a split by its id."""
    rows = images.fake_and_real_rows(split)
    whole, image_of = whole_images(images.samples.take(rows))
    return {
        name: images.image_mask(rows[image_of == number]) for number, name in enumerate(whole.ids)
    }


def maps_of(images, split="test", seed=0):
    """A map of each image of a split by its id: its mask in noise, better than nothing."""
    random = np.random.default_rng(seed)
    return {
        name: np.clip(0.3 * mask + random.random(mask.shape), 0, 1).astype(np.float32)
        for name, mask in masks_of(images, split).items()
    }


def write_maps(folder, maps, ending=".npy"):
    """Write maps by name, as their ending says; .npz with the keys of TruFor."""
    for name, values in maps.items():
        path = Path(folder) / f"{name}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        if ending.endswith(".npy"):
            np.save(content, values)
        elif ending.endswith(".npz"):
            np.savez(
                content, map=values, conf=values, imgsize=values.shape, score=values.max() * 0.9
            )
        else:
            image = Image.fromarray(np.rint(values * 255).astype(np.uint8))
            image.save(content, "PNG")
        path.write_bytes(content.getvalue())
    return Path(folder)
