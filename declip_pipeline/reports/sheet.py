"""Sheet of an evaluation: images at quantiles of IoU of each generator, with a run's maps."""

from collections.abc import Sequence
from pathlib import Path

import torch

from declip_pipeline.evaluation.evaluation import Evaluation
from declip_pipeline.reports.contact_sheet import LONGEST_SIDE, SheetRow, draw_contact_sheet
from declip_pipeline.reports.figure_file import SCREEN, FigureStyle
from declip_pipeline.reports.run_images import StoreOf, images_of_run
from declip_pipeline.reports.table_csv import write_rows_csv

BEST_AND_WORST = (1.0, 0.0)
QUARTILES = (0.75, 0.25)
"""Quantiles of IoU within a generator."""


def draw_sheet(
    evaluations: Sequence[Evaluation],
    path: Path,
    store_of: StoreOf,
    *,
    quantiles: Sequence[float] = BEST_AND_WORST,
    in_domain_only: bool = False,
    device: torch.device,
    style: FigureStyle = SCREEN,
) -> Path | None:
    """Draw images of each generator with what runs make of them, and write their figures as CSV.

    Args:
        evaluations: Evaluations of localization; each is drawn on all of its stores.
        path: The figure; its suffix becomes that of the format, that of the table .csv.
        store_of: Opens a store by its location.
        quantiles: Quantiles of IoU within a generator at which images are shown.
        in_domain_only: Show only generators that the run learned.
        device: Where the maps are computed.
        style: Format and size of the figure.

    Returns:
        The path of the figure, None where no image has a fake pixel.
    """
    rows: list[SheetRow] = []
    about: list[dict[str, object]] = []
    for one in evaluations:
        for store in one.stores:
            own = one.on(store.location)
            for generator in own.generators:
                if in_domain_only and generator not in one.trained_on:
                    continue
                table = own.of(generator).table.to_pylist()
                ranked = sorted(
                    (row for row in table if row["has_fake"] and row["generator"] == generator),
                    key=lambda row: (row["iou"], row["id"]),
                )
                if not ranked:
                    continue
                picked = [ranked[round(quantile * (len(ranked) - 1))] for quantile in quantiles]
                ids = {str(row["id"]) for row in picked}
                images = images_of_run(
                    one, store.location, ids, store_of, device=device, longest=LONGEST_SIDE
                )
                shown = {name: image for name, _, image in images}
                for row in picked:
                    caption = f"{generator}, IoU {row['iou']:.0f}"
                    rows.append((caption, *shown[str(row["id"])]))
                    figures = {name: row[name] for name in ("id", "generator", "iou", "f1_fixed")}
                    about.append({"run": one.run.name, **figures})
    if not rows:
        return None
    write_rows_csv(path, about)
    return draw_contact_sheet(rows, path, style)
