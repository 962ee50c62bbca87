"""Checks of what `evaluate` was asked for, before anything is evaluated."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from declip_pipeline.errors import InputError
from stages.options import comma_separated, require_file, require_folder

if TYPE_CHECKING:
    from declip_pipeline.evaluation.map_source import MapSource
    from declip_pipeline.evaluation.selection import Selection


def metrics_to_print(text: str | None, *, detection: bool, by_view: bool) -> tuple[str, ...]:
    """Return the metrics to print: none for detection, one by view."""
    from declip_pipeline.evaluation.metrics import chosen_metrics

    if detection:
        if text is not None:
            raise InputError(
                "--metrics are those of maps, --detection evaluates whole images; leave one out"
            )
        return ()
    if by_view and text is None:
        return ("iou",)
    chosen = chosen_metrics(comma_separated(text))
    if by_view and len(chosen) > 1:
        raise InputError(
            f"--views shows one metric by view, found {', '.join(chosen)}; name one with --metrics"
        )
    return chosen


def check_options(
    views: str | None,
    detection: bool,
    alias: list[str] | None,
    report: Path | None,
    figures: Path | None,
    top_share: float,
) -> None:
    """Raise `InputError` for options that mean nothing together, and for places to write."""
    from declip_pipeline.metrics.localization import TOP_SHARE, require_share

    require_share(top_share)
    if top_share != TOP_SHARE and (detection or views is not None):
        option = "--detection" if detection else "--views"
        raise InputError(
            f"--top-share is of scores that are printed without {option}; leave one out"
        )
    if detection and figures is not None:
        raise InputError("--figures are of maps, --detection evaluates whole images; leave one out")
    if report is not None:
        require_file(report, "--report")
    if figures is not None:
        require_folder(figures, "--figures")
    if views is None:
        return
    if detection:
        raise InputError("--views evaluates maps, --detection whole images; leave one out")
    if alias:
        raise InputError(
            "--alias is for the means in domain and out of domain, which --views does not print; "
            "leave one out"
        )
    if report is not None or figures is not None:
        option = "--figures are" if report is None else "--report is"
        raise InputError(
            f"{option} of one view, --views evaluates several; leave one out (`declip-pipe report` "
            "finds what both wrote)"
        )


def folders_for(sources: "Sequence[MapSource]", out: Path | None) -> dict[Path, Path]:
    """Return the folder for the evaluations of each source; each can be written into."""
    from declip_pipeline.evaluation.files import kept_in

    if out is None:
        folders = {one.path: kept_in(one.path, one.config()) for one in sources}
    else:
        # Not its name alone: two runs that were named may have the same.
        names = [one.path.resolve().name for one in sources]
        folders = {
            one.path: out / (name if names.count(name) == 1 else f"{name}_{_identity(one)}")
            for one, name in zip(sources, names, strict=True)
        }
    for folder in folders.values():
        require_folder(folder, "-o")
    return folders


def _identity(source: "MapSource") -> str:
    return str(source.config()["run_sha256"])[:12]


def check_domains(
    sources: "Sequence[MapSource]", selection: "Selection", aliases: Mapping[str, str]
) -> None:
    """Check the aliases, and say of what the training datasets are not known."""
    from declip_pipeline.evaluation.groups import learned_generators, require_known_aliases
    from stages.screen import remark

    stores = [part.store for part in selection.parts]
    known = {one.sha256: (one.dataset, tuple(one.generators)) for one in stores}
    names = {(dataset, name) for dataset, own in known.values() for name in own}
    learned = {one.path: learned_generators(one.config(), known, {}) for one in sources}
    require_known_aliases(aliases, [*names, *(key for keys in learned.values() for key in keys)])
    for path, keys in learned.items():
        if any(dataset is None for dataset, _ in keys):
            remark(
                f"{path} does not record its training datasets: what is in domain goes by the "
                "names of generators"
            )


def remark_left_out(selection: "Selection") -> None:
    """Say which stores are of no use to the evaluation, and why."""
    from stages.screen import remark

    for location in selection.left_out:
        remark(f"left out, has none of the generators that were named: {location}")
    for location in selection.unused_beside:
        remark(f"--beside {location} is not used: no run takes a layer of it")
