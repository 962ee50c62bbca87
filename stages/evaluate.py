"""`declip-pipe evaluate`: evaluate runs on stores, and print the train x test matrix."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from declip_pipeline.errors import InputError
from stages.options import (
    DATA,
    OUTPUT,
    BatchSizeOption,
    ColumnsOption,
    DeviceOption,
    FigureFormatOption,
    ForPaperOption,
    comma_separated,
    figure_style,
    require_file,
    require_folder,
)

if TYPE_CHECKING:
    import torch

    from declip_pipeline.evaluation.evaluation import Evaluation
    from declip_pipeline.evaluation.selection import Selection
    from declip_pipeline.training.run import Run


def evaluate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Runs that `train` printed.")],
    on: Annotated[
        list[str], typer.Option("--on", metavar="STORE", help="Store to evaluate on; repeatable.")
    ],
    beside: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STORE",
            help="For decoders of several backbones: a store of another one, of the same images "
            "as a store to evaluate on, or of whole views beside tiles; repeatable.",
            rich_help_panel=DATA,
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Split to evaluate.")] = "test",
    generators: Annotated[
        str | None,
        typer.Option(
            help="Generators to evaluate, comma-separated; each store gives those that it has. "
            "Default: all of the store."
        ),
    ] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NAME",
            help="Two names of one generator in different datasets, as in ns=navier-stokes, for "
            "the means in domain and out of domain; repeatable.",
        ),
    ] = None,
    views: Annotated[
        str | None,
        typer.Option(
            help="Evaluate robustness on other views of each STORE's images, stored beside it by "
            "`extract --views`: such as jpeg:90,jpeg:70,blur:1.0,resize:0.5,noise:5, or all.",
            rich_help_panel=DATA,
        ),
    ] = None,
    detection: Annotated[
        bool,
        typer.Option(
            "--detection",
            help="Evaluate how runs, of detection or of localization, tell fake images from the "
            "real ones of the split; thresholds are chosen on the split valid.",
            rich_help_panel=DATA,
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="OUT",
            help="Folder for the files, with a folder for each run, such as for runs that are only "
            "to be read. Default: evaluations/ in each run's own folder.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write a report of these evaluations, an HTML file; see `report`.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Also draw there the matrix of each configuration, and a sheet of each run's best "
            "and worst images, with their data as CSV.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    figure_format: FigureFormatOption = "png",
    for_paper: ForPaperOption = False,
    columns: ColumnsOption = None,
    batch_size: BatchSizeOption = 64,
    device: DeviceOption = "auto",
) -> None:
    """Evaluate runs on the fakes of stores, at each mask's own size.

    Of stores of tiles, the maps of overlapping tiles are joined to one of the image. Memory: one
    such image at a time, of as many bytes a pixel as --batch-size says.

    Prints IoU (percent), F1 at the best threshold and at 0.5, and AP (0 to 1), means over images
    with their bootstrap intervals of 95%, for each run and generator; of several, also the matrix
    of IoU with the means in domain (ID: a generator of a dataset that the run learned) and out of
    domain (OOD), one for each configuration of runs, and of runs that differ in their seed only the
    mean over seeds. Writes per_image.csv and summary.json into each run's folder, or below -o; the
    same command again evaluates again. All runs and stores are checked before the first is
    evaluated.

    With --views, prints IoU by view instead, over the images that all views have, and writes
    robustness.csv and robustness.png into the folder of the clean evaluation. With --report, what
    was evaluated is one HTML page, too.

    With --detection: AP and AUC (0 to 1) and accuracies (percent) of two scores, the mean of a
    map's probabilities and the sigmoid of its mean logit, for each generator against the real
    images, at 0.5 and at the threshold that is best for it on the split valid; in detection.csv
    and detection.json. Then means over seeds, ID and OOD, as above.
    """
    _check_options(views, detection, alias, report, figures)
    style = figure_style(figure_format, for_paper, columns)
    from declip_pipeline.compute import choose_device
    from declip_pipeline.evaluation.groups import parse_aliases
    from declip_pipeline.evaluation.selection import Selection, distinct_runs
    from stages.evaluation_figures import draw_figures
    from stages.figures_texts import remark_problems, remark_repeated, remark_weak_maps
    from stages.report import write_page
    from stages.robustness import evaluate_robustness
    from stages.screen import remark

    aliases = parse_aliases(alias or [])
    folders = _folders(distinct_runs(runs)[0], out)
    chosen = choose_device(device)
    selection = Selection(
        on,
        split=split,
        generators=comma_separated(generators),
        beside=beside or [],
        task="detection" if detection else "localization",
    )
    distinct, repeated = distinct_runs(runs)
    for run in distinct:
        selection.check(run)
    remark_repeated([*repeated, *selection.repeated])
    for location in selection.left_out:
        remark(f"left out, has none of the generators that were named: {location}")
    _remark_unused(selection)
    _check_domains(distinct, selection, aliases)
    remark_problems(distinct)
    if views is not None:
        evaluate_robustness(
            distinct,
            selection,
            views,
            folders,
            device=chosen,
            batch_size=batch_size,
            style=style,
        )
        return
    if not detection:
        remark_weak_maps(distinct)
    evaluations = _evaluated(distinct, selection, folders, chosen, batch_size)
    _print_means(evaluations, split, aliases)
    if figures is not None:
        draw_figures(evaluations, figures, aliases, chosen, style)
    if report is not None:
        title = distinct[0].path.name if len(distinct) == 1 else f"{len(distinct)} runs"
        write_page(report, evaluations, title, aliases=aliases, device=device)


def _evaluated(
    runs: "Sequence[Run]",
    selection: "Selection",
    folders: Mapping[Path, Path],
    device: "torch.device",
    batch_size: int,
) -> "list[Evaluation]":
    """Evaluate runs on every store, one after the other; print and keep each."""
    from declip_pipeline.evaluation.evaluate import evaluate as evaluate_run
    from declip_pipeline.training.learning import MARK
    from stages.figures_texts import evaluation_lines
    from stages.screen import progress, result

    evaluations = []
    for run in runs:
        for part in selection.parts:
            name = f"{run.path.name} on {part.store.dataset}"
            with progress(name) as tell:
                evaluation = evaluate_run(
                    run,
                    part.store,
                    split=selection.split,
                    generators=part.generators,
                    beside=selection.beside,
                    task=selection.task,
                    device=device,
                    batch_size=batch_size,
                    progress=tell,
                )
            (folder,) = evaluation.save(folders[run.path])
            evaluations.append(evaluation)
            mark = MARK if evaluation.problem else ""
            result(f"{name}{mark}, {selection.split}: {folder}")
            for line in evaluation_lines([evaluation]):
                result(line)
    return evaluations


def _print_means(
    evaluations: "Sequence[Evaluation]", split: str, aliases: Mapping[str, str]
) -> None:
    """Print means over seeds, and the matrix or the means in domain and out of domain."""
    from declip_pipeline.evaluation.cells import seed_groups
    from stages.figures_texts import evaluation_lines, seeds_title
    from stages.screen import result

    for group in seed_groups(evaluations):
        if len(group.members) > 1:
            result("\n".join([seeds_title(group, split), *evaluation_lines(group.members)]))
    if evaluations[0].task == "detection":
        _print_detection_domains(evaluations, split, aliases)
    else:
        _print_matrices(evaluations, split, aliases)


def _remark_unused(selection: "Selection") -> None:
    from stages.screen import remark

    for location in selection.unused_beside:
        remark(f"--beside {location} is not used: no run takes a layer of it")


def _check_options(
    views: str | None,
    detection: bool,
    alias: list[str] | None,
    report: Path | None,
    figures: Path | None,
) -> None:
    """Raise `InputError` for options that mean nothing together, and for places to write."""
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


def _folders(runs: "Sequence[Run]", out: Path | None) -> dict[Path, Path]:
    """Return the folder for the evaluations of each run; each can be written into."""
    from declip_pipeline.evaluation.evaluate import EVALUATIONS

    if out is None:
        folders = {run.path: run.path / EVALUATIONS for run in runs}
    else:
        # Not its name alone: two runs that were named may have the same.
        names = [run.path.resolve().name for run in runs]
        folders = {
            run.path: out / (name if names.count(name) == 1 else f"{name}_{_identity(run)}")
            for run, name in zip(runs, names, strict=True)
        }
    for folder in folders.values():
        require_folder(folder, "-o")
    return folders


def _identity(run: "Run") -> str:
    return str(run.config()["run_sha256"])[:12]


def _check_domains(
    runs: "Sequence[Run]", selection: "Selection", aliases: Mapping[str, str]
) -> None:
    """Check the aliases, and say of which runs the datasets are not known."""
    from declip_pipeline.evaluation.groups import learned_generators, require_known_aliases
    from stages.screen import remark

    stores = [part.store for part in selection.parts]
    known = {one.identity.sha256: (one.dataset, tuple(one.generators)) for one in stores}
    names = {(dataset, name) for dataset, own in known.values() for name in own}
    learned = {run.path: learned_generators(run.config(), known, {}) for run in runs}
    require_known_aliases(aliases, [*names, *(key for keys in learned.values() for key in keys)])
    for path, keys in learned.items():
        if any(dataset is None for dataset, _ in keys):
            remark(
                f"{path} does not record its training datasets: what is in domain goes by the "
                "names of generators"
            )


def _print_matrices(
    evaluations: "Sequence[Evaluation]", split: str, aliases: Mapping[str, str]
) -> None:
    from declip_pipeline.evaluation.table import matrices
    from declip_pipeline.reports.matrix import format_matrix_text
    from declip_pipeline.training.learning import MARK_MEANING
    from stages.screen import result

    found = matrices(evaluations, aliases=aliases)
    for matrix in found:
        values = matrix.table.values
        if values.size < 2:
            continue
        of = f", {matrix.title}" if len(found) > 1 else ""
        text = format_matrix_text(
            values,
            matrix.table.rows,
            matrix.table.marked_columns,
            intervals=matrix.intervals,
            domain=matrix.in_domain,
        )
        result(f"\nIoU (percent), {split} split{of}\n{text.rstrip()}")
        if matrix.table.is_marked:
            result(MARK_MEANING)


def _print_detection_domains(
    evaluations: "Sequence[Evaluation]", split: str, aliases: Mapping[str, str]
) -> None:
    """Print the means of the scores that all runs of a configuration have, of several cells."""
    from declip_pipeline.evaluation.cells import DOMAINS
    from declip_pipeline.evaluation.table import matrices
    from stages.figures_texts import domains_line
    from stages.screen import result

    titles: dict[str, list[str]] = {}
    scores = list(dict.fromkeys(score for one in evaluations for score in one.scores))
    for score in scores:
        own = [one for one in evaluations if score in one.scores]
        for matrix in matrices(own, metrics=("ap", "auc"), score=score, aliases=aliases):
            if len(matrix.table.cells) > 1:
                ap, auc = matrix.domains["ap"], matrix.domains["auc"]
                line = domains_line(list(zip(DOMAINS, zip(ap, auc, strict=True), strict=True)))
                titles.setdefault(matrix.title, []).append(f"  {score}: {line}")
    for title, lines in titles.items():
        result("\n".join([f"\nmeans over cells, {split} split, {title}", *lines]))
