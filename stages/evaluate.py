"""`declip-pipe evaluate`: judge runs on stores, and print the train x test matrix."""

from pathlib import Path
from typing import Annotated

import typer

from declip_pipeline.errors import InputError
from stages.options import (
    DATA,
    MACHINE,
    Device,
    DeviceOption,
    comma_separated,
)


def evaluate(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Runs that `train` printed.")
    ],
    on: Annotated[
        list[str], typer.Option("--on", metavar="STORE", help="Store to judge on; repeatable.")
    ],
    beside: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STORE",
            help="For decoders of several backbones: a store of another one, of the same pictures "
            "as a store to judge on; repeatable.",
            rich_help_panel=DATA,
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Split to judge on.")] = "test",
    generators: Annotated[
        str | None,
        typer.Option(
            help="Generators to judge on, comma-separated; each store gives those that it has. "
            "Default: all of the store."
        ),
    ] = None,
    views: Annotated[
        str | None,
        typer.Option(
            help="Judge robustness on other views of each STORE's pictures, stored beside it by "
            "`extract --views`: such as jpeg:90,jpeg:70,blur:1.0,resize:0.5,noise:5, or all.",
            rich_help_panel=DATA,
        ),
    ] = None,
    detection: Annotated[
        bool,
        typer.Option(
            "--detection",
            help="Judge how runs, of detection or of localization, tell fake pictures from the "
            "real ones of the split; thresholds are chosen on the split valid.",
            rich_help_panel=DATA,
        ),
    ] = False,
    batch_size: Annotated[
        int,
        typer.Option(
            min=1,
            help="Pictures a step.",
            rich_help_panel=MACHINE,
        ),
    ] = 64,
    device: DeviceOption = Device.auto,
) -> None:
    """Judge runs on the fakes of stores, at each mask's own size.

    Prints IoU (percent), F1 at the best threshold and at 0.5, and AP (0 to 1), means over pictures
    with their bootstrap intervals of 95%, for each run and generator; of several, also the matrix
    of IoU with the means in domain (ID) and out of domain (OOD), one for each decoder and its
    features, and of runs that differ in their seed only the mean over seeds. Writes per_image.csv
    and summary.json into each run's folder; the same command again judges anew. All runs and stores
    are checked before the first is judged.

    With --views, prints IoU by view instead, and writes robustness.csv and robustness.png into the
    folder of the clean evaluation.

    With --detection: AP and AUC (0 to 1) and accuracies (percent) of two scores, the mean of a
    map's probabilities and the sigmoid of its mean logit, for each generator against the real
    pictures, at 0.5 and at the threshold that is best for it on the split valid; in detection.csv
    and detection.json. Then means over seeds, ID and OOD, as above.
    """
    if detection and views is not None:
        raise InputError("--views judges maps, --detection whole pictures; leave one out")
    from declip_pipeline.compute import choose_device
    from declip_pipeline.reports.matrix import format_matrix_text
    from declip_pipeline.store.reader import Store
    from declip_pipeline.sweeps.cross_evaluation import (
        by_method,
        evaluate_run,
        has_mixed_cells,
        iou_matrix,
        plan_evaluations,
    )
    from declip_pipeline.sweeps.matrix_intervals import matrix_intervals
    from declip_pipeline.sweeps.seed_groups import seed_groups
    from declip_pipeline.training.run_folder import RunFolder
    from stages.evaluate_detection import judge_detection, remark_weak_maps
    from stages.figures_texts import figures_lines, seeds_text
    from stages.judging import judge_each
    from stages.robustness import judge_views
    from stages.screen import remark, result

    chosen = choose_device(device.value)
    stores = [Store(path) for path in on]
    others = [Store(path) for path in beside or []]
    judged = [RunFolder(path) for path in runs]
    if detection:
        judge_detection(
            judged,
            stores,
            beside=others,
            split=split,
            generators=comma_separated(generators),
            batch_size=batch_size,
            device=chosen,
        )
        return
    if views is not None:
        judge_views(
            judged,
            stores,
            views,
            split=split,
            generators=comma_separated(generators),
            beside=others,
            options={"device": chosen, "batch_size": batch_size},
        )
        return
    plan = plan_evaluations(
        judged,
        stores,
        split=split,
        generators=comma_separated(generators),
        beside=others,
    )
    remark_weak_maps(judged)
    evaluations = []
    for name, evaluation in judge_each(
        plan,
        stores,
        evaluate_run,
        split=split,
        beside=others,
        device=chosen,
        batch_size=batch_size,
    ):
        evaluations.append(evaluation)
        result(f"{name}, {split}: {evaluation.folder}")
        for line in figures_lines(evaluation.figures, evaluation.overall):
            result(line)
    for group in seed_groups(evaluations):
        if len(group) > 1:
            result(seeds_text(group, split))
    methods = by_method(evaluations)
    for method, some in methods.items():
        values, rows, columns = iou_matrix(some)
        of = f", {method}" if len(methods) > 1 else ""
        if has_mixed_cells(some):
            remark(
                f"{method}: runs that differ in more than their seed share a cell of the matrix, "
                "which is their mean; judge them apart"
            )
        if values.size > 1:
            matrix = format_matrix_text(values, rows, columns, intervals=matrix_intervals(some))
            result(f"\nIoU (percent), {split} split{of}\n{matrix.rstrip()}")
