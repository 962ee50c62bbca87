"""Tables of tiles: rows that are windows over images, and the images that they belong to."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from declip_pipeline.datasets.samples import PLACE, Samples
from declip_pipeline.errors import InputError
from declip_pipeline.images.tiles import Tiling, Window


def tiled(samples: Samples, tiling: Tiling) -> Samples:
    """Return the tiles of whole images, image by image, a row each.

    An image of unknown size (0 pixels) keeps its one row.
    """
    windows: list[Window] = []
    counts = np.ones(len(samples), np.int64)
    known: dict[tuple[int, int], list[Window]] = {}
    for row, (height, width) in enumerate(samples.sizes.tolist()):
        if height and width:
            if (height, width) not in known:
                known[height, width] = tiling.windows(height, width)
            counts[row] = len(known[height, width])
            windows.extend(known[height, width])
    repeated = samples.take(np.repeat(np.arange(len(samples)), counts))
    is_known = (repeated.sizes > 0).all(axis=1)
    places = np.zeros((len(repeated), len(PLACE)), np.int32)
    places[is_known] = np.asarray(windows, np.int32).reshape(-1, len(PLACE))
    suffixes = pc.if_else(pa.array(is_known), pa.array(_suffixes(places), pa.string()), "")
    ids = pc.binary_join_element_wise(repeated.table.column("id"), suffixes, "")
    columns = {
        name: pa.array(column, pa.int32(), mask=~is_known)
        for name, column in zip(PLACE, places.T, strict=True)
    }
    return repeated.replace(id=ids.combine_chunks(), **columns)


def image_ids(samples: Samples) -> list[str]:
    """Return the id of each row's image, in row order."""
    if not samples.are_tiles:
        return samples.ids
    return [
        name.removesuffix(suffix) if is_tile else name
        for name, suffix, is_tile in zip(
            samples.ids, _suffixes(samples.places), samples.is_tile.tolist(), strict=True
        )
    ]


def whole_images(samples: Samples) -> tuple[Samples, np.ndarray]:
    """Return the images that rows are tiles of, and of each row which of them.

    Returns:
        The images, each once, in order of their first rows; and (N,) int64.
    """
    if not samples.are_tiles:
        return samples, np.arange(len(samples))
    encoded = pa.array(image_ids(samples), pa.string()).dictionary_encode()
    image_of = np.asarray(encoded.indices, np.int64)
    first = np.unique(image_of, return_index=True)[1]
    nulls = {name: pa.nulls(len(first), pa.int32()) for name in PLACE}
    return samples.take(first).replace(id=encoded.dictionary, **nulls), image_of


def require_sound_tiles(samples: Samples) -> None:
    """Raise `InputError` for tiles that no image has, in a table that comes from a file."""
    if not samples.are_tiles:
        return
    is_tile = samples.is_tile
    for name in PLACE:
        if not np.array_equal(np.asarray(samples.table.column(name).is_valid()), is_tile):
            raise InputError(f"the table of samples lacks values of {name}")
    places, sizes = samples.places[is_tile].astype(np.int64), samples.sizes[is_tile]
    inside = places[:, :2] + places[:, 2:] <= sizes
    if places[:, :2].min() < 0 or places[:, 2:].min() < 1 or not inside.all():
        raise InputError("the table of samples has tiles outside of their images")
    ids = samples.take(np.flatnonzero(is_tile)).ids
    if not all(one.endswith(end) for one, end in zip(ids, _suffixes(places), strict=True)):
        raise InputError("the table of samples has tiles whose id does not end in their place")


def _suffixes(places: np.ndarray) -> Sequence[str]:
    """Return the ends of the ids of tiles at these places, (N, 4)."""
    return [f"@{top},{left}" for top, left in places[:, :2].tolist()]
