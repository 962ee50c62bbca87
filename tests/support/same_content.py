"""Whether two stores hold the same, and which files they share."""

from pathlib import Path

import numpy as np
from support.handmade_store import files_of

from declip_pipeline.store.reader import Store


def shared_files(one: Path, other: Path) -> set[str]:
    """The paths of the files that two stores share."""
    return {
        name
        for name in set(files_of(one)) & set(files_of(other))
        if (one / name).samefile(other / name)
    }


def usable(store: Store) -> dict[str, int]:
    """Rows that have data, by sample id."""
    return {s.id: row for row, s in enumerate(store.samples) if row not in store.failures}


def require_same_content(first: str | Path, second: str | Path, tolerance: float = 0.0) -> None:
    """Two stores hold the same of every sample, whatever the order of rows.

    `tolerance` is for features: images in other company may come out with other last bits.
    """
    one, other = Store(first), Store(second)
    rows, other_rows = usable(one), usable(other)
    assert set(rows) == set(other_rows)
    assert one.layers == other.layers
    mine, theirs = (np.asarray([r[key] for key in sorted(rows)]) for r in (rows, other_rows))
    np.testing.assert_array_equal(one.sizes[mine], other.sizes[theirs])
    np.testing.assert_array_equal(one.labels[mine], other.labels[theirs])
    for name in ("targets", "thumbnails"):
        np.testing.assert_array_equal(one.read_array(name, mine), other.read_array(name, theirs))
    for row, other_row in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(
            one.read_masks(np.asarray([row])), other.read_masks(np.asarray([other_row]))
        )
    for layer in one.layers:
        np.testing.assert_allclose(
            one.read_layer(layer, mine).decoded(),
            other.read_layer(layer, theirs).decoded(),
            rtol=tolerance,
            atol=tolerance,
        )
    reasons = [{s.samples[row].id: why for row, why in s.failures.items()} for s in (one, other)]
    assert reasons[0] == reasons[1]
    for split in one.splits:
        ids, other_ids = ([s.samples[row].id for row in s.fake_rows(split)] for s in (one, other))
        assert ids == other_ids, "a training is fed in the same order"
