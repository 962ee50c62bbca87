"""Choices of the light decoders and of their recipe, made without the test set and its generators.

python benchmarks/choices.py --folder DIR [--part NAME ...] [--seed 1]

On a demo set of another seed than the study's, whose test photographs are never read: in turn, some
of the training photographs are held out. Each candidate is trained on the others, on one generator
at a time, and evaluated on the photographs held out, forged by every generator. In turn each
generator is left out too, neither learned nor evaluated, and the candidates are ranked by the rest:
a choice that is the same whichever is left out was made without the generators that it is tested
on. `score` is the mean of ID and OOD, `chosen without` names the generators without which the
candidate is the best of its part.

What is in DIR is not done again, so an interrupted command goes on where it was.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from reporting import RESULTS, report

import declip_pipeline as dp
from declip_pipeline.datasets.demo.build import GENERATORS, build_demo_set
from declip_pipeline.evaluation.files import EVALUATIONS
from declip_pipeline.evaluation.metrics import MASKS
from declip_pipeline.training.run import Run

VIT, CNN = "dinov2-vit-s14", "efficientnet-lite0"
COUNTS = {"train_count": 144, "valid_count": 32, "test_count": 1}

# Photographs that are held out together; the two of the motorcycle show one scene.
FOLDS = (
    ("astronaut", "gravel", "rocket", "motorcycle_left", "motorcycle_right"),
    ("brick", "camera", "flower", "ihc"),
)
HELD_OUT = "test"

SIX = "layer2+layer4+layer6+layer8+layer10+layer11"
FOUR = "layer3+layer5+layer7+layer9"
ODD = "layer1+layer3+layer5+layer7+layer9+layer11"
ALL = "+".join(f"layer{number}" for number in range(12))

# What every candidate has unless it says otherwise; a discriminant has its own.
RECIPE: dict[str, Any] = {
    "layer": SIX,
    "decoder": "mlp",
    "normalize": "instance",
    "epochs": 20,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "schedule": "one-cycle",
    "weight_decay": 0.05,
    "flips": True,
    "channel_dropout": 0.2,
}

Options = Mapping[str, Any]
LDA: Options = {"decoder": "lda"}
NARROW_FCN: Options = {"decoder": "fcn", "widths": (32, 32)}
OF_CNN: Options = {"store": CNN, "layer": "layer3"}
OF_BOTH: Options = {"beside": ("layer3",)}

LDA_ODD: Options = {**LDA, "layer": ODD}
CNN_FCN: Options = {**OF_CNN, **NARROW_FCN}
REAL: Options = {"with_real": 0.3}
PUP_REAL: Options = {"decoder": "pup", **REAL}
LINEAR: Options = {"decoder": "linear", "learning_rate": 3e-2}

SEEDS = range(3)


def of_each_mask(candidates: Mapping[str, tuple[Options, ...]]) -> dict[str, tuple[Options, ...]]:
    """Return each candidate with masks at 0.5, without small regions, and at another threshold."""
    return {
        f"{name}, {kind.label}" if masks else name: tuple(
            {**one, "metric": f"iou{masks}"} for one in members
        )
        for name, members in candidates.items()
        for masks, kind in MASKS.items()
    }


def of_seeds(*members: Options) -> tuple[Options, ...]:
    """Return an ensemble of the runs of several seeds."""
    return tuple({**one, "seed": seed} for one in members for seed in SEEDS)


# Several options are an ensemble.
PARTS: dict[str, dict[str, Options | tuple[Options, ...]]] = {
    "decoder": {
        "linear": LINEAR,
        "mlp": {},
        "fcn": {"decoder": "fcn"},
        "fcn, 32 channels": NARROW_FCN,
        "pup": {"decoder": "pup"},
    },
    "CNN": {
        "mlp": {**OF_CNN},
        "pup": {**OF_CNN, "decoder": "pup"},
        "fcn, 32 channels": {**OF_CNN, **NARROW_FCN},
        "fcn, channel": {**OF_CNN, **NARROW_FCN, "normalize": "channel"},
        "fcn, two layers": {**OF_CNN, **NARROW_FCN, "layer": "layer2+layer3"},
    },
    "ViT + CNN": {
        "ViT": {},
        "joined, mlp": {**OF_BOTH},
        "joined, fcn": {**OF_BOTH, **NARROW_FCN},
        "ensemble": ({}, {**OF_CNN, **NARROW_FCN}),
        "ensemble, 30% real": ({"with_real": 0.3}, {**OF_CNN, **NARROW_FCN, "with_real": 0.3}),
        "ensemble, fcn too": ({}, NARROW_FCN, {**OF_CNN, **NARROW_FCN}),
        "ensemble, pup too": ({}, {"decoder": "pup"}, {**OF_CNN, **NARROW_FCN}),
    },
    "layers": {
        "layer 9": {"layer": "layer9"},
        "4 layers": {"layer": FOUR},
        "6 layers": {},
        "12 layers": {"layer": ALL},
    },
    "normalization": {
        "none": {"normalize": "none"},
        "channel": {"normalize": "channel"},
        "instance": {},
        "layernorm": {"normalize": "layernorm"},
    },
    "discriminant": {
        "mlp": {},
        "linear": LINEAR,
        "lda": LDA,
        "lda, layer 9": {**LDA, "layer": "layer9"},
        "lda, 4 layers": {**LDA, "layer": FOUR},
        "lda, odd layers": {**LDA, "layer": ODD},
        "lda, 12 layers": {**LDA, "layer": ALL},
        "lda, no normalization": {**LDA, "layer": ODD, "normalize": "none"},
        "lda, layernorm": {**LDA, "layer": ODD, "normalize": "layernorm"},
        "lda, shrinkage 0.1": {**LDA, "layer": ODD, "shrinkage": 0.1},
        "lda, shrinkage 0.3": {**LDA, "layer": ODD, "shrinkage": 0.3},
        "lda, shrinkage 0.7": {**LDA, "layer": ODD, "shrinkage": 0.7},
        "lda, shrinkage 0.9": {**LDA, "layer": ODD, "shrinkage": 0.9},
        "lda, 30% real": {**LDA, "layer": ODD, "with_real": 0.3},
        "lda, 50% real": {**LDA, "layer": ODD, "with_real": 0.5},
        "lda, ViT + CNN": {**LDA, "layer": ODD, **OF_BOTH},
        "lda, CNN": {**OF_CNN, **LDA},
    },
    "lda and others": {
        "lda": {**LDA, "layer": ODD},
        "lda + mlp": ({**LDA, "layer": ODD}, {}),
        "lda + pup": ({**LDA, "layer": ODD}, {"decoder": "pup"}),
        "lda + CNN": ({**LDA, "layer": ODD}, {**OF_CNN, **NARROW_FCN}),
        "lda + pup + CNN": (
            {**LDA, "layer": ODD},
            {"decoder": "pup"},
            {**OF_CNN, **NARROW_FCN},
        ),
        "lda + CNN, 30% real": (
            {**LDA, "layer": ODD, "with_real": 0.3},
            {**OF_CNN, **NARROW_FCN, "with_real": 0.3},
        ),
    },
    "masks": of_each_mask(
        {
            "mlp": ({},),
            "pup": ({"decoder": "pup"},),
            "lda": (LDA_ODD,),
            "CNN fcn": (CNN_FCN,),
            "mlp + CNN fcn": ({}, CNN_FCN),
            "lda + CNN fcn": (LDA_ODD, CNN_FCN),
            "pup + CNN fcn": ({"decoder": "pup"}, CNN_FCN),
            "lda + linear": (LDA_ODD, LINEAR),
            "lda + pup + CNN fcn": (LDA_ODD, {"decoder": "pup"}, CNN_FCN),
            "lda, 30% real": ({**LDA_ODD, **REAL},),
            "mlp + CNN fcn, 30% real": (REAL, {**CNN_FCN, **REAL}),
            "lda + CNN fcn, 30% real": ({**LDA_ODD, **REAL}, {**CNN_FCN, **REAL}),
            "pup + CNN fcn, 30% real": (PUP_REAL, {**CNN_FCN, **REAL}),
            "mlp + pup + CNN fcn, 30% real": (REAL, PUP_REAL, {**CNN_FCN, **REAL}),
            "mlp + pup + fcn + CNN fcn, 30% real": (
                REAL,
                PUP_REAL,
                {**NARROW_FCN, **REAL},
                {**CNN_FCN, **REAL},
            ),
        }
    ),
    "seeds": of_each_mask(
        {
            "lda + linear": (LDA_ODD, LINEAR),
            "lda + linear, three seeds": of_seeds(LDA_ODD, LINEAR),
            "pup, 30% real": (PUP_REAL,),
            "pup, 30% real, three seeds": of_seeds(PUP_REAL),
            "pup + CNN fcn": ({"decoder": "pup"}, CNN_FCN),
            "pup + CNN fcn, three seeds": of_seeds({"decoder": "pup"}, CNN_FCN),
            "pup + CNN fcn, 30% real": (PUP_REAL, {**CNN_FCN, **REAL}),
            "pup + CNN fcn, 30% real, three seeds": of_seeds(PUP_REAL, {**CNN_FCN, **REAL}),
        }
    ),
    # Heads of single positions, alone and with a discriminant: for the worst cell.
    "worst cell": {
        "lda, odd": (LDA_ODD,),
        "linear": (LINEAR,),
        "linear, dropout 0.5": ({**LINEAR, "channel_dropout": 0.5},),
        "linear, odd": ({**LINEAR, "layer": ODD},),
        "linear, odd, dropout 0.5": ({**LINEAR, "layer": ODD, "channel_dropout": 0.5},),
        "linear, 12 layers": ({**LINEAR, "layer": ALL},),
        "linear, layer 9": ({**LINEAR, "layer": "layer9"},),
        "lda, odd, and linear": (LDA_ODD, LINEAR),
        "lda, odd, and linear, odd": (LDA_ODD, {**LINEAR, "layer": ODD}),
        "lda, odd, and linear, dropout 0.5": (LDA_ODD, {**LINEAR, "channel_dropout": 0.5}),
        "lda, odd, and linear, odd, dropout 0.5": (
            LDA_ODD,
            {**LINEAR, "layer": ODD, "channel_dropout": 0.5},
        ),
        "lda, odd, shrinkage 0.7, and linear": ({**LDA_ODD, "shrinkage": 0.7}, LINEAR),
        "lda, odd, and linear, layer 9": (LDA_ODD, {**LINEAR, "layer": "layer9"}),
        "lda, odd, lda, layer 9, and linear": (LDA_ODD, {**LDA, "layer": "layer9"}, LINEAR),
    },
    "loss": {
        "bce": {},
        "bce, fake pixels 3x": {"positive_weight": 3.0},
        "bce + dice": {"loss": "bce+dice"},
        "bce + lovasz": {"loss": "bce+lovasz"},
        "focal": {"loss": "focal"},
    },
    "recipe": {
        "the recipe": {},
        "without flips": {"flips": False},
        "without channel dropout": {"channel_dropout": 0.0},
        "channel dropout 0.5": {"channel_dropout": 0.5},
        "without weight decay": {"weight_decay": 0.0},
        "plateau for one-cycle": {"schedule": "plateau"},
        "cosine for one-cycle": {"schedule": "cosine"},
        "with averaged weights": {"average": 0.98},
        "with feature noise": {"feature_noise": 0.2},
        "with mixup": {"mixup": 0.4},
        "with 30% real images": {"with_real": 0.3},
        "10 epochs": {"epochs": 10},
        "40 epochs": {"epochs": 40},
    },
    "real images": {
        "none": {},
        "30%": {"with_real": 0.3},
        "30%, channel": {"with_real": 0.3, "normalize": "channel"},
        "50%, channel": {"with_real": 0.5, "normalize": "channel"},
        "50%, no normalization": {"with_real": 0.5, "normalize": "none"},
        "50%, channel, mixup": {"with_real": 0.5, "normalize": "channel", "mixup": 0.4},
    },
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--folder", type=Path, required=True, help="keeps data, stores, runs")
    arguments.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    arguments.add_argument("--seed", type=int, default=1, help="of the demo set; 0 is the study's")
    arguments.add_argument("--train-on", nargs="+", choices=GENERATORS, default=list(GENERATORS))
    arguments.add_argument("--runs", type=int, default=1, help="seeds of each training")
    arguments.add_argument("--name", default="choices", help="of the JSON file in results/")
    options = arguments.parse_args()
    work = Work(options)
    rows = known_rows(options)
    for part in options.part:
        rows[part] = list(work.rows(part))
        settings = {key: value for key, value in vars(options).items() if key != "folder"}
        settings |= {"recipe": RECIPE, "part": [part for part in PARTS if part in rows]}
        report(options.name, [row for part in PARTS for row in rows.get(part, [])], settings)


def known_rows(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each part in the file of results, which must have the same settings."""
    file = RESULTS / f"{options.name}.json"
    found: dict[str, list[dict[str, Any]]] = {}
    if not file.exists():
        return found
    content = json.loads(file.read_text())
    for name in ("seed", "runs", "train_on"):
        if content["settings"][name] != getattr(options, name):
            raise SystemExit(f"{file} is by another {name}; give another --name")
    for row in content["rows"]:
        found.setdefault(row["part"], []).append(row)
    return found


