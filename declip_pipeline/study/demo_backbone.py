"""The demo with one backbone: layers and decoders compared, the best pairing cross-tested."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.compute import choose_device, release_freed_memory
from declip_pipeline.datasets.demo.build import GENERATORS
from declip_pipeline.datasets.sample import REAL_GENERATOR
from declip_pipeline.evaluation.cells import DOMAIN, DOMAINS
from declip_pipeline.evaluation.evaluation import Evaluation, merged
from declip_pipeline.evaluation.matrices import Matrix, matrices
from declip_pipeline.evaluation.table import two_way_tables
from declip_pipeline.feeding.inputs import JOIN
from declip_pipeline.files import folder_name
from declip_pipeline.reports.domain_figure import draw_domains
from declip_pipeline.reports.figure_file import SCREEN, FigureStyle
from declip_pipeline.reports.matrix_figure import draw_matrix
from declip_pipeline.reports.sheet import QUARTILES, draw_sheet
from declip_pipeline.reports.table_csv import write_table_csv
from declip_pipeline.store.reader import Store
from declip_pipeline.study.callbacks import Callbacks, RowsProgress
from declip_pipeline.study.extraction import ExtractionStep
from declip_pipeline.study.result import require_finished
from declip_pipeline.study.steps import EvaluationStep, TrainingStep
from declip_pipeline.study.study import Study
from declip_pipeline.sweeps.grid import CellResult
from declip_pipeline.sweeps.grid_job import GridJob
from declip_pipeline.sweeps.grid_training import layers_of
from declip_pipeline.training.learner_choice import decoder_of

Options = Mapping[str, Any]
"""Options of a training by name, see `GridTraining`; of `SPANNED`, lists."""

SPANNED = ("layer", "decoder_type", "seed", "learning_rate")
"""Options that span a grid."""


@dataclass(frozen=True)
class Pairing:
    """A decoder on a layer: the options of its training, and its validation score in percent."""

    options: Options
    score: float

    def __str__(self) -> str:
        return f"{self.options['decoder_type'][0]} on {self.options['layer'][0]}"


@dataclass(frozen=True)
class BackboneResult:
    """Findings of the demo with one backbone.

    Attributes:
        name: Name of the backbone.
        pairing: The best decoder and its layer, as in "linear on layer10".
        matrix: Train x test matrix of the best pairing, IoU in percent.
        evaluations: Evaluations of all runs, each once.
    """

    name: str
    pairing: str
    matrix: Matrix
    evaluations: Sequence[Evaluation]


@dataclass(frozen=True)
class BackboneDemo:
    """Extraction, ablation, cross-test and figures of one backbone.

    Attributes:
        arch: Name of the backbone, as it was asked for.
        backbone: The backbone.
        trainings: Options of each training that is compared. All of their layers and decoders are
            trained on `ablation_generator`; the pairing that is best on the split `valid`, as the
            mean over its seeds, is trained on each generator.
        data: The dataset.
        out: Folder of the store, of the runs and of the figures.
        ablation_generator: Generator on which layers and decoders are compared.
        device: Where to compute, see `choose_device`.
        callbacks: Callables that follow the demo.
        timed: `timed(step)` is a context that measures a step.
        style: Format and size of the figures.
    """

    arch: str
    backbone: Backbone
    trainings: Sequence[Options]
    data: Path
    out: Path
    ablation_generator: str
    device: str
    callbacks: Callbacks
    timed: Callable[[str], AbstractContextManager[None]]
    style: FigureStyle = SCREEN

    def check(self) -> None:
        """Refuse layers, decoders and options that do not fit. Raises `InputError`."""
        for options in self.trainings:
            alone = {name: value for name, value in options.items() if name not in SPANNED}
            job = GridJob.of((), alone)
            job.require_widths_taken(options.get("decoder_type", [job.recipe.decoder_type]))
            for layer in layers_of(options["layer"], list(self.backbone.layers)):
                shapes = [self.backbone.layers[name] for name in layer.split(JOIN)]
                for name in options.get("decoder_type", [job.recipe.decoder_type]):
                    recipe = replace(job.recipe, decoder_type=name, widths=job.widths_of(name))
                    with torch.device("meta"):
                        decoder_of(recipe, shapes, job.fusion)

    def run(self) -> BackboneResult:
        """Do all of it, or what an interruption left. Raises as `Demo.run`."""
        with self._timed("extract"):
            store = self._extract()
        with self._timed("compare layers"):
            pairings: list[Pairing] = []
            compared: list[Evaluation] = []
            for options in self.trainings:
                rows, evaluations = self._study(
                    "comparing layers", store, options, [self.ablation_generator]
                )
                pairings += _pairings(options, rows)
                compared += evaluations
        best = max(pairings, key=lambda one: one.score)
        self.callbacks.notice(f"{self.arch}: best pairing by validation IoU: {best}")
        with self._timed("cross-test"):
            _, evaluations = self._study("cross-testing", store, best.options, GENERATORS)
        with self._timed("draw"):
            matrix = self._draw(store, best, compared, evaluations)
        return BackboneResult(
            self.backbone.name, str(best), matrix, merged([*compared, *evaluations])
        )

    def _timed(self, step: str) -> AbstractContextManager[None]:
        return self.timed(f"{self.arch}: {step}")

    def _extract(self) -> Store:
        """Stage one: every layer of every forged image, once."""
        step = ExtractionStep(
            self.data,
            self.arch,
            name="demo",
            # Of real images the report shows what is called fake.
            generators=(*GENERATORS, REAL_GENERATOR),
            cache=str(self.out / "cache"),
            backbone=self.backbone,
        )
        (location,) = step.run(Callbacks(progress=self.callbacks.progress))
        release_freed_memory()
        return Store(location)

    def _study(
        self, what: str, store: Store, options: Options, generators: Sequence[str]
    ) -> tuple[list[CellResult], list[Evaluation]]:
        """Stage two: train on each of some generators, and test on all of them.

        Every test is of all generators, so that none is made twice.
        """

        @contextmanager
        def rows_of_a_grid() -> Iterator[RowsProgress]:
            with self.callbacks.progress(f"{self.arch}: {what}", "runs") as tell:
                yield lambda rows: tell(sum(row.state == "finished" for row in rows), len(rows))

        asked = {
            **options,
            "train_on": [(name,) for name in generators],
            "device": self.device,
            "runs": str(self.out / "runs"),
        }
        study = Study(
            trainings=(TrainingStep((store,), asked),),
            test=EvaluationStep((store,)),
            device=self.device,
            callbacks=Callbacks(rows=rows_of_a_grid, progress=self.callbacks.progress),
        )
        rows = study.train()
        require_finished(rows)
        release_freed_memory()
        evaluations = study.evaluate(rows)
        release_freed_memory()
        return rows, evaluations

    def _draw(
        self,
        store: Store,
        best: Pairing,
        compared: Sequence[Evaluation],
        evaluations: Sequence[Evaluation],
    ) -> Matrix:
        """Draw the figures of the findings, each with its data beside it; returns the matrix."""
        figures = self.out / "figures" / folder_name(self.arch)
        figures.mkdir(parents=True, exist_ok=True)
        decoders = dict.fromkeys(evaluation.fields["decoder"] for evaluation in compared)
        columns = [f"{decoder}, {domain}" for decoder in decoders for domain in DOMAINS]
        tables = two_way_tables(compared, "layer", ["decoder", DOMAIN])
        for number, found in enumerate(tables, start=1):
            shown = tuple(name for name in columns if name in found.columns)
            table = replace(found, corner="layer", columns=shown)
            figure = figures / ("layers.png" if number == 1 else f"layers-{number}.png")
            title = f"{self.arch}, trained on {self.ablation_generator}"
            title += f", {table.title}" if len(tables) > 1 else ""
            unit = "IoU (percent)"
            draw_domains(table, figure, title, unit, connected=True, style=self.style)
            write_table_csv(figure, table)
        (matrix,) = matrices(evaluations, with_intervals=True)
        drawn = matrix.table
        draw_matrix(
            drawn.values,
            drawn.rows,
            drawn.marked_columns,
            figures / "matrix.png",
            f"IoU in %, {best}",
            matrix.in_domain,
            style=self.style,
        )
        write_table_csv(figures / "matrix.png", drawn, matrix.in_domain)
        # Of several seeds, the first.
        first = {one.trained_on: one for one in reversed(evaluations)}
        draw_sheet(
            list(reversed(first.values())),
            figures / "contact_sheet.png",
            lambda location: store if location == store.location else Store(location),
            # Quartiles, so that luck picks no image.
            quantiles=QUARTILES,
            in_domain_only=True,
            device=choose_device(self.device),
            style=self.style,
        )
        return matrix


def _pairings(options: Options, rows: Sequence[CellResult]) -> list[Pairing]:
    """Return each decoder on each layer of a grid, with its mean score over seeds."""
    scores: dict[tuple[str, str, float], list[float]] = {}
    for row in rows:
        place = row.decoder_type, row.layer, row.learning_rate
        scores.setdefault(place, []).append(row.best_valid_iou or 0.0)
    return [
        Pairing(
            {**options, "decoder_type": [decoder], "layer": [layer], "learning_rate": [rate]},
            fmean(some),
        )
        for (decoder, layer, rate), some in scores.items()
    ]
