"""Study: extractions, trainings, what their runs are evaluated on, and a table of it."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

from declip_pipeline.compute import choose_device
from declip_pipeline.errors import DeclipError, InputError, UnknownNameError
from declip_pipeline.evaluation.ensemble import Ensemble
from declip_pipeline.evaluation.evaluate import evaluate
from declip_pipeline.evaluation.evaluation import Evaluation
from declip_pipeline.evaluation.groups import (
    GeneratorKey,
    parse_aliases,
    require_known_aliases,
)
from declip_pipeline.evaluation.methods import methods_of
from declip_pipeline.evaluation.metrics import MASKS
from declip_pipeline.evaluation.selection import Selection
from declip_pipeline.store.reader import Store, StoreLike, as_store
from declip_pipeline.study.callbacks import SILENT, Callbacks
from declip_pipeline.study.extraction import ExtractionStep
from declip_pipeline.study.result import StudyResult, require_finished, unfinished_lines
from declip_pipeline.study.steps import (
    BY_GENERATOR,
    EnsembleStep,
    EvaluationStep,
    TableForm,
    TrainingStep,
)
from declip_pipeline.sweeps.grid import CellResult
from declip_pipeline.sweeps.grid_training import GridTraining
from declip_pipeline.training.run import Run


@dataclass(frozen=True)
class Study:
    """Extractions, trainings and evaluations for a table.

    Each step finds what an earlier run of it finished, and goes on where one was interrupted.
    Nothing is printed: `callbacks` follow what is done.

    Attributes:
        trainings: Trainings, each on stores that are extracted or there already.
        test: What every run is evaluated on.
        extractions: Extractions by the name that `trainings` and `test` have for their stores.
        table: What the tables show; None for a table of methods, see `methods`.
        baselines: Names of the methods that the others of that table are compared with, see
            `methods_of`.
        ensembles: Further methods of that table, of the methods that are trained.
        device: Where runs are evaluated; see `choose_device`.
        callbacks: Callables that follow the study.
    """

    trainings: tuple[TrainingStep, ...]
    test: EvaluationStep
    extractions: Mapping[str, ExtractionStep] = field(default_factory=dict)
    table: TableForm | None = BY_GENERATOR
    baselines: tuple[str, ...] = ()
    ensembles: tuple[EnsembleStep, ...] = ()
    device: str = "auto"
    callbacks: Callbacks = SILENT

    def run(self) -> StudyResult:
        """Do all of it, or what is not done yet.

        Raises:
            TrainingError: A run failed. The others are kept.
            DeclipError: What any of the steps raises.
        """
        self.check_names()
        self.extract()
        self.check()
        rows = self._train()
        require_finished([row for some in rows for row in some])
        return self._result(rows)

    def done(self) -> StudyResult:
        """Return what is done by now, and what is missing; nothing is extracted or trained.

        Runs that were not evaluated yet are, and ensembles are evaluated again. Raises as `run`
        does.
        """
        self.check_names()
        for name, extraction in self.extractions.items():
            found = extraction.complete(self.callbacks)
            if found is not None:
                self._places[name] = tuple(found)
        rows: list[list[CellResult]] = []
        missing = []
        for step in self.trainings:
            absent = [one for one in self._all_stores(step) if not self._is_there(one)]
            if absent:
                rows.append([])
                missing.append(f"{self._called(step)}: no store {', '.join(map(str, absent))}")
                continue
            found_rows = self._planned(step).finished()
            rows.append([row for row in found_rows if row.state == "finished"])
            missing += [f"{self._called(step)}: {line}" for line in unfinished_lines(found_rows)]
        result = self._result(rows)
        return replace(result, missing=tuple(dict.fromkeys([*missing, *result.missing])))

    def _result(self, rows: Sequence[Sequence[CellResult]]) -> StudyResult:
        """Evaluate the finished runs of each training, and make the tables."""
        tests = [step.test or self.test for step in self.trainings]
        evaluations = [
            self.evaluate(some, test) if some else []
            for some, test in zip(rows, tests, strict=True)
        ]
        every = tuple(one for some in evaluations for one in some)
        runs = tuple(row for some in rows for row in some)
        if self.table is not None:
            tables = tuple(self.table.of(every, self.test.aliases))
            return StudyResult(tables=tables, evaluations=every, runs=runs)
        named: dict[str, list[Evaluation]] = {}
        for step, some in zip(self.trainings, evaluations, strict=True):
            for one in some:
                name = step.method(str(one.fields["decoder"]))
                named.setdefault(name, []).append(one)
        lacking: list[str] = []
        trained = dict(named)
        for ensemble in self.ensembles:
            try:
                evaluated = self._evaluate_ensembles(ensemble, trained, lacking)
            except DeclipError as error:
                lacking.append(f"ensemble {ensemble.name!r}: {error}")
                continue
            if evaluated:
                named[ensemble.name] = evaluated
        by_masks = {
            masks: methods_of(
                list(named.items()),
                masks=masks,
                baselines=self.baselines,
                aliases=parse_aliases(self.test.aliases),
            )
            for masks in MASKS
        }
        found = by_masks.pop("")
        known = {one.name for one in found}
        lacking += [
            f"baseline {name!r}: no method has this name, so none is compared with it"
            for name in self.baselines
            if name not in known
        ]
        lacking += [
            f"{MASKS[masks].label}: {one.name}: a run keeps no {MASKS[masks].kept} from its split "
            "valid"
            for masks, methods in by_masks.items()
            for one in methods
            if not one.is_known
        ]
        return StudyResult(
            methods=tuple(found),
            methods_from_valid={
                masks: tuple(one for one in methods if one.is_known)
                for masks, methods in by_masks.items()
            },
            missing=tuple(lacking),
            evaluations=every,
            runs=runs,
        )

    def _evaluate_ensembles(
        self,
        step: EnsembleStep,
        trained: Mapping[str, Sequence[Evaluation]],
        lacking: list[str],
    ) -> list[Evaluation]:
        """Evaluate the runs of several methods together, and note in `lacking` what cannot be."""
        steps = [self._methods[name] for name in step.methods]
        of_methods = [_by_training(trained.get(name, ())) for name in step.methods]
        found = list(dict.fromkeys(chain.from_iterable(of_methods)))
        planned = [[one] for one in found]
        what = "training sets and seeds have a run of each of its methods"
        if step.over_seeds:
            # Those that are planned: of fewer it would be another ensemble under the same name.
            seeds = list(dict.fromkeys(seed for one in steps for seed in one.seeds))
            if len(seeds) < 2:
                lacking.append(
                    f"ensemble {step.name!r}: its methods have the seed {seeds[0]} alone; expected "
                    "several seeds"
                )
                return []
            sets = dict.fromkeys(learned for learned, _ in found)
            planned = [[(learned, seed) for seed in seeds] for learned in sets]
            what = "training sets have a run of each of its methods and seeds"
        whole = [
            keys for keys in planned if all(key in runs for runs in of_methods for key in keys)
        ]
        if len(whole) < len(planned) or not whole:
            some = f"{len(whole)} of {len(planned)}" if planned else "no"
            lacking.append(f"ensemble {step.name!r}: {some} {what}")
        if not whole:
            return []
        together = [Ensemble([runs[key] for runs in of_methods for key in keys]) for keys in whole]
        first, *others = (one.test or self.test for one in steps)
        beside = chain(first.beside, *((*other.stores, *other.beside) for other in others))
        kept = tuple(store for store in dict.fromkeys(beside) if store not in first.stores)
        return self._evaluated(together, replace(first, beside=kept))

    @cached_property
    def _methods(self) -> dict[str, TrainingStep]:
        """The trainings by the names of their methods."""
        return {step.method(name): step for step in self.trainings for name in step.decoders}

    def check_names(self) -> None:
        """Refuse ensembles and baselines of what is not trained.

        Raises `InputError`, `UnknownNameError`.
        """
        if self.ensembles and self.table is not None:
            raise InputError("found ensembles in a study with a table; expected a table of methods")
        names = [*self._methods]
        for one in self.ensembles:
            if one.name in names:
                raise InputError(f"{one.name!r} names two methods; expected a name of its own")
            names.append(one.name)
            for number, name in enumerate(one.methods):
                if name not in self._methods:
                    raise UnknownNameError("method", name, list(self._methods), separator="; ")
                if name in one.methods[:number]:
                    raise InputError(f"ensemble {one.name!r} has {name!r} twice; expected it once")
        for name in self.baselines:
            # Of runs that differ in more than their method's name, the difference is behind it.
            if not any(name == one or name.startswith(f"{one}, ") for one in names):
                raise UnknownNameError("method", name, names, separator="; ")

    def extract(self) -> None:
        """Extract every dataset, or find its stores complete. Raises as `ExtractionStep.run`."""
        for name, step in self.extractions.items():
            self.callbacks.begun(step)
            self._places[name] = tuple(step.run(self.callbacks))

    def check(self) -> Selection:
        """Refuse what cannot be evaluated, before any training; returns what will be.

        Raises as `Selection` does, and `InputError` for fields that make no table and for aliases
        of generators that occur nowhere.
        """
        self.check_names()
        for one in dict.fromkeys(step.test for step in self.trainings if step.test):
            self._selection(one)
        test = self.test
        if self.table is not None:
            self.table.of([], test.aliases)
        if test.aliases:
            used = [test.stores, *(step.stores for step in self.trainings)]
            known = [
                (s.dataset, name)
                for some in used
                for s in self._opened(some)
                for name in s.generators
            ]
            require_known_aliases(parse_aliases(test.aliases), known)
        return self._selection(test)

    def _selection(self, test: EvaluationStep) -> Selection:
        return Selection(
            self._opened(test.stores),
            split=test.split,
            generators=test.generators,
            beside=self._opened(test.beside),
            task="localization" if self.table is None else self.table.task,
        )

    def train(self) -> list[CellResult]:
        """Train every run, or find it finished; returns a row for each, finished or failed.

        Raises as `GridTraining` does, before the first training begins.
        """
        return [row for some in self._train() for row in some]

    def _train(self) -> list[list[CellResult]]:
        """Return the rows of each training."""
        # All are planned first, so that what no run could do is refused before the first one.
        planned = deque(self._planned(step) for step in self.trainings)
        rows = []
        for step in self.trainings:
            self.callbacks.begun(step)
            training = planned.popleft()
            with self.callbacks.rows() as tell:
                rows.append(training.run(tell))
            self.callbacks.made(str(training.folder / "results.csv"))
        return rows

    def _planned(self, step: TrainingStep) -> GridTraining:
        beside = [
            (one.location, layer)
            for store, layer in step.options.get("beside", ())
            for one in self._opened([store])
        ]
        return GridTraining(
            self._opened(step.stores),
            {**step.options, **({"beside": tuple(beside)} if beside else {})},
            dask=step.dask,
            scheduler=step.scheduler,
            notice=self.callbacks.notice,
        )

    def evaluate(
        self, rows: Sequence[CellResult], test: EvaluationStep | None = None
    ) -> list[Evaluation]:
        """Evaluate the finished runs of `train`, in their order, and save that in their folders.

        Values that were saved before of the same weights on the same stores are taken. Raises as
        `evaluate` does.

        Args:
            rows: Rows of runs.
            test: What they are evaluated on; None for what all of the study are.
        """
        runs = [Run(Path(row.run)) for row in rows if row.run is not None]
        return self._evaluated(runs, test or self.test)

    def _evaluated(
        self, sources: Sequence[Run | Ensemble], test: EvaluationStep
    ) -> list[Evaluation]:
        selection = self._selection(test)
        for source in sources:
            selection.check(source)
        device = choose_device(self.device)
        found = []
        with self.callbacks.progress("evaluating", "runs") as tell:
            for number, source in enumerate(sources):
                tell(number, len(sources))
                evaluation = evaluate(
                    source,
                    self._opened(test.stores),
                    split=selection.split,
                    generators=selection.generators,
                    beside=selection.beside,
                    task=selection.task,
                    device=device,
                    reuse=True,
                )
                if evaluation.is_of_run:
                    evaluation.save()
                found.append(evaluation)
            tell(len(sources), len(sources))
        return found

    def places(self, stores: Sequence[StoreLike]) -> list[str]:
        """Return locations of stores, some of which are named as extractions."""
        return [
            place.location if isinstance(place, Store) else str(place)
            for place in self._placed(stores)
        ]

    def _all_stores(self, step: TrainingStep) -> list[StoreLike]:
        """Return all that a training needs."""
        test = step.test or self.test
        every = [*step.stores, *step.stores_beside, *test.stores, *test.beside]
        return list(dict.fromkeys(every))

    def _is_there(self, store: StoreLike) -> bool:
        return store in self._places or store not in self.extractions

    def _called(self, step: TrainingStep) -> str:
        return step.name or f"train[{self.trainings.index(step)}]"

    def _placed(self, stores: Sequence[StoreLike]) -> list[StoreLike]:
        return [place for one in stores for place in self._places.get(one, (one,))]

    def _opened(self, stores: Sequence[StoreLike]) -> list[Store]:
        for place in self._placed(stores):
            if place not in self._stores:
                self._stores[place] = as_store(place)
        return [self._stores[place] for place in self._placed(stores)]

    @cached_property
    def _places(self) -> dict[StoreLike, tuple[StoreLike, ...]]:
        """Locations of the stores of each extraction that was carried out."""
        return {}

    @cached_property
    def _stores(self) -> dict[StoreLike, Store]:
        return {}


def _by_training(
    evaluations: Sequence[Evaluation],
) -> dict[tuple[frozenset[GeneratorKey], int | None], Path]:
    """Return the run of each training set and seed.

    Raises `InputError` where there are several, of other layers for example.
    """
    found: dict[tuple[frozenset[GeneratorKey], int | None], Path] = {}
    for one in evaluations:
        key = one.learned(), one.seed
        if found.setdefault(key, one.run) != one.run:
            raise InputError(
                f"{found[key].name} and {one.run.name} are runs of one method, training set and "
                "seed; expected methods with one run of each"
            )
    return found
