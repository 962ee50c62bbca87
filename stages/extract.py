"""`declip-pipe extract`: run a frozen backbone over a dataset once, into a store."""

import time
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from declip_pipeline.errors import InputError
from declip_pipeline.options import BackbonePrecisionName, DtypeName
from stages.extraction_texts import price_text, profile_text
from stages.options import (
    DATA,
    MACHINE,
    OUTPUT,
    AllowUnpairedOption,
    AssignSplitsOption,
    CacheOption,
    ColumnsOption,
    DeviceOption,
    ImageSizeOption,
    LayoutOption,
    MegapixelsOption,
    OverwriteOption,
    PolarityOption,
    SchedulerOption,
    WeightsOption,
    columns_named,
    comma_separated,
    fake_is_white,
    percents,
    require_folder,
)
from stages.options import image_size as read_image_size

# Options of `extract` that say nothing about what is extracted.
NOT_OF_A_STEP = ("profile", "dry_run")

if TYPE_CHECKING:
    from declip_pipeline.study.extraction import ExtractionStep


def extract(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A Dolos tree or a part of it, or another published benchmark as it is "
            "distributed (--layout lists them); a folder with images/ and masks/, or Tp/ and Gt/ "
            "(with train/valid/test below each, or without); a list, .json or .csv; .parquet files "
            "in Hugging Face's form; a folder of images alone, for features without masks.",
        ),
    ],
    arch: Annotated[
        str,
        typer.Option(
            help="Backbone: CLIP:ViT-L/14, RN50, their fusion ViT-L/14,RN50; open_clip's "
            "ARCH/TAG (ViT-B-32/laion2b_s34b_b79k); timm:NAME; efficientnet-lite0 (built in); "
            "dinov2-vit-s14 (extra dinov2); CLIP:from-file (read off --weights); pixels:299 (the "
            "image itself, for patch-forensics); or a name that an installed package adds."
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
    image_size: ImageSizeOption = None,
    tiles: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE[:OVERLAP]",
            help="Windows of SIZE pixels at native resolution in place of whole images, a row "
            "each: 448, or 448:0.25, where neighbours share a quarter (the default). SIZE is what "
            "the backbone sees, in place of --image-size.",
            rich_help_panel=DATA,
        ),
    ] = None,
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
            help="Generators to extract, comma-separated; real is one, and real images are left "
            "out where it is not named. Default: all.",
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
    columns: ColumnsOption = None,
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
) -> None:
    """Run a frozen backbone over a dataset once and store its features.

    The last line of stdout is the store's path; of several views, each has a line. A second run of
    the same command finds the store complete and does nothing; after an interruption it goes on
    where it stopped. What other stores of the dataset under --cache hold of the same images and
    layers is taken from there.

    Memory: at most four shards of 64 images are under way (decoded, computed, waiting for the
    disk, written), with a byte a pixel of each image's mask: of ViT-L/14 in float16 3.2 GB for
    24 layers, 0.2 GB for one; --dry-run says it for yours. Of --tiles, each image is decoded once
    for tiles that follow one another, and at most 256 MB of decoded images are kept, or one.
    """
    from declip_pipeline.extraction.stage_times import StageTimes
    from stages.screen import remark, result
    from stages.study_screen import callbacks

    if dry_run and (dask is not None or scheduler is not None):
        raise InputError("--dry-run tries this machine; leave out --dask and --scheduler")
    step = extraction_step(
        data,
        arch=arch,
        layers=layers,
        dtype=dtype,
        views=views,
        augment=augment,
        weights=weights,
        image_size=image_size,
        tiles=tiles,
        cache=cache,
        split=split,
        generators=generators,
        name=name,
        layout=layout,
        polarity=polarity,
        assign_splits=assign_splits,
        columns=columns,
        allow_unpaired=allow_unpaired,
        max_failures=max_failures,
        max_megapixels=max_megapixels,
        device=device,
        precision=precision,
        batch_size=batch_size,
        compile_backbone=compile_backbone,
        dask=dask,
        scheduler=scheduler,
        overwrite=overwrite,
    )
    times = StageTimes()
    extractions = []
    with step.opened(callbacks, times) as work:
        # The reading of the files counts, the opening of the backbone does not.
        started = time.perf_counter() - times.seconds["hash"]
        for view in work.views:
            if dry_run:
                result(price_text(*work.estimate(view)))
            else:
                extractions.append(work.extract(view))
    if profile:
        remark(profile_text(times.seconds, time.perf_counter() - started))
    if not dry_run:
        work.require_few_failures(extractions)


def extraction_step(data: Path, **options: Any) -> "ExtractionStep":
    """Return the step that `extract` carries out, from its options as Typer reads them.

    Options that are left out have the command's defaults. Raises `InputError` for texts that
    cannot be read, `OutputExistsError` for a cache that is a file.
    """
    from declip_pipeline.images.tiles import Tiling
    from declip_pipeline.store.storage import URL_MARK
    from declip_pipeline.study.extraction import ExtractionStep

    parameters = signature(extract).parameters
    asked = {name: one.default for name, one in parameters.items() if name not in NOT_OF_A_STEP}
    asked |= {"data": data, **options}
    tiles = asked.pop("tiles")
    if URL_MARK not in asked["cache"]:
        require_folder(Path(asked["cache"]), "--cache")
    lists = {name: comma_separated(asked.pop(name)) for name in ("views", "split", "generators")}
    views, splits, generators = (None if some is None else tuple(some) for some in lists.values())
    read: dict[str, Any] = {
        "views": views,
        "splits": splits,
        "generators": generators,
        "weights": tuple(asked.pop("weights") or ()),
        "fake_is_white": fake_is_white(asked.pop("polarity")),
        "assign_splits": percents(asked.pop("assign_splits")),
        "columns": columns_named(asked.pop("columns")),
        "image_size": read_image_size(asked.pop("image_size")),
        "tiles": None if tiles is None else Tiling.parse(tiles),
        "compile": asked.pop("compile_backbone"),
    }
    return ExtractionStep(**read, **asked)
