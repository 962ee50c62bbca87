"""Result of a study: its tables or methods, and the runs that they lack."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from declip_pipeline.errors import TrainingError
from declip_pipeline.evaluation.evaluation import Evaluation
from declip_pipeline.evaluation.methods import Method
from declip_pipeline.study.tables import StudyTable
from declip_pipeline.sweeps.grid import CellResult


@dataclass(frozen=True)
class StudyResult:
    """Tables of a study, or its methods, and the runs that they lack.

    Attributes:
        tables: Tables, of a study with a `table`.
        methods: Methods, of another.
        methods_from_valid: The same for other masks, by their key in `MASKS`, of the methods whose
            runs all keep what these take from `valid`.
        missing: Lines on trainings with runs that are not finished, or whose stores are not there,
            on ensembles that lack runs, and on baselines that are no method.
        evaluations: Those of all finished runs, for further tables; of ensembles none.
        runs: The runs, as a grid lists them.
    """

    tables: tuple[StudyTable, ...] = ()
    methods: tuple[Method, ...] = ()
    methods_from_valid: Mapping[str, Sequence[Method]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    runs: tuple[CellResult, ...] = ()


def unfinished_lines(rows: Sequence[CellResult]) -> list[str]:
    """Return a line for each decoder and layer with the runs that are not finished."""
    planned = Counter(_decoder_text(row) for row in rows)
    found: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        if row.state != "finished":
            found.setdefault(_decoder_text(row), {}).setdefault(row.train_on, []).append(
                str(row.seed)
            )
    lines = []
    for name, own in found.items():
        each = [f"{learned}, seed {', '.join(seeds)}" for learned, seeds in own.items()]
        all_are = sum(map(len, own.values())) == planned[name]
        lines.append(f"{name}, " + ("every run" if all_are else f"trained on {'; '.join(each)}"))
    return lines


def _decoder_text(row: CellResult) -> str:
    return f"{row.decoder_type} on {row.layer}"


def require_finished(rows: Sequence[CellResult]) -> None:
    """Raise `TrainingError` for the first run that failed."""
    failed = [row for row in rows if row.state == "failed"]
    if failed:
        first = failed[0]
        raise TrainingError(
            f"{len(failed)} of {len(rows)} runs failed; {first.decoder_type} {first.layer} "
            f"{first.train_on} seed {first.seed}: {first.reason}"
        )
