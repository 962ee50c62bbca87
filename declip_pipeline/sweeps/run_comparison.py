"""Two runs, or two groups of seeds, on the same pictures: paired differences with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from declip_pipeline.errors import IdentityMismatchError, InputError
from declip_pipeline.evaluation.figures import metric_values
from declip_pipeline.evaluation.localization import METRICS, ImageResult, scenes_of
from declip_pipeline.feeding.decoder_inputs import inputs_like
from declip_pipeline.files import sha256_of_file
from declip_pipeline.metrics.bootstrap import Difference, paired_difference
from declip_pipeline.store.identity import parts_of
from declip_pipeline.store.reader import Store
from declip_pipeline.sweeps.cross_evaluation import plan_evaluations, run_kind
from declip_pipeline.training.run_folder import RunFolder

OVERALL = "overall"

Picture = tuple[Any, Any, Any]
"""What makes two pictures the same: id, and the SHA-256 of the picture's and the mask's file."""


@dataclass(frozen=True)
class ComparedMeans:
    """One metric's means over the shared pictures of a generator (or all of them, "overall").

    `difference` is the first less the second; `iou` is in percent, the others in [0, 1].
    """

    generator: str
    metric: str
    images: int
    first: float
    second: float
    difference: Difference


Plan = list[tuple[RunFolder, Store, list[str] | None, list[Store]]]
"""What to judge: the run, the store, its generators (None for all), and the stores beside it."""


def plan_comparison(
    first: Sequence[RunFolder],
    second: Sequence[RunFolder],
    stores: Sequence[Store],
    *,
    split: str,
    generators: Sequence[str] | None = None,
    beside: Sequence[Store] = (),
) -> Plan:
    """Check everything before the first run is judged, and choose each run's stores.

    first, second: a run each, or several that differ in their seed only. Each run is judged on
    those of the stores that hold its features; of several with the same pictures, on the first.

    Raises `InputError` for runs that are not finished, the same decoder twice, several runs on a
    side that differ in more than their seed, stores of several views; `IdentityMismatchError` for a
    run that no store has the features of; and what `plan_evaluations` raises.
    """
    for side in (first, second):
        kinds = {run_kind(run.config()) for run in side}
        if len(kinds) > 1:
            names = ", ".join(str(run.path) for run in side)
            raise InputError(
                f"{names} differ in more than their seed; expected one run, or runs of one "
                "`declip-pipe train --seeds`"
            )
    _require_different([*first, *second])
    views = sorted({store.identity.view for store in stores})
    if len(views) > 1:
        raise InputError(
            f"stores of {len(views)} views, {', '.join(views)}; expected one, or pictures would "
            "count twice; compare on one view at a time"
        )
    plan: Plan = []
    for run in (*first, *second):
        own, others = _stores_of(run, stores, beside)
        covered: set[Picture] = set()
        chosen = plan_evaluations([run], own, split=split, generators=generators, beside=others)
        for _, store, own_generators in chosen:
            rows = store.fake_rows(split, own_generators).tolist()
            pictures = {_picture(store, row) for row in rows}
            if not pictures <= covered:
                covered |= pictures
                plan.append((run, store, own_generators, others))
    return plan


def results_by_picture(store: Store, results: Sequence[ImageResult]) -> dict[Picture, ImageResult]:
    """The results of a store's rows by what pairs them with those of another store."""
    place = {name: row for row, name in enumerate(store.samples.ids)}
    return {_picture(store, place[result.id]): result for result in results}


def compared_means(
    first: Sequence[Mapping[Picture, ImageResult]], second: Sequence[Mapping[Picture, ImageResult]]
) -> list[ComparedMeans]:
    """Every metric's difference, by generator and, of several, overall.

    first, second: the results of a side's runs (seeds), by picture. Pictures that any run lacks,
    and those without a fake pixel, are left out. Scenes are resampled, so that several forgeries of
    one photograph count as one. Raises `InputError` when none is left.
    """
    shared = sorted(
        picture
        for picture, result in first[0].items()
        if result.has_fake and all(picture in found for found in (*first, *second))
    )
    if not shared:
        raise InputError(
            f"no picture with a fake pixel was judged for both: {len(first[0])} of the first run, "
            f"{len(second[0])} of the second, none the same; give stores of one dataset with --on"
        )
    members: dict[str, list[Picture]] = {}
    for picture in shared:
        members.setdefault(first[0][picture].generator, []).append(picture)
    groups = {name: members[name] for name in sorted(members)}
    if len(groups) > 1:
        groups[OVERALL] = shared
    found = []
    for name, pictures in groups.items():
        sides = [
            metric_values([[run[picture] for picture in pictures] for run in side])
            for side in (first, second)
        ]
        scenes = scenes_of(first[0][picture] for picture in pictures)
        for metric, ours, theirs in zip(METRICS, *sides, strict=True):
            difference = paired_difference(ours, theirs, scenes=scenes)
            means = float(ours.mean()), float(theirs.mean())
            found.append(ComparedMeans(name, metric, len(pictures), *means, difference))
    return found


def _picture(store: Store, row: int) -> Picture:
    sample = store.samples[row]
    return sample["id"], sample.get("image_sha256"), sample.get("mask_sha256")


def _require_different(runs: Sequence[RunFolder]) -> None:
    seen: dict[str, RunFolder] = {}
    for run in runs:
        run.summary()
        run.best_decoder()
        weights = sha256_of_file(run.best_checkpoint)
        if weights in seen:
            raise InputError(
                f"{seen[weights].path} and {run.path} have the same weights; expected two "
                "different runs"
            )
        seen[weights] = run


def _stores_of(
    run: RunFolder, stores: Sequence[Store], beside: Sequence[Store]
) -> tuple[list[Store], list[Store]]:
    """Those of the stores that hold the run's features, and the stores beside them.

    A decoder of several backbones may have the others' features in the other stores.
    """
    _, features = run.best_decoder()
    reasons: list[InputError | IdentityMismatchError] = []
    for others in (list(beside), [*beside, *stores]):
        own: list[Store] = []
        for store in stores:
            try:
                inputs_like(features, store, others, decoder=f"the run {run.path}")
                own.append(store)
            except (InputError, IdentityMismatchError) as error:
                reasons.append(error)
        if own:
            return own, others
    if len(stores) == 1:
        raise reasons[0]
    needed = ", ".join(f"{part['layer']} of {part['backbone']}" for part in parts_of(features))
    raise IdentityMismatchError(
        f"none of the {len(stores)} stores has the features of the run {run.path}, {needed}; "
        "give a store of them with --on"
    )
