"""Extraction of features: from a dataset and a backbone to a complete store."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from declip_pipeline.arguments import require_path, require_positive, require_whole
from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.backbones.registry import open_backbone, select_layers
from declip_pipeline.backbones.weights import absolute_weights
from declip_pipeline.compute import choose_device
from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.datasets.sample import FAKE, Sample
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.errors import InputError
from declip_pipeline.extraction.reuse import match_rows, order_after
from declip_pipeline.extraction.shard_filling import ShardFiller, fill_store
from declip_pipeline.extraction.stage_times import StageTimes
from declip_pipeline.extraction.store_plan import StorePlan, input_size, plan_store
from declip_pipeline.extraction.task import ShardWorkers
from declip_pipeline.extraction.versions import different_versions, versions
from declip_pipeline.images.decode import DEFAULT_MAX_MEGAPIXELS
from declip_pipeline.images.tiles import Tiling
from declip_pipeline.images.views import CLEAN_VIEW, View, parse_view
from declip_pipeline.store.generations import (
    OVERWRITE,
    RETRY,
    beside,
    delete_store,
    settle,
)
from declip_pipeline.store.reader import Store
from declip_pipeline.store.storage import absolute_location, storage_at
from declip_pipeline.store.writer import StoreWriter


@dataclass(frozen=True)
class Extraction:
    """Outcome of an extraction.

    Args:
        location: Where the store lies.
        was_complete: Nothing had to be done.
        failures: Reasons by rows that failed.
        samples: The store's rows.
        reused: Locations of earlier stores that rows were taken from.
    """

    location: str
    was_complete: bool
    failures: dict[int, str]
    samples: Samples
    reused: list[str]

    @property
    def failed_images(self) -> dict[str, str]:
        """Reasons by the paths of images that failed, also where their tiles are rows."""
        return {self.samples[row].image: reason for row, reason in self.failures.items()}


def extract(
    dataset: Dataset | str | Path,
    backbone: Backbone | str,
    *,
    layers: str | Sequence[str] = "all",
    cache: str | Path = "cache",
    view: View | str = CLEAN_VIEW,
    dtype: str = "float16",
    weights: str | Path | Sequence[str | Path] | None = None,
    image_size: int | tuple[int, int] | None = None,
    tiles: Tiling | str | int | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 32,
    max_failures: int = 0,
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    notice: Callable[[str], None] = lambda line: None,
) -> Store:
    """Run a frozen backbone over a dataset once, and return the store of its features.

    A second call with the same arguments finds the store complete and only opens it; an interrupted
    one is finished. What other stores under `cache` hold of the same images and layers is taken
    from there. Images without masks give a store without targets.

    Example:
        >>> store = extract("DATA", "efficientnet-lite0", layers=["layer2", "layer3"])
        >>> store.read_layer("layer3", [0, 1]).decoded().shape

    Args:
        dataset: A dataset, or a path that `open_dataset` takes.
        backbone: Opened backbone, or a name that `open_backbone` takes.
        layers: Names of the layers to store, or one text such as "all", "layer8,layer20" or "0-3".
        cache: Folder or s3:// URL under which the store is written.
        view: Rendering of each image that the backbone sees, such as "clean", "jpeg:70" or
            "blur:1.5+jpeg:70".
        dtype: Dtype of the stored features: "float16", "bfloat16", "float32", "int8" or
            "int8-per-channel".
        weights: Files of the weights, for a backbone that is given by name.
        image_size: Side, or height and width, that images are resized to, for a backbone that is
            given by name; see `open_backbone`.
        tiles: Windows at native resolution that the backbone sees in place of whole images, as
            SIZE or "SIZE:OVERLAP" (see `Tiling`), such as "448:0.25": a row each, resized only
            where the image is smaller. SIZE takes the place of `image_size`.
        device: "auto", "cpu", "cuda" or "cuda:N"; an opened backbone is moved there, or with "auto"
            stays where it is.
        precision: Precision of the forward pass, for a backbone that is given by name. "auto" is
            bfloat16 on CUDA and float32 elsewhere.
        batch_size: Images a forward pass.
        max_failures: Number of unreadable images tolerated; `Store.failures` lists them.
        max_megapixels: Limit of a decoded image or mask.
        overwrite: Extract everything again.
        progress: Called as `progress(done, total)` with numbers of images.
        notice: Called with each line that a user should see, such as duplicates across splits.

    Returns:
        The complete store.

    Raises:
        UnknownNameError: For a backbone, layer, view, dtype or precision that is not known.
        WeightsError: For weights that are missing, damaged or cannot be downloaded.
        InputError: For a dataset that cannot be used, and for more than `max_failures` images that
            could not be read; the store holds the others.
        StoreError: For a store that cannot be written, or a file that changed meanwhile.
        StorageFullError: For a full disk; the same call goes on from there.
    """
    require_whole("batch_size", batch_size, 1)
    require_whole("max_failures", max_failures, 0)
    require_positive("max_megapixels", max_megapixels)
    require_path(cache, "a cache", "a folder or an s3:// URL")
    if isinstance(view, str):
        view = parse_view(view)
    if not isinstance(view, View):
        raise InputError(f"found {type(view).__name__} for a view; expected its name or a `View`")
    wanted = layers if isinstance(layers, str) else ",".join(map(str, _listed("layers", layers)))
    tiling = None if tiles is None else Tiling.parse(tiles)
    size = input_size(tiling, image_size)
    files = [weights] if isinstance(weights, str | Path) else weights or ()
    for file in _listed("weights", files):
        require_path(file, "weights", 'a file or "random:SEED"')
    given = [str(one) for one in files]
    if not isinstance(backbone, Backbone):
        arch = backbone
        backbone = open_backbone(
            arch, weights=given, image_size=size, device=device, precision=precision
        )
    else:
        if given or image_size is not None:
            what = "`weights` are" if given else "`image_size` is"
            raise InputError(f"{what} for a backbone that is given by name; leave it out")
        arch = backbone.name
        if device != "auto":
            backbone = backbone.to(choose_device(device))
    names = select_layers(wanted, list(backbone.layers))
    if not isinstance(dataset, Dataset):
        dataset = open_dataset(dataset, max_megapixels=max_megapixels, notice=notice)
    extraction = extract_store(
        dataset,
        backbone,
        layers=names,
        root=cache,
        provenance={"arch": arch, "weights": absolute_weights(given)},
        view=view,
        dtype=dtype,
        tiles=tiling,
        batch_size=batch_size,
        max_megapixels=max_megapixels,
        overwrite=overwrite,
        progress=progress,
        notice=notice,
    )
    failed = extraction.failed_images
    if len(failed) > max_failures:
        image, reason = next(iter(failed.items()))
        raise InputError(
            f"{len(failed)} of {len(dataset)} images could not be read, "
            f"such as {image} ({reason}); the store {extraction.location} "
            f"holds the others, take it with `max_failures={len(failed)}`"
        )
    return Store(extraction.location)


def _listed(name: str, values: Any) -> Sequence[Any]:
    """Return the values of a parameter; raises `InputError` for what is no list of them."""
    if not isinstance(values, Sequence):
        raise InputError(f"`{name}` is {values!r}; expected one text, or a list")
    return values


def extract_store(
    dataset: Dataset,
    backbone: Backbone,
    *,
    layers: Sequence[str],
    root: str | Path,
    provenance: Mapping[str, Any] = MappingProxyType({}),
    view: View = CLEAN_VIEW,
    dtype: str = "float16",
    tiles: Tiling | None = None,
    batch_size: int = 32,
    decode_threads: int | None = None,
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    notice: Callable[[str], None] = lambda line: None,
    times: StageTimes | None = None,
    workers: ShardWorkers | None = None,
) -> Extraction:
    """Run the frozen backbone over every sample and store the layers asked for.

    A complete store is left alone, unless images that failed can be read now: then a store with
    them takes its place. An interrupted one is finished, byte-identical to an undisturbed
    run with the same `batch_size`; rows of the same files and layers in another store of the
    dataset under `root` are taken from there.

    Args:
        dataset: Images to extract. One that was not scanned yet is scanned and checked first.
        backbone: Frozen network. With `workers`, it only says what theirs must be.
        layers: Names of layers to store.
        root: A folder or an s3:// URL.
        provenance: Plain JSON that is kept as a record.
        view: Rendering of each image that the backbone sees.
        dtype: Type of the stored features.
        tiles: Windows over the images that are the rows, of the backbone's input size; None for
            whole images.
        batch_size: Images in one forward pass.
        decode_threads: Threads that read and decode; None for one a core.
        max_megapixels: Limit of a decoded image or mask.
        overwrite: Extract everything again.
        progress: Called with the number of images done and of all.
        notice: Called with each line that a user should see.
        times: Adds up the seconds of each stage.
        workers: Processes that compute in place of this one.

    Raises:
        InputError: For a dataset that cannot be used.
        StoreError: For a store that cannot be written, or a file that changed meanwhile.
        StorageFullError: For a full disk. What was written so far stays usable by the next run
            of the same command.
    """
    times = times or StageTimes()
    with times.measure("hash"):
        plan = plan_store(
            dataset,
            backbone,
            layers=layers,
            root=root,
            view=view,
            dtype=dtype,
            max_megapixels=max_megapixels,
            overwrite=overwrite,
            tiles=tiles,
        )
    for line in plan.remarks:
        notice(line)
    if workers is not None:
        workers.require_sight(root, dataset.root, _some_files(plan.samples))
    settle(plan.location)
    location, samples, earlier = plan.location, plan.samples, plan.earlier
    if overwrite and storage_at(location).sizes():
        location = beside(location, OVERWRITE)
    recorded = {
        "root": str(dataset.root),
        "batch_size": batch_size,
        "versions": versions(),
        **({"compiled": True} if backbone.is_compiled else {}),
        **provenance,
    }
    begin = partial(
        StoreWriter,
        identity=plan.identity,
        layers=plan.layers,
        dataset=plan.dataset,
        provenance=recorded,
        fake_is_white=plan.fake_is_white,
    )
    writer = begin(location, samples=samples)
    if writer.is_complete:
        former = Store(location)
        failed = _first_rows(former)
        readable = _readable_now(failed, plan, decode_threads)
        location = beside(location, RETRY)
        if not readable:
            delete_store(storage_at(location))
            return Extraction(plan.location, True, former.failures, former.samples, [])
        notice(
            f"{readable} of {len(failed)} images that failed when the store was made can "
            "be read now; they are added"
        )
        samples, earlier = order_after(samples, former), [former, *earlier]
        writer = begin(location, samples=samples)
    difference = different_versions(writer.header.provenance)
    if difference and writer.pending_shards() != list(range(writer.header.shards)):
        notice(f"the store was begun with {difference}; features may differ in their last bits")
    reuse = match_rows(writer.samples, writer.header.identity, earlier)
    filler = ShardFiller(
        writer,
        backbone,
        reuse,
        read=plan.read,
        batch_size=batch_size,
        decode_threads=decode_threads,
        notice=notice,
        times=times,
    )
    fill = None
    if workers is not None:
        fill = partial(
            workers.fill,
            location=absolute_location(location),
            data_root=dataset.root,
            earlier=[absolute_location(store.location) for store in earlier],
            batch_size=batch_size,
            decode_threads=decode_threads,
            max_megapixels=max_megapixels,
            is_compiled=backbone.is_compiled,
            notice=notice,
            times=times,
        )
    fill_store(filler, fill=fill, progress=progress)
    settle(plan.location)
    # Not by the writer: its place may be another by now.
    store = Store(plan.location)
    return Extraction(plan.location, False, store.failures, store.samples, reuse.locations)


def _first_rows(store: Store) -> list[Sample]:
    """One sample of each image that failed, also where several tiles of it did."""
    failed = (store.samples[row] for row in store.failures)
    return list({(sample.image, sample.mask): sample for sample in failed}.values())


def _readable_now(failed: Sequence[Sample], plan: StorePlan, threads: int | None) -> int:
    """The number of failed images that can be read now.

    Another limit of their size may hold, or memory was lacking for a moment.
    """
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(lambda sample: not isinstance(plan.read(sample), str), failed))


def _some_files(samples: Samples) -> dict[str, str]:
    """The first and the last image and mask, with their SHA-256.

    Parts of a dataset may lie on disks of their own.
    """
    masked = samples.rows(label=FAKE)
    files = {s.image: str(s.image_sha256) for s in (samples[0], samples[-1])}
    for row in (*masked[:1], *masked[-1:]):
        sample = samples[row]
        files[str(sample.mask)] = str(sample.mask_sha256)
    return files
