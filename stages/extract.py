"""`declip-pipe extract`: run a frozen backbone over a dataset once, into a store."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from declip_pipeline.errors import DownloadError, InputError, WeightsError
from declip_pipeline.options import BackbonePrecisionName, DtypeName
from stages.extraction_texts import left_out_lines, price_text, profile_text
from stages.options import (
    DATA,
    MACHINE,
    OUTPUT,
    AllowUnpairedOption,
    AssignSplitsOption,
    CacheOption,
    DeviceOption,
    LayoutOption,
    MegapixelsOption,
    OverwriteOption,
    PolarityOption,
    SchedulerOption,
    WeightsOption,
    comma_separated,
    fake_is_white,
    percents,
    require_folder,
)

if TYPE_CHECKING:
    from declip_pipeline.backbones.backbone import Backbone
    from declip_pipeline.datasets.dataset import Dataset
    from declip_pipeline.extraction.stage_times import StageTimes
    from declip_pipeline.extraction.task import ShardWorkers
    from declip_pipeline.images.views import View


def extract(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A Dolos tree or a part of it; AutoSplice; a folder with images/ and masks/, or "
            "Tp/ and Gt/ (with train/valid/test below each, or without); a list, .json or .csv; a "
            "folder of images alone, for features without masks.",
        ),
    ],
    arch: Annotated[
        str,
        typer.Option(
            help="Backbone: CLIP:ViT-L/14, RN50, their fusion ViT-L/14,RN50; open_clip's "
            "ARCH/TAG (ViT-B-32/laion2b_s34b_b79k); timm:NAME; efficientnet-lite0 (built in); "
            "CLIP:from-file (read off --weights); pixels:299 (the image itself, for "
            "patch-forensics); or a name that an installed package adds."
        ),
    ],
    layers: Annotated[
        str, typer.Option(help="Layers to store: all, names (layer8,layer20), or numbers (0-23).")
    ] = "all",
    dtype: Annotated[
        DtypeName,
        typer.Option(
            help="Type of the stored features: float16 and bfloat16 take 2 bytes a number, float32 "
            "4, int8 1, with a scale for each token, or for each channel, of each image.",
            rich_help_panel=OUTPUT,
        ),
    ] = "float16",
    views: Annotated[
        str,
        typer.Option(
            help="How the backbone sees the images, a store each, comma-separated: clean, "
            "jpeg:QUALITY, blur:SIGMA, jitter:SHARE, resize:FACTOR, noise:DEVIATION, or a chain "
            "such as blur:1.5+jpeg:70."
        ),
    ] = "clean",
    augment: Annotated[
        str | None,
        typer.Option(
            metavar="KINDS:COUNT",
            help="Also COUNT stores of the train split in random views, such as "
            "jpeg+blur+jitter:3 (the paper's ranges); train takes them beside the clean one.",
            rich_help_panel=DATA,
        ),
    ] = None,
    weights: WeightsOption = None,
    cache: CacheOption = "cache",
    split: Annotated[
        str | None,
        typer.Option(
            help="Splits to extract, comma-separated. Default: all.",
            rich_help_panel=DATA,
        ),
    ] = None,
    generators: Annotated[
        str | None,
        typer.Option(
            help="Generators to extract, comma-separated; real is one. Default: all.",
            rich_help_panel=DATA,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the dataset. Default: the folder's name.",
            rich_help_panel=DATA,
        ),
    ] = None,
    layout: LayoutOption = "auto",
    polarity: PolarityOption = None,
    assign_splits: AssignSplitsOption = None,
    allow_unpaired: AllowUnpairedOption = False,
    max_failures: Annotated[
        int,
        typer.Option(
            min=0,
            help="Number of unreadable images tolerated before the exit code is 1.",
            rich_help_panel=MACHINE,
        ),
    ] = 0,
    max_megapixels: MegapixelsOption = 178.0,
    device: DeviceOption = "auto",
    precision: Annotated[
        BackbonePrecisionName,
        typer.Option(
            help="How the backbone computes: float32 is the reference; auto takes bfloat16 on "
            "CUDA. Part of the store's identity, not of a decoder's.",
            rich_help_panel=MACHINE,
        ),
    ] = "auto",
    batch_size: Annotated[
        int,
        typer.Option(
            min=1,
            help="Images a forward pass; more than 64 are not used.",
            rich_help_panel=MACHINE,
        ),
    ] = 32,
    compile_backbone: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compute with torch.compile: pays on CUDA for many images; needs a compiler.",
            rich_help_panel=MACHINE,
        ),
    ] = False,
    dask: Annotated[
        str | None,
        typer.Option(
            metavar="CLUSTER",
            help="Compute in worker processes: local:N here, one a GPU, or "
            "slurm:configs/slurm.yaml. All must see DATA, --cache and --weights at the same path.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    scheduler: SchedulerOption = None,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="At the end, say which stage took how much time.",
            rich_help_panel=MACHINE,
        ),
    ] = False,
    overwrite: OverwriteOption = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Extract nothing; say what it would take: size, free space, time, memory.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
) -> list[str]:
    """Run a frozen backbone over a dataset once and store its features.

    The last line of stdout is the store's path; of several views, each has a line. A second run of
    the same command finds the store complete and does nothing; after an interruption it goes on
    where it stopped. What other stores of the dataset under --cache hold of the same images and
    layers is taken from there.

    Memory: at most four shards of 64 images are under way (decoded, computed, waiting for the
    disk, written), with a byte a pixel of each image's mask: of ViT-L/14 in float16 3.2 GB for
    24 layers, 0.2 GB for one; --dry-run says it for yours.
    """

    from declip_pipeline.backbones.backbone import choose_precision
    from declip_pipeline.backbones.registry import select_layers
    from declip_pipeline.backbones.weights import absolute_weights
    from declip_pipeline.compute import choose_device
    from declip_pipeline.datasets.opening import open_dataset
    from declip_pipeline.extraction.stage_times import StageTimes
    from declip_pipeline.images.views import parse_augmentation, parse_view
    from declip_pipeline.store.storage import URL_MARK, storage_at
    from stages.screen import progress, remark

    asked = [parse_view(text) for text in comma_separated(views) or []]
    random_views = [] if augment is None else parse_augmentation(augment)
    if dry_run and (dask is not None or scheduler is not None):
        raise InputError("--dry-run tries this machine; leave out --dask and --scheduler")
    root = storage_at(cache)
    if URL_MARK in cache:
        # A wrong name or key is better said now than after all images were read.
        root.folders()
    else:
        require_folder(Path(cache), "--cache")
    times = StageTimes()
    with times.measure("hash"), progress("reading files", "files") as tell:
        dataset = open_dataset(
            data,
            layout=layout,
            name=name,
            fake_is_white=fake_is_white(polarity),
            allow_unpaired=allow_unpaired,
            assign_splits=percents(assign_splits),
            splits=comma_separated(split),
            generators=comma_separated(generators),
            max_megapixels=max_megapixels,
            notice=remark,
            progress=tell,
        )
    for line in left_out_lines(dataset):
        remark(line)
    with _workers(dask, scheduler, arch, weights or [], device) as workers:
        # With workers, this process only says what theirs must be.
        computing_on = choose_device(device if workers is None else "cpu")
        kind = computing_on.type if workers is None else workers.device_kind()
        backbone = _open_backbone(
            arch, weights, str(computing_on), choose_precision(precision, kind)
        )
        if compile_backbone:
            backbone.compile()
        remark(f"{dataset.name}: {len(dataset)} images, {backbone.name}")
        work = _Work(
            backbone=backbone,
            common={
                "layers": select_layers(layers, list(backbone.layers)),
                "root": cache,
                "dtype": dtype,
                "max_megapixels": max_megapixels,
                "overwrite": overwrite,
            },
            batch_size=batch_size,
            provenance={"arch": arch, "weights": absolute_weights(weights or [])},
            times=times,
            workers=workers,
        )
        # The reading of the files counts, the opening of the backbone does not.
        started = time.perf_counter() - times.seconds["hash"]
        learned = dataset.select(splits=["train"]) if random_views else dataset
        failed = 0
        locations = []
        for view in dict.fromkeys([*asked, *random_views]):
            pictures = dataset if view in asked else learned
            if dry_run:
                work.estimate(pictures, view)
            else:
                location, failures = work.extract(pictures, view)
                locations.append(location)
                failed = max(failed, failures)
    if profile:
        remark(profile_text(work.times.seconds, time.perf_counter() - started))
    if failed > max_failures:
        remark(
            f"declip-pipe: {failed} of {len(dataset)} images could "
            f"not be used, --max-failures is {max_failures}; the store holds the others"
        )
        raise typer.Exit(1)
    return locations


def _open_backbone(arch: str, weights: list[str] | None, device: str, precision: str) -> "Backbone":
    """Open the backbone; where its weights cannot be downloaded, name the installed one, too."""
    from declip_pipeline.backbones.registry import open_backbone

    try:
        return open_backbone(arch, weights=weights, device=device, precision=precision)
    except DownloadError as error:
        raise WeightsError(
            f"{error}, or take --arch efficientnet-lite0, whose weights are installed"
        ) from error


@dataclass(frozen=True)
class _Work:
    """What the views of a dataset have in common."""

    backbone: "Backbone"
    common: dict[str, Any]
    batch_size: int
    provenance: dict[str, Any]
    times: "StageTimes"
    workers: "ShardWorkers | None"
    said: set[str] = field(default_factory=set)

    def estimate(self, dataset: "Dataset", view: "View") -> None:
        """Say what the view's store would take."""
        from declip_pipeline.extraction.estimate import estimate_extraction
        from declip_pipeline.extraction.store_plan import plan_store
        from stages.screen import result

        plan = plan_store(dataset, self.backbone, **self._arguments(view))
        for problem in plan.problems:
            self._say_once(f"problem: {problem}")
        estimate = estimate_extraction(plan, self.backbone, batch_size=self.batch_size)
        result(price_text(plan, estimate))

    def extract(self, dataset: "Dataset", view: "View") -> tuple[str, int]:
        """Make the view's store and say what came of it.

        Returns where it is and how many images failed.
        """
        from declip_pipeline.extraction.extract import extract_store
        from stages.screen import progress, remark, result

        with progress(f"extracting {view.name}") as tell:
            extraction = extract_store(
                dataset,
                self.backbone,
                **self._arguments(view),
                provenance=self.provenance,
                batch_size=self.batch_size,
                progress=tell,
                notice=self._say_once,
                times=self.times,
                workers=self.workers,
            )
        if extraction.was_complete:
            remark("the store is complete already, nothing to do (--overwrite extracts it again)")
        for location in extraction.reused:
            remark(f"took what it has from {location}")
        for row, reason in extraction.failures.items():
            remark(f"failed: {extraction.samples[row].image}: {reason}")
        result(extraction.location)
        return extraction.location, len(extraction.failures)

    def _say_once(self, line: str) -> None:
        """A remark that views have in common, at the first of them."""
        from stages.screen import remark

        if line not in self.said:
            self.said.add(line)
            remark(line)

    def _arguments(self, view: "View") -> dict[str, Any]:
        return self.common | {"view": view}


@contextmanager
def _workers(
    dask: str | None, scheduler: str | None, arch: str, weights: list[str], device: str
) -> Iterator["ShardWorkers | None"]:
    """The workers that were asked for; None where this process computes."""
    if dask is None and scheduler is None:
        yield None
        return

    from declip_pipeline.backbones.weights import absolute_weights
    from declip_pipeline.extraction.task import ShardWorkers
    from declip_pipeline.jobs.cluster import open_client
    from stages.screen import remark

    with open_client(dask=dask, scheduler=scheduler, notice=remark) as client:
        workers = ShardWorkers(client, arch=arch, weights=absolute_weights(weights), device=device)
        yield workers
        workers.release()
