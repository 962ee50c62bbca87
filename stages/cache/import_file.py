"""`declip-pipe cache import`: the store out of an exported file."""

from typing import Annotated

import typer

from stages.options import CacheOption


def import_file(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="The HDF5 file that `cache export` printed.")
    ],
    cache: CacheOption = "cache",
) -> None:
    """Make the store of an exported file again, below --cache, byte for byte as it was.

    The last line of stdout is the store's path. After an interruption the same command goes on
    where it stopped; a store that is there already is left as it is.
    """
    from declip_pipeline.store.hdf5 import import_store
    from stages.screen import progress, remark, result

    with progress(f"importing {file}") as tell:
        imported = import_store(file, cache, progress=tell)
    if imported.was_there:
        remark("the store is there already, nothing to do")
    elif not imported.is_identical:
        remark(
            "the same rows, but another zstd than the exporter's compressed them: the ledger has "
            "the SHA-256 of the files as they are here"
        )
    result(imported.location)
