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
    CostOption,
    DeviceOption,
    comma_separated,
    require_folder,
)

if TYPE_CHECKING:
    import torch

    from declip_pipeline.evaluation.evaluation import Evaluation
    from declip_pipeline.evaluation.scores import Task
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
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Metrics to print, comma-separated, the first of which the matrix shows, or all. "
            "Files hold all of them. Default: iou,f1,f1_fixed,f1_best,ap,auc,iou_valid_threshold; "
            "with --views: iou.",
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
            "to be read. Default: evaluations/ in each run's own folder.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    batch_size: BatchSizeOption = 64,
    device: DeviceOption = "auto",
) -> None:
    """Evaluate runs on the fakes of stores, at each mask's own size.

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
    have, and writes robustness.csv and robustness.png into the folder of the clean evaluation.

    With --detection: AP, AUC, accuracies and F1 of two scores, the mean of a map's probabilities
    and the sigmoid of its mean logit, for each generator against the real images, at 0.5 and at the
    threshold that is best for it on the split valid; in detection.csv and detection.json. Then
    means over seeds, ID and OOD, as above.
    """
    chosen_names = _chosen_metrics(metrics, detection=detection, by_view=views is not None)
    if views is not None:
        _refuse_beside_views(detection, alias)
    from declip_pipeline.compute import choose_device
    from declip_pipeline.evaluation.cells import seed_groups
    from declip_pipeline.evaluation.evaluate import evaluate as evaluate_run
    from declip_pipeline.evaluation.groups import parse_aliases
    from declip_pipeline.evaluation.selection import Selection, distinct_runs
    from declip_pipeline.training.learning import MARK
    from stages.figures_texts import (
        caption_of,
        evaluation_lines,
        remark_problems,
        remark_repeated,
        remark_weak_maps,
        seeds_title,
    )
    from stages.robustness import evaluate_robustness
    from stages.screen import progress, remark, result

    aliases = parse_aliases(alias or [])
    folders = _folders(distinct_runs(runs)[0], out)
    chosen = choose_device(device)
    task: Task = "detection" if detection else "localization"
    selection = Selection(
        on,
        split=split,
        generators=comma_separated(generators),
        beside=beside or [],
        task=task,
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
            metric=chosen_names[0],
            device=chosen,
            batch_size=batch_size,
        )
        _print_costs(distinct if cost else [], chosen)
        return
    if not detection:
        remark_weak_maps(distinct)
    result(f"{split} split\n{caption_of(chosen_names)}")
    evaluations = []
    for run in distinct:
        for part in selection.parts:
            name = f"{run.path.name} on {part.store.dataset}"
            with progress(name) as tell:
                evaluation = evaluate_run(
                    run,
                    part.store,
                    split=split,
                    generators=part.generators,
                    beside=selection.beside,
                    task=task,
                    top_share=top_share,
                    device=chosen,
                    batch_size=batch_size,
                    progress=tell,
                )
            (folder,) = evaluation.save(folders[run.path])
            evaluations.append(evaluation)
            mark = MARK if evaluation.problem else ""
            result(f"{name}{mark}, {split}: {folder}")
            for line in evaluation_lines([evaluation], chosen_names):
                result(line)
    for group in seed_groups(evaluations):
        if len(group.members) > 1:
            result(
                "\n".join(
                    [seeds_title(group, split), *evaluation_lines(group.members, chosen_names)]
                )
            )
    if detection:
        _print_detection_domains(evaluations, split, aliases)
    else:
        _print_matrices(evaluations, split, aliases, chosen_names[0])
    _print_costs(distinct if cost else [], chosen)


def _chosen_metrics(text: str | None, *, detection: bool, by_view: bool) -> tuple[str, ...]:
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


def _print_costs(runs: "Sequence[Run]", device: "torch.device") -> None:
    """Print what runs cost, those that differ in their seed alone once."""
    from declip_pipeline.evaluation.cost import CostMeter
    from declip_pipeline.evaluation.groups import kind_of
    from stages.figures_texts import cost_text
    from stages.screen import result

    meter = CostMeter(device)
    kinds: dict[str, Run] = {}
    for run in runs:
        kinds.setdefault(kind_of(run.config()), run)
    if kinds:
        result("\n" + cost_text([(run.path.name, meter.of(run)) for run in kinds.values()]))


def _remark_unused(selection: "Selection") -> None:
    from stages.screen import remark

    for location in selection.unused_beside:
        remark(f"--beside {location} is not used: no run takes a layer of it")


def _refuse_beside_views(detection: bool, alias: list[str] | None) -> None:
    """Raise `InputError` for options that mean nothing with --views."""
    if detection:
        raise InputError("--views evaluates maps, --detection whole images; leave one out")
    if alias:
        raise InputError(
            "--alias is for the means in domain and out of domain, which --views does not print; "
            "leave one out"
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
    evaluations: "Sequence[Evaluation]", split: str, aliases: Mapping[str, str], metric: str
) -> None:
    from declip_pipeline.evaluation.metrics import LOCALIZATION_METRICS
    from declip_pipeline.evaluation.table import matrices
    from declip_pipeline.reports.matrix import format_matrix_text
    from declip_pipeline.training.learning import MARK_MEANING
    from stages.figures_texts import caption_of
    from stages.screen import result

    one = LOCALIZATION_METRICS[metric]
    found = matrices(evaluations, metrics=[metric], aliases=aliases)
    for matrix in found:
        values = one.percent * matrix.table.values
        if values.size < 2:
            continue
        of = f", {matrix.title}" if len(found) > 1 else ""
        text = format_matrix_text(
            values,
            matrix.table.rows,
            matrix.table.marked_columns,
            intervals=[(one.percent * low, one.percent * high) for low, high in matrix.intervals],
            domain=matrix.in_domain,
        )
        title = f"{one.meaning} (percent), {split} split{of}"
        result(f"\n{title}\n{caption_of([metric])}\n{text.rstrip()}")
        if matrix.table.is_marked:
            result(MARK_MEANING)


def _print_detection_domains(
    evaluations: "Sequence[Evaluation]", split: str, aliases: Mapping[str, str]
) -> None:
    """Print the means of the scores that all runs of a configuration have, of several cells."""
    from declip_pipeline.evaluation.cells import DOMAINS
    from declip_pipeline.evaluation.table import matrices
    from stages.figures_texts import caption_of, domains_line
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
        head = f"\nmeans over cells, {split} split, {title}\n{caption_of([])}"
        result("\n".join([head, *lines]))
