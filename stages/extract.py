"""`declip-pipe extract`: run a frozen backbone over a dataset once, into a store."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from declip_pipeline.errors import InputError
from declip_pipeline.feature_dtype import FEATURE_DTYPES
from stages.options import (
    CacheOption,
    Device,
    DeviceOption,
    MegapixelsOption,
    OverwriteOption,
    Precision,
    WeightsOption,
    comma_separated,
    require_folder,
)

# Typer makes the choices out of it.
Dtype = StrEnum("Dtype", {name: name for name in FEATURE_DTYPES})  # type: ignore[misc]
DEFAULT_DTYPE = Dtype("float16")


if TYPE_CHECKING:
    from declip_pipeline.extraction.estimate import Estimate
    from declip_pipeline.extraction.store_plan import StorePlan


class Layout(StrEnum):
    """How a dataset lies on disk."""

    auto = "auto"
    dolos = "dolos"
    folders = "folders"


class Polarity(StrEnum):
    """Which colour of a mask marks fake pixels."""

    white = "white-is-fake"
    black = "black-is-fake"


def extract(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A Dolos tree or a part of it, or a folder with images/ and masks/ (with "
            "train/valid/test below each, or without).",
        ),
    ],
    arch: Annotated[
        str,
        typer.Option(
            help="Backbone: CLIP:ViT-L/14, RN50, their fusion ViT-L/14,RN50; open_clip's "
            "ARCH/TAG (ViT-B-32/laion2b_s34b_b79k); timm:NAME; efficientnet-lite0 (built in); "
            "CLIP:from-file (read off --weights)."
        ),
    ],
    layers: Annotated[
        str, typer.Option(help="Layers to store: all, names (layer8,layer20), or numbers (0-23).")
    ] = "all",
    dtype: Annotated[
        Dtype,
        typer.Option(
            help="Type of the stored features: 2, 2, 4, 1 or 1 bytes a number; int8 has a scale "
            "for each token, or for each channel, of each picture."
        ),
    ] = DEFAULT_DTYPE,
    views: Annotated[
        str,
        typer.Option(
            help="How the backbone sees the pictures, a store each, comma-separated: clean, "
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
        ),
    ] = None,
    weights: WeightsOption = None,
    cache: CacheOption = "cache",
    split: Annotated[
        str | None, typer.Option(help="Splits to extract, comma-separated. Default: all.")
    ] = None,
    generators: Annotated[
        str | None,
        typer.Option(help="Generators to extract, comma-separated; real is one. Default: all."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the dataset. Default: the folder's name.")
    ] = None,
    layout: Annotated[Layout, typer.Option(help="How DATA lies on disk.")] = Layout.auto,
    polarity: Annotated[
        Polarity | None,
        typer.Option(help="Which colour marks fake pixels. Default: black for Dolos, else white."),
    ] = None,
    assign_splits: Annotated[
        str | None,
        typer.Option(
            metavar="TRAIN,VALID,TEST",
            help="For a dataset without splits: percents, such as 80,10,10; drawn by name.",
        ),
    ] = None,
    allow_unpaired: Annotated[
        bool, typer.Option("--allow-unpaired", help="Leave out what has no partner.")
    ] = False,
    max_failures: Annotated[
        int, typer.Option(min=0, help="Unreadable pictures to put up with (exit code 0).")
    ] = 0,
    max_megapixels: MegapixelsOption = 178.0,
    device: DeviceOption = Device.auto,
    precision: Annotated[
        Precision,
        typer.Option(
            help="How the backbone computes: float32 is the reference; auto takes bfloat16 on "
            "CUDA. Part of the store's identity, not of a decoder's."
        ),
    ] = Precision.auto,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures a forward pass.")] = 32,
    overwrite: OverwriteOption = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Extract nothing; say what it would take: size, free space, time, memory.",
        ),
    ] = False,
) -> None:
    """Run a frozen backbone over a dataset once and store its features.

    The last line of stdout is the store's path; of several views, each has a line. A second run of
    the same command finds the store complete and does nothing; after an interruption it goes on
    where it stopped. What other stores of the dataset under --cache hold of the same pictures and
    layers is taken from there.
    """
    import numpy as np

    from declip_pipeline.backbones.layer_selection import select_layers
    from declip_pipeline.backbones.registry import open_backbone
    from declip_pipeline.devices import choose_device
    from declip_pipeline.extraction.checked_dataset import open_checked_dataset
    from declip_pipeline.extraction.estimate import estimate_extraction
    from declip_pipeline.extraction.extract import extract as extract_store
    from declip_pipeline.extraction.store_plan import plan_store
    from declip_pipeline.images.views import parse_augmentation, parse_view
    from declip_pipeline.store.storage import URL_MARK, storage_at
    from stages.screen import progress, remark, result

    asked = [parse_view(text) for text in comma_separated(views) or []]
    random_views = [] if augment is None else parse_augmentation(augment)

    root = storage_at(cache)
    if URL_MARK in cache:
        # A wrong name or key is better said now than after all pictures were read.
        root.folders()
    else:
        require_folder(Path(cache), "--cache")
    manifest, sizes = open_checked_dataset(
        data,
        layout=layout.value,
        name=name,
        fake_is_white=None if polarity is None else polarity is Polarity.white,
        allow_unpaired=allow_unpaired,
        assign_splits=_percents(assign_splits),
        splits=comma_separated(split),
        generators=comma_separated(generators),
        max_megapixels=max_megapixels,
    )
    for path in manifest.unpaired:
        remark(f"left out, no partner: {path}")
    computing_on = choose_device(device.value)
    if precision is Precision.auto:
        precision = Precision.bfloat16 if computing_on.type == "cuda" else Precision.float32
    backbone = open_backbone(arch, weights=weights or (), device=str(computing_on))
    backbone.in_precision(precision.value)
    remark(f"{manifest.name}: {len(manifest.samples)} pictures, {backbone.name}")
    chosen = select_layers(layers, list(backbone.layers))
    learned = manifest.select(splits=["train"]) if random_views else manifest
    size_of = {sample.id: size for sample, size in zip(manifest.samples, sizes, strict=True)}
    failed = 0
    for view in dict.fromkeys([*asked, *random_views]):
        pictures = manifest if view in asked else learned
        common: Any = {
            "layers": chosen,
            "sizes": np.asarray([size_of[sample.id] for sample in pictures.samples]),
            "root": cache,
            "view": view,
            "dtype": dtype.value,
            "max_megapixels": max_megapixels,
            "overwrite": overwrite,
        }
        if dry_run:
            plan = plan_store(pictures, backbone, **common)
            estimate = estimate_extraction(plan, backbone, batch_size=batch_size)
            result(_price(plan, estimate))
            continue
        with progress(f"extracting {view.name}") as tell:
            extraction = extract_store(
                pictures,
                backbone,
                **common,
                provenance={"arch": arch, "weights": _recorded(weights or [])},
                batch_size=batch_size,
                progress=tell,
                notice=remark,
            )
        if extraction.was_complete:
            remark("the store is complete already, nothing to do (--overwrite extracts it again)")
        for location in extraction.reused:
            remark(f"took what it has from {location}")
        for row, reason in extraction.failures.items():
            remark(f"failed: {extraction.samples[row]['image']}: {reason}")
        result(extraction.location)
        failed = max(failed, len(extraction.failures))
    if failed > max_failures:
        remark(
            f"declip-pipe: {failed} of {len(manifest.samples)} pictures could "
            f"not be used, --max-failures is {max_failures}; the store holds the others"
        )
        raise typer.Exit(1)


def _price(plan: "StorePlan", estimate: "Estimate") -> str:
    """What a store will take, a line each."""
    identity = plan.identity
    taken = estimate.images - estimate.computed_images
    reused = f", {taken} of them from earlier stores" if taken else ""
    free = "no limit" if estimate.free_bytes is None else f"{estimate.free_bytes / 1e9:.2f} GB"
    short = estimate.free_bytes is not None and estimate.store_bytes > estimate.free_bytes
    seconds = estimate.seconds
    lines = {
        "store": plan.location,
        "images": f"{estimate.images}{reused}",
        "layers": f"{', '.join(identity.layers)} of {identity.backbone}",
        "view": identity.view,
        "dtype": identity.dtype,
        "size": f"{estimate.store_bytes / 1e9:.3f} GB",
        "free": free + (", too little" if short else ""),
        "time": f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes",
        "memory": f"{estimate.peak_bytes / 1e9:.1f} GB at most",
    }
    return "\n".join(f"{name:8}{value}" for name, value in lines.items())


def _recorded(weights: list[str]) -> list[str]:
    """Weights as a later command finds them from any folder."""
    return [text if text.startswith("random:") else str(Path(text).absolute()) for text in weights]


def _percents(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
        raise InputError(
            f"--assign-splits {text!r}; expected three whole percents such as 80,10,10"
        )
    train, valid, test = (int(part) for part in parts)
    return train, valid, test
