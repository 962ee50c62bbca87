"""Evaluation: one run on stores, as a table of one row an image."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from declip_pipeline.datasets.labelled import LabelledImages
from declip_pipeline.errors import DeclipError, InputError, UnknownNameError
from declip_pipeline.evaluation.files import kept_in, write_files
from declip_pipeline.evaluation.groups import (
    MEMBERS,
    GeneratorKey,
    configured,
    is_in_domain,
    is_no_run,
    kind_of,
    learned_generators,
    method_of,
)
from declip_pipeline.evaluation.image_scores import image_score_figures, verdict_figures
from declip_pipeline.evaluation.intervals import (
    Figures,
    detection_figures,
    false_alarm_figures,
    localization_figures,
)
from declip_pipeline.evaluation.map_source import MapFindings
from declip_pipeline.evaluation.metrics import DETECTION_METRICS, LOCALIZATION_METRICS
from declip_pipeline.evaluation.scores import LOCALIZATION_COLUMNS, MEAN_SIGMOID, Task
from declip_pipeline.metrics.bootstrap import Interval
from declip_pipeline.store.storage import absolute_location

if TYPE_CHECKING:
    import pandas as pd

OVERALL = "overall"
SHARED_COLUMNS = ("run", "store", "dataset", "view", "id", "split", "generator", "label", "scene")
# Beside the id, what makes two images the same.
_CONTENT = ("image_sha256", "mask_sha256")

Image = tuple[str, bytes | None, bytes | None]
"""Columns that identify an image: id, SHA-256 of the image's file and of the mask's."""


@dataclass(frozen=True)
class EvaluatedStore:
    """A store, or a dataset, that a run or another source of maps was evaluated on.

    Attributes:
        location: Where it lies.
        dataset: Its dataset.
        view: Its view of the images.
        dtype: Dtype of its features.
        sha256: Its identity.
        generators: All of its generators.
        made_from: All that the values follow from, as plain JSON.
        folder: Name of the folder that `Evaluation.save` writes.
        inputs: Where the features lie: the store itself, and stores beside it.
        images: The images, where they are those of no store; None for a store, which is opened by
            its location.
    """

    location: str
    dataset: str
    view: str
    dtype: str
    sha256: str
    generators: tuple[str, ...]
    made_from: dict[str, Any]
    folder: str
    inputs: tuple[str, ...] = ()
    images: LabelledImages | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One run evaluated on stores; `evaluate` makes it.

    Example:
        >>> evaluation.mean("iou"), evaluation.interval("iou")  # percent
        >>> evaluation.to_arrow().column_names

    Attributes:
        run: The run's folder; of what is no run, its name.
        config: Its config.yaml, or what stands for it (see `MapSource.config`).
        task: "localization" or "detection".
        split: The split that was evaluated.
        stores: The stores, in order.
        table: A row for each image: `SHARED_COLUMNS`, hashes of its files, and its values
            (`LOCALIZATION_COLUMNS`, or an image score a column).
        calibration: For detection, the images of the split `valid` in the same columns.
        real: For localization, the real images of the split, with `FALSE_ALARM_COLUMNS`.
        problem: What is wrong with how the run learned, None if nothing is.
        score_threshold: The run's own threshold of image scores, see `Run.score_threshold`.
        findings: Of files of maps, what is missing and what else is to be said; None for runs.
    """

    run: Path
    config: Mapping[str, Any]
    task: Task
    split: str
    stores: tuple[EvaluatedStore, ...]
    table: pa.Table
    calibration: pa.Table
    real: pa.Table
    problem: str | None = None
    score_threshold: float | None = None
    findings: MapFindings | None = None

    @property
    def is_of_run(self) -> bool:
        """Return whether `run` is the folder of a single run."""
        return not is_no_run(self.config)

    @property
    def runs(self) -> list[Path]:
        """Folders of the runs that its maps are of: one, those of an ensemble, or none."""
        if MEMBERS in self.config:
            return [Path(run) for run in self.config["runs"]]
        return [self.run] if self.is_of_run else []

    def __repr__(self) -> str:
        return (
            f"<Evaluation of {self.run.name}: {self.task}, split {self.split!r}, "
            f"{self.table.num_rows} images of {len(self.stores)} stores>"
        )

    def mean(
        self, metric: str = "iou", *, generator: str | None = None, score: str = MEAN_SIGMOID
    ) -> float:
        """Return the mean of a metric over images, NaN where there is none.

        Args:
            metric: Of localization one of `LOCALIZATION_METRICS`, over images with a fake pixel:
                IoUs in percent, the others from 0 to 1, MCC from -1. Of detection "ap", "auc",
                "f1_at_0_5", "f1_at_threshold" (0 to 1), "accuracy_at_0_5" or
                "accuracy_at_threshold" (percent), of the images together.
            generator: Fakes of one generator; None takes all.
            score: For detection: the image score.

        Raises:
            UnknownNameError: For another metric, generator or score.
            InputError: For stores of several views or dtypes, which no mean may mix.
        """
        figures = self.figures(generator, score)
        if metric not in figures or isinstance(figures[metric], list | tuple):
            known = LOCALIZATION_METRICS if self.task == "localization" else DETECTION_METRICS
            raise UnknownNameError("metric", metric, known)
        value = figures[metric]
        return float("nan") if value is None else float(value)

    def interval(
        self, metric: str = "iou", *, generator: str | None = None, score: str = MEAN_SIGMOID
    ) -> Interval:
        """Return the 95% bootstrap interval of `mean`, (low, high), resampled by scene.

        Arguments and errors as for `mean`. (NaN, NaN) for fewer than two scenes.
        """
        figures = self.figures(generator, score)
        if self.task == "detection":
            if f"{metric}_interval" not in figures:
                raise UnknownNameError("metric with an interval", metric, ("ap", "auc"))
            return Interval(*figures[f"{metric}_interval"])
        if metric not in LOCALIZATION_METRICS:
            raise UnknownNameError("metric", metric, LOCALIZATION_METRICS)
        ends = figures[f"{metric}_low"], figures[f"{metric}_high"]
        return Interval(*(float("nan") if end is None else float(end) for end in ends))

    def to_arrow(self) -> pa.Table:
        """Return the table of images: one row an image, without the hashes of its files."""
        return self.table.drop_columns(list(_CONTENT))

    def to_pandas(self) -> "pd.DataFrame":
        """Return the table of images as a data frame.

        Raises `DeclipError` where pandas is not installed.
        """
        try:
            import pandas  # noqa: F401
        except ImportError as error:
            raise DeclipError(
                "pandas is not installed; pip install pandas, or take `to_arrow()`: it holds the "
                "same table"
            ) from error
        return self.to_arrow().to_pandas()

    def save(self, folder: str | Path | None = None) -> list[Path]:
        """Write a folder for each store and return them.

        By default into `evaluations/` in the run's folder; of what is no run, into
        `evaluations/NAME` in the working folder.

        Localization writes `per_image.csv` and `summary.json`, and of real images
        `false_alarms.csv` and `false_alarms.json` (with image scores and verdicts), detection
        `detection.csv` and `detection.json`, into `folder`/DATASET-SPLIT-IDENTITY (and
        "detection-..." for detection).
        """
        paths = []
        kept = kept_in(self.run, self.config) if folder is None else Path(folder)
        for store in self.stores:
            own = self.on(store.location)
            path = kept / store.folder
            images = pa.concat_tables([own.calibration, own.table])
            write_files(path, self.task, images, self.scores, store.made_from, own._summary())
            if own.real.num_rows:
                alarms = {
                    **own.false_alarms(),
                    "image_scores": own.image_scores(),
                    "verdict": own.verdict(),
                }
                write_files(path, "false_alarms", own.real, (), store.made_from, alarms)
            paths.append(path)
        return paths

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the image scores; none for localization."""
        if self.task == "localization":
            return ()
        return tuple(name for name in self.table.column_names if name not in _NO_SCORES)

    @cached_property
    def generators(self) -> list[str]:
        """Generators of the evaluated fakes, sorted."""
        fakes = self.table.filter(pc.equal(self.table.column("label"), 1))
        return sorted(pc.unique(fakes.column("generator")).to_pylist())

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Generators that the run learned, sorted."""
        return tuple(self.config["train_on"])

    @property
    def seed(self) -> int | None:
        """Seed of the training; None for an imported run, and for runs of several seeds."""
        seed: int | None = self.config.get("seed")
        return seed

    @property
    def seeds(self) -> tuple[int | None, ...]:
        """Seed of each run: one, or those of an ensemble, each once."""
        members = self.config.get(MEMBERS, [self.config])
        return tuple(dict.fromkeys(one.get("seed") for one in members))

    @property
    def method(self) -> str:
        """Decoder and features in words."""
        return method_of(self.config)

    @cached_property
    def kind(self) -> str:
        """SHA-256 that runs share which differ in their seed only."""
        return kind_of(self.config)

    @property
    def fields(self) -> dict[str, Any]:
        """Configured fields of the run, and `dataset`, `view` and `dtype` of the stores."""
        stores = {
            name: sorted({getattr(store, name) for store in self.stores})
            for name in ("dataset", "view", "dtype")
        }
        # Maps of no features have no dtype.
        alone = {name: some[0] or None for name, some in stores.items() if len(some) == 1}
        return {**configured(self.config), **stores, **alone, "split": self.split}

    def learned(self, aliases: Mapping[str, str] | None = None) -> frozenset[GeneratorKey]:
        """Return the generators that the run learned, by dataset."""
        known = {store.sha256: (store.dataset, store.generators) for store in self.stores}
        return learned_generators(self.config, known, aliases or {})

    def is_in_domain(
        self, dataset: str, generator: str, aliases: Mapping[str, str] | None = None
    ) -> bool:
        """Return whether the run learned a generator of a dataset."""
        return is_in_domain(self.learned(aliases), dataset, generator, aliases or {})

    def figures(self, generator: str | None = None, score: str = MEAN_SIGMOID) -> Figures:
        """Return means with their intervals: `localization_figures` or `detection_figures`.

        Args:
            generator: Fakes of one generator; None takes all.
            score: For detection: the image score.
        """
        if generator is not None and generator not in self.generators:
            raise UnknownNameError("generator of the evaluation", generator, self.generators)
        if self.task == "detection" and score not in self.scores:
            raise UnknownNameError("image score", score, self.scores)
        # Of a single generator they are those of all images; detection has thresholds of its own.
        if self.task == "localization" and len(self.generators) == 1:
            generator = None
        key = generator, score
        if key not in self._figures:
            own = self if generator is None else self.of(generator)
            figures = (
                localization_figures([own])
                if self.task == "localization"
                else detection_figures([own], score)
            )
            self._figures[key] = figures
        return self._figures[key]

    def false_alarms(self) -> Figures:
        """Return the false alarms of maps on real images; see `false_alarm_figures`."""
        return false_alarm_figures([self])

    def image_scores(self) -> dict[str, Figures]:
        """Return how scores of maps tell fakes from real images; see `image_score_figures`."""
        return image_score_figures([self])

    def verdict(self) -> Figures | None:
        """Return how often verdicts at the run's threshold are right; see `verdict_figures`."""
        return verdict_figures([self])

    def on_real(self) -> "Evaluation":
        """Return the evaluation with the real images in the table, in place of the fakes."""
        return replace(self, table=self.real)

    def values(self, column: str) -> np.ndarray:
        """Return a column as an array: text as str, the other columns in their own dtype."""
        found = self._distinct.column(column)
        if pa.types.is_dictionary(found.type) or pa.types.is_string(found.type):
            return np.array(found.to_pylist(), dtype=np.str_)
        values: np.ndarray = found.combine_chunks().to_numpy(zero_copy_only=False)
        return values

    def images(self) -> list[Image]:
        """Return what identifies each image, in row order."""
        columns = (self._distinct.column(name).to_pylist() for name in ("id", *_CONTENT))
        return list(zip(*columns, strict=True))

    def of(self, generator: str) -> "Evaluation":
        """Return the evaluation of one generator's fakes; for detection with all real images.

        Thresholds are chosen on the generator's own fakes, or on all where the split `valid` has
        none of them.
        """
        own = self.calibration.filter(_fakes_of(self.calibration, generator))
        fakes = pc.any(pc.equal(own.column("label"), 1)).as_py()
        calibration = own if fakes else self.calibration
        table = self.table.filter(_fakes_of(self.table, generator))
        return replace(self, table=table, calibration=calibration)

    def on(self, location: str) -> "Evaluation":
        """Return the evaluation on one of the stores."""
        chosen = tuple(store for store in self.stores if store.location == location)
        if len(chosen) == len(self.stores):
            return self
        table, calibration, real = (
            one.filter(pc.equal(one.column("store").cast(pa.string()), location))
            for one in (self.table, self.calibration, self.real)
        )
        return replace(self, stores=chosen, table=table, calibration=calibration, real=real)

    def take(self, images: Sequence[Image]) -> "Evaluation":
        """Return the evaluation of some of its images, in the given order."""
        place = {image: row for row, image in enumerate(self.images())}
        rows = pa.array([place[image] for image in images], pa.int64())
        return replace(self, table=self._distinct.take(rows))

    @cached_property
    def _distinct(self) -> pa.Table:
        """The table with each image once: of several stores with an image, the first."""
        if len(self.stores) < 2:
            return self.table
        kinds = {(store.view, store.dtype) for store in self.stores}
        if len(kinds) > 1:
            found = ", ".join(sorted(" ".join(kind) for kind in kinds))
            raise InputError(
                f"stores of several views or dtypes ({found}) have no common mean; evaluate one "
                "at a time, or choose one with `on`"
            )
        columns = (self.table.column(name).to_pylist() for name in ("dataset", "id", *_CONTENT))
        keys = list(zip(*columns, strict=True))
        first: dict[tuple[Any, ...], int] = {}
        for row, key in enumerate(keys):
            first.setdefault(key, row)
        if len(first) == len(keys):
            return self.table
        return self.table.take(pa.array(list(first.values()), pa.int64()))

    @cached_property
    def _figures(self) -> dict[tuple[str | None, str], Figures]:
        return {}

    def _summary(self) -> dict[str, Any]:
        """Return the entries of the summary file of a single store."""
        (store,) = self.stores
        about: dict[str, Any] = {
            "dataset": store.dataset,
            "location": absolute_location(store.location),
            "input_locations": [absolute_location(one) for one in store.inputs],
        }
        if MEMBERS in self.config:
            about |= {name: self.config[name] for name in ("runs", "parameters")}
        if self.findings is not None:
            about |= asdict(self.findings)
        if self.task == "localization":
            about |= {"view": store.view, "trained_on": list(self.trained_on)}
        else:
            about |= {"trained_on": list(self.trained_on), "pooling": self.config.get("pooling")}
            about["verdict"] = self.verdict()
        about["problem"] = self.problem
        by_generator = {name: self.figures_by_score(name) for name in self.generators}
        return {**about, "overall": self.figures_by_score(), "by_generator": by_generator}

    def figures_by_score(self, generator: str | None = None) -> dict[str, Any]:
        """Return `figures`; for detection those of each image score, by its name."""
        if self.task == "localization":
            return self.figures(generator)
        return {score: self.figures(generator, score) for score in self.scores}


