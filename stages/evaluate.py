"""`declip-pipe evaluate`: evaluate maps on stores, and print the train x test matrix."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from declip_pipeline.errors import InputError
from stages.evaluation_checks import (
    check_domains,
    check_options,
    folders_for,
    metrics_to_print,
    remark_left_out,
)
from stages.options import (
    DATA,
    OUTPUT,
    AllowUnpairedOption,
    BatchSizeOption,
    ColumnsOption,
    CostOption,
    DeviceOption,
    FigureFormatOption,
    ForPaperOption,
    LayoutOption,
    MapsAreOption,
    MapsKeyOption,
    MapsOption,
    PaperColumnsOption,
    PolarityOption,
    ResizeMapsOption,
    columns_named,
    comma_separated,
    fake_is_white,
    figure_style,
)

if TYPE_CHECKING:
    import torch

    from declip_pipeline.evaluation.evaluation import Evaluation
    from declip_pipeline.evaluation.map_source import MapSource
    from declip_pipeline.evaluation.selection import Selection


def evaluate(
    on: Annotated[
        list[str],
        typer.Option(
            "--on",
            metavar="STORE|DATA",
            help="Store to evaluate on, or for --maps without a RUN a dataset; repeatable.",
        ),
    ],
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]",
            help="Runs that `train` printed; RUN+RUN+... is the mean of their logits, evaluated as "
            "one run.",
        ),
    ] = None,
    maps: MapsOption = None,
    maps_are: MapsAreOption = "probabilities",
    resize_maps: ResizeMapsOption = False,
    maps_key: MapsKeyOption = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STORE",
            help="For decoders of several backbones, and for runs of other features in an "
            "ensemble: a store of these, of the same images as a store to evaluate on, or of whole "
            "views beside tiles; repeatable.",
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
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Metrics to print, comma-separated, the first of which the matrix shows, or all. "
            "Files hold all of them. Default: iou,f1,f1_fixed,f1_best,ap,auc,"
            "iou_valid_threshold,iou_min_region; with --views: iou.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    top_share: Annotated[
        float,
        typer.Option(
            help="Share of a map's pixels whose highest values one of its image scores is the mean "
            "of.",
            rich_help_panel=OUTPUT,
        ),
    ] = 0.01,
    cost: CostOption = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="OUT",
            help="Folder for the files, with a folder for each run, such as for runs that are only "
            "to be read. Default: evaluations/ in each run's own folder; of several runs together, "
            "evaluations/ in the working folder.",
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
            help="Also draw there the matrix of each configuration, and a sheet of the best and "
            "worst images of each run, ensemble and folder of maps, with their data as CSV.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    figure_format: FigureFormatOption = "png",
    for_paper: ForPaperOption = False,
    paper_columns: PaperColumnsOption = None,
    layout: LayoutOption = "auto",
    polarity: PolarityOption = None,
    allow_unpaired: AllowUnpairedOption = False,
    columns: ColumnsOption = None,
    batch_size: BatchSizeOption = 64,
    device: DeviceOption = "auto",
) -> None:
    """Evaluate runs on the fakes of stores, at each mask's own size.

    --maps NAME=FOLDER evaluates maps of another tool in the same way: files named as their images,
    of the images' own size. Maps that are missing, cannot be used or are of no image are said, and
    the exit code is then 1.

    RUN+RUN+... is an ensemble: the sigmoid of the mean of the runs' logits, over seeds, layers,
    backbones and input sizes (stores of other features with --beside), evaluated as one run.

    Of stores of tiles, the maps of overlapping tiles are joined to one of the image. Memory: one
    such image at a time, of as many bytes a pixel as --batch-size says.

    Prints means over images in percent with their bootstrap intervals of 95%, for each run and
    generator, below a caption that says the protocol; of several, also the matrix of IoU with the
    means in domain (ID: a generator of a dataset that the run learned) and out of domain (OOD), one
    for each configuration of runs, and of runs that differ in their seed only the mean over seeds.
    Where the split has real images, also false alarms, how scores of whole maps tell fakes from
    them, and how often the run's verdict is right. Writes per_image.csv and summary.json into each
    run's folder, or below -o, in which all but IoU is from 0 to 1; the same command again evaluates
    again. All runs and stores are checked before the first is evaluated.

    With --views, prints IoU, or another metric, by view instead, over the images that all views
    have, and writes robustness.csv and robustness.png into the folder of the clean evaluation. With
    --report, what was evaluated is one HTML page, too.

    With --detection: AP, AUC, accuracies and F1 of two scores, the mean of a map's probabilities
    and the sigmoid of its mean logit, for each generator against the real images, at 0.5 and at the
    threshold that is best for it on the split valid; in detection.csv and detection.json. Then
    means over seeds, ID and OOD, as above.
    """
    chosen_names = metrics_to_print(metrics, detection=detection, by_view=views is not None)
    check_options(views, detection, alias, report, figures, top_share)
    style = figure_style(figure_format, for_paper, paper_columns)
    from declip_pipeline.compute import choose_device
    from declip_pipeline.evaluation.ensemble import distinct_sources
    from declip_pipeline.evaluation.groups import parse_aliases
    from declip_pipeline.evaluation.selection import CALIBRATION, Selection
    from declip_pipeline.images.views import CLEAN_VIEW
    from stages.evaluation_figures import draw_figures
    from stages.evaluation_tables import print_costs, print_together
    from stages.figures_texts import caption_of, remark_problems, remark_repeated, remark_weak_maps
    from stages.map_sources import (
        images_on,
        map_folders,
        remark_findings,
        repeated_runs,
        require_maps,
        run_source,
        runs_of,
    )
    from stages.report import write_page
    from stages.robustness import evaluate_robustness
    from stages.screen import result

    aliases = parse_aliases(alias or [])
    how = {"maps_are": maps_are, "resize_maps": resize_maps, "maps_key": maps_key}
    given = [*(run_source(text) for text in runs or []), *map_folders(maps or [], **how)]
    if not given:
        raise InputError("nothing to evaluate; expected a RUN, or --maps NAME=FOLDER")
    require_maps(given, how)
    distinct, repeated = distinct_sources(given)
    folders = folders_for(distinct, out)
    chosen = choose_device(device)
    images = images_on(
        on,
        distinct,
        [split, CALIBRATION] if detection else [split],
        layout=layout,
        fake_is_white=fake_is_white(polarity),
        allow_unpaired=allow_unpaired,
        columns=columns_named(columns),
    )
    selection = Selection(
        images,
        split=split,
        generators=comma_separated(generators),
        beside=beside or [],
        task="detection" if detection else "localization",
    )
    for source in distinct:
        # Maps of views lie in a folder of each, those of the clean one as well.
        selection.check(source if views is None else source.at_view(CLEAN_VIEW))
    remark_repeated([*repeated_runs(distinct), *repeated, *selection.repeated])
    remark_left_out(selection)
    check_domains(distinct, selection, aliases)
    remark_problems(runs_of(distinct))
    if views is not None:
        evaluations = evaluate_robustness(
            distinct,
            selection,
            views,
            folders,
            metric=chosen_names[0],
            device=chosen,
            batch_size=batch_size,
            style=style,
        )
    else:
        if not detection:
            remark_weak_maps(runs_of(distinct))
        result(f"{split} split\n{caption_of(chosen_names)}")
        evaluations = _evaluate_each(
            distinct,
            selection,
            folders,
            chosen_names,
            are_named=metrics is not None,
            top_share=top_share,
            device=chosen,
            batch_size=batch_size,
        )
        print_together(evaluations, selection, aliases, chosen_names)
    if cost:
        print_costs(distinct, chosen)
    if figures is not None:
        draw_figures(evaluations, figures, aliases, chosen, style)
    if report is not None:
        noun = "runs" if all(one.is_of_run for one in evaluations) else "methods"
        title = distinct[0].name if len(distinct) == 1 else f"{len(distinct)} {noun}"
        write_page(report, evaluations, title, aliases=aliases, device=device)
    if remark_findings(evaluations):
        raise typer.Exit(1)


def _evaluate_each(
    sources: "Sequence[MapSource]",
    selection: "Selection",
    folders: Mapping[Path, Path],
    metrics: "Sequence[str]",
    *,
    are_named: bool,
    top_share: float,
    device: "torch.device",
    batch_size: int,
) -> "list[Evaluation]":
    """Evaluate each source on each store, and print its figures and where its files are."""
    from declip_pipeline.evaluation.evaluate import evaluate as evaluate_source
    from declip_pipeline.training.learning import MARK
    from stages.figures_texts import evaluation_lines, remark_lacking
    from stages.map_sources import cost_lines
    from stages.screen import progress, result

    evaluations = []
    for source in sources:
        for part in selection.parts:
            name = f"{source.name} on {part.store.dataset}"
            with progress(name) as tell:
                evaluation = evaluate_source(
                    source,
                    part.store,
                    split=selection.split,
                    generators=part.generators,
                    beside=selection.beside,
                    task=selection.task,
                    top_share=top_share,
                    device=device,
                    batch_size=batch_size,
                    progress=tell,
                )
            (folder,) = evaluation.save(folders[source.path])
            evaluations.append(evaluation)
            mark = MARK if evaluation.problem else ""
            result(f"{name}{mark}, {selection.split}: {folder}")
            for line in (*cost_lines(source), *evaluation_lines([evaluation], metrics)):
                result(line)
            # Metrics that nobody named are left out in silence where there are no values of them.
            if are_named:
                remark_lacking(evaluation, metrics)
    return evaluations
