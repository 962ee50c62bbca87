"""Methods side by side: what each finds, what it costs, and how it differs from a baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, median

import numpy as np

from declip_pipeline.compute import derived_seed
from declip_pipeline.errors import InputError
from declip_pipeline.evaluation.cells import (
    DOMAIN,
    DOMAINS,
    Cell,
    Estimate,
    cell_estimate,
    cells_of,
    estimates,
)
from declip_pipeline.evaluation.configurations import configurations
from declip_pipeline.evaluation.cost import decoder_macs
from declip_pipeline.evaluation.evaluation import Evaluation
from declip_pipeline.evaluation.intervals import false_alarm_figures, resampled_over_cells
from declip_pipeline.evaluation.scores import MEAN_SIGMOID
from declip_pipeline.metrics.bootstrap import (
    Difference,
    Interval,
    percentile_interval,
    resampled_means,
    two_sided_p_value,
)
from declip_pipeline.training.learning import MARK
from declip_pipeline.training.run import Run

FALSE_ALARMS = ("false_alarm_pixels", "false_alarm_images")


@dataclass(frozen=True)
class TrainingCost:
    """Cost of a decoder and of its training; of an ensemble, that of its members together.

    Attributes:
        parameters: Number of parameters of the decoder.
        macs: Multiply-accumulates of its forward pass for one image, see `decoder_macs`.
        epoch_seconds: Median seconds of an epoch over all runs, with the validation.
    """

    parameters: int
    macs: int
    epoch_seconds: float


@dataclass(frozen=True)
class Method:
    """Runs, or ensembles of runs, that differ in their seed and in what they learned alone.

    Attributes:
        name: Its name in a table.
        domains: Mean IoU in percent over the cells in domain, and over those out of domain.
        worst: The lowest IoU of a cell, and that cell: "tested on lama, trained on ldm".
        false_alarms: By name of `FALSE_ALARMS`, the mean over trainings in percent; none where
            there is no real image.
        cells: The cells with a mean: dataset and generator, and what was learned.
        runs: Folder of each run; of an ensemble, those of its members.
        seeds: Number of seeds.
        is_over_seeds: Whether each ensemble has runs of all of them.
        differences: By domain, the mean less that of the baseline over the cells that both have.
        is_known: Whether every run has the masks.
    """

    name: str
    domains: Mapping[str, Estimate]
    worst: tuple[Estimate, str]
    false_alarms: Mapping[str, Estimate]
    cells: frozenset[tuple[str, str, str]]
    runs: tuple[tuple[Path, ...], ...]
    seeds: int
    is_over_seeds: bool = False
    differences: Mapping[str, Difference] = field(default_factory=dict)
    is_known: bool = True

    @property
    def mark(self) -> str:
        """`MARK` where a run learned nothing, else empty."""
        return max(one.mark for one in (*self.domains.values(), self.worst[0]))

    @cached_property
    def cost(self) -> TrainingCost:
        """Cost of the runs, which are opened for it."""
        members = [[Run(path) for path in paths] for paths in zip(*self.runs, strict=True)]
        decoders = [of_one[0].best_decoder()[0] for of_one in members]
        return TrainingCost(
            parameters=sum(one.numel() for decoder in decoders for one in decoder.parameters()),
            macs=sum(map(decoder_macs, decoders)),
            epoch_seconds=sum(
                median(float(record["seconds"]) for run in of_one for record in run.epochs())
                for of_one in members
            ),
        )


def methods_of(
    named: Sequence[tuple[str, Sequence[Evaluation]]],
    *,
    masks: str = "",
    baselines: Sequence[str] = (),
    aliases: Mapping[str, str] | None = None,
) -> list[Method]:
    """Return the methods of runs that were evaluated.

    Args:
        named: Evaluations of localization, of runs or ensembles, by the name of their table row.
            Those of one name that differ in more than their seed and what they learned are methods
            of their own, named by the difference as well.
        masks: Masks that all figures are of, a key of `MASKS`. Methods with a run that has none
            are not known, and have no differences.
        baselines: Names of methods that others are compared with: each with the first that has a
            cell in common with it. Runs of a baseline may be missing.
        aliases: Names that stand for one generator; see `generator_key`.

    Raises:
        InputError: For a baseline that is several methods.
    """
    found: list[tuple[Method, list[Cell]]] = []
    for name, evaluations in named:
        groups = configurations(cells_of(evaluations, aliases=aliases))
        for group in groups:
            label = f"{name}, {group.title()}" if len(groups) > 1 else name
            found.append((_method(label, group.members, masks), list(group.members)))
    apart = {name for name, _ in named} - {method.name for method, _ in found}
    for name in baselines:
        if name in apart and dict(named)[name]:
            raise InputError(f"the baseline {name!r} is several methods; expected one")
    bases = [
        cells
        for name in baselines
        for method, cells in found
        if method.name == name and method.is_known
    ]
    compared = []
    for method, cells in found:
        of_bases = (_differences(cells, base, f"iou{masks}") for base in bases)
        is_compared = method.is_known and method.name not in baselines
        own = next(filter(None, of_bases), {}) if is_compared else {}
        compared.append(replace(method, differences=own))
    return compared


def _method(name: str, cells: Sequence[Cell], masks: str) -> Method:
    metric = f"iou{masks}"
    by_domain = {
        domain: [one for one in cells if one.fields[DOMAIN] == domain] for domain in DOMAINS
    }
    of_cells = {
        f"tested on {cell.fields['generator']}, trained on {'+'.join(cell.fields['train_on'])}": (
            cell_estimate(cell, metric)
        )
        for cell in cells
    }
    place = min(of_cells, key=lambda name: (np.nan_to_num(of_cells[name].value, nan=np.inf), name))
    return Method(
        name,
        domains={
            domain: estimates(own, [metric])[metric] if own else Estimate()
            for domain, own in by_domain.items()
        },
        worst=(of_cells[place], place),
        false_alarms=_false_alarms(cells, masks),
        cells=frozenset(_place(one) for one in cells if one.means(metric, MEAN_SIGMOID)),
        runs=tuple(dict.fromkeys(tuple(one.runs) for cell in cells for one in cell.seeds)),
        seeds=len({seed for cell in cells for one in cell.seeds for seed in one.seeds}),
        is_over_seeds=any(len(one.seeds) > 1 for cell in cells for one in cell.seeds),
        is_known=not any(
            np.isnan(one.values(metric)[one.values("has_fake")]).any()
            for cell in cells
            for one in cell.seeds
        ),
    )


def _false_alarms(cells: Sequence[Cell], masks: str) -> dict[str, Estimate]:
    """Return the means over trainings and datasets, with intervals over scenes and seeds."""
    trained = {
        (tuple(cell.fields["train_on"]), cell.fields["dataset"]): cell.seeds for cell in cells
    }.values()
    if not all(seeds[0].real.num_rows for seeds in trained):
        return {}
    is_marked = any(one.problem for seeds in trained for one in seeds)
    figures = [false_alarm_figures(seeds) for seeds in trained]
    if any(one[f"{FALSE_ALARMS[0]}{masks}"] is None for one in figures):
        return {}
    real = [[one.on_real() for one in seeds] for seeds in trained]
    shares = [np.array([one.values(f"fake_share{masks}") for one in seeds]) for seeds in real]
    values = {
        "false_alarm_pixels": [100 * own for own in shares],
        "false_alarm_images": [100.0 * (own > 0) for own in shares],
    }
    found = {}
    for name in FALSE_ALARMS:
        resampled = resampled_means(
            values[name],
            scenes=[seeds[0].values("scene") for seeds in real],
            seeds_alike=[
                derived_seed(0, "+".join(seeds[0].trained_on), seeds[0].kind) for seeds in real
            ],
        ).mean(axis=0)
        ends = np.clip(percentile_interval(resampled), 0.0, 100.0).tolist()
        mean = fmean(one[f"{name}{masks}"] for one in figures)
        found[name] = Estimate(mean, Interval(*ends), mark=MARK if is_marked else "")
    return found


def _differences(
    ours: Sequence[Cell], theirs: Sequence[Cell], metric: str
) -> dict[str, Difference]:
    """Return the paired differences over common cells, by domain."""
    found = {}
    for domain in DOMAINS:
        first, second = (
            {_place(cell): cell for cell in cells if cell.fields[DOMAIN] == domain}
            for cells in (ours, theirs)
        )
        common = [
            place
            for place in first
            if place in second and first[place].seeds[0].images() == second[place].seeds[0].images()
        ]
        if not common:
            continue
        sides = [[some[place] for place in common] for some in (first, second)]
        means, resampled = zip(
            *(
                (
                    estimates(cells, [metric])[metric].value,
                    resampled_over_cells([cell.seeds for cell in cells], [metric], MEAN_SIGMOID),
                )
                for cells in sides
            ),
            strict=True,
        )
        drawn = resampled[0][metric] - resampled[1][metric]
        found[domain] = Difference(
            means[0] - means[1], percentile_interval(drawn), two_sided_p_value(drawn)
        )
    return found


def _place(cell: Cell) -> tuple[str, str, str]:
    one = cell.fields
    return one["dataset"], one["generator"], "+".join(one["train_on"])
