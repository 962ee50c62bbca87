"""`declip-pipe report`: what runs came to, as one HTML page to send."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stages.options import DATA, OUTPUT, CacheOption, DeviceOption, require_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from declip_pipeline.evaluation.evaluation import Evaluation
    from declip_pipeline.evaluation.methods import Method
    from declip_pipeline.sweeps.grid import CellResult

ImagesOption = Annotated[
    int, typer.Option(min=0, help="Most images in the gallery.", rich_help_panel=OUTPUT)
]


def report(
    places: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN|STUDY|GRID|FOLDER",
            help="Runs that `train` printed, folders of grids, of studies or of a demo, or folders "
            "that hold runs.",
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The HTML file.")] = Path(
        "report.html"
    ),
    on: Annotated[
        list[str] | None,
        typer.Option(
            "--on",
            metavar="STORE",
            help="Store that runs were evaluated on; repeatable. Default: every one they were.",
            rich_help_panel=DATA,
        ),
    ] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STORE",
            help="For decoders of several backbones: a store of another one; repeatable.",
            rich_help_panel=DATA,
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Split that was evaluated.")] = "test",
    evaluate: Annotated[
        bool,
        typer.Option(
            "--evaluate",
            help="Evaluate runs that never were: on each STORE of --on, or on the stores that they "
            "were trained on.",
        ),
    ] = False,
    alias: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NAME",
            help="Two names of one generator in different datasets; repeatable.",
        ),
    ] = None,
    title: Annotated[
        str | None, typer.Option(help="Title of the page.", rich_help_panel=OUTPUT)
    ] = None,
    images: ImagesOption = 200,
    cache: CacheOption = "cache",
    device: DeviceOption = "auto",
) -> None:
    """Write a report of runs that were evaluated: one HTML file that asks for nothing else.

    It has a summary, the matrix of each configuration, curves over layers and of robustness, tables
    to sort and to copy, a gallery of images with their maps, false alarms, what failed, and how all
    of it was made. Images and truths come from the stores' thumbnails and masks, maps from the
    stored features: the images themselves may be gone. Stores are looked for where they lay, and
    below --cache. The last line of stdout is the file.
    """
    from declip_pipeline.evaluation.groups import parse_aliases
    from declip_pipeline.evaluation.recorded import StoreFinder, read_evaluations
    from declip_pipeline.reports.places import runs_at
    from stages.screen import progress, remark

    aliases = parse_aliases(alias or [])
    require_file(out, "-o")
    found = runs_at(places)
    for name, reason in found.left_out.items():
        remark(f"left out: {name}: {reason}")
    with progress("reading" if not evaluate else "evaluating", "runs") as tell:
        evaluations = read_evaluations(
            found.runs,
            StoreFinder(on or [], cache),
            split=split,
            evaluate_missing=evaluate,
            beside=beside or [],
            device=device,
            progress=tell,
        )
    write_page(
        out,
        evaluations,
        title or _title(places, len(found.runs)),
        images=images,
        left_out=found.left_out,
        aliases=aliases,
        device=device,
    )


def write_page(
    out: Path,
    evaluations: "Sequence[Evaluation]",
    title: str,
    *,
    notes: "Sequence[str]" = (),
    images: int = 200,
    left_out: "Mapping[str, str] | None" = None,
    commands: "Sequence[str] | None" = None,
    aliases: "Mapping[str, str] | None" = None,
    methods: "Mapping[str, Sequence[Method]] | None" = None,
    baselines: "Sequence[str]" = (),
    device: str = "auto",
) -> None:
    """Write the report of evaluations and print its path.

    Without `commands`, those that made the runs are told from what their folders record.
    """
    from declip_pipeline.reports.page.report import ReportContent, write_html_report
    from declip_pipeline.store.reader import Store
    from stages.report_commands import commands_of
    from stages.screen import progress, result

    places = {
        place
        for one in evaluations
        for store in one.stores
        if store.inputs
        for place in (store.location, *store.inputs)
    }
    content = ReportContent(
        title=title,
        notes=notes,
        commands=commands_of(evaluations, [Store(place) for place in sorted(places)])
        if commands is None
        else commands,
        left_out=left_out or {},
        images=images,
        aliases=aliases or {},
        methods=methods or {},
        baselines=baselines,
    )
    with progress("drawing the images") as tell:
        write_html_report(out, evaluations, content, device=device, progress=tell)
    result(str(out))


def failed_rows(rows: "Sequence[CellResult]") -> dict[str, str]:
    """Return the reasons of the runs of a grid that failed, by what they are."""
    return {
        f"{row.decoder_type} {row.layer} {row.train_on} seed {row.seed}": row.reason or "failed"
        for row in rows
        if row.state == "failed"
    }


def _title(places: "Sequence[Path]", runs: int) -> str:
    if len(places) == 1:
        return places[0].resolve().name
    return f"{runs} runs"
