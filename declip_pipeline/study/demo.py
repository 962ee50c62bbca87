"""Demo: both stages on forgeries of photographs that installed packages ship, and a report."""

import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.compute import choose_device
from declip_pipeline.datasets.demo.build import GENERATORS, build_demo_set
from declip_pipeline.errors import InputError, NotInstalledError, UnknownNameError
from declip_pipeline.evaluation.cells import DOMAINS
from declip_pipeline.reports.figure_file import SCREEN, FigureStyle
from declip_pipeline.reports.matrix import format_matrix_text
from declip_pipeline.reports.page.report import ReportContent, write_html_report
from declip_pipeline.reports.table_csv import write_rows_csv
from declip_pipeline.study.callbacks import SILENT, Callbacks
from declip_pipeline.study.demo_backbone import BackboneDemo, BackboneResult, Options
from declip_pipeline.training.learning import MARK_MEANING


@dataclass(frozen=True)
class DemoBackbone:
    """A backbone of the demo, and what is trained on it.

    Attributes:
        arch: Name of the backbone, see `open_backbone`.
        trainings: See `BackboneDemo`.
    """

    arch: str
    trainings: tuple[Options, ...]


@dataclass(frozen=True)
class DemoResult:
    """Outcome of a demo.

    Attributes:
        report: Path of `report.html`.
        matrices: The train x test matrix of each backbone as text.
        seconds: Seconds of each step.
    """

    report: Path
    matrices: dict[str, str]
    seconds: dict[str, float]


@dataclass(frozen=True)
class Demo:
    """A dataset of forgeries, and for each backbone an ablation, a cross-test and figures.

    Each step finds what an earlier run of it finished. A backbone whose weights are in a package
    that is not installed is left out, with a notice, unless it is the only one.

    Attributes:
        out: Folder of everything that is made.
        backbones: The backbones.
        train_count: Crops of the train split; `valid_count` and `test_count` of the others.
        ablation_generator: Generator on which layers and decoders are compared.
        seed: Seed of the crops; it is added to the seeds of the trainings.
        device: Where to compute, see `choose_device`.
        callbacks: Callables that follow the demo.
        style: Format and size of the figures.
    """

    out: Path
    backbones: Sequence[DemoBackbone]
    train_count: int
    valid_count: int
    test_count: int
    ablation_generator: str
    seed: int = 0
    device: str = "auto"
    callbacks: Callbacks = SILENT
    style: FigureStyle = SCREEN
    _seconds: dict[str, float] = field(default_factory=dict, init=False, compare=False)

    def check(self) -> None:
        """Refuse settings that could not be carried out, before anything is made or removed.

        Raises:
            InputError: For generators, layers, decoders and options of trainings.
            WeightsError: For a backbone.
        """
        if self.ablation_generator not in GENERATORS:
            raise UnknownNameError("ablation_generator", self.ablation_generator, GENERATORS)
        archs = [one.arch for one in self.backbones]
        if len(set(archs)) < len(archs):
            raise InputError(f"the demo's backbones are {', '.join(archs)}; expected each once")
        for one in self._opened[0]:
            one.check()
        for line in self.left_out:
            self.callbacks.notice(line)

    @property
    def left_out(self) -> list[str]:
        """Return a line for each backbone that is left out."""
        return self._opened[1]

    @cached_property
    def _opened(self) -> tuple[list[BackboneDemo], list[str]]:
        """Backbones that can be had, and a line for each other."""
        found: list[BackboneDemo] = []
        left_out: list[str] = []
        for asked in self.backbones:
            try:
                backbone = open_backbone(asked.arch, device=str(choose_device(self.device)))
            except NotInstalledError as error:
                if len(self.backbones) == len(left_out) + 1:
                    raise
                left_out.append(f"the demo goes on without {asked.arch}: {error}")
                continue
            found.append(
                BackboneDemo(
                    asked.arch,
                    backbone,
                    [
                        {**one, "seed": [self.seed + seed for seed in one.get("seed", [0])]}
                        for one in asked.trainings
                    ],
                    data=self.out / "data",
                    out=self.out,
                    ablation_generator=self.ablation_generator,
                    device=self.device,
                    callbacks=self.callbacks,
                    timed=self._timed,
                    style=self.style,
                )
            )
        return found, left_out

    def run(self) -> DemoResult:
        """Do all of it, or what an interruption left.

        Raises:
            TrainingError: A run failed.
            DeclipError: What any of the steps raises.
        """
        self._build_set()
        found = [one.run() for one in self._opened[0]]
        self._write_tables(found)
        report = self.out / "report.html"
        with self.callbacks.progress("drawing the images of the report") as tell:
            write_html_report(
                report,
                [evaluation for one in found for evaluation in one.evaluations],
                ReportContent(
                    title="declip-pipe demo",
                    notes=self._notes(),
                    commands=[f"declip-pipe demo --seed {self.seed} -o {self.out}"],
                    seconds=self._seconds,
                ),
                device=self.device,
                progress=tell,
            )
        texts = {f"{one.name}, {one.pairing}": _matrix_text(one) for one in found}
        return DemoResult(report, texts, dict(self._seconds))

    def _notes(self) -> list[str]:
        return [
            f"{self.train_count} training, {self.valid_count} validation and "
            f"{self.test_count} test crops, each forged by {', '.join(GENERATORS)}; "
            f"no photograph is in two splits; seed {self.seed}.",
            "Every layer of each backbone was extracted once, and decoders were trained on "
            f"{self.ablation_generator}, layer by layer, and tested on all four. The decoder "
            "and layer that are best by validation IoU were trained on each generator.",
            *(f"{line[0].upper()}{line[1:]}." for line in self.left_out),
            f"Peak memory {_peak_gigabytes():.1f} GB.",
        ]

    def _write_tables(self, found: Sequence[BackboneResult]) -> None:
        """Write the best pairings and the times as CSV files, beside the report."""
        pairings = []
        for one in found:
            row: dict[str, object] = {"backbone": one.name, "pairing": one.pairing}
            for domain, mean in zip(DOMAINS, one.matrix.domains["iou"], strict=True):
                numbers = (mean.value, *mean.interval)
                ends = (domain, f"{domain}_low", f"{domain}_high")
                row |= dict(zip(ends, numbers, strict=True))
            pairings.append(row)
        write_rows_csv(self.out / "pairings.csv", pairings)
        times = [{"step": step, "seconds": seconds} for step, seconds in self._seconds.items()]
        write_rows_csv(self.out / "times.csv", times)

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

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._seconds[step] = time.perf_counter() - started


def _matrix_text(section: BackboneResult) -> str:
    matrix = section.matrix
    table = matrix.table
    text = format_matrix_text(
        table.values,
        table.rows,
        table.marked_columns,
        intervals=matrix.intervals,
        domain=matrix.in_domain,
    )
    return f"{text.rstrip()}\n{MARK_MEANING}\n" if table.is_marked else text


def _peak_gigabytes() -> float:
    """Return the most memory this process has held so far, in GB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
