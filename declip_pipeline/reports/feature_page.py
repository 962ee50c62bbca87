"""Page of features: one HTML file that shows what the layers of a store hold."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib import colormaps
from PIL import Image

from declip_pipeline import __version__
from declip_pipeline.files import write_text
from declip_pipeline.reports.feature_figure import (
    COMPONENTS,
    KINDS,
    NORM_COLOURS,
    NORMS,
    PEAK_COLOURS,
    PEAKS,
    coloured_maps,
    image_labels,
    layer_caption,
    mask_images,
    prediction_images,
)
from declip_pipeline.reports.feature_maps import FeatureMaps, LayerMaps

_GRADIENT_STOPS = 9
_MOST_CHANNELS = 6
_JPEG_QUALITY = 85


def write_feature_page(maps: FeatureMaps, path: Path) -> None:
    """Write the maps as one self-contained page, whole or not at all.

    The page asks for nothing from anywhere and has no script. It is a table with a row an image and
    a column a layer, for each kind of map.

    Args:
        maps: The maps.
        path: The HTML file.
    """
    environment = Environment(
        loader=PackageLoader("declip_pipeline.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("features.html").render(_content(maps))
    write_text(path, text)


def _content(maps: FeatureMaps) -> dict[str, Any]:
    store = maps.store
    masks = mask_images(maps)
    predictions = prediction_images(maps)
    coloured = {
        kind.key: [coloured_maps(layer, kind.key) for layer in maps.layers] for kind in KINDS
    }
    rows = [
        {
            "name": name,
            "about": about,
            "id": maps.ids[number],
            "image": _jpeg(maps.images[number]),
            "mask": None if masks is None else _png(masks[number]),
            "predictions": [_jpeg(found[number]) for found in predictions.values()],
            "cells": {
                kind: [_png(cells[number]) for cells in layers] for kind, layers in coloured.items()
            },
        }
        for number, (name, about) in enumerate(image_labels(maps))
    ]
    identity = store.identity
    return {
        "title": f"Features of {store.dataset}, {identity.backbone}",
        "facts": [
            ("store", store.location),
            ("identity", identity.sha256),
            (
                "view",
                identity.view if identity.tiles is None else f"{identity.view}@{identity.tiles}",
            ),
            ("dtype", identity.dtype),
            ("declip-pipe", __version__),
        ],
        "rows": rows,
        "has_masks": masks is not None,
        "rows_are": "tile" if store.samples.are_tiles else "image",
        "runs": list(predictions),
        "kinds": KINDS,
        "gradients": {NORMS: _gradient(NORM_COLOURS), PEAKS: _gradient(PEAK_COLOURS)},
        "layers": [
            {
                "name": layer.layer,
                "grid": "x".join(map(str, layer.norms.shape[1:])),
                "captions": {kind.key: layer_caption(layer, kind.key) for kind in KINDS},
                "details": {
                    COMPONENTS: "",
                    NORMS: f"outliers above {layer.far_norm:.3g}",
                    PEAKS: _massive_text(layer),
                },
            }
            for layer in maps.layers
        ],
    }


def _massive_text(layer: LayerMaps) -> str:
    channels = layer.massive_channels
    if not channels:
        return f"up to {layer.peaks.max():,.0f}x the median"
    named = ", ".join(map(str, channels[:_MOST_CHANNELS]))
    more = len(channels) - _MOST_CHANNELS
    return (
        f"channel{'' if len(channels) == 1 else 's'} {named}"
        f"{f' and {more} more' if more > 0 else ''}, up to {layer.peaks.max():,.0f}x"
    )


def _gradient(name: str) -> str:
    stops = (colormaps[name](np.linspace(0, 1, _GRADIENT_STOPS))[:, :3] * 255).round().astype(int)
    return ", ".join("#{:02x}{:02x}{:02x}".format(*stop) for stop in stops)


def _png(image: np.ndarray) -> str:
    return _data_url(image, "PNG", optimize=True)


def _jpeg(image: np.ndarray) -> str:
    return _data_url(image, "JPEG", quality=_JPEG_QUALITY)


def _data_url(image: np.ndarray, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    content = base64.b64encode(file.getvalue()).decode()
    return f"data:image/{kind.lower()};base64,{content}"
