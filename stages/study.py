"""What `declip-pipe reproduce` does, step by step; heavy imports stand here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import typer

from declip_pipeline.atomic_files import write_text
from declip_pipeline.devices import choose_device
from declip_pipeline.errors import InputError
from declip_pipeline.evaluation.figure_table import FigureTable
from declip_pipeline.metrics.bootstrap import Interval
from declip_pipeline.reports.beside_published import (
    Published,
    beside_csv,
    beside_markdown,
    beside_text,
)
from declip_pipeline.reports.layer_curve_figure import draw_layer_curve
from declip_pipeline.reports.matrix_figure import draw_matrix
from declip_pipeline.store.reader import Store
from declip_pipeline.sweeps.cross_evaluation import evaluate_run, plan_evaluations
from declip_pipeline.sweeps.detection_evaluation import evaluate_detection, plan_detections
from declip_pipeline.sweeps.study_table import (
    IN_DOMAIN,
    OUT_OF_DOMAIN,
    Judged,
    detected_runs,
    domain_intervals,
    domain_table,
    generator_table,
    judged_runs,
)
from declip_pipeline.training.run_folder import RunFolder
from stages.own_commands import OwnCommand
from stages.screen import progress, result
from stages.study_settings import StudySettings

METRIC_NAMES = {
    "iou": "IoU (percent)",
    "f1_best": "F1 at the best threshold of each picture",
    "f1_fixed": "F1 at 0.5",
    "ap": "AP of pixels",
    "detection_ap": "AP of whole pictures",
    "detection_auc": "AUC of whole pictures",
}
DETECTION = "detection_"
# What a store is in a command line that is checked before there is one.
STORE = "STORE"
OURS = "ours"

Judgement = TypeVar("Judgement")


@dataclass
class Study:
    """One study: its settings, where its data lies and its results go, and options of all steps."""

    context: typer.Context
    config: Path
    settings: StudySettings
    data: dict[str, Path]
    out: Path
    extract_options: dict[str, Any]
    train_options: dict[str, Any]
    device: str

    def check(self) -> None:
        """Refuse options that some step would refuse, before the first one is taken."""
        for name in self.settings.stores:
            self._extract(name)
        for number in range(len(self.settings.train)):
            self._train(number, {})

    def run(self) -> Path:
        """Do all of it, or what is not done yet; returns the path of the table."""
        stores = {name: self._extract(name).run() for name in self.settings.stores}
        runs: list[Path] = []
        for number in range(len(self.settings.train)):
            runs += self._train(number, stores).run()
        on, beside = (
            [Store(place) for name in names for place in stores[name]]
            for names in (self.settings.test.stores, self.settings.test.beside)
        )
        return self._report(self._tables([RunFolder(path) for path in runs], on, beside))

    def _extract(self, name: str) -> OwnCommand:
        step = self.settings.stores[name]
        options = {**self.settings.extract, **step.options, **self.extract_options}
        where = f"{self.config}, stores.{name}"
        return OwnCommand(self.context, "extract", [str(self.data[step.data])], options, where)

    def _train(self, number: int, stores: dict[str, list[str]]) -> OwnCommand:
        step = self.settings.train[number]
        places = [place for name in step.stores for place in stores.get(name, [STORE])]
        options = {**step.options, **self.train_options}
        where = f"{self.config}, train[{number}]"
        return OwnCommand(self.context, "train", places, options, where)

    def _tables(
        self, runs: Sequence[RunFolder], stores: Sequence[Store], beside: Sequence[Store]
    ) -> list[tuple[FigureTable, Published]]:
        """The study's table, and below a matrix its means; each with what was published."""
        rows = self.settings.table.rows
        published = self.settings.published
        figures = published.figures if published else {}
        key = {"generator": None, "layer": "layer", "decoder": "decoder_type"}[rows]
        row_of = {run.path: OURS if key is None else str(run.config()[key]) for run in runs}
        judged, intervals = self._judge(runs, stores, beside, row_of)
        if key is not None:
            return [(domain_table(judged, rows, row_of, intervals), figures)]
        means = domain_table(judged, "mean over cells", row_of, intervals)
        others = published.others if published else {}
        below = FigureTable(means.corner, (*means.rows, *others), means.columns, means.cells)
        known = {OURS: published.means, **others} if published else {}
        return [
            (generator_table(judged), figures),
            (below, {row: dict(columns.items()) for row, columns in known.items()}),
        ]

    def _judge(
        self,
        runs: Sequence[RunFolder],
        stores: Sequence[Store],
        beside: Sequence[Store],
        row_of: dict[Path, str],
    ) -> tuple[list[Judged], dict[str, tuple[Interval, Interval]]]:
        """Every run on every store, and the intervals of the means of rows, where there are."""
        metric, asked = self.settings.table.metric, self.settings.test
        with_what: dict[str, Any] = {
            "split": asked.split,
            "generators": asked.generators,
            "beside": beside,
        }
        if metric.startswith(DETECTION):
            plan = plan_detections(runs, stores, **with_what)
            detections = self._all_of(plan, beside, evaluate_detection)
            return detected_runs(detections, metric.removeprefix(DETECTION)), {}
        plan = plan_evaluations(runs, stores, **with_what)
        evaluations = self._all_of(plan, beside, partial(evaluate_run, reuse=True))
        return judged_runs(evaluations, metric), domain_intervals(evaluations, metric, row_of)

    def _all_of(
        self,
        plan: Sequence[tuple[RunFolder, Store, list[str] | None]],
        beside: Sequence[Store],
        evaluate: Callable[..., Judgement],
    ) -> list[Judgement]:
        options = {"beside": beside, "device": choose_device(self.device)}
        found = []
        with progress("judging", "runs") as tell:
            for number, (run, store, generators) in enumerate(plan):
                tell(number, len(plan))
                split = self.settings.test.split
                found.append(evaluate(run, store, split=split, generators=generators, **options))
            tell(len(plan), len(plan))
        return found

    def _report(self, tables: Sequence[tuple[FigureTable, Published]]) -> Path:
        """Print the tables and write them as Markdown, CSV and a figure; returns the first's path.

        Raises `InputError` when no picture could be judged.
        """
        settings, published = self.settings, self.settings.published
        table = tables[0][0]
        if not np.isfinite(table.values).any():
            raise InputError(
                f"no picture of {', '.join(settings.test.stores)} has a fake pixel; there is no "
                "figure to compare"
            )
        decimals = 1 if settings.table.metric == "iou" else 4
        title = f"{settings.title}: {METRIC_NAMES[settings.table.metric]}"
        about = "ours, with its bootstrap interval of 95%"
        if published:
            about += f" (published, difference); published: {published.source}"
        texts = [
            # A matrix with intervals is wider than a terminal.
            beside_text(one, theirs, decimals, with_intervals=one is not table or len(tables) < 2)
            for one, theirs in tables
        ]
        result("\n".join([title, about, "", *texts]))
        page = self.out / "table.md"
        pages = [beside_markdown(one, theirs, decimals) for one, theirs in tables]
        figure = self._draw(table)
        write_text(page, "\n".join([f"# {title}\n", f"{about}\n", *pages, f"![]({figure})\n"]))
        write_text(self.out / "table.csv", beside_csv(tables))
        return page

    def _draw(self, table: FigureTable) -> str:
        name = "table.png"
        percent = table.values * (1 if self.settings.table.metric == "iou" else 100)
        if self.settings.table.rows == "generator":
            columns = [tuple(column.split("+")) for column in table.columns]
            draw_matrix(percent, table.rows, columns, self.out / name, self.settings.title)
        else:
            series = {
                domain: percent[:, table.columns.index(domain)].tolist()
                for domain in (IN_DOMAIN, OUT_OF_DOMAIN)
            }
            draw_layer_curve(list(table.rows), series, self.out / name, self.settings.title)
        return name
