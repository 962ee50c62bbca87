"""Provenance on a page: stores, what was configured, and versions."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from declip_pipeline.evaluation.evaluation import Evaluation
from declip_pipeline.evaluation.groups import field_text
from declip_pipeline.reports.page.tables import Column, PageTable, number_cell, text_cell
from declip_pipeline.store.reader import Store

# Of fields whose text is a hash, or several.
_UNSAID = ("preprocessing", "weights", "training_stores", "ensemble")

HASH_DIGITS = 12
"""Digits of a hash that are shown; all of them on hover."""


def stores_table(stores: Sequence[Store]) -> PageTable:
    """Return the stores, and what their features are."""
    columns = [
        *map(Column, ("dataset", "backbone", "sees", "view", "dtype")),
        Column("rows", is_number=True),
        *map(Column, ("layers", "identity", "weights", "where")),
    ]
    rows = []
    for store in stores:
        identity = store.identity
        seen = identity.preprocessing
        size = f"{seen['height']}x{seen['width']}" if "height" in seen else ""
        tiles = f"tiles of {identity.tiles}" if identity.tiles else f"images at {size}"
        layers = list(store.layers)
        rows.append(
            [
                text_cell(store.dataset),
                text_cell(identity.backbone),
                text_cell(tiles),
                text_cell(identity.view),
                text_cell(identity.dtype),
                number_cell(float(len(store)), 0),
                text_cell(
                    layers[0]
                    if len(layers) == 1
                    else f"{len(layers)}: {layers[0]} to {layers[-1]}",
                    hover=", ".join(layers),
                ),
                text_cell(identity.sha256[:HASH_DIGITS], hover=identity.sha256),
                text_cell(identity.weights_sha256[:HASH_DIGITS], hover=identity.weights_sha256),
                text_cell(store.location),
            ]
        )
    return PageTable("stores", "Stores: features that everything was computed from", columns, rows)


def settings_of(evaluations: Sequence[Evaluation]) -> list[tuple[str, str]]:
    """Return the configured fields of runs by name; of several values, all that occur."""
    values: dict[str, dict[str, None]] = {}
    for one in evaluations:
        for name, value in one.fields.items():
            if value is not None and name not in _UNSAID:
                values.setdefault(name, {})[field_text(value)] = None
    return [(name.replace("_", " "), ", ".join(found)) for name, found in values.items()]


def versions_of(runs: Sequence[Path], stores: Sequence[Store]) -> list[tuple[str, str]]:
    """Return the versions of programs and libraries by name, of trainings and extractions."""
    found: dict[str, dict[str, None]] = {}

    def add(name: str, version: Any) -> None:
        if version is not None:
            found.setdefault(name, {})[str(version)] = None

    for run in runs:
        about = _environment(run)
        for name in ("declip_pipe", "python"):
            add(name, about.get(name))
        libraries = about.get("libraries")
        for name, version in libraries.items() if isinstance(libraries, dict) else ():
            add(name, version)
    for store in stores:
        versions = store.provenance.get("versions")
        for name, version in versions.items() if isinstance(versions, dict) else ():
            add(name, version)
    return [(name, ", ".join(versions)) for name, versions in found.items()]


def _environment(run: Path) -> dict[str, Any]:
    """Return what is recorded of where a run was trained; nothing where there is no record."""
    try:
        found = json.loads((run / "environment.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
