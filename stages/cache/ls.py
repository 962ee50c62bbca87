"""`declip-pipe cache ls`: all stores under a root."""

from typing import Annotated

import typer

from stages.options import JsonOption


def ls(
    root: Annotated[
        str, typer.Argument(metavar="ROOT", help="Folder or s3:// URL that holds stores.")
    ] = "cache",
    as_json: JsonOption = False,
) -> None:
    """List the stores under ROOT: dataset, backbone, layers, images, size, complete or not.

    The view of a store of tiles is followed by @SIZE:OVERLAP, and its images are tiles.
    """

    from declip_pipeline.store.catalog import list_stores
    from stages.screen import json_result, remark, result
    from stages.table import format_table

    stores = list_stores(root)
    if as_json:
        json_result([store.to_json() for store in stores])
        return
    if not stores:
        remark(f"no stores under {root}")
        return
    rows: list[list[object]] = []
    for store in stores:
        size = f"{store.total_bytes / 1e9:.3f}"
        if store.problem is not None:
            remark(store.problem)
        if store.header is None:
            rows.append(["?", "?", "?", "?", "-", "-", size, "unreadable", store.location])
            continue
        if store.leftover is not None:
            remark(f"{store.location}: {store.leftover}")
        identity = store.header.identity
        state = (
            "damaged"
            if store.problem is not None
            else "complete"
            if store.is_complete
            else f"{store.shards_written} of {store.header.shards} shards"
        )
        rows.append(
            [
                store.header.dataset,
                identity.backbone,
                identity.view if identity.tiles is None else f"{identity.view}@{identity.tiles}",
                identity.dtype,
                len(identity.layers),
                store.header.rows,
                size,
                state,
                store.location,
            ]
        )
    header = ["dataset", "backbone", "view", "dtype", "layers", "images", "GB", "state", "store"]
    result(format_table(header, rows))
