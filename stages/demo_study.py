"""What the demo does, step by step; heavy imports stand here, so that help stays quick."""

import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.demo.build import GENERATORS, build_demo_set
from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.decoders.building import build_decoder
from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.evaluation.evaluate import EVALUATIONS, evaluate
from declip_pipeline.evaluation.evaluation import Evaluation
from declip_pipeline.evaluation.table import matrices
from declip_pipeline.extraction.extract import extract_store
from declip_pipeline.images.decode import decode_image, decode_mask
from declip_pipeline.reports.contact_sheet import SheetRow, draw_contact_sheet
from declip_pipeline.reports.demo_report import write_demo_report
from declip_pipeline.reports.layer_curve_figure import draw_layer_curve
from declip_pipeline.reports.matrix import format_matrix_text
from declip_pipeline.reports.matrix_figure import draw_matrix
from declip_pipeline.store.reader import Store
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.predictor import Predictor
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.run import Run
from declip_pipeline.training.runs import train_run
from stages.screen import progress, remark, result
from stages.settings import DecoderSettings, DemoSettings

# Of each generator, the pictures at these quantiles of IoU: neither luck nor misfortune picks.
SHOWN_QUANTILES = (0.75, 0.25)


@dataclass
class DemoStudy:
    """One demo: where it lies, what it was asked to do, and how long its steps took."""

    out: Path
    settings: DemoSettings
    seed: int
    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse settings that could not be carried out, before anything is made or removed.

        Raises `InputError` for generators and decoders, `WeightsError` for the backbone.
        """
        learned = self.settings.ablation_generator
        if learned not in GENERATORS:
            raise UnknownNameError("ablation_generator", learned, GENERATORS)
        types = [decoder.decoder_type for decoder in self.settings.decoders]
        if len(set(types)) < len(types):
            raise InputError(
                f"the demo's decoders are {', '.join(types)}; each type is expected once, "
                "since curves are named by it"
            )
        for decoder in self.settings.decoders:
            for shape in self.backbone.layers.values():
                with torch.device("meta"):
                    build_decoder(decoder.decoder_type, shape, widths=decoder.widths)

    @cached_property
    def backbone(self) -> Backbone:
        """The frozen backbone, opened once."""
        return open_backbone(self.settings.arch, device=str(self.device))

    def run(self) -> Path:
        """Do all of it, or what an interruption left; returns the report's path."""
        backbone = self.backbone
        self._build_set()
        dataset, store = self._extract(backbone)
        curves, best_decoder, best_layer = self._ablate(store)
        pairing = f"{best_decoder.decoder_type} on {best_layer}"
        remark(f"best pairing by validation IoU: {pairing}")
        evaluations = self._cross_test(store, best_decoder, best_layer)
        (found,) = matrices(evaluations)
        matrix, rows, columns = found.table.values, found.table.rows, found.table.columns
        intervals = found.intervals
        pictures = {
            "Rows: tested on; columns: trained on.": self.out / "matrix.png",
            "IoU by layer.": self.out / "layers.png",
            "Each generator's upper and lower quartile by IoU.": self.out / "contact_sheet.png",
        }
        learned = self.settings.ablation_generator
        with self._timed("draw"):
            draw_matrix(matrix, rows, columns, self.out / "matrix.png", f"IoU in %, {pairing}")
            draw_layer_curve(
                list(store.layers),
                curves,
                self.out / "layers.png",
                f"IoU by layer, trained and tested on {learned}",
            )
            draw_contact_sheet(
                self._sheet(backbone, dataset, store, evaluations), self.out / "contact_sheet.png"
            )
        report = self.out / "report.md"
        write_demo_report(
            report,
            title="declip-pipe demo",
            done=[
                f"{self.settings.train_count} training, {self.settings.valid_count} validation and "
                f"{self.settings.test_count} test crops, each forged by {', '.join(GENERATORS)}; "
                f"no photograph is in two splits; seed {self.seed}.",
                f"{backbone.name}: {len(store.layers)} layers of {len(dataset.samples)} pictures "
                "extracted once.",
                f"Ablation on {learned}: {', '.join(curves)} over all layers. The best by "
                f"validation IoU, {pairing}, was trained on each generator and tested on all.",
                f"Peak memory {_peak_gigabytes():.1f} GB.",
            ],
            matrix=matrix,
            row_names=rows,
            column_names=columns,
            mean_intervals=intervals,
            layer_names=list(store.layers),
            layer_series=curves,
            images=pictures,
            timings=self.seconds,
            commands=[f"declip-pipe demo --seed {self.seed} -o {self.out}"],
        )
        result(format_matrix_text(matrix, rows, columns, intervals=intervals))
        remark(", ".join(f"{step} {seconds:.0f} s" for step, seconds in self.seconds.items()))
        return report

    def _build_set(self) -> None:
        """Four generators on the same photographs, in the layout of Dolos."""
        if (self.out / "data").exists():
            return
        with self._timed("build the set"), progress("building the set", "crops") as tell:
            build_demo_set(
                self.out / "data",
                seed=self.seed,
                train_count=self.settings.train_count,
                valid_count=self.settings.valid_count,
                test_count=self.settings.test_count,
                progress=tell,
            )

    def _extract(self, backbone: Backbone) -> tuple[Dataset, Store]:
        """Stage one: every layer of every forged picture, once."""
        with self._timed("extract"), progress("extracting") as tell:
            dataset = open_dataset(self.out / "data", name="demo", generators=list(GENERATORS))
            extraction = extract_store(
                dataset,
                backbone,
                layers=list(backbone.layers),
                root=self.out / "cache",
                provenance={"arch": self.settings.arch, "weights": []},
                progress=tell,
            )
        return dataset, Store(extraction.location)

    def _train(
        self, data: TrainingData, decoder: DecoderSettings, layer: str, generator: str
    ) -> Run:
        recipe = Recipe(
            decoder_type=decoder.decoder_type,
            widths=tuple(decoder.widths) if decoder.widths else None,
            initialization=self.settings.initialization,
            seed=self.seed,
            epochs=decoder.epochs,
            batch_size=self.settings.batch_size,
            learning_rate=self.settings.learning_rate,
            patience=self.settings.patience,
        )
        return train_run(data, self.out / "runs", layer=layer, recipe=recipe, train_on=[generator])

    def _ablate(self, store: Store) -> tuple[dict[str, list[float]], DecoderSettings, str]:
        """Stage two: every decoder on every layer of one generator.

        Returns each decoder's test IoU by layer, and the pairing that is best by validation: the
        test split is only reported.
        """
        learned = self.settings.ablation_generator
        data = TrainingData([store], device=self.device)
        pairings = [(d, layer) for d in self.settings.decoders for layer in store.layers]
        curves: dict[str, list[float]] = {d.decoder_type: [] for d in self.settings.decoders}
        validation = []
        with self._timed("ablate layers"), progress("ablating layers", "runs") as tell:
            tell(0, len(pairings))
            for decoder, layer in pairings:
                run = self._train(data, decoder, layer, learned)
                validation.append(run.summary()["best_valid_iou"])
                evaluation = self._evaluate(run, store, [learned])
                curves[decoder.decoder_type].append(evaluation.mean("iou"))
                tell(len(validation), len(pairings))
        best_decoder, best_layer = pairings[validation.index(max(validation))]
        return curves, best_decoder, best_layer

    def _cross_test(self, store: Store, decoder: DecoderSettings, layer: str) -> list[Evaluation]:
        """Stage two: one run for each generator, tested on all of them."""
        evaluations: list[Evaluation] = []
        data = TrainingData([store], device=self.device)
        with self._timed("cross-test"), progress("cross-testing", "runs") as tell:
            tell(0, len(GENERATORS))
            for generator in GENERATORS:
                run = self._train(data, decoder, layer, generator)
                evaluations.append(self._evaluate(run, store))
                tell(len(evaluations), len(GENERATORS))
        return evaluations

    def _evaluate(
        self, run: Run, store: Store, generators: Sequence[str] | None = None
    ) -> Evaluation:
        """Evaluate a run on the test split, and keep that in its folder."""
        found = evaluate(run, store, split="test", generators=generators, device=self.device)
        found.save(run.path / EVALUATIONS)
        return found

    def _sheet(
        self,
        backbone: Backbone,
        dataset: Dataset,
        store: Store,
        evaluations: Sequence[Evaluation],
    ) -> list[SheetRow]:
        """Pictures of each generator with what its own run predicts, from the files themselves."""
        samples = {sample.id: sample for sample in dataset.samples}
        rows: list[SheetRow] = []
        for evaluation in evaluations:
            decoder, features = Run(evaluation.run).best_decoder()
            predictor = Predictor(
                [backbone], decoder.to(self.device), features, dtypes=[store.identity.dtype]
            )
            own = [
                row
                for row in evaluation.to_arrow().to_pylist()
                if row["generator"] in evaluation.trained_on
            ]
            ranked = sorted(own, key=lambda row: (row["iou"], row["id"]))
            for quantile in SHOWN_QUANTILES:
                shown = ranked[round(quantile * (len(ranked) - 1))]
                sample = samples[shown["id"]]
                assert sample.mask is not None, "a fake has a mask"
                picture = decode_image(dataset.root / sample.image)
                truth = decode_mask(dataset.root / sample.mask, fake_is_white=dataset.fake_is_white)
                caption = f"{shown['generator']}, IoU {shown['iou']:.0f}"
                rows.append((caption, picture, truth, predictor.map(picture)))
        return rows

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[step] = time.perf_counter() - started


def _peak_gigabytes() -> float:
    """Most memory this process has held so far, in GB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
