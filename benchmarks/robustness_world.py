"""Small valid inputs of every kind, made once with the program itself."""

import csv
import json
import shutil
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from robustness_children import Case

import declip_pipeline

TESTS = Path(declip_pipeline.__file__).parents[1] / "tests"
sys.path.append(str(TESTS))

WEIGHTS = TESTS / "golden" / "tiny_vit_openai.pt"
ARCH = ("--arch", "CLIP:from-file", "--weights", str(WEIGHTS))
ROWS_PER_SHARD = 8
COUNTS = {"train": (3, 2), "valid": (2, 1), "test": (2, 2)}
"""Fakes of each generator, and real images, by split."""
GENERATORS = ("lama", "ldm")
TRAINING = ("--decoder-type", "linear", "--batch-size", "2", "--epochs", "2")
GRID = {
    "layers": ["layer1", "layer2"],
    "decoders": ["linear"],
    "seeds": [3],
    "learning_rate": [1e-3],
    "train_on": [["lama"]],
    "epochs": 1,
    "batch_size": 2,
    "patience": 5,
    "recipe": "paper",
    "initialization": "paper",
    "precision": "auto",
}
STUDY = {
    "title": "tiny",
    "extract": {"arch": "CLIP:from-file", "layers": "layer1", "batch_size": 4},
    "stores": {"made": {"data": "made", "options": {"generators": ["lama", "ldm"]}}},
    "train": [
        {
            "stores": ["made"],
            "options": {"layers": "layer1", "decoders": "linear", "epochs": 1, "batch_size": 2},
        }
    ],
    "test": {"stores": ["made"]},
    "table": {"rows": "generator"},
}


@dataclass(frozen=True)
class World:
    """Folder of the inputs; nothing in it is ever changed."""

    root: Path

    @property
    def data(self) -> Path:
        """A Dolos tree."""
        return self.root / "made"

    @property
    def pairs(self) -> Path:
        """A dataset of parallel folders with splits, without real images."""
        return self.root / "pairs"

    @property
    def images(self) -> dict[str, list[Path]]:
        """Image files by format."""
        folder = self.root / "images"
        return {one.name: sorted(one.iterdir()) for one in sorted(folder.iterdir())}

    @cached_property
    def places(self) -> dict[str, str]:
        """Paths of stores and runs, relative to the root, by their short names."""
        found: dict[str, str] = json.loads((self.root / "places.json").read_text())
        return found

    def path(self, name: str) -> Path:
        """Return the place of a store or run in this folder."""
        return self.root / self.places[name]

    @cached_property
    def baselines(self) -> dict[str, dict[str, str]]:
        """Results of every scenario on undamaged inputs."""
        found: dict[str, dict[str, str]] = json.loads((self.root / "baselines.json").read_text())
        return found


def write_files(world: World) -> None:
    """Write what is made without the program: datasets, images, lists, settings, weights."""
    from support.made_dataset import write_dataset

    world.root.mkdir(parents=True)
    _write_tree(world.data)
    write_dataset(world.pairs, {"train": 4, "valid": 2, "test": 2})
    for name, image, options in _images():
        folder = world.root / "images" / name.split("-")[0]
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / name.partition("-")[2], **options)
    _write_lists(world)
    (world.root / "grid.yaml").write_text(yaml.safe_dump(GRID, sort_keys=False))
    (world.root / "study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    _write_weights(world.root / "weights")


def _write_tree(root: Path) -> None:
    from support.made_dataset import forged_picture, smooth_picture

    for place, (split, (fakes, reals)) in enumerate(COUNTS.items()):
        shifts = [31 * number + 10 * place for number in range(max(fakes, reals))]
        for generator in GENERATORS:
            for number, shift in enumerate(shifts[:fakes]):
                seed = 100 * number + place + 1000 * (generator == "lama")
                forged, mask = forged_picture(seed, 40 + 8 * (number % 2), 56, shift, part=2)
                for kind, pixels in (("images", forged), ("masks", 255 - mask)):
                    file = root / "fake" / generator / kind / split / f"f{shift:04d}.png"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(file)
        for shift in shifts[:reals]:
            file = root / "real" / split / f"r{shift:04d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(smooth_picture(40, 56, shift)).save(file)


def _images() -> list[tuple[str, Image.Image, dict[str, Any]]]:
    from PIL.PngImagePlugin import PngInfo
    from support.made_dataset import forged_picture

    rgb = Image.fromarray(forged_picture(5, 40, 56, part=2)[0])
    grey, palette = rgb.convert("L"), rgb.quantize(64)
    alpha = rgb.copy()
    alpha.putalpha(grey)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    floating = Image.fromarray(np.asarray(grey).astype(np.float32) / 255)
    text, exif = PngInfo(), Image.Exif()
    text.add_text("parameters", "steps: 20 " * 40, zip=True)
    text.add_itxt("note", "made")
    exif[0x0112] = 6
    other = Image.fromarray(forged_picture(6, 40, 56)[0])
    frames: dict[str, Any] = {"save_all": True, "append_images": [other]}
    found: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("PNG-rgb.png", rgb, {"pnginfo": text, "exif": exif}),
        ("PNG-grey.png", grey, {}),
        ("PNG-palette.png", palette, {"transparency": 3}),
        ("PNG-alpha.png", alpha, {}),
        ("PNG-deep.png", deep, {}),
        ("PNG-bits.png", rgb.convert("1"), {}),
        ("JPEG-rgb.jpg", rgb, {"quality": 90, "exif": exif}),
        ("JPEG-progressive.jpg", rgb, {"progressive": True, "restart_marker_blocks": 4}),
        ("JPEG-grey.jpg", grey, {}),
        ("JPEG-cmyk.jpg", rgb.convert("CMYK"), {"subsampling": 0}),
        *(
            (f"TIFF-{name}.tif", image, {"compression": name, "exif": exif})
            for name, image in (("tiff_lzw", rgb), ("tiff_adobe_deflate", alpha), ("jpeg", rgb))
        ),
        ("TIFF-raw.tif", rgb, {}),
        ("TIFF-packbits.tif", palette, {"compression": "packbits"}),
        ("TIFF-fax.tif", rgb.convert("1"), {"compression": "group4"}),
        ("TIFF-deep.tif", deep, {"compression": "tiff_lzw"}),
        ("TIFF-float.tif", floating, {}),
        ("TIFF-pages.tif", rgb, frames),
        ("WebP-lossy.webp", rgb, {"quality": 80, "exif": exif}),
        ("WebP-lossless.webp", alpha, {"lossless": True}),
        ("WebP-frames.webp", rgb, frames),
        ("BMP-rgb.bmp", rgb, {}),
        ("BMP-palette.bmp", palette, {}),
        ("BMP-alpha.bmp", alpha, {}),
        ("GIF-one.gif", palette, {}),
        ("GIF-frames.gif", palette, {**frames, "disposal": 2}),
        ("other-rgb.ppm", rgb, {}),
        ("other-deep.pgm", deep, {}),
        ("other-float.pfm", floating, {}),
        ("other-rgb.jp2", rgb, {}),
        ("other-rgb.avif", rgb, {}),
    ]
    Image.init()
    written = {suffix for suffix, name in Image.EXTENSION.items() if name in Image.SAVE}
    return [one for one in found if Path(one[0]).suffix in written]


