"""`declip-pipe cache info`: one store in full."""

from typing import TYPE_CHECKING, Annotated

import typer

from stages.options import JsonOption

if TYPE_CHECKING:
    from declip_pipeline.store.catalog import StoreDetails


def info(
    store: Annotated[
        str,
        typer.Argument(metavar="STORE", help="A store that `extract` printed, finished or not."),
    ],
    as_json: JsonOption = False,
) -> None:
    """Say what a store holds: identity, provenance, size of each array, samples and failures."""

    from declip_pipeline.store.catalog import describe_store
    from stages.screen import json_result, result

    details = describe_store(store)
    if as_json:
        json_result(_as_json(details))
    else:
        result(_as_text(details))


def _as_json(details: "StoreDetails") -> dict[str, object]:
    header = details.summary.header
    assert header is not None, "a store that cannot be read is an error"
    return {
        **details.summary.to_json(),
        "identity": header.identity.to_json(),
        "provenance": header.provenance,
        "bytes_by_array": details.summary.bytes_of,
        "samples": [
            {"split": split, "generator": generator, "images": images, "failed": failed}
            for (split, generator), (images, failed) in details.counts.items()
        ],
        "failures": details.failures,
    }


def _as_text(details: "StoreDetails") -> str:
    from stages.table import format_table

    summary = details.summary
    header = summary.header
    assert header is not None, "a store that cannot be read is an error"
    identity = header.identity
    rows_are = "images" if identity.tiles is None else "tiles"
    state = "complete" if summary.is_complete else "incomplete"
    fields = [
        ("store", summary.location),
        ("state", f"{state}, {summary.shards_written} of {header.shards} shards"),
        ("dataset", header.dataset),
        (rows_are, f"{header.rows}, {len(details.failures)} failed"),
        ("size", f"{summary.total_bytes / 1e6:.1f} MB"),
        ("identity", identity.sha256),
        *((f"  {name}", value) for name, value in identity.to_json().items() if name != "layers"),
        ("provenance", ""),
        *((f"  {name}", value) for name, value in header.provenance.items()),
    ]
    width = max(len(name) for name, _ in fields)
    parts = ["\n".join(f"{name.ljust(width)}  {value}".rstrip() for name, value in fields)]
    arrays = [
        [name, _shape_of(name, details), f"{size / 1e6:.2f}"]
        for name, size in sorted(summary.bytes_of.items(), key=lambda item: _depth(item[0], header))
    ]
    parts.append(format_table(["array", "shape of a row", "MB"], arrays))
    rows = [[*key, images, failed] for key, (images, failed) in details.counts.items()]
    parts.append(format_table(["split", "generator", rows_are, "failed"], rows))
    if details.failures:
        parts.append(
            "\n".join(f"failed: {image}: {why}" for image, why in details.failures.items())
        )
    return "\n\n".join(parts)


def _shape_of(array: str, details: "StoreDetails") -> str:
    header = details.summary.header
    kind, _, layer = array.partition("/")
    if header is None or kind != "layers" or layer not in header.layers:
        return ""
    return "x".join(map(str, header.layers[layer].array_shape))


def _depth(array: str, header: object) -> tuple[int, int, str]:
    """Layers in their order, then their scales, then the rest."""
    kind, _, layer = array.partition("/")
    layers = list(getattr(header, "layers", {}))
    if layer in layers:
        return int(kind == "scales"), layers.index(layer), array
    return 2, 0, array
