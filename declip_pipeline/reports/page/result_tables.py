"""Tables of a page: runs, their false alarms, detection, and images that could not be read."""

from collections.abc import Mapping, Sequence
from typing import Any

from declip_pipeline.datasets.tiles import image_ids
from declip_pipeline.errors import DeclipError
from declip_pipeline.evaluation.evaluation import Evaluation
from declip_pipeline.evaluation.metrics import METRICS
from declip_pipeline.reports.page.tables import Column, PageTable, number_cell, text_cell
from declip_pipeline.store.reader import Store
from declip_pipeline.training.learning import MARK
from declip_pipeline.training.run import Run

RUN_METRICS = ("iou", "f1", "f1_fixed", "f1_best", "ap", "auc")
"""Metrics of the table of runs."""


def runs_table(evaluations: Sequence[Evaluation]) -> PageTable:
    """Return a row for each run of localization, with its means over all images."""
    columns = [
        *map(Column, ("run", "decoder and features", "trained on")),
        Column("seed", is_number=True),
        Column("IoU on valid, %", is_number=True),
        Column("images", is_number=True),
        *(
            Column(
                f"{METRICS[name].title}, %",
                is_number=True,
                has_interval=True,
            )
            for name in RUN_METRICS
        ),
        Column("parameters", is_number=True),
        Column("training, s", is_number=True),
    ]
    rows = []
    for one in evaluations:
        figures = one.figures()
        summary = _about_training(one)
        mark = MARK if one.problem else ""
        seed = one.seed
        rows.append(
            [
                text_cell(one.run.name + mark, hover=one.problem or ""),
                text_cell(one.method),
                text_cell(" + ".join(one.trained_on)),
                number_cell(None if seed is None else float(seed), 0),
                number_cell(summary.get("best_valid_iou"), 1),
                number_cell(float(figures["images"]), 0),
                *(
                    number_cell(
                        figures[name],
                        1,
                        figures[f"{name}_low"],
                        figures[f"{name}_high"],
                        factor=METRICS[name].percent,
                    )
                    for name in RUN_METRICS
                ),
                number_cell(summary.get("parameters"), 0),
                number_cell(summary.get("seconds"), 1),
            ]
        )
    return PageTable("runs", "Runs: means over all images of all generators", columns, rows)


def _about_training(one: Evaluation) -> Mapping[str, Any]:
    """Return what is recorded of a training; of a run whose folder is gone, its configuration."""
    if not one.is_of_run:
        return one.config
    try:
        return Run(one.run).summary()
    except DeclipError:
        return one.config


def false_alarms_table(evaluations: Sequence[Evaluation]) -> PageTable | None:
    """Return the false alarms of each run on real images; None where there are no such images."""
    names = ("false_alarm_pixels", "false_alarm_images", "large_false_alarm_images")
    columns = [
        Column("run"),
        Column("real images", is_number=True),
        *(
            Column(title, is_number=True, has_interval=True)
            for title in (
                "pixels called fake, %",
                "images with such a pixel, %",
                "images with more than 1% of them, %",
            )
        ),
    ]
    rows = []
    for one in evaluations:
        figures = one.false_alarms()
        if figures["real_images"]:
            rows.append(
                [
                    text_cell(one.run.name),
                    number_cell(float(figures["real_images"]), 0),
                    *(
                        number_cell(figures[n], 2, figures[f"{n}_low"], figures[f"{n}_high"])
                        for n in names
                    ),
                ]
            )
    caption = "False alarms on real images, at the threshold 0.5"
    return PageTable("false-alarms", caption, columns, rows) if rows else None


def detection_table(evaluations: Sequence[Evaluation]) -> PageTable | None:
    """Return AP and AUC of whole images by run, score and generator; None without such runs."""
    columns = [
        *map(Column, ("run", "trained on", "score", "generator")),
        Column("AP, %", is_number=True, has_interval=True),
        Column("AUC, %", is_number=True, has_interval=True),
        Column("accuracy at 0.5, %", is_number=True),
        Column("accuracy at valid's threshold, %", is_number=True),
    ]
    rows = []
    for one in evaluations:
        for score in one.scores:
            for generator in [*one.generators, None]:
                if generator is None and len(one.generators) < 2:
                    continue
                figures = one.figures(generator, score)
                rows.append(
                    [
                        text_cell(one.run.name),
                        text_cell(" + ".join(one.trained_on)),
                        text_cell(score),
                        text_cell("all" if generator is None else generator),
                        *(
                            number_cell(figures[n], 1, *figures[f"{n}_interval"], factor=100)
                            for n in ("ap", "auc")
                        ),
                        number_cell(figures["accuracy_at_0_5"], 1),
                        number_cell(figures["accuracy_at_threshold"], 1),
                    ]
                )
    caption = "Detection: whole images, fakes of a generator against all real ones"
    return PageTable("detection", caption, columns, rows) if rows else None


def failures_table(stores: Sequence[Store]) -> PageTable | None:
    """Return the images that could not be read, with their reasons; None where all could be."""
    rows = []
    for store in stores:
        ids = image_ids(store.samples)
        for row, reason in sorted(store.failures.items()):
            rows.append([text_cell(store.dataset), text_cell(ids[row]), text_cell(reason)])
    columns = [Column("dataset"), Column("image"), Column("reason")]
    caption = "Images that could not be read, and are in no figure"
    return PageTable("failures", caption, columns, rows) if rows else None
