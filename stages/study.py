"""What `declip-pipe reproduce` does, step by step; heavy imports stand here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from declip_pipeline.compute import choose_device
from declip_pipeline.evaluation.figure_table import FigureTable
from declip_pipeline.reports.beside_published import Published
from declip_pipeline.store.reader import Store
from declip_pipeline.sweeps.study_judging import check_test_stores, judge_study
from declip_pipeline.sweeps.study_table import domain_table, generator_table
from declip_pipeline.training.run_folder import RunFolder
from stages.own_commands import OwnCommand
from stages.screen import progress
from stages.study_report import report_study
from stages.study_settings import StudySettings

# What a store is in a command line that is checked before there is one.
STORE = "STORE"
OURS = "ours"
# What a run's row is called, by the key of its config.
CONFIG_KEYS = {"layer": "layer", "decoder": "decoder_type"}


@dataclass
class Study:
    """One study: its settings, where its data lies and its results go, and options of all steps.

    `changes` are those of its settings that the user asked for.
    """

    context: typer.Context
    config: Path
    settings: StudySettings
    changes: list[str]
    data: dict[str, Path]
    out: Path
    extract_options: dict[str, Any]
    train_options: dict[str, Any]
    device: str

    def check(self) -> None:
        """Refuse options that some step would refuse, before the first one is taken."""
        for name in self.settings.stores:
            self._extraction(name)
        for number in range(len(self.settings.train)):
            self._training(number, {})

    def run(self) -> Path:
        """Do all of it, or what is not done yet; returns the path of the table."""
        extractions = {name: self._extraction(name) for name in self.settings.stores}
        places = {name: command.run() for name, command in extractions.items()}
        test = self.settings.test
        on, beside = (
            [Store(place) for name in names for place in places[name]]
            for names in (test.stores, test.beside)
        )
        metric = self.settings.table.metric
        check_test_stores(on, split=test.split, generators=test.generators, metric=metric)
        trainings = [self._training(number, places) for number in range(len(self.settings.train))]
        runs = [RunFolder(path) for command in trainings for path in command.run()]
        return report_study(
            self.settings,
            self._tables(runs, on, beside),
            self.out,
            changes=self.changes,
            commands=[str(command) for command in (*extractions.values(), *trainings)],
        )

    def _extraction(self, name: str) -> OwnCommand:
        step = self.settings.stores[name]
        options = {**self.settings.extract, **step.options, **self.extract_options}
        where = f"{self.config}, extract and stores.{name}"
        return OwnCommand(self.context, "extract", [str(self.data[step.data])], options, where)

    def _training(self, number: int, places: dict[str, list[str]]) -> OwnCommand:
        step = self.settings.train[number]
        stores = [place for name in step.stores for place in places.get(name, [STORE])]
        options = {**step.options, **self.train_options}
        where = f"{self.config}, train[{number}]"
        return OwnCommand(self.context, "train", stores, options, where)

    def _tables(
        self, runs: Sequence[RunFolder], stores: Sequence[Store], beside: Sequence[Store]
    ) -> list[tuple[FigureTable, Published]]:
        """The study's table, and below a matrix its means; each with what was published."""
        rows, test = self.settings.table.rows, self.settings.test
        is_matrix = rows == "generator"
        row_of = {
            run.path: OURS if is_matrix else str(run.config()[CONFIG_KEYS[rows]]) for run in runs
        }
        with progress("judging", "runs") as tell:
            judged, intervals = judge_study(
                runs,
                stores,
                split=test.split,
                generators=test.generators,
                beside=beside,
                metric=self.settings.table.metric,
                row_of=row_of,
                device=choose_device(self.device),
                progress=tell,
            )
        published = self.settings.published
        figures = published.figures if published else {}
        means = domain_table(judged, "mean over cells" if is_matrix else rows, row_of, intervals)
        if not is_matrix:
            return [(means, figures)]
        rivals = published.others if published else {}
        known = {OURS: published.means, **rivals} if published else {}
        means = FigureTable(means.corner, (*means.rows, *rivals), means.columns, means.cells)
        return [(generator_table(judged), figures), (means, known)]
