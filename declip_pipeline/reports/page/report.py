"""Report of runs as one HTML page: figures, a gallery, and how it all came about."""

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from declip_pipeline import __version__
from declip_pipeline.compute import choose_device
from declip_pipeline.errors import DeclipError, InputError
from declip_pipeline.evaluation.evaluation import Evaluation, merged
from declip_pipeline.evaluation.matrices import Matrix
from declip_pipeline.evaluation.methods import Method
from declip_pipeline.evaluation.metrics import DETECTION_PROTOCOL, protocol_lines
from declip_pipeline.evaluation.scores import Progress
from declip_pipeline.files import remove_abandoned, write_text
from declip_pipeline.reports.page.gallery import (
    FOUND_FROM,
    PARTLY_FROM,
    Gallery,
    make_gallery,
)
from declip_pipeline.reports.page.methods import methods_tables, names_of_runs
from declip_pipeline.reports.page.provenance import settings_of, stores_table, versions_of
from declip_pipeline.reports.page.result_tables import (
    RUN_METRICS,
    detection_table,
    failures_table,
    false_alarms_table,
    runs_table,
)
from declip_pipeline.reports.page.sections import (
    MEAN_METRICS,
    configurations_table,
    heat_matrix,
    layer_curves,
    localization_matrices,
    robustness_curves,
)
from declip_pipeline.reports.page.summary import summary_of
from declip_pipeline.reports.page.tables import Column, PageTable, text_cell
from declip_pipeline.store.reader import Store
from declip_pipeline.training.learning import MARK_MEANING

IMAGES = 200
"""Images in a gallery, unless another number is asked for."""

MATRICES = 12
"""Matrices that are drawn; the means of all are in a table."""


@dataclass(frozen=True)
class ReportContent:
    """What a report says beside its evaluations.

    Attributes:
        title: Title of the page.
        notes: Sentences on what was done.
        commands: Commands that do it, as typed in a shell.
        left_out: Runs and datasets that are not in the report, by name, with the reason.
        seconds: Seconds of each step.
        images: Most images in the gallery.
        aliases: Names that stand for one generator; see `generator_key`.
        methods: Methods of a study, by the masks that their figures are of, a key of `MASKS`;
            configurations have their names.
        baselines: Names of the methods that others are compared with.
    """

    title: str
    notes: Sequence[str] = ()
    commands: Sequence[str] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    images: int = IMAGES
    aliases: Mapping[str, str] = field(default_factory=dict)
    methods: Mapping[str, Sequence[Method]] = field(default_factory=dict)
    baselines: Sequence[str] = ()


def write_html_report(
    path: Path,
    evaluations: Sequence[Evaluation],
    content: ReportContent,
    *,
    device: str | torch.device = "auto",
    progress: Progress = lambda done, total: None,
) -> None:
    """Write the report of evaluations, one file that asks for nothing else, whole or not at all.

    The gallery is made of the stores' thumbnails and masks, and its maps of their features: no
    image file of a store is read. Maps of other tools come from their folders, and images without a
    store from their files. What is not there any more is named in a line. Names are escaped, and a
    policy on the page forbids scripts but its own and every request.

    Args:
        path: The HTML file.
        evaluations: Evaluations of one split, of localization, detection or both.
        content: What else it says.
        device: Where the maps of the gallery are computed.
        progress: Called with numbers of images of the gallery.

    Raises:
        InputError: There is no evaluation, or `path` is a folder.
    """
    if not evaluations:
        raise InputError("a report of no evaluation; expected at least one")
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected the name of the HTML file to write")
    store_of = cache(Store)
    localized = merged([one for one in evaluations if one.task == "localization"])
    detected = [one for one in evaluations if one.task == "detection"]
    notes = [*content.notes]
    stores = []
    # Maps of other tools come from no features, and may be of a dataset without a store.
    for location in dict.fromkeys(
        place
        for one in evaluations
        for about in one.stores
        if about.inputs
        for place in (about.location, *about.inputs)
    ):
        try:
            stores.append(store_of(location))
        except DeclipError as error:
            notes.append(f"A store is not described: {error}.")
    methods = content.methods.get("", ())
    gallery = Gallery()
    found: list[Matrix] = []
    if localized:
        found = localization_matrices(localized, content.aliases, names_of_runs(methods))
        chosen = choose_device(device) if isinstance(device, str) else device
        gallery = make_gallery(
            localized,
            store_of,
            images=content.images,
            aliases=content.aliases,
            device=chosen,
            progress=progress,
        )
    drawn = [heat_matrix(one, f"matrix-{n}") for n, one in enumerate(found[:MATRICES], start=1)]
    runs = list(dict.fromkeys(run for one in evaluations for run in one.runs))
    page = (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=content.title,
            summary=summary_of(localized, detected, found, methods),
            compared=methods_tables(content.methods, content.baselines),
            notes=notes,
            matrices=drawn,
            undrawn=len(found) - len(drawn),
            mark_meaning=MARK_MEANING.replace("`", ""),
            configurations=configurations_table(found) if found else None,
            layers=layer_curves(localized, content.aliases) if localized else [],
            robustness=robustness_curves(localized),
            runs=runs_table(localized) if localized else None,
            detection=detection_table(detected),
            protocols={
                "means": protocol_lines(MEAN_METRICS),
                "runs": protocol_lines(RUN_METRICS),
                "detection": [DETECTION_PROTOCOL],
            },
            false_alarms=false_alarms_table(localized),
            gallery=gallery,
            methods=sorted({card.method for card in (*gallery.fakes, *gallery.real)}),
            verdicts={"found": FOUND_FROM, "partly": PARTLY_FROM},
            failures=failures_table(stores),
            left_out=_left_out_table(content.left_out),
            stores=stores_table(stores) if stores else None,
            settings=settings_of(evaluations),
            versions=versions_of(runs, stores),
            seconds=content.seconds,
            commands=content.commands,
            split=evaluations[0].split,
            version=__version__,
            date=_today(),
            **_parts(),
        )
    )
    remove_abandoned(path.parent)
    write_text(path, page)


def _left_out_table(left_out: Mapping[str, str]) -> PageTable | None:
    rows = [[text_cell(name), text_cell(reason)] for name, reason in left_out.items()]
    columns = [Column("what"), Column("reason")]
    return (
        PageTable("left-out", "Runs and datasets that are in no figure", columns, rows)
        if rows
        else None
    )


def _today() -> str:
    # As other programs that write documents, so that the same report can be the same file.
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    now = datetime.now(UTC) if epoch is None else datetime.fromtimestamp(int(epoch), UTC)
    return now.date().isoformat()


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("declip_pipeline.reports.page", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _parts() -> dict[str, Any]:
    """Return the page's style and script, and the policy that allows no other script."""
    folder = files("declip_pipeline.reports.page") / "templates"
    style, script = ((folder / name).read_text() for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    # Both are this package's own files.
    return {"style": Markup(style), "script": Markup(script), "policy": policy}
