"""Figures of evaluations: the matrix of each configuration, and a sheet of each method."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from declip_pipeline.evaluation.evaluation import Evaluation
    from declip_pipeline.reports.figure_file import FigureStyle


def draw_figures(
    evaluations: "Sequence[Evaluation]",
    folder: Path,
    aliases: Mapping[str, str],
    device: "torch.device",
    style: "FigureStyle",
) -> None:
    """Draw figures into a folder, with their data as CSV, and print their paths."""
    from declip_pipeline.evaluation.evaluation import merged
    from declip_pipeline.evaluation.matrices import matrices
    from declip_pipeline.reports.matrix_figure import draw_matrix
    from declip_pipeline.reports.sheet import draw_sheet
    from declip_pipeline.reports.table_csv import write_table_csv
    from declip_pipeline.store.reader import Store
    from stages.screen import progress, result

    for number, matrix in enumerate(
        matrices(evaluations, aliases=aliases, with_intervals=True), start=1
    ):
        place = folder / ("matrix.png" if number == 1 else f"matrix-{number}.png")
        table = matrix.table
        names = table.values, table.rows, table.marked_columns
        title = f"IoU in %, {matrix.title}"
        result(str(draw_matrix(*names, place, title, matrix.domain, style=style)))
        write_table_csv(place, table, matrix.domain)
    store_of = cache(Store)
    joined = merged(evaluations)
    with progress("drawing sheets", "sheets") as tell:
        for number, one in enumerate(joined):
            tell(number, len(joined))
            place = folder / f"sheet_{one.run.name}.png"
            figure = draw_sheet([one], place, store_of, device=device, style=style)
            if figure is not None:
                result(str(figure))
        tell(len(joined), len(joined))
