"""`declip-pipe cache export`: a store as one file."""

from typing import Annotated

import typer


def export(
    store: Annotated[
        str,
        typer.Argument(
            metavar="STORE", help="A store that `extract` printed: folder or s3:// URL."
        ),
    ],
    file: Annotated[str, typer.Argument(metavar="FILE", help="The HDF5 file to write, out.h5.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace FILE if it is there.")
    ] = False,
) -> None:
    """Write a whole store into one HDF5 file, for disks with few inodes, or to move it.

    `train` and `evaluate` read the file as it is; `cache import` makes the same store of it again.
    The last line of stdout is the file. To be rid of the store, run `cache verify --deep` on it
    before.
    """
    from declip_pipeline.store.hdf5 import export_store
    from declip_pipeline.store.reader import Store
    from stages.screen import progress, result

    with progress(f"exporting to {file}") as tell:
        export_store(Store(store), file, overwrite=overwrite, progress=tell)
    result(file)
