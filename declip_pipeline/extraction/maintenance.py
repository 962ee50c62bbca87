"""Maintenance of stores: repair what is damaged, and make a smaller store from a complete one."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from declip_pipeline.backbones.backbone import Preprocessing
from declip_pipeline.datasets.contents import read_content
from declip_pipeline.datasets.sample import Sample
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.errors import InputError, StoreError, UnknownNameError
from declip_pipeline.extraction.recorded_backbones import open_store_backbone
from declip_pipeline.extraction.reuse import EarlierStores, match_rows
from declip_pipeline.extraction.sample_reading import ReadSample, SampleReader
from declip_pipeline.extraction.shard_filling import ShardFiller, fill_store
from declip_pipeline.extraction.versions import different_versions
from declip_pipeline.files import sha256_of_bytes
from declip_pipeline.images.decode import DEFAULT_MAX_MEGAPIXELS
from declip_pipeline.images.views import View, view_named
from declip_pipeline.store import format as fmt
from declip_pipeline.store.header import StoreHeader, parse_header, read_samples
from declip_pipeline.store.identity import manifest_sha256, store_folder
from declip_pipeline.store.reader import Store
from declip_pipeline.store.records import (
    corrected_header,
    parse_completion,
    parse_ledger_entry,
)
from declip_pipeline.store.storage import Storage, sibling_location, storage_at
from declip_pipeline.store.verify import Problem
from declip_pipeline.store.writer import StoredShard, StoreWriter


class RecordedPictures:
    """Images and masks under `root`, held against the hashes in a store's manifest."""

    def __init__(self, root: Path, samples: Samples, *, fake_is_white: bool) -> None:
        self._root = root
        self._samples = samples
        self._fake_is_white = fake_is_white

    def require_unchanged(self, rows: Iterable[int]) -> None:
        """Raise `StoreError` naming an image or a mask that is missing, or is not what it was."""
        # Read here and again for the features: nothing is to be touched before all are known.
        files = {}
        for sample in (self._samples[row] for row in rows):
            files[sample.image] = str(sample.image_sha256)
            if sample.mask is not None:
                files[sample.mask] = str(sample.mask_sha256)
        with ThreadPoolExecutor() as threads:
            for _ in threads.map(self._require_same, files, files.values()):
                pass

    def reader(
        self,
        preprocessing: Preprocessing,
        *,
        view: View,
        failures: Mapping[int, str],
        usable: Collection[int],
        unlimited: Collection[int],
        max_megapixels: float,
    ) -> Callable[[Sample], ReadSample | str]:
        """Return a reader that comes to the same result as the extraction did.

        Rows in `failures` are not read again: they keep their reasons. Those in `usable` were read
        then: that they cannot be now is a `StoreError`. Those in `unlimited` were read or refused
        with another limit, so `max_megapixels` is not for them.
        """
        special = np.array(sorted({*failures, *usable, *unlimited}), np.int64)
        ids = self._samples.take(special).ids
        row_of = dict(zip(ids, special.tolist(), strict=True))
        with_limit, without = (
            SampleReader(
                root=self._root,
                view=view,
                fake_is_white=self._fake_is_white,
                preprocessing=preprocessing,
                max_megapixels=limit,
            )
            for limit in (max_megapixels, float("inf"))
        )

        def read(sample: Sample) -> ReadSample | str:
            row = row_of.get(sample.id, -1)
            if row in failures:
                return failures[row]
            found = without(sample) if row in unlimited else with_limit(sample)
            if isinstance(found, str) and row in usable:
                raise StoreError(
                    f"{self._root / sample.image} could be read when the store was made, and "
                    f"cannot be now ({found}); repair it on the machine that made it"
                )
            return found

        return read

    def _require_same(self, relative: str, expected: str) -> None:
        path = self._root / relative
        try:
            content = read_content(self._root, relative)
        except OSError as error:
            raise StoreError(
                f"{path} is needed again and cannot be read ({error.strerror}); "
                "name the folder that has the dataset's images now with `data_root`"
            ) from error
        found = sha256_of_bytes(content)
        if found != expected:
            raise StoreError(
                f"{path} has changed since the store was made: its SHA-256 is {found[:12]}..., "
                f"the manifest has {expected[:12]}...; bring the former file back (another copy of "
                "the dataset: `data_root`), or extract the dataset as it is now into a new store"
            )


DEFAULT_BATCH_SIZE = 32


