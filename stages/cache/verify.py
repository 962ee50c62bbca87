"""`declip-pipe cache verify`: find damage in a store, and repair it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stages.options import (
    DATA,
    DeviceOption,
    WeightsOption,
    refuse_given,
)
from stages.texts import spelled

if TYPE_CHECKING:
    from declip_pipeline.store.verify import Problem, Verification

NAMED_IMAGES = 3


def verify(
    store: Annotated[
        str,
        typer.Argument(metavar="STORE", help="A store that `extract` printed, finished or not."),
    ],
    deep: Annotated[
        bool,
        typer.Option(
            "--deep",
            help="Read every file: SHA-256, each chunk's checksum, values that are not finite.",
        ),
    ] = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Extract again what is damaged, just that; write damaged records again, finish "
            "what is incomplete, remove shards that no record knows. Implies --deep, twice.",
        ),
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="With --repair: where the dataset lies now. Default: where it was extracted from.",
            rich_help_panel=DATA,
        ),
    ] = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    *,
    context: typer.Context,
) -> None:
    """Verify that a store is what was written, and name the layers and images that are not.

    Prints one line a problem, then ok or their number. Without --deep, sizes and records alone are
    held against each other. Exit codes: 0 all is well, 1 problems remain.
    """
    if not repair:
        names = ("data", "weights", "device")
        refuse_given(context, names, "says how to repair; pass --repair too, or leave it out")

    from declip_pipeline.store.verify import verify_store
    from stages.screen import progress, remark, result

    deep = deep or repair

    def verified() -> "Verification":
        with progress("verifying", "files") as tell:
            return verify_store(store, deep=deep, progress=tell)

    found = verified()
    for problem in found.problems:
        result(_line(problem))
    repairable = sum(problem.is_repairable for problem in found.problems)
    if repairable and repair:
        from declip_pipeline.compute import choose_device
        from declip_pipeline.extraction.maintenance import repair_store

        with progress("repairing") as tell:
            repair_store(
                store,
                found.problems,
                data_root=data,
                weights=weights or (),
                device=str(choose_device(device)),
                progress=tell,
                notice=remark,
            )
        remark(f"repaired {_count(repairable)}; verifying again")
        found = verified()
        for problem in found.problems:
            result(f"remains: {_line(problem)}")
    elif repairable:
        remark(f"--repair can repair {repairable} of {_count(len(found.problems))}")
    if found.problems:
        result(_count(len(found.problems)))
        raise typer.Exit(1)
    seen = f"ok: {found.arrays} arrays, {found.shards} shards, {found.rows} rows, "
    megabytes = f"{found.total_bytes / 1e6:.1f} MB"
    result(seen + (f"{megabytes} read" if deep else f"{megabytes} by size; --deep reads them"))


def _line(problem: "Problem") -> str:
    if problem.array is not None:
        place = f"{problem.array}, shard {problem.shard}"
    elif problem.shard is not None:
        place = f"{problem.key}, shard {problem.shard}"
    else:
        place = problem.key
    images = ", ".join(problem.images[:NAMED_IMAGES])
    more = len(problem.images) - NAMED_IMAGES
    of_images = f" ({images}{f' and {more} more' if more > 0 else ''})" if images else ""
    return f"{place}: {spelled(problem.what)}{of_images}"


def _count(problems: int) -> str:
    return f"{problems} problem{'' if problems == 1 else 's'}"
