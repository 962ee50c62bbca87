"""Gallery of a page: which images it shows with which maps, and what is said of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from declip_pipeline.errors import DeclipError
from declip_pipeline.evaluation.cells import ID, OOD
from declip_pipeline.evaluation.evaluation import Evaluation
from declip_pipeline.evaluation.groups import MAPS, MEMBERS
from declip_pipeline.evaluation.scores import Progress
from declip_pipeline.reports.page.pictures import Pictures, pictures_of
from declip_pipeline.reports.shown_images import StoreOf, rows_by_iou, shown_images
from declip_pipeline.training.run import Run

FOUND_FROM, PARTLY_FROM = 50.0, 10.0
"""IoU in percent from which a forgery counts as found, and as found in part."""

FOUND, PARTLY, MISSED = "found", "in part", "missed"
ALARM, QUIET = "false alarm", "no alarm"

REAL_SHARE = 0.2
"""Share of a gallery for real images, where there are any."""


@dataclass(frozen=True)
class GalleryCard:
    """An image of the gallery with a map, and what is said of it.

    Attributes:
        id: The image's id.
        run: Name of the run, of the ensemble, or of the maps of another tool.
        method: What the map is of in words, see `Evaluation.method`.
        trained_on: Generators that were learned; "" where that is not stated.
        generator: Generator of the fake; "real" of a real image.
        domain: "ID" or "OOD"; "" of a real image, and where no training is stated.
        verdict: A word for the outcome.
        iou: IoU in percent; None of a real image.
        fake_share: Share of the pixels that are called fake, in percent.
        figures: Other figures, by name.
        width: Width of the image in pixels.
        height: Its height.
        pictures: The image, its truth and the map.
    """

    id: str
    run: str
    method: str
    trained_on: str
    generator: str
    domain: str
    verdict: str
    iou: float | None
    fake_share: float
    figures: Mapping[str, str]
    width: int
    height: int
    pictures: Pictures


@dataclass(frozen=True)
class Gallery:
    """Cards of images.

    Attributes:
        fakes: Those of fakes, worst first.
        real: Those of real images, largest false alarm first.
        maps_of: What the maps are of, in words.
        missing: Names of the evaluated sources whose maps cannot be shown, by the reason.
    """

    fakes: Sequence[GalleryCard] = ()
    real: Sequence[GalleryCard] = ()
    maps_of: str = ""
    missing: Mapping[str, Sequence[str]] = field(default_factory=dict)


def verdict_of(iou: float) -> str:
    """Return the word for an IoU in percent."""
    return FOUND if iou >= FOUND_FROM else PARTLY if iou >= PARTLY_FROM else MISSED


def make_gallery(
    evaluations: Sequence[Evaluation],
    store_of: StoreOf,
    *,
    images: int,
    aliases: Mapping[str, str] | None = None,
    device: torch.device,
    progress: Progress = lambda done, total: None,
) -> Gallery:
    """Choose images of evaluations, take their maps from what was evaluated, and sort them.

    Of single runs, the one with the best validation score of each training set is shown; ensembles
    and maps of other tools all are. Of every generator and store: images at equal distances in the
    order of their IoU, the worst and the best among them, so that luck picks none. Of real images,
    those with the largest false alarms. What is not there any more is in `Gallery.missing`.

    Args:
        evaluations: Evaluations of localization.
        store_of: Returns a store by its location.
        images: Most images to show, fakes and real ones together.
        aliases: Names that stand for one generator; see `generator_key`.
        device: Where to compute.
        progress: Called with numbers of images.
    """
    missing: dict[str, list[str]] = {}
    shown = _to_show(evaluations, missing)
    chosen = _choose(shown, images)
    total = sum(len(rows) for *_, rows in chosen)
    cards: list[GalleryCard] = []
    for one, location, rows in chosen:
        row_of = {str(row["id"]): row for row in rows}
        try:
            for name, size, image in shown_images(one, location, row_of, store_of, device=device):
                cards.append(_card(one, row_of[name], size, pictures_of(image), aliases or {}))
        except DeclipError as error:
            missing.setdefault(str(error), []).append(one.run.name)
        progress(len(cards), total)
    with_cards = {card.run for card in cards}
    return Gallery(
        sorted((c for c in cards if c.iou is not None), key=lambda c: (c.iou, c.id, c.run)),
        sorted((c for c in cards if c.iou is None), key=lambda c: (-c.fake_share, c.id, c.run)),
        _maps_of([one for one in shown if one.run.name in with_cards]),
        missing,
    )


def _choose(
    evaluations: Sequence[Evaluation], images: int
) -> list[tuple[Evaluation, str, list[dict[str, Any]]]]:
    """Return rows of images to show, of each evaluation and each location of a store."""
    real_count = sum(one.real.num_rows for one in evaluations)
    of_real = min(real_count, round(images * REAL_SHARE))
    cells = [
        (one, rows)
        for one in evaluations
        for name in one.generators
        for location in dict.fromkeys(store.location for store in one.stores)
        if (rows := rows_by_iou(one.on(location), name))
    ]
    picked = _spread_evenly(cells, images - of_real)
    chosen = []
    for one in evaluations:
        fakes = [row for own, rows in picked if own is one for row in rows]
        reals = sorted(one.real.to_pylist(), key=lambda row: (-row["fake_share"], row["id"]))
        share = -(-of_real * one.real.num_rows // real_count) if real_count else 0
        by_store: dict[str, list[dict[str, Any]]] = {}
        for row in [*fakes, *reals[:share]]:
            by_store.setdefault(str(row["store"]), []).append(row)
        chosen += [(one, location, rows) for location, rows in by_store.items()]
    return chosen


def _maps_of(evaluations: Sequence[Evaluation]) -> str:
    """Return what the maps of a gallery are of, in words."""
    kinds = {
        "of the run with the best validation score of each training set": any(
            one.is_of_run for one in evaluations
        ),
        "of every ensemble": any(MEMBERS in one.config for one in evaluations),
        "of every folder of maps": any(MAPS in one.config for one in evaluations),
    }
    found = [words for words, is_there in kinds.items() if is_there]
    return " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)


def _to_show(evaluations: Sequence[Evaluation], missing: dict[str, list[str]]) -> list[Evaluation]:
    """Return the evaluations to show, and note in `missing` runs that are not there any more.

    Of single runs those of the run with the best validation score of each training set; imported
    runs, which have no score, come last. All of ensembles and of maps of other tools.
    """
    best: dict[tuple[str, ...], tuple[float, Path]] = {}
    for one in evaluations:
        if not one.is_of_run:
            continue
        try:
            score = Run(one.run).best_score
        except DeclipError as error:
            missing.setdefault(str(error), []).append(one.run.name)
            continue
        key = -1.0 if score is None else score, one.run
        best[one.trained_on] = max(best.get(one.trained_on, key), key)
    chosen = {run for _, run in best.values()}
    return [one for one in evaluations if not one.is_of_run or one.run in chosen]


def _spread_evenly(
    cells: Sequence[tuple[Evaluation, list[dict[str, Any]]]], images: int
) -> list[tuple[Evaluation, list[dict[str, Any]]]]:
    """Return as many images of each cell as there is room for, at equal distances in their order.

    What small cells leave is given to the others.
    """
    room, left = {}, images
    for done, number in enumerate(sorted(range(len(cells)), key=lambda n: len(cells[n][1]))):
        room[number] = min(len(cells[number][1]), left // (len(cells) - done))
        left -= room[number]
    found = []
    for number, (one, rows) in enumerate(cells):
        places = np.linspace(0, len(rows) - 1, room[number]).round().astype(int)
        found.append((one, [rows[place] for place in dict.fromkeys(places.tolist())]))
    return found


def _card(
    one: Evaluation,
    row: Mapping[str, Any],
    size: Sequence[int],
    pictures: Pictures,
    aliases: Mapping[str, str],
) -> GalleryCard:
    is_real = row["label"] == 0
    share = 100 * float(row["fake_share"])
    iou = None if is_real else float(row["iou"])
    domain = verdict = ""
    figures = {"mean of the map": f"{row['score']:.3f}"}
    if iou is None:
        verdict = ALARM if share > 0 else QUIET
    else:
        verdict = verdict_of(iou)
        if one.learned(aliases):
            inside = one.is_in_domain(str(row["dataset"]), str(row["generator"]), aliases)
            domain = ID if inside else OOD
        figures |= {
            "F1 at 0.5": f"{100 * row['f1']:.1f}%",
            "AP of pixels": f"{100 * row['ap']:.1f}%",
        }
    return GalleryCard(
        id=str(row["id"]),
        run=one.run.name,
        method=one.method,
        trained_on=" + ".join(one.trained_on),
        generator="real" if is_real else str(row["generator"]),
        domain=domain,
        verdict=verdict,
        iou=iou,
        fake_share=share,
        figures=figures,
        width=int(size[1]),
        height=int(size[0]),
        pictures=pictures,
    )
