"""Trainings without an option but store, layer and decoder, beside a grid of other recipes.

python benchmarks/recipes.py --folder DIR [--part small|large|many|all] [--seed 0] [--name NAME]
    [--images 100 300 1000] [--decoders linear mlp fcn pup conv-4] [--recipes auto ...]
    [--backbone efficientnet-lite0] [--layer layer4] [--widths 32 16 16 16]

Writes results/NAME.json, by default recipes.json. Each row is a decoder on a number of training
images, its columns are recipes, its figures the best validation IoU in percent: what is chosen
(`--recipe auto`), the paper's and the demo's for as many epochs, and recipes around the chosen one:
a third and three times its learning rate, half and twice its epochs. "below" is the distance in
points of the chosen recipe from the best one of its row, which should be at most 3. No test image
is looked at. What takes long is left out: `LEFT_OUT`.

small: the demo set, fakes of all four generators; small numbers of images are parts of the
largest. large: the demo's large set in tiles of 224 pixels, one forgery of each canvas; images are
the tiles that are learned. many: as small, with 10,000 images, linear and mlp alone.

`--seed` is that of the demo set: recipes are chosen on other seeds than the default. Trainings that
are done are not done again, so an interrupted command goes on where it was.
"""

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from reporting import report
from resolution import one_forgery_each

import declip_pipeline as dp
from declip_pipeline.datasets.demo.build import GENERATORS, DemoSize, build_demo_set
from declip_pipeline.decoders.names import LIGHT_TYPES, read_decoder_type
from declip_pipeline.images.tiles import Tiling
from declip_pipeline.training.learning import MARK
from declip_pipeline.training.recipes import recipe_defaults
from declip_pipeline.training.run import Run
from declip_pipeline.training.tile_choice import learned_tiles

DECODERS = ("linear", "mlp", "fcn", "pup", "conv-4")
GOAL = 3.0
LIGHT = ("linear", *LIGHT_TYPES)
CHEAP = ("linear", "mlp")
MANY = 10_000
# Of the large set: canvases of the splits train and valid.
CANVASES = (16, 2)
TILING = Tiling(224, 0.0)
# The demo's trainings; see configs/demo.yaml.
DEMO = {"recipe": "paper", "initialization": "pytorch", "learning_rate": 2e-3}
AUTO = "auto"
RECIPES = [AUTO, "rate / 3", "rate x 3", "epochs / 2", "epochs x 2", "demo", "paper"]
OF_MANY = (AUTO, "epochs / 2", "paper")
IN_TILES = (AUTO, "rate x 3", "epochs / 2", "demo")
# Recipes that are not tried, for the time they take: by kind of decoder from so many images on.
LEFT_OUT = {
    ("conv", 0): ("rate / 3", "rate x 3", "epochs / 2", "epochs x 2"),
    ("conv", 300): ("paper",),
    ("pup", 0): ("epochs x 2",),
    ("fcn", 0): ("epochs x 2",),
}


def grid(decoder: str, images: int) -> dict[str, dict[str, Any]]:
    """Return the options of each recipe of a row."""
    kind = read_decoder_type(decoder).kind
    without = [
        n for (of, least), some in LEFT_OUT.items() if of == kind and images >= least for n in some
    ]
    return {name: one for name, one in every_recipe(decoder, images).items() if name not in without}


