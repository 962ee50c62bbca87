"""Sheet of evaluations: images at quantiles of IoU of each generator, with their maps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from declip_pipeline.evaluation.evaluation import Evaluation
from declip_pipeline.reports.contact_sheet import LONGEST_SIDE, SheetRow, draw_contact_sheet
from declip_pipeline.reports.figure_file import SCREEN, FigureStyle
from declip_pipeline.reports.shown_images import StoreOf, rows_by_iou, shown_images
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
    """Draw images of each generator with their maps, and write their figures as CSV.

    Args:
        evaluations: Evaluations of localization; each is drawn on all of its stores.
        path: The figure; its suffix becomes that of the format, that of the table .csv.
        store_of: Returns a store by its location.
        quantiles: Quantiles of IoU within a generator at which images are shown.
        in_domain_only: Show only generators that were learned.
        device: Where the maps are computed.
        style: Format and size of the figure.

    Returns:
        The path of the figure, None where no image has a fake pixel.

    Raises:
        DeclipError: As `shown_images`.
    """
    rows: list[SheetRow] = []
    about: list[dict[str, object]] = []
    for one in evaluations:
        for store in one.stores:
            own = one.on(store.location)
            picked: list[dict[str, Any]] = []
            for generator in own.generators:
                if in_domain_only and generator not in one.trained_on:
                    continue
                ranked = rows_by_iou(own, generator)
                if ranked:
                    picked += [
                        ranked[round(quantile * (len(ranked) - 1))] for quantile in quantiles
                    ]
            if not picked:
                continue
            ids = {str(row["id"]) for row in picked}
            images = shown_images(
                one, store.location, ids, store_of, device=device, longest=LONGEST_SIDE
            )
            shown = {name: image for name, _, image in images}
            for row in picked:
                rows.append((f"{row['generator']}, IoU {row['iou']:.0f}", *shown[str(row["id"])]))
                figures = {name: row[name] for name in ("id", "generator", "iou", "f1_fixed")}
                about.append({"run": one.run.name, **figures})
    if not rows:
        return None
    write_rows_csv(path, about)
    return draw_contact_sheet(rows, path, style)
