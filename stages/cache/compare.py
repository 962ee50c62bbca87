"""`declip-pipe cache compare`: what a smaller dtype saves, and what it loses."""

from math import isnan
from pathlib import Path
from typing import Annotated

import typer

from stages.options import DeviceOption, JsonOption, refuse_given


def compare(
    first: Annotated[
        str, typer.Argument(metavar="STORE_A", help="The store that counts as exact.")
    ],
    second: Annotated[
        str,
        typer.Argument(metavar="STORE_B", help="The same images and backbone, another dtype."),
    ],
    run: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN", help="A run to evaluate on both stores' test split; repeatable."
        ),
    ] = None,
    images: Annotated[
        int, typer.Option(min=1, help="Images to compare features of, drawn by a fixed seed.")
    ] = 256,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    *,
    context: typer.Context,
) -> None:
    """Compare two stores layer by layer: size, reading speed, and the error of STORE_B.

    The error is relative: the length of the difference over the length of the features. With --run,
    also the run's IoU (percent) on either store.
    """
    if not run:
        refuse_given(context, ("device",), "says where to evaluate; add --run, or leave it out")
    from dataclasses import asdict

    from declip_pipeline.store.comparison import compare_layers
    from declip_pipeline.store.reader import Store
    from stages.screen import json_result, progress, remark, result
    from stages.table import format_table

    stores = Store(first), Store(second)
    if stores[0].identity == stores[1].identity:
        remark(f"{second} is the same store as {first}: nothing differs but the time to read them")
    layers = []
    with progress("comparing", "layers") as tell:
        total = len(stores[0].layers)
        for layer in compare_layers(*stores, images=images):
            layers.append(layer)
            tell(len(layers), total)
        tell(total, total)
    evaluated = [_evaluated(path, stores, device) for path in run or []]
    if as_json:
        json_result({"layers": [asdict(layer) for layer in layers], "runs": evaluated})
        return
    dtypes = [store.identity.dtype for store in stores]
    rows = [
        [
            layer.layer,
            *(f"{size / 1e3:.1f}" for size in layer.bytes_per_image),
            f"{layer.bytes_per_image[1] / layer.bytes_per_image[0]:.3f}",
            *(f"{rate:.0f}" for rate in layer.images_per_second),
            f"{100 * layer.relative_error:.3f}%",
            f"{layer.largest_error:.3g}",
            f"{layer.cosine:.6f}",
        ]
        for layer in layers
    ]
    size, rate = [f"{d} kB/image" for d in dtypes], [f"{d} images/s" for d in dtypes]
    result(format_table(["layer", *size, "ratio", *rate, "error", "largest", "cosine"], rows))
    if evaluated:
        table = [
            [one["run"], f"{one['iou'][0]:.2f}", f"{one['iou'][1]:.2f}", f"{one['change']:+.2f}"]
            for one in evaluated
        ]
        header = ["run", *(f"IoU on {dtype}" for dtype in dtypes), "change"]
        result(f"\n{format_table(header, table)}")


def _evaluated(path: Path, stores: tuple, device: str) -> dict:  # type: ignore[type-arg]
    """Return a run's IoU on the test split of both stores."""
    from declip_pipeline.evaluation.evaluate import evaluate
    from stages.screen import progress

    ious = []
    for store in stores:
        with progress(f"evaluating {path.name}") as tell:
            found = evaluate(path, store, split="test", device=device, progress=tell)
        found.save()
        iou = found.mean("iou")
        ious.append(0.0 if isnan(iou) else iou)
    return {"run": path.name, "iou": ious, "change": ious[1] - ious[0]}