def _write_lists(world: World) -> None:
    rows = []
    for image in sorted(world.data.rglob("*.png")):
        place = image.relative_to(world.root)
        if "masks" in place.parts:
            continue
        if "real" in place.parts:
            rows.append([place.as_posix(), "Negative", place.parts[2], "real"])
        else:
            mask = place.as_posix().replace("/images/", "/masks/")
            rows.append([place.as_posix(), mask, place.parts[4], place.parts[2]])
    with (world.root / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "mask", "split", "generator"], *rows])
    pairs = [[image, mask] for image, mask, *_ in rows]
    (world.root / "list.json").write_text(json.dumps(pairs, indent=1))


def _write_weights(folder: Path) -> None:
    import safetensors.torch
    import torch

    from declip_pipeline.backbones.weights_file import read_tensors

    folder.mkdir()
    tensors = {name: value.contiguous().clone() for name, value in read_tensors(WEIGHTS).items()}
    shutil.copy2(WEIGHTS, folder / "openai.pt")
    safetensors.torch.save_file(tensors, folder / "tensors.safetensors")
    torch.save(tensors, folder / "state.pt")
    torch.save({"state_dict": tensors}, folder / "old.bin", _use_new_zipfile_serialization=False)


def make_stores(world: World, case: Case) -> None:
    """Extract two stores, train four runs, and evaluate and export what can be."""
    places: dict[str, str] = {}

    def remember(name: str, path: str | Path) -> Path:
        places[name] = Path(path).relative_to(world.root).as_posix()
        (world.root / "places.json").write_text(json.dumps(places, indent=1))
        return Path(path)

    def ran(*arguments: object) -> str:
        ended = case.run(*arguments)
        assert ended.is_done, ended
        return ended.last_line

    cache, runs = world.root / "cache", world.root / "runs"
    options = ("--layers", "layer1,layer2", "--cache", cache, "--batch-size", 4)
    extraction = ("extract", world.data, *ARCH, *options)
    whole = remember("store", ran(*extraction))
    small = remember("small store", ran(*extraction, "--dtype", "int8"))
    training = ("train", whole, *TRAINING, "--feature-layer", "layer1", "-o", runs)
    for name, more in (
        ("run", ("--train-on", "lama")),
        ("other run", ("--seed", 1, "--train-on", "ldm")),
        ("conv run", ("--decoder-type", "conv-4", "--widths", "8,8,4,4")),
        ("detection run", ("--detection", "--pooling", "learned")),
    ):
        remember(name, ran(*training, *more))
    half = remember("half run", _half_trained(case, (*training, "--epochs", 3, "--seed", 2)))
    assert not (half / "summary.json").exists()
    ran("evaluate", world.path("run"), world.path("other run"), "--on", whole)
    ran("evaluate", world.path("detection run"), "--on", whole, "--detection")
    ran("cache", "export", whole, world.root / "store.h5")
    ran("cache", "export", small, world.root / "small.h5")
    ran("export", world.path("conv run"), "--checkpoint", world.root / "published.pth")


def _half_trained(case: Case, command: tuple[object, ...]) -> Path:
    """Train, and stop after the first epoch as a kill would."""
    from declip_pipeline.training.run import Run

    folders: list[Path] = []

    class StoppedError(BaseException):
        pass

    def stop(self: Run, *given: Any) -> None:
        save(self, *given)
        folders.append(self.path)
        raise StoppedError

    save = Run.save_state
    Run.save_state = stop  # type: ignore[method-assign]
    try:
        case._main([str(part) for part in command])
    finally:
        Run.save_state = save  # type: ignore[method-assign]
    return folders[0]
