"""Extraction of a dataset as a step of a study: every view of it, from flat arguments."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from declip_pipeline.backbones.backbone import Backbone, choose_precision
from declip_pipeline.backbones.registry import open_backbone, require_backbone, select_layers
from declip_pipeline.backbones.weights import absolute_weights
from declip_pipeline.compute import choose_device
from declip_pipeline.datasets.dataset import Dataset
from declip_pipeline.datasets.findings import unpaired_files_and_folders, wholly_generated_text
from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.errors import DeclipError, DownloadError, StoreError, WeightsError
from declip_pipeline.extraction.estimate import Estimate, estimate_extraction
from declip_pipeline.extraction.extract import Extraction, extract_store
from declip_pipeline.extraction.stage_times import StageTimes
from declip_pipeline.extraction.store_plan import StorePlan, input_size, plan_store
from declip_pipeline.extraction.task import ShardWorkers
from declip_pipeline.images.decode import DEFAULT_MAX_MEGAPIXELS
from declip_pipeline.images.tiles import Tiling
from declip_pipeline.images.views import View, parse_augmentation, parse_views
from declip_pipeline.store.reader import Store
from declip_pipeline.store.storage import URL_MARK, storage_at
from declip_pipeline.study.callbacks import SILENT, Callbacks


@dataclass(frozen=True)
class ExtractionStep:
    """Extraction of a dataset into a store for each view.

    Attributes:
        data: The dataset, see `open_dataset`; so are `splits`, `generators`, `name`, `layout`,
            `fake_is_white`, `allow_unpaired`, `assign_splits` and `columns`.
        arch: Name of the backbone, see `open_backbone`; so are `weights`, `image_size` and
            `precision`.
        layers: Layers to store, see `select_layers`.
        dtype: Type of the stored features.
        views: Renderings of each image, see `parse_views`.
        augment: Random views of the train split, see `parse_augmentation`.
        tiles: Windows over the images that become rows, see `extract`; None for whole images.
        cache: Folder or URL of the stores.
        max_failures: Number of unreadable images that are tolerated.
        max_megapixels: Largest image to decode, in millions of pixels.
        device: Where to compute, see `choose_device`.
        batch_size: Images in one forward pass.
        compile: Compute with `torch.compile`.
        dask: Workers that compute, see `open_client`.
        scheduler: Address of a Dask scheduler whose workers compute.
        overwrite: Extract again what is complete.
        backbone: The opened backbone, where it is open already.
    """

    data: Path
    arch: str
    layers: str = "all"
    dtype: str = "float16"
    views: tuple[str, ...] = ("clean",)
    augment: str | None = None
    weights: tuple[str, ...] = ()
    image_size: tuple[int, int] | None = None
    tiles: Tiling | None = None
    cache: str = "cache"
    splits: tuple[str, ...] | None = None
    generators: tuple[str, ...] | None = None
    name: str | None = None
    layout: str = "auto"
    fake_is_white: bool | None = None
    allow_unpaired: bool = False
    assign_splits: tuple[int, int, int] | None = None
    columns: Mapping[str, str] | None = None
    max_failures: int = 0
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS
    device: str = "auto"
    precision: str = "auto"
    batch_size: int = 32
    compile: bool = False
    dask: str | None = None
    scheduler: str | None = None
    overwrite: bool = False
    backbone: Backbone | None = field(default=None, compare=False)

    def run(self, callbacks: Callbacks = SILENT) -> list[str]:
        """Extract every view, or find it complete; returns the stores' locations.

        Raises:
            InputError: For a dataset, view, layer or backbone that cannot be used.
            WeightsError: The backbone's weights cannot be fetched, or do not fit.
            StoreError: A store cannot be written.
            DeclipError: More images failed than `max_failures`; the stores hold the others.
        """
        with self.opened(callbacks) as work:
            found = [work.extract(view) for view in work.views]
        work.require_few_failures(found)
        return [one.location for one in found]

    def complete(self, callbacks: Callbacks = SILENT) -> list[str] | None:
        """Return the stores' locations; None where the data or one of them is not there.

        Nothing is extracted. Raises `InputError` for a dataset, view, layer or backbone that
        cannot be used.
        """
        if not self.data.exists():
            return None
        with self.opened(callbacks) as work:
            places = [work.plan(view).location for view in work.views]
        for place in places:
            try:
                Store(place)
            except StoreError:
                return None
        return places

    @contextmanager
    def opened(
        self, callbacks: Callbacks = SILENT, times: StageTimes | None = None
    ) -> Iterator["OpenExtraction"]:
        """Open the dataset, the workers and the backbone. Raises as `run` does."""
        times = times or StageTimes()
        views = parse_views(self.views)
        random_views = [] if self.augment is None else parse_augmentation(self.augment)
        input_size(self.tiles, self.image_size)
        # A wrong name or key is better said now than after all images were read.
        if self.backbone is None:
            require_backbone(self.arch, self.weights)
        if URL_MARK in self.cache:
            storage_at(self.cache).folders()
        with times.measure("hash"), callbacks.progress("reading files", "files") as tell:
            dataset = open_dataset(
                self.data,
                layout=self.layout,
                name=self.name,
                fake_is_white=self.fake_is_white,
                allow_unpaired=self.allow_unpaired,
                assign_splits=self.assign_splits,
                columns=self.columns,
                splits=self.splits,
                generators=self.generators,
                max_megapixels=self.max_megapixels,
                notice=callbacks.notice,
                progress=tell,
            )
        for line in _left_out_lines(dataset):
            callbacks.notice(line)
        with self._open_workers(callbacks) as workers:
            backbone = self._open_backbone(workers)
            callbacks.notice(f"{dataset.name}: {len(dataset)} images, {backbone.name}")
            yield OpenExtraction(
                self, dataset, backbone, workers, views, random_views, times, callbacks
            )

    @contextmanager
    def _open_workers(self, callbacks: Callbacks) -> Iterator[ShardWorkers | None]:
        """Yield the workers that were asked for; None where this process computes."""
        if self.dask is None and self.scheduler is None:
            yield None
            return
        from declip_pipeline.jobs.cluster import open_client

        with open_client(
            dask=self.dask, scheduler=self.scheduler, notice=callbacks.notice
        ) as client:
            weights = absolute_weights(list(self.weights))
            workers = ShardWorkers(client, arch=self.arch, weights=weights, device=self.device)
            yield workers
            workers.release()

    def _open_backbone(self, workers: ShardWorkers | None) -> Backbone:
        if self.backbone is not None:
            return self.backbone
        # With workers, this process only says what theirs must be.
        device = choose_device(self.device if workers is None else "cpu")
        kind = device.type if workers is None else workers.device_kind()
        try:
            backbone = open_backbone(
                self.arch,
                weights=self.weights,
                image_size=input_size(self.tiles, self.image_size),
                device=str(device),
                precision=choose_precision(self.precision, kind),
            )
        except DownloadError as error:
            raise WeightsError(
                f'{error}, or take `arch="efficientnet-lite0"`, whose weights are installed'
            ) from error
        return backbone.compile() if self.compile else backbone


@dataclass(frozen=True)
class OpenExtraction:
    """An extraction with its dataset and backbone open: its views are extracted one by one."""

    step: ExtractionStep
    dataset: Dataset
    backbone: Backbone
    workers: ShardWorkers | None
    asked: Sequence[View]
    random_views: Sequence[View]
    times: StageTimes
    callbacks: Callbacks
    said: set[str] = field(default_factory=set)

    @property
    def views(self) -> list[View]:
        """Every view, the random ones last."""
        return [*self.asked, *self.random_views]

    def estimate(self, view: View) -> tuple[StorePlan, Estimate]:
        """Measure what the view's store would take; nothing is kept."""
        plan = self.plan(view)
        for line in plan.remarks:
            self._notice_once(line)
        return plan, estimate_extraction(plan, self.backbone, batch_size=self.step.batch_size)

    def plan(self, view: View) -> StorePlan:
        """Plan the view's store."""
        return plan_store(self._images(view), self.backbone, **self._options(view))

    def extract(self, view: View) -> Extraction:
        """Make the view's store, or find it complete."""
        callbacks, step = self.callbacks, self.step
        with callbacks.progress(f"extracting {view.name}", "images") as tell:
            extraction = extract_store(
                self._images(view),
                self.backbone,
                **self._options(view),
                provenance={
                    "arch": step.arch,
                    "weights": absolute_weights(list(step.weights)),
                },
                batch_size=step.batch_size,
                progress=tell,
                notice=self._notice_once,
                times=self.times,
                workers=self.workers,
            )
        if extraction.was_complete:
            callbacks.notice(
                "the store is complete already, nothing to do (`overwrite=True` extracts it again)"
            )
        for location in extraction.reused:
            callbacks.notice(f"took what it has from {location}")
        for image, reason in extraction.failed_images.items():
            callbacks.notice(f"failed: {image}: {reason}")
        callbacks.made(extraction.location)
        return extraction

    def require_few_failures(self, extractions: Sequence[Extraction]) -> None:
        """Raise `DeclipError` where a store has more failures than the step tolerates."""
        most = max(len(one.failed_images) for one in extractions)
        if most > self.step.max_failures:
            raise DeclipError(
                f"{most} of {len(self.dataset)} images could not be used, "
                f"`max_failures` is {self.step.max_failures}; the store holds the others"
            )

    def _images(self, view: View) -> Dataset:
        """Return the images of a view; random views are of the train split alone."""
        return self.dataset if view in self.asked else self._train

    @cached_property
    def _train(self) -> Dataset:
        return self.dataset.select(splits=["train"])

    def _notice_once(self, line: str) -> None:
        """Pass on what several views have to say at the first of them."""
        if line not in self.said:
            self.said.add(line)
            self.callbacks.notice(line)

    def _options(self, view: View) -> dict[str, Any]:
        step = self.step
        return {
            "layers": select_layers(step.layers, list(self.backbone.layers)),
            "root": step.cache,
            "dtype": step.dtype,
            "tiles": step.tiles,
            "max_megapixels": step.max_megapixels,
            "overwrite": step.overwrite,
            "view": view,
        }


def _left_out_lines(dataset: Dataset) -> list[str]:
    """Return a line for each file that has no partner, and for each kind of what is not taken."""
    files, folders = unpaired_files_and_folders(dataset)
    lines = [f"left out, no partner: {path}" for path in files]
    if folders:
        lines.append(wholly_generated_text(folders))
    return [*lines, *map(str, dataset.left_out)]
