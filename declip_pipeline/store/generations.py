"""Generations of a store: a new one is made beside the old one, and takes its place when whole.

A store never changes under a reader or a writer. What replaces it lies beside it, under its name
with one of the endings below, and is a store like any other. On a disk it takes the place by two
renames; in a bucket, which can rename nothing, its objects are copied, the completion last.
Killed in between, `settle` finds a complete replacement and goes on.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

from declip_pipeline.store import format as fmt
from declip_pipeline.store.storage import Storage, folder_of, sibling_location, storage_at

OVERWRITE = ".overwrite"
"""Ending of the store that `extract(overwrite=True)` makes."""
RETRY = ".retry"
"""Ending of the store with images that failed before and can be read now."""
FORMER = ".former"
"""Ending of a store that was replaced, until it is removed."""

_ENDINGS = {
    OVERWRITE: "unfinished overwrite; run `declip-pipe extract` with `overwrite=True` again",
    RETRY: "unfinished second try of images that failed; run `declip-pipe extract` again",
    FORMER: "replaced and not yet removed; run `declip-pipe extract` again",
}


def leftover(name: str) -> str | None:
    """Say what a folder next to a store is, and what to do; None for a store in its own place."""
    return next((what for ending, what in _ENDINGS.items() if name.endswith(ending)), None)


def beside(location: str, ending: str) -> str:
    """The location of a store's generation with an ending."""
    return sibling_location(location, _name(location) + ending)


def replacement_of(location: str) -> str | None:
    """The location of a complete store that only waits to take the place of `location`."""
    for ending in (OVERWRITE, RETRY):
        if storage_at(beside(location, ending)).exists(fmt.COMPLETE):
            return beside(location, ending)
    return None


def settle(location: str) -> None:
    """Put a complete replacement of the store at `location` in place; remove what was replaced.

    Does nothing where there is none: neither finished by this process nor left by a killed one.
    """
    store = storage_at(location)
    while (replacement := replacement_of(location)) is not None:
        new = storage_at(replacement)
        with _exclusively(store):
            if not new.exists(fmt.COMPLETE):
                continue  # another process was faster
            former = storage_at(beside(location, FORMER))
            is_moved = True
            if _is_there(store):
                delete_store(former)
                is_moved = store.move(former)
            is_moved = is_moved and new.move(store)
            if not is_moved:
                _copy(new, store)
                delete_store(new)
    former = storage_at(beside(location, FORMER))
    if _is_there(former):
        if former.exists(fmt.COMPLETE) and not _is_there(store):
            former.move(store)  # its replacement was removed by hand
        else:
            delete_store(former)


def delete_store(storage: Storage) -> None:
    """Remove a store, what it says of itself first.

    So what an interruption leaves is a store that was hardly begun, and never one that lacks what
    its records name.
    """
    ledger = storage.sizes(fmt.LEDGER.rstrip("/"))
    for key in [fmt.COMPLETE, *ledger, fmt.GROUP]:
        storage.delete(key)
    storage.delete_all()


def _is_there(store: Storage) -> bool:
    return bool(store.folders()) or store.exists(fmt.MANIFEST) or store.exists(fmt.GROUP)


def _name(location: str) -> str:
    return location.rstrip("/").rpartition("/")[2]


@contextmanager
def _exclusively(store: Storage) -> Iterator[None]:
    """Keep out other processes that replace the store, and those that write into it."""
    with storage_at(folder_of(store.location)).exclusively():
        own = store.exclusively(fmt.MANIFEST) if store.exists(fmt.MANIFEST) else nullcontext()
        with own:
            yield


def _copy(source: Storage, target: Storage) -> None:
    """Make `target` what `source` is; it is complete only once it has all."""
    if source.read(fmt.COMPLETE) == target.read(fmt.COMPLETE):
        return
    delete_store(target)
    keys = [key for key in source.sizes() if key != fmt.COMPLETE]
    # The manifest first: a writer that is still at work on the old store sees that it is another.
    target.link(fmt.MANIFEST, source, fmt.MANIFEST)
    with ThreadPoolExecutor(target.parallel_reads) as threads:
        list(threads.map(lambda key: target.link(key, source, key), keys))
    target.link(fmt.COMPLETE, source, fmt.COMPLETE)