_NO_SCORES = (*SHARED_COLUMNS, *_CONTENT, *LOCALIZATION_COLUMNS)


def merged(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Join evaluations of the same run on several stores; the same run and store count once."""
    runs: dict[str, dict[str, Evaluation]] = {}
    for one in evaluations:
        for store in one.stores:
            identity = str(one.config.get("run_sha256", one.run))
            runs.setdefault(identity, {}).setdefault(store.sha256, one.on(store.location))
    found = []
    for own in runs.values():
        parts = list(own.values())
        if len(parts) == 1:
            found.append(parts[0])
            continue
        found.append(
            replace(
                parts[0],
                stores=tuple(store for one in parts for store in one.stores),
                table=pa.concat_tables([one.table for one in parts]),
                calibration=pa.concat_tables([one.calibration for one in parts]),
                real=pa.concat_tables([one.real for one in parts]),
            )
        )
    return found


def in_common(evaluations: Sequence[Evaluation]) -> tuple[list[Evaluation], int]:
    """Return evaluations of the images that all of them have, and how many others there are.

    Rows come in the order of the first, so that the values of several evaluations line up.
    """
    images = [one.images() for one in evaluations]
    if all(some == images[0] for some in images):
        return list(evaluations), 0
    shared = set(images[0]).intersection(*images[1:])
    order = [image for image in images[0] if image in shared]
    found = [one.take(order) for one in evaluations]
    return found, len(set().union(*images)) - len(shared)


def _fakes_of(table: pa.Table, generator: str) -> pa.Array:
    names = table.column("generator").cast(pa.string())
    return pc.or_(pc.equal(table.column("label"), 0), pc.equal(names, generator))
