"""Demo: both stages on forgeries of photographs that installed packages ship, and a report."""

import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch

from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.compute import choose_device
from declip_pipeline.datasets.demo.build import GENERATORS, build_demo_set
from declip_pipeline.decoders.building import build_decoder
from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.evaluation.evaluation import Evaluation
from declip_pipeline.evaluation.table import matrices
from declip_pipeline.images.decode import decode_image
from declip_pipeline.images.masks import decode_mask
from declip_pipeline.options import InitializationScheme
from declip_pipeline.reports.contact_sheet import SheetRow, draw_contact_sheet
from declip_pipeline.reports.demo_report import write_demo_report
from declip_pipeline.reports.layer_curve_figure import draw_layer_curve
from declip_pipeline.reports.matrix import format_matrix_text
from declip_pipeline.reports.matrix_figure import draw_matrix
from declip_pipeline.store.reader import Store
from declip_pipeline.study.callbacks import SILENT, Callbacks, RowsProgress
from declip_pipeline.study.extraction import ExtractionStep
from declip_pipeline.study.study import EvaluationStep, Study, TrainingStep, require_finished
from declip_pipeline.sweeps.grid import CellResult
from declip_pipeline.training.predictor import Predictor
from declip_pipeline.training.run import Run

SHOWN_QUANTILES = (0.75, 0.25)
"""Quantiles of IoU at which images of each generator are shown, so that luck picks none."""


@dataclass(frozen=True)
class DemoDecoder:
    """A decoder of the demo, and for how many epochs it is trained at most."""

    decoder_type: str
    epochs: int
    widths: tuple[int, ...] | None = None


@dataclass(frozen=True)
class DemoResult:
    """Outcome of a demo.

    Attributes:
        report: Path of `report.md`.
        matrix: The train x test matrix as text.
        seconds: Seconds of each step.
    """

    report: Path
    matrix: str
    seconds: dict[str, float]