def repair_store(
    location: str | Path,
    problems: Sequence[Problem],
    *,
    data_root: Path | None = None,
    weights: Sequence[str] = (),
    device: str = "cpu",
    decode_threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    notice: Callable[[str], None] = lambda line: None,
) -> None:
    """Mend what `verify_store(location, deep=True)` found: all that is repairable of `problems`.

    Damaged shards are extracted again, array by array, from the images under `data_root` (by
    default where the store says they lay) with the backbone and the batch size that made the store;
    `weights` names its weights where they have moved. Metadata is written again from the manifest,
    an unfinished store is finished, completion is declared again. On the machine that made it,
    its bytes are what they were, but for images that came from an earlier store: those went
    through the backbone in other batches then, and their last bits may differ now. Nothing is
    touched before images and backbone are seen to be the same. `progress(done, total)` is called
    with numbers of images, `notice` with a line where versions of libraries differ.

    Raises `StoreError` for a damaged manifest, and for an image that is missing or has changed
    since; `IdentityMismatchError` for another backbone; else as `extract` does.
    """
    storage = storage_at(location)
    for problem in problems:
        if problem.key == fmt.MANIFEST and not problem.is_repairable:
            raise StoreError(
                f"{storage.location} cannot be repaired: {fmt.MANIFEST} {problem.what}"
            )
    found = parse_header(storage.read(fmt.GROUP), storage.location, is_to_be_repaired=True)
    samples = read_samples(storage.read(fmt.MANIFEST), storage.location)
    damaged = {problem.key: problem for problem in problems if problem.is_repairable}
    header = corrected_header(storage, found, rows=len(samples))
    work = _shards_to_fill(storage, header, samples, damaged)
    failures = {row: reason for shard in work for row, reason in (shard.failures or {}).items()}
    rows = _rows_of(header, work) - set(failures)

    root = Path(str(header.provenance.get("root", ""))) if data_root is None else data_root
    pictures = RecordedPictures(root, samples, fake_is_white=header.fake_is_white)
    pictures.require_unchanged(rows)
    backbone = None
    if work or fmt.GROUP in damaged:
        backbone = open_store_backbone(
            header,
            storage.location,
            arch=str(header.provenance.get("arch", header.identity.backbone)),
            weights=weights or header.provenance.get("weights") or (),
            device=device,
        )
        if header.provenance.get("compiled"):
            backbone.compile()
        difference = different_versions(header.provenance)
        if difference:
            notice(f"the store was made with {difference}; features may differ in their last bits")
        layers = {name: backbone.layers[name] for name in header.identity.layers}
        header = replace(header, layers=layers)

    # Records first: until they are right, what the completion says of them must not be lost.
    outdated = set(damaged) | ({fmt.GROUP} if header != found else set())
    _write_records(storage, header, samples, outdated)
    for key, problem in damaged.items():
        if problem.is_stray:
            storage.delete(key)
    # Entries before the completion: an extraction that goes on from here must not trust them.
    for shard in work:
        storage.delete(fmt.ledger_key(shard.number))
    storage.delete(fmt.COMPLETE)
    writer = StoreWriter(
        storage.location,
        identity=header.identity,
        layers=header.layers,
        dataset=header.dataset,
        provenance=header.provenance,
        samples=samples,
        fake_is_white=header.fake_is_white,
    )
    if backbone is None:
        writer.finish()
        return
    batch_size = header.provenance.get("batch_size")
    if not isinstance(batch_size, int) or batch_size < 1:
        batch_size = DEFAULT_BATCH_SIZE
    filler = ShardFiller(
        writer,
        backbone,
        EarlierStores([]),
        read=pictures.reader(
            backbone.preprocessing,
            view=view_named(header.identity.view),
            failures=failures,
            # Beside files that are kept, the same rows must be usable as before.
            usable=_rows_of(header, [shard for shard in work if shard.kept]) & rows,
            unlimited=_rows_of(header, [shard for shard in work if shard.failures is not None]),
            max_megapixels=DEFAULT_MAX_MEGAPIXELS,
        ),
        batch_size=batch_size,
        kept={shard.number: shard.kept for shard in work},
        decode_threads=decode_threads,
    )
    fill_store(filler, progress=progress)


@dataclass(frozen=True)
class _Shard:
    """A shard to be written again: its good files by array, and its failed rows' reasons.

    `failures` is None where no good record says which rows failed.
    """

    number: int
    kept: Mapping[str, StoredShard]
    failures: Mapping[int, str] | None


def _rows_of(header: StoreHeader, shards: Iterable[_Shard]) -> set[int]:
    return {row for shard in shards for row in header.shard_rows(shard.number)}


def _shards_to_fill(
    storage: Storage, header: StoreHeader, samples: Samples, damaged: Mapping[str, Problem]
) -> list[_Shard]:
    keys = storage.sizes()
    arrays = fmt.row_arrays(header.layers, header.identity.dtype, samples)
    manifest = sha256_of_bytes(storage.read(fmt.MANIFEST) or b"")
    found = []
    for number in range(header.shards):
        key = fmt.ledger_key(number)
        if key not in keys or key in damaged:
            found.append(_Shard(number, {}, _recorded_failures(storage, header, number, damaged)))
            continue
        remade = {p.array for p in damaged.values() if p.shard == number and p.array is not None}
        if remade:
            blob = storage.read(key) or b""
            entry = parse_ledger_entry(blob, number, header, manifest, arrays)
            kept = {
                key.rpartition("/")[0]: StoredShard(storage, key, file)
                for key, file in entry.files.items()
            }
            for name in remade:
                # A layer's numbers and their scales are computed as one.
                layer = name.partition("/")[2]
                for gone in (name, fmt.layer_key(layer), fmt.scales_key(layer)):
                    kept.pop(gone, None)
            found.append(_Shard(number, kept, entry.failures))
    return found


def _recorded_failures(
    storage: Storage, header: StoreHeader, shard: int, damaged: Mapping[str, Problem]
) -> dict[int, str] | None:
    """Return the failures that the completion has of a shard without a good ledger entry."""
    blob = storage.read(fmt.COMPLETE)
    if blob is None or fmt.COMPLETE in damaged:
        return None
    failures = parse_completion(blob, header).failures
    rows = header.shard_rows(shard)
    return {row: reason for row, reason in failures.items() if row in rows}


def _write_records(
    storage: Storage, header: StoreHeader, samples: Samples, outdated: Collection[str]
) -> None:
    """Write again those of a store's metadata files that are `outdated`."""
    arrays = fmt.row_arrays(header.layers, header.identity.dtype, samples)
    blobs = fmt.metadata_blobs(header.to_json(), arrays, samples)
    # Without a good completion, nothing says that a file is as written.
    doubtful = blobs if fmt.COMPLETE in outdated else {}
    for key, blob in blobs.items():
        if key in outdated or (key in doubtful and storage.read(key) != blob):
            storage.write(key, [blob])


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