class Work:
    """The stages, each of which finds in the folder what was done before."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.folder: Path = options.folder
        if options.seed == 0:
            raise SystemExit("seed 0 is the study's demo set; choose on another")
        data = self.folder / f"data{options.seed}"
        if not data.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            build_demo_set(data, seed=options.seed, **COUNTS)
        dataset = dp.open_dataset(data / "demo", splits=["train", "valid"])
        cache, of_cnn = self.folder / "cache", ["layer1", "layer2", "layer3"]
        self.folds = [
            {
                VIT: dp.extract(one, VIT, cache=cache),
                CNN: dp.extract(one, CNN, layers=of_cnn, cache=cache),
            }
            for one in (held_out(dataset, fold) for fold in FOLDS)
        ]

    def rows(self, part: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of a part."""
        found = {name: self.evaluated(name, changes) for name, changes in PARTS[part].items()}
        best_without = {
            left_out: max(found, key=lambda name: score_of(found[name][0], left_out))
            for left_out in GENERATORS
        }
        for name, (cells, runs, alarms) in found.items():
            inside, outside = domain_means(cells)
            chosen = [one for one, best in best_without.items() if best == name]
            yield {
                "part": part,
                "candidate": name,
                "ID": inside,
                "OOD": outside,
                "score": (inside + outside) / 2,
                "worst": min(cells.values()),
                "false alarms %": alarms,
                "parameters": sum(int(run.summary()["parameters"]) for run in runs[0]),
                "s an epoch": sum(
                    fmean(float(record["seconds"]) for run in of_one for record in run.epochs())
                    for of_one in zip(*runs, strict=True)
                ),
                "chosen without": ", ".join(chosen),
            }

    def evaluated(
        self, name: str, changes: Options | tuple[Options, ...]
    ) -> tuple[dict[tuple[str, str], float], list[list[Run]], float]:
        """Return the IoU of each (trained on, evaluated on), the runs, and the false alarms."""
        started = time.perf_counter()
        by_cell: dict[tuple[str, str], list[float]] = {}
        runs, alarms = [], []
        members = changes if isinstance(changes, tuple) else (changes,)
        metric = members[0].get("metric", "iou")
        for stores, generator, seed in product(
            self.folds, self.options.train_on, range(self.options.runs)
        ):
            own = [
                self.trained(stores, {"seed": seed, **recipe_of(one), "train_on": generator})
                for one in members
            ]
            evaluation = dp.evaluate(
                dp.Ensemble(own),
                stores[members[0].get("store", VIT)],
                split=HELD_OUT,
                beside=[stores[CNN]],
                reuse=True,
            )
            if len(own) == 1:
                evaluation.save(own[0].path / EVALUATIONS)
            for other in GENERATORS:
                by_cell.setdefault((generator, other), []).append(
                    evaluation.mean(metric, generator=other)
                )
            runs.append(own)
            behind = metric.removeprefix("iou")
            alarms.append(float(evaluation.false_alarms()[f"false_alarm_pixels{behind}"]))
        cells = {place: fmean(values) for place, values in by_cell.items()}
        inside, outside = domain_means(cells)
        say(f"{name}: ID {inside:.1f}, OOD {outside:.1f} ({time.perf_counter() - started:.0f} s)")
        return cells, runs, fmean(alarms)

    def trained(self, stores: Mapping[str, dp.Store], options: dict[str, Any]) -> Run:
        """Train a candidate, or find it trained."""
        store, layer = options.pop("store", VIT), options.pop("layer")
        beside = [(stores[CNN], one) for one in options.pop("beside", ())]
        return dp.train(
            stores[store], layer=layer, beside=beside, runs=self.folder / "runs", **options
        )