@dataclass(frozen=True)
class Demo:
    """A dataset of forgeries, an ablation of layers, a cross-test of generators, and a report.

    Each step finds what an earlier run of it finished.

    Attributes:
        out: Folder of everything that is made.
        arch: Name of the backbone.
        train_count: Crops of the train split; `valid_count` and `test_count` of the others.
        ablation_generator: Generator on which the layers are compared.
        decoders: Decoders that are compared, of different types.
        initialization: See `Recipe`; so are `batch_size`, `learning_rate` and `patience`.
        seed: Seed of the crops and of the trainings.
        device: Where to compute, see `choose_device`.
        callbacks: Callables that follow the demo.
    """

    out: Path
    arch: str
    train_count: int
    valid_count: int
    test_count: int
    ablation_generator: str
    decoders: Sequence[DemoDecoder]
    initialization: InitializationScheme
    batch_size: int
    learning_rate: float
    patience: int
    seed: int = 0
    device: str = "auto"
    callbacks: Callbacks = SILENT
    _seconds: dict[str, float] = field(default_factory=dict, init=False, compare=False)

    def check(self) -> None:
        """Refuse settings that could not be carried out, before anything is made or removed.

        Raises:
            InputError: For generators and decoders.
            WeightsError: For the backbone.
        """
        if self.ablation_generator not in GENERATORS:
            raise UnknownNameError("ablation_generator", self.ablation_generator, GENERATORS)
        types = [decoder.decoder_type for decoder in self.decoders]
        if len(set(types)) < len(types):
            raise InputError(
                f"the demo's decoders are {', '.join(types)}; each type is expected once, "
                "since curves are named by it"
            )
        for decoder in self.decoders:
            for shape in self.backbone.layers.values():
                with torch.device("meta"):
                    build_decoder(decoder.decoder_type, shape, widths=decoder.widths)

    @cached_property
    def backbone(self) -> Backbone:
        """The frozen backbone, opened once."""
        return open_backbone(self.arch, device=str(choose_device(self.device)))

    def run(self) -> DemoResult:
        """Do all of it, or what an interruption left.

        Raises:
            TrainingError: A run failed.
            DeclipError: What any of the steps raises.
        """
        self._build_set()
        store = self._extract()
        curves, best_decoder, best_layer = self._ablate(store)
        pairing = f"{best_decoder.decoder_type} on {best_layer}"
        self.callbacks.notice(f"best pairing by validation IoU: {pairing}")
        evaluations = self._cross_test(store, best_decoder, best_layer)
        (found,) = matrices(evaluations)
        matrix, rows, columns = found.table.values, found.table.rows, found.table.columns
        marked, domain = found.table.marked_columns, found.in_domain
        pictures = {
            "Rows: tested on; columns: trained on.": self.out / "matrix.png",
            "IoU by layer.": self.out / "layers.png",
            "Each generator's upper and lower quartile by IoU.": self.out / "contact_sheet.png",
        }
        learned = self.ablation_generator
        with self._timed("draw"):
            title = f"IoU in %, {pairing}"
            draw_matrix(matrix, rows, marked, self.out / "matrix.png", title, domain)
            draw_layer_curve(
                list(store.layers),
                curves,
                self.out / "layers.png",
                f"IoU by layer, trained and tested on {learned}",
            )
            draw_contact_sheet(self._sheet(store, evaluations), self.out / "contact_sheet.png")
        report = self.out / "report.md"
        write_demo_report(
            report,
            title="declip-pipe demo",
            done=[
                f"{self.train_count} training, {self.valid_count} validation and "
                f"{self.test_count} test crops, each forged by {', '.join(GENERATORS)}; "
                f"no photograph is in two splits; seed {self.seed}.",
                f"{self.backbone.name}: {len(store.layers)} layers of {len(store.samples)} "
                "images extracted once.",
                f"Ablation on {learned}: {', '.join(curves)} over all layers. The best by "
                f"validation IoU, {pairing}, was trained on each generator and tested on all.",
                f"Peak memory {_peak_gigabytes():.1f} GB.",
            ],
            matrix=matrix,
            row_names=rows,
            column_names=columns,
            mean_intervals=found.intervals,
            layer_names=list(store.layers),
            layer_series=curves,
            images=pictures,
            timings=self._seconds,
            commands=[f"declip-pipe demo --seed {self.seed} -o {self.out}"],
        )
        text = format_matrix_text(matrix, rows, marked, intervals=found.intervals, domain=domain)
        return DemoResult(report, text, dict(self._seconds))

    def _build_set(self) -> None:
        """Build four generators on the same photographs, in the layout of Dolos."""
        if (self.out / "data").exists():
            return
        progress = self.callbacks.progress
        with self._timed("build the set"), progress("building the set", "crops") as tell:
            build_demo_set(
                self.out / "data",
                seed=self.seed,
                train_count=self.train_count,
                valid_count=self.valid_count,
                test_count=self.test_count,
                progress=tell,
            )

    def _extract(self) -> Store:
        """Stage one: every layer of every forged image, once."""
        step = ExtractionStep(
            self.out / "data",
            self.arch,
            name="demo",
            generators=GENERATORS,
            cache=str(self.out / "cache"),
            backbone=self.backbone,
        )
        with self._timed("extract"):
            (location,) = step.run(Callbacks(progress=self.callbacks.progress))
        return Store(location)

    def _ablate(self, store: Store) -> tuple[dict[str, list[float]], DemoDecoder, str]:
        """Stage two: every decoder on every layer of one generator.

        Returns:
            The test IoU by layer of each decoder, and the decoder and layer that are best by
            validation: the test split is only reported.
        """
        trainings = [
            self._training(store, decoder, "all", [self.ablation_generator])
            for decoder in self.decoders
        ]
        runs = len(trainings) * len(store.layers)
        rows, evaluations = self._study(
            "ablate layers", "ablating layers", store, trainings, runs, [self.ablation_generator]
        )
        curves: dict[str, list[float]] = {}
        for row, evaluation in zip(rows, evaluations, strict=True):
            curves.setdefault(row.decoder_type, []).append(evaluation.mean("iou"))
        validation = [row.best_valid_iou or 0.0 for row in rows]
        best = rows[validation.index(max(validation))]
        (decoder,) = (one for one in self.decoders if one.decoder_type == best.decoder_type)
        return curves, decoder, best.layer

    def _cross_test(self, store: Store, decoder: DemoDecoder, layer: str) -> list[Evaluation]:
        """Stage two: one run for each generator, tested on all of them."""
        training = self._training(store, decoder, layer, GENERATORS)
        runs = len(GENERATORS)
        return self._study("cross-test", "cross-testing", store, [training], runs)[1]

    def _training(
        self, store: Store, decoder: DemoDecoder, layer: str, generators: Sequence[str]
    ) -> TrainingStep:
        """Return the trainings of a decoder, one for each generator and layer."""
        options = {
            "layer": [layer],
            "decoder_type": [decoder.decoder_type],
            "widths": decoder.widths,
            "train_on": [(name,) for name in generators],
            "initialization": self.initialization,
            "seed": [self.seed],
            "epochs": decoder.epochs,
            "batch_size": self.batch_size,
            "learning_rate": [self.learning_rate],
            "patience": self.patience,
            "precision": "float32",
            "device": self.device,
            "runs": str(self.out / "runs"),
        }
        return TrainingStep((store,), options)

    def _study(
        self,
        step: str,
        what: str,
        store: Store,
        trainings: Sequence[TrainingStep],
        runs: int,
        generators: Sequence[str] | None = None,
    ) -> tuple[list[CellResult], list[Evaluation]]:
        """Train and evaluate on some generators; `runs` is the number of trainings."""
        with self._timed(step):
            with self.callbacks.progress(what, "runs") as tell:
                tell(0, runs)
                done = 0

                @contextmanager
                def rows_of_a_grid() -> Iterator[RowsProgress]:
                    nonlocal done
                    before = done

                    def count(rows: Sequence[CellResult]) -> None:
                        nonlocal done
                        done = before + sum(row.state == "finished" for row in rows)
                        tell(done, runs)

                    yield count

                study = Study(
                    trainings=tuple(trainings),
                    test=EvaluationStep(
                        (store,),
                        generators=None if generators is None else tuple(generators),
                    ),
                    device=self.device,
                    callbacks=Callbacks(rows=rows_of_a_grid),
                )
                rows = study.train()
                require_finished(rows)
            study = replace(study, callbacks=Callbacks(progress=self.callbacks.progress))
            return rows, study.evaluate(rows)

    def _sheet(self, store: Store, evaluations: Sequence[Evaluation]) -> list[SheetRow]:
        """Return images of each generator with what its own run predicts, from the files."""
        root, samples = self.out / "data", store.samples
        rows: list[SheetRow] = []
        for evaluation in evaluations:
            decoder, features = Run(evaluation.run).best_decoder()
            predictor = Predictor(
                [self.backbone],
                decoder.to(choose_device(self.device)),
                features,
                dtypes=[store.identity.dtype],
            )
            own = [
                row
                for row in evaluation.to_arrow().to_pylist()
                if row["generator"] in evaluation.trained_on
            ]
            ranked = sorted(own, key=lambda row: (row["iou"], row["id"]))
            for quantile in SHOWN_QUANTILES:
                shown = ranked[round(quantile * (len(ranked) - 1))]
                (number,) = samples.find([shown["id"]])
                sample = samples[int(number)]
                image = decode_image(root / sample.image)
                truth = decode_mask(root / str(sample.mask), fake_is_white=store.fake_is_white)
                caption = f"{shown['generator']}, IoU {shown['iou']:.0f}"
                rows.append((caption, image, truth, predictor.map(image)))
        return rows

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._seconds[step] = time.perf_counter() - started


def _peak_gigabytes() -> float:
    """Return the most memory this process has held so far, in GB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
