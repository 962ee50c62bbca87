"""Layers as a user writes them: "all", "layer8,layer20", "0-23", "pixels"."""

import re
from collections.abc import Sequence

from declip_pipeline.errors import InputError, UnknownNameError


def select_layers(text: str, known: Sequence[str]) -> list[str]:
    """The layers that `text` asks for, in the order of `known` and without repeats.

    Items are separated by commas: "all", a name ("layer8"), its number ("8"), or a range that
    includes both ends ("8-10" or "layer8-layer10"). Numbers are those in the names, so "1" is
    `layer1`, the second layer of a ViT and the first of a ResNet.
    Raises `UnknownNameError` for a layer that is not known, `InputError` for an empty item or a
    range that runs backwards.
    """
    asked: set[str] = set()
    for part in text.split(","):
        item = part.strip()
        if not item:
            raise InputError(
                f"layers {text!r} hold an empty item; write all, layer8,layer20 or 0-3"
            )
        asked.update(_layers_of_item(item, known))
    return [layer for layer in known if layer in asked]


def _layers_of_item(item: str, known: Sequence[str]) -> list[str]:
    if item == "all":
        return list(known)
    if item in known:
        return [item]
    match = re.fullmatch(r"(?:layer)?([0-9]+)(?:-(?:layer)?([0-9]+))?", item)
    if match is None:
        raise UnknownNameError("layer", item, known)
    first = int(match[1])
    last = first if match[2] is None else int(match[2])
    if last < first:
        raise InputError(f"layers {item!r} run backwards; write {last}-{first}")
    layers = []
    for number in range(first, last + 1):
        if f"layer{number}" not in known:
            raise UnknownNameError("layer", f"layer{number}", known)
        layers.append(f"layer{number}")
    return layers