def recipe_of(changes: Options) -> dict[str, Any]:
    """Return all options of a candidate: a discriminant takes layers alone from the recipe."""
    is_fitted = changes.get("decoder") == "lda"
    own = {name: value for name, value in changes.items() if name != "metric"}
    return {**({"layer": RECIPE["layer"]} if is_fitted else RECIPE), **own}


def held_out(dataset: dp.Dataset, photographs: Sequence[str]) -> dp.Dataset:
    """Return a dataset whose training images of some photographs are those to evaluate."""
    splits = [
        HELD_OUT
        if one.split == "train" and Path(one.image).stem.rpartition("_")[0] in photographs
        else one.split
        for one in dataset.samples
    ]
    return replace(dataset, samples=dataset.samples.replace(split=splits))


def domain_means(cells: Mapping[tuple[str, str], float]) -> tuple[float, float]:
    """Return the means in domain and out of domain."""
    sides: Sequence[list[float]] = [
        [value for (one, other), value in cells.items() if (one == other) == same]
        for same in (True, False)
    ]
    return fmean(sides[0]), fmean(sides[1])


def score_of(cells: Mapping[tuple[str, str], float], left_out: str) -> float:
    """Return the mean of ID and OOD over the cells of other generators than one."""
    return fmean(domain_means({p: v for p, v in cells.items() if left_out not in p}))


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


if __name__ == "__main__":
    main()
