"""Execute docs/tutorial.ipynb and keep the outputs in it.

python docs/run_tutorial.py

The cells run in order, in one namespace and a temporary folder, without Jupyter: what a cell
prints, the value of its last line (unless it ends in a semicolon) and the figures that it leaves
open are its outputs.
"""

import ast
import base64
import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

NOTEBOOK = Path(__file__).parent / "tutorial.ipynb"
DOTS_PER_INCH = 80


def run_cell(source: str, namespace: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Execute one code cell and return its outputs in the notebook format."""
    import matplotlib.pyplot as plt

    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    value = None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, f"cell {count}", "exec"), namespace)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"cell {count}", "eval"), namespace)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        lines = printed.getvalue().splitlines(keepends=True)
        outputs.append({"output_type": "stream", "name": "stdout", "text": lines})
    for number in plt.get_fignums():
        image = io.BytesIO()
        plt.figure(number).savefig(image, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight")
        encoded = base64.b64encode(image.getvalue()).decode()
        outputs.append({"output_type": "display_data", "data": {"image/png": encoded}})
        outputs[-1]["metadata"] = {}
    plt.close("all")
    if value is not None and not source.rstrip().endswith(";"):
        data: dict[str, Any] = {"text/plain": repr(value).splitlines(keepends=True)}
        if hasattr(value, "_repr_html_"):
            data["text/html"] = value._repr_html_().splitlines(keepends=True)
        outputs.append({"output_type": "execute_result", "execution_count": count, "data": data})
        outputs[-1]["metadata"] = {}
    return outputs


@contextlib.contextmanager
def working_folder(folder: str) -> Iterator[None]:
    """Run in a folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def executed(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return a notebook with the outputs of its code cells, executed in a temporary folder."""
    matplotlib.use("Agg")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells = []
    count = 0
    with tempfile.TemporaryDirectory() as folder, working_folder(folder):
        for cell in notebook["cells"]:
            if cell["cell_type"] != "code":
                cells.append(cell)
                continue
            count += 1
            outputs = run_cell("".join(cell["source"]), namespace, count)
            cells.append({**cell, "execution_count": count, "outputs": outputs})
    return {**notebook, "cells": cells}


def main() -> int:
    """Execute the notebook in place."""
    notebook = executed(json.loads(NOTEBOOK.read_text()))
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
