"""A smaller store out of a complete one, without its pictures and without the backbone."""

from collections.abc import Callable, Collection
from dataclasses import replace

from declip_pipeline.datasets.samples import Sample
from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.extraction.reuse import match_rows
from declip_pipeline.extraction.sample_reading import ReadSample
from declip_pipeline.extraction.shard_filling import ShardFiller
from declip_pipeline.extraction.store_filling import fill_store
from declip_pipeline.store.identity import manifest_sha256, store_folder
from declip_pipeline.store.reader import Store
from declip_pipeline.store.storage import sibling_location
from declip_pipeline.store.writer import StoreWriter


def prune_store(
    store: Store,
    *,
    layers: Collection[str] = (),
    generators: Collection[str] = (),
    splits: Collection[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """Make the store without the layers, and without the samples of the generators or splits named.

    Returns its location, beside `store`, which is left as it is; whole shards are shared between
    the two. An interrupted pruning goes on when asked for again. Raises `UnknownNameError` for a
    name that does not occur, `InputError` when nothing would be left, or nothing would go.
    """
    for kind, names, known in (
        ("layer", layers, list(store.layers)),
        ("generator", generators, store.samples.names("generator")),
        ("split", splits, store.samples.names("split")),
    ):
        for name in names:
            if name not in known:
                raise UnknownNameError(f"{kind} in {store.location}", name, known)
    kept_layers = [layer for layer in store.layers if layer not in layers]
    rows = store.samples.rows(
        splits=set(store.samples.names("split")) - set(splits),
        generators=set(store.samples.names("generator")) - set(generators),
    )
    if not kept_layers or not len(rows):
        raise InputError(
            f"nothing would be left of {store.location}; to remove all of it, use `delete_store`"
        )
    if len(kept_layers) == len(store.layers) and len(rows) == len(store.samples):
        raise InputError(
            f"nothing to remove from {store.location}; name layers, generators or splits"
        )
    samples = store.samples.take(rows)
    identity = replace(
        store.identity,
        layers=tuple(kept_layers),
        manifest_sha256=manifest_sha256(store.fake_is_white, samples),
    )
    writer = StoreWriter(
        sibling_location(store.location, store_folder(identity)),
        identity=identity,
        layers={name: store.layers[name] for name in kept_layers},
        dataset=store.dataset,
        provenance=store.provenance,
        samples=samples,
        fake_is_white=store.fake_is_white,
    )
    if not writer.is_complete:
        reuse = match_rows(writer.samples, identity, [store])
        filler = ShardFiller(writer, None, reuse, read=_no_picture, batch_size=1)
        fill_store(filler, progress=progress)
    return writer.location


def _no_picture(sample: Sample) -> ReadSample | str:
    raise AssertionError(f"{sample.image} is not needed: its store has all there is to keep")
