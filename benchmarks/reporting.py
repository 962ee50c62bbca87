"""A table and a JSON file of results, for all benchmarks."""

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def report(name: str, rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> None:
    """Print `rows` as a table and write them to results/NAME.json."""
    columns = list(rows[0])
    table = [columns, *[[_shown(row[column]) for column in columns] for row in rows]]
    widths = [max(len(line[place]) for line in table) for place in range(len(columns))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    RESULTS.mkdir(exist_ok=True)
    content = {"settings": dict(settings), "machine": machine, "rows": [dict(row) for row in rows]}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
