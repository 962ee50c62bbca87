"""`declip-pipe cache prune`: remove layers or images from a store, or all of it."""

from pathlib import Path
from typing import Annotated

import typer

from declip_pipeline.errors import InputError
from stages.options import comma_separated


def prune(
    store: Annotated[str, typer.Argument(metavar="STORE", help="The store to make smaller.")],
    layers: Annotated[
        str | None, typer.Option(help="Layers to remove: names (layer8,layer20) or numbers (0-7).")
    ] = None,
    generators: Annotated[
        str | None, typer.Option(help="Generators to remove, comma-separated; real is one.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Splits to remove, comma-separated.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Remove the whole store, finished or not.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the larger store beside the smaller one.")
    ] = False,
) -> None:
    """Remove layers, generators or splits from a store, or the whole store.

    Makes the smaller store beside STORE (on a disk it shares what is the same, so this takes little
    room), then removes STORE. The last line of stdout is the smaller store's path. Nothing is
    removed before the smaller store is complete.
    """
    if everything == any((layers, generators, split)):
        raise InputError(
            "say what to remove: --layers, --generators or --split, or --all for the whole store"
        )
    if everything and keep:
        raise InputError("--keep keeps the whole store, which --all removes; leave one out")

    from declip_pipeline.backbones.registry import select_layers
    from declip_pipeline.extraction.maintenance import prune_store
    from declip_pipeline.store.catalog import describe_store, is_half_removed, remove_store
    from declip_pipeline.store.reader import Store
    from declip_pipeline.store.storage import URL_MARK
    from stages.screen import progress, remark, result

    if URL_MARK not in store:
        # Of a link, the store behind it is meant, and the smaller one belongs beside that.
        store = str(Path(store).resolve())
        if Path(store).is_file():
            raise InputError(f"{store} is a file; import it first, or remove it as any file")
    if everything:
        remark(f"removed {store}, {remove_store(store) / 1e6:.1f} MB")
        return
    if is_half_removed(store):
        # By a prune that was killed, whose smaller store was complete by then.
        remark(f"removed what was left of {store}, {remove_store(store) / 1e6:.1f} MB")
        return
    before = describe_store(store).summary
    opened = Store(store)
    with progress("pruning") as tell:
        smaller = prune_store(
            opened,
            layers=select_layers(layers, list(opened.layers)) if layers else [],
            generators=comma_separated(generators) or [],
            splits=comma_separated(split) or [],
            progress=tell,
        )
    after = describe_store(smaller).summary
    if not keep:
        remove_store(store)
    remark(f"{before.total_bytes / 1e6:.1f} MB before, {after.total_bytes / 1e6:.1f} MB now")
    result(smaller)
