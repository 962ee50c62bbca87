"""Images of an evaluation with the maps of its run, by id."""

from collections.abc import Collection, Iterator
from typing import Protocol

import numpy as np
import torch

from declip_pipeline.datasets.tiles import image_ids
from declip_pipeline.decoders.averaged import AveragedDecoders
from declip_pipeline.evaluation.evaluation import Evaluation
from declip_pipeline.feeding.inputs import inputs_like
from declip_pipeline.reports.shown_images import ShownImage, shown_images
from declip_pipeline.store.reader import Store
from declip_pipeline.training.run import Run


class StoreOf(Protocol):
    """Returns an open store by its location."""

    def __call__(self, location: str, /) -> Store:
        """Return the store."""


def images_of_run(
    evaluation: Evaluation,
    location: str,
    ids: Collection[str],
    store_of: StoreOf,
    *,
    device: torch.device,
    longest: int | None = None,
) -> Iterator[tuple[str, tuple[int, int], ShownImage]]:
    """Yield images of a store that a run was evaluated on, in the store's order.

    Args:
        evaluation: Evaluation of the run.
        location: The store.
        ids: Ids of the images.
        store_of: Opens the store, and those beside it.
        device: Where to compute.
        longest: As in `shown_images`.

    Yields:
        The image's id, its height and width in pixels, and what is shown of it.
    """
    store = store_of(location)
    decoder, features = Run(evaluation.run).best_decoder()
    (about,) = evaluation.on(location).stores
    beside = [store_of(place) for place in about.inputs if place != location]
    sources = inputs_like(features, store, beside, decoder=f"the run {evaluation.run}").sources
    names, wanted = image_ids(store.samples), set(ids)
    rows = np.array([row for row, name in enumerate(names) if name in wanted], np.int64)
    sizes = store.samples.sizes
    # Tiles of an image are several rows.
    first = {names[row]: row for row in reversed(rows.tolist())}
    in_order = dict.fromkeys(names[row] for row in rows)
    decoders = AveragedDecoders([decoder]).to(device)
    shown = shown_images(decoders, store, sources, rows, device=device, longest=longest)
    for name, own in zip(in_order, shown, strict=True):
        height, width = sizes[first[name]].tolist()
        yield name, (height, width), own