def every_recipe(decoder: str, images: int) -> dict[str, dict[str, Any]]:
    """Return the options of each recipe, as few or many as are tried."""
    chosen = recipe_defaults(AUTO, decoder, images)
    rate, epochs, batch_size = (chosen[n] for n in ("learning_rate", "epochs", "batch_size"))
    return {
        AUTO: {"recipe": AUTO},
        "rate / 3": {"recipe": AUTO, "learning_rate": rate / 3},
        "rate x 3": {"recipe": AUTO, "learning_rate": 3 * rate},
        "epochs / 2": {"recipe": AUTO, "epochs": max(1, epochs // 2)},
        "epochs x 2": {"recipe": AUTO, "epochs": 2 * epochs},
        "demo": {**DEMO, "epochs": epochs, "batch_size": batch_size},
        "paper": {"recipe": "paper", "epochs": epochs, "batch_size": min(64, images)},
    }


@dataclass(frozen=True)
class Work:
    """The stages, each of which finds in the folder what was done before."""

    options: argparse.Namespace

    @property
    def folder(self) -> Path:
        """Folder of the seed's data, stores and runs."""
        return Path(self.options.folder, f"seed{self.options.seed}")

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of the parts that are asked for."""
        part, decoders = self.options.part, self.options.decoders
        if part in ("small", "all"):
            for images in self.options.images:
                store = self.small(images, max(self.options.images))
                yield from self.of_store("small", store, decoders, images)
        if part in ("large", "all"):
            store = self.large
            images = len(learned_tiles(store, store.fake_rows("train")))
            few = [one for one in decoders if one in LIGHT]
            yield from self.of_store("large, tiles", store, few, images, IN_TILES)
        if part in ("many", "all"):
            few = [one for one in decoders if one in CHEAP]
            yield from self.of_store("small", self.small(MANY, MANY), few, MANY, OF_MANY)

    def of_store(
        self,
        title: str,
        store: dp.Store,
        decoders: Sequence[str],
        images: int,
        names: Sequence[str] = RECIPES,
    ) -> Iterator[dict[str, Any]]:
        """Yield a row for each decoder, of the named recipes."""
        for decoder in decoders:
            runs = {
                name: self.trained(f"{title}, {images}, {decoder}, {name}", store, decoder, options)
                for name, options in grid(decoder, images).items()
                if name in self.options.recipes and name in names
            }
            if AUTO not in runs:
                continue
            best = max(run.best_score for run in runs.values())
            summary = runs[AUTO].summary()
            config = runs[AUTO].config()
            yield {
                "set": title,
                "images": images,
                "decoder": decoder,
                "batch": config["batch_size"],
                "epochs": config["epochs"],
                "rate": config["learning_rate"],
                "seconds": summary["seconds"],
                "constant": summary["constant_score"],
                **{n: figure(runs[n]) if n in runs else "" for n in self.options.recipes},
                "below": best - runs[AUTO].best_score,
                "goal": GOAL,
            }

    def trained(self, title: str, store: dp.Store, decoder: str, options: Mapping[str, Any]) -> Run:
        """Return a run, trained now unless it is there."""
        widths = self.options.widths if read_decoder_type(decoder).kind == "conv" else None
        started = time.perf_counter()
        run = dp.train(
            store,
            layer=self.options.layer,
            decoder=decoder,
            runs=self.folder / "runs",
            widths=widths,
            **options,
        )
        taken = time.perf_counter() - started
        print(f"{time.strftime('%H:%M:%S')} {title}: {figure(run)} ({taken:.0f} s)", flush=True)
        return run

    def small(self, images: int, most: int) -> dp.Store:
        """Return a store of so many training images of the demo set, which has the most."""
        scenes = images // len(GENERATORS)
        dataset = self.data("small", most // len(GENERATORS), self.options.valid)
        dataset = dataset.select(splits=("train", "valid"), generators=GENERATORS)
        rows = [
            row
            for row, sample in enumerate(dataset.samples)
            if sample.split == "valid" or number_of(sample.image) < scenes
        ]
        return self.extracted(replace(dataset, samples=dataset.samples.take(rows)))

    @cached_property
    def large(self) -> dp.Store:
        """The store of tiles of the large set."""
        dataset = self.data("large", *CANVASES).select(splits=("train", "valid"))
        return self.extracted(one_forgery_each(dataset), TILING)

    def data(self, size: DemoSize, train: int, valid: int) -> dp.Dataset:
        """Return a demo set, built now unless it is there."""
        folder = self.folder / f"{size}{train}"
        if not folder.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            build_demo_set(
                folder,
                size=size,
                seed=self.options.seed,
                train_count=train,
                valid_count=valid,
                test_count=1,
            )
        return dp.open_dataset(folder / "demo")

    def extracted(self, dataset: dp.Dataset, tiles: Tiling | None = None) -> dp.Store:
        """Return the store of a dataset, extracted now unless it is there."""
        return dp.extract(
            dataset,
            self.options.backbone,
            layers=[self.options.layer],
            cache=self.folder / "cache",
            tiles=tiles,
        )


def number_of(image: str) -> int:
    """Return the number of an image of the demo set, astronaut_0012.png."""
    return int(Path(image).stem.rpartition("_")[2])


def figure(run: Run) -> str:
    """Return a run's validation IoU, with a mark where it learned nothing."""
    return f"{run.best_score:.1f}{MARK if run.problem else ''}"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--folder", type=Path, required=True, help="keeps data, stores, runs")
    arguments.add_argument("--part", choices=("small", "large", "many", "all"), default="all")
    arguments.add_argument("--seed", type=int, default=0, help="of the demo set")
    arguments.add_argument("--images", type=int, nargs="+", default=[100, 300, 1000])
    arguments.add_argument("--valid", type=int, default=25, help="scenes, a fake of each generator")
    arguments.add_argument("--decoders", nargs="+", default=list(DECODERS))
    arguments.add_argument("--recipes", nargs="+", default=RECIPES)
    arguments.add_argument("--backbone", default="efficientnet-lite0")
    arguments.add_argument("--layer", default="layer4")
    arguments.add_argument("--widths", type=int, nargs=4, default=[32, 16, 16, 16])
    arguments.add_argument("--name", default="recipes", help="of the JSON file in results/")
    options = arguments.parse_args()
    settings = {k: v for k, v in vars(options).items() if k not in ("folder", "name")}
    report(options.name, list(Work(options).rows()), settings)


if __name__ == "__main__":
    main()
