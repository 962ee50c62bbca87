"""What `declip-pipe reproduce` does, step by step; heavy imports stand here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from declip_pipeline.compute import choose_device
from declip_pipeline.evaluation.groups import parse_aliases
from declip_pipeline.evaluation.selection import Selection
from declip_pipeline.store.reader import Store
from declip_pipeline.sweeps.study_evaluation import evaluate_study, task_of
from declip_pipeline.sweeps.study_table import StudyTable, study_tables
from declip_pipeline.training.run import Run
from stages.own_commands import OwnCommand
from stages.screen import progress
from stages.study_report import report_study
from stages.study_settings import StudySettings

# What a store is in a command line that is checked before there is one.
STORE = "STORE"


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
        # Refused before hours of training.
        Selection(
            on, split=test.split, generators=test.generators, beside=beside, task=task_of(metric)
        )
        trainings = [self._training(number, places) for number in range(len(self.settings.train))]
        runs = [Run(path) for command in trainings for path in command.run()]
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
        self, runs: Sequence[Run], stores: Sequence[Store], beside: Sequence[Store]
    ) -> list[StudyTable]:
        table, test = self.settings.table, self.settings.test
        with progress("evaluating", "runs") as tell:
            evaluations = evaluate_study(
                runs,
                stores,
                split=test.split,
                generators=test.generators,
                beside=beside,
                metric=table.metric,
                device=choose_device(self.device),
                progress=tell,
            )
        return study_tables(
            evaluations,
            table.row_fields,
            table.column_fields,
            table.metric,
            over=table.over,
            aliases=parse_aliases(test.aliases),
        )
