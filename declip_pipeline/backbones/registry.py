"""Backbones and layers by the names that users type."""

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from declip_pipeline.entry_points import (
    described,
    entry_point_named,
    entry_point_names,
    load_entry_point,
    one_line,
)
from declip_pipeline.errors import DeclipError, InputError, UnknownNameError

if TYPE_CHECKING:
    from declip_pipeline.backbones.backbone import Backbone

ENTRY_POINTS = "declip_pipeline.backbones"
OPENAI_NAMES = (
    "RN50",
    "RN101",
    "RN50x4",
    "RN50x16",
    "RN50x64",
    "ViT-B/32",
    "ViT-B/16",
    "ViT-L/14",
    "ViT-L/14@336px",
)

# (name, file or "random:SEED" or None, height and width or None) to the backbone on the CPU.
Opener = Callable[[str, str | None, tuple[int, int] | None], "Backbone"]

# Names that stand for themselves: the module and the function that open them.
_OPENERS = {
    "efficientnet-lite0": ("from_timm", "open_efficientnet_lite0"),
    "dinov2-vit-s14": ("dinov2", "open_dinov2"),
    "CLIP:from-file": ("from_open_clip", "open_from_file"),
}


def open_backbone(
    name: "str | Backbone",
    *,
    weights: str | Path | Sequence[str | Path] | None = None,
    image_size: int | tuple[int, int] | None = None,
    device: str = "auto",
    precision: str = "float32",
) -> "Backbone":
    """Open a frozen backbone by name.

    Example:
        >>> backbone = open_backbone("CLIP:ViT-L/14", device="cuda", precision="bfloat16")
        >>> backbone.layers["layer20"].array_shape  # (tokens, channels), class token first
        (257, 1024)

    Args:
        name: The paper's name ("CLIP:ViT-L/14", "RN50"), "efficientnet-lite0", "dinov2-vit-s14",
            open_clip's "ARCH/TAG", "timm:NAME" or "timm:NAME.TAG", "pixels:SIDE", "CLIP:from-file",
            or an entry point of the group `declip_pipeline.backbones`; or several of these
            separated by commas, which are fused. A backbone's own `name` opens it again. A
            `Backbone` is returned unchanged, whatever the other arguments say.
        weights: File, or "random:SEED"; of a fusion, one for each part, in order. None or an empty
            list: downloaded from the hub, or embedded.
        image_size: Side, or height and width in pixels, that images are resized to: multiples of
            the patch of a ViT or the stride of a CNN. Embeddings of positions are interpolated as
            the network's library does. None is the network's own size, 224x224 for DINOv2 and
            DINOv3.
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N".
        precision: "float32", "bfloat16", "float16", or "auto" (bfloat16 on CUDA, else float32).

    Raises:
        UnknownNameError: No backbone has this name.
        WeightsError: The weights cannot be fetched, or do not fit.
        DeclipError: An entry point cannot be imported, or fails.
        InputError: Any other argument is wrong.
    """
    from declip_pipeline.backbones.backbone import Backbone, choose_precision
    from declip_pipeline.compute import choose_device

    if isinstance(name, Backbone):
        return name
    if not isinstance(name, str):
        raise InputError(
            f"a backbone of type {type(name).__name__}; expected a name or a `Backbone`: "
            "`declip_pipeline.backbones.network.NetworkBackbone` makes one of a PyTorch network"
        )
    chosen = choose_device(device)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if size is not None and not (
        isinstance(size, tuple) and len(size) == 2 and all(isinstance(side, int) for side in size)
    ):
        raise InputError(f"`image_size` is {image_size!r}; expected a side, or height and width")
    parts = [_open_part(part, file, size, str(chosen)) for part, file in _parts(name, weights)]
    if len(parts) > 1:
        from declip_pipeline.backbones.fusion import FusedBackbone

        parts = [FusedBackbone(parts)]
    return parts[0].to(chosen).in_precision(choose_precision(precision, chosen.type))


def known_backbones() -> list[str]:
    """Return the paper's names, the embedded network, other packages' and the kinds of names."""
    return [
        "efficientnet-lite0",
        "dinov2-vit-s14",
        *(f"CLIP:{name}" for name in OPENAI_NAMES),
        *entry_point_names(ENTRY_POINTS),
        "ViT-L/14,RN50 (a fusion)",
        "ARCH/TAG (open_clip, as ViT-B-32/laion2b_s34b_b79k)",
        "timm:NAME or timm:NAME.TAG (as timm:vit_small_patch14_dinov2.lvd142m)",
        "pixels:299 (the image itself, of any side, for patch-forensics)",
        "CLIP:from-file (OpenAI layout, with `weights`)",
    ]


def select_layers(text: str, known: Sequence[str]) -> list[str]:
    """Return the layers that `text` names, in the order of `known` and without repeats.

    Args:
        text: Items separated by commas: "all", a name ("layer8", "pixels"), its number ("8"), or a
            range that includes both ends ("8-10" or "layer8-layer10"). Numbers are those in the
            names, so "1" is `layer1`, the second layer of a ViT and the first of a ResNet.
        known: All layers, in order of depth.

    Raises:
        UnknownNameError: A layer is not known.
        InputError: An item is empty, or a range runs backwards.
    """
    selected: set[str] = set()
    for part in text.split(","):
        item = part.strip()
        if not item:
            raise InputError(
                f"layers {text!r} hold an empty item; write all, layer8,layer20 or 0-3"
            )
        selected.update(_layers_of_item(item, known))
    return [layer for layer in known if layer in selected]


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


def _open_part(
    text: str, weights: str | None, size: tuple[int, int] | None, device: str
) -> "Backbone":
    name, weights = _without_seed(text, weights)
    opener = _built_in(name)
    if opener is not None:
        return opener(name, weights, size)
    return _open_entry_point(name, weights, size, device)


def require_backbone(name: str, weights: str | Path | Sequence[str | Path] | None = None) -> None:
    """Raise what `open_backbone` raises for a name and missing weights, without opening anything.

    Raises `UnknownNameError`, `WeightsError`, `InputError`.
    """
    from declip_pipeline.backbones.weights import random_seed
    from declip_pipeline.backbones.weights_file import EXPECTED, require_file

    for part, given in _parts(name, weights):
        own, file = _without_seed(part, given)
        opener = _built_in(own)
        if opener is None:
            _find_entry_point(own)
        elif opener.__name__ == "open_from_file":
            from declip_pipeline.backbones.from_open_clip import require_given_file

            require_given_file(own, file)
        elif opener.__name__ == "open_any":
            from declip_pipeline.backbones.from_open_clip import architecture_and_tag

            architecture_and_tag(own, file)
        if file is not None and random_seed(file) is None:
            require_file(Path(file), f"weights {file}", expected=EXPECTED)


def _parts(
    name: str, weights: str | Path | Sequence[str | Path] | None
) -> list[tuple[str, str | None]]:
    """Return each part of a backbone's name with its weights."""
    names = [part.strip() for part in name.split(",")]
    given: Sequence[str | Path | None] = (
        [weights] if isinstance(weights, str | Path) else weights or [None] * len(names)
    )
    if len(given) != len(names):
        raise InputError(
            f"{len(given)} weights for the {len(names)} parts of {name!r}; "
            "give one for each part, in the same order, or none"
        )
    return [
        (part, None if file is None else str(file)) for part, file in zip(names, given, strict=True)
    ]


def _built_in(name: str) -> Opener | None:
    # Modules are imported here so that each kind costs only its own library's start.
    if name in _OPENERS:
        module, function = _OPENERS[name]
        opener: Opener = getattr(import_module(f"declip_pipeline.backbones.{module}"), function)
        return opener
    if name.startswith("pixels:") or name == "pixels":
        from declip_pipeline.backbones.pixels import open_pixels

        return open_pixels
    if name.startswith("timm:"):
        from declip_pipeline.backbones import from_timm

        return from_timm.open_timm if from_timm.is_known(name) else None
    from declip_pipeline.backbones import from_open_clip

    if name.removeprefix("CLIP:") in OPENAI_NAMES:
        return from_open_clip.open_openai
    return from_open_clip.open_any if from_open_clip.is_known(name) else None


def _find_entry_point(name: str) -> tuple[EntryPoint, Any]:
    entry = entry_point_named(ENTRY_POINTS, name)
    if entry is None:
        raise _unknown_backbone(name)
    return entry, load_entry_point(entry)


def _open_entry_point(
    name: str, weights: str | None, size: tuple[int, int] | None, device: str
) -> "Backbone":
    from declip_pipeline.backbones.backbone import Backbone

    entry, opener = _find_entry_point(name)
    if weights is not None and weights.startswith("random:"):
        raise InputError(f"weights {weights!r} for {described(entry)}, which takes only a file")
    try:
        takes_size = size is not None and "image_size" in signature(opener).parameters
        backbone = opener(
            weights=None if weights is None else Path(weights),
            device=device,
            **({"image_size": size} if takes_size else {}),
        )
    except DeclipError:
        raise
    except Exception as error:  # another package's code can raise anything
        raise DeclipError(f"{described(entry)} failed to open ({one_line(error)})") from error
    if not isinstance(backbone, Backbone):
        found = f"a {type(backbone).__name__}, expected a `Backbone`"
    elif size not in (None, (backbone.preprocessing.height, backbone.preprocessing.width)):
        own = backbone.preprocessing
        raise InputError(
            f"`image_size` is {size[0]}x{size[1]}; {name} takes images of {own.height}x{own.width}"
        )
    elif backbone.name != name:
        found = f"a backbone named {backbone.name!r}, expected {name!r}: by it a run opens it again"
    else:
        return backbone
    raise DeclipError(f"{described(entry)} returned {found}")


def _unknown_backbone(name: str) -> UnknownNameError:
    """Return the error that lists the nearest names of open_clip and timm, then the known kinds."""
    import open_clip
    import timm

    names = [
        *_OPENERS,
        *OPENAI_NAMES,
        *(f"CLIP:{name}" for name in OPENAI_NAMES),
        *entry_point_names(ENTRY_POINTS),
        *open_clip.list_models(),
        *(f"{arch}/{tag}" for arch, tag in open_clip.list_pretrained()),
        *(f"timm:{name}" for name in timm.list_models()),
    ]
    near = get_close_matches(name, names, n=3)
    return UnknownNameError("architecture", name, dict.fromkeys([*near, *known_backbones()]))


def _without_seed(text: str, weights: str | None) -> tuple[str, str | None]:
    """Split a canonical name like "CLIP:RN50[random:0]" into name and weights."""
    match = re.fullmatch(r"(.+)\[(random:[0-9]+)\]", text)
    if match is None:
        return text, weights
    if weights not in (None, match[2]):
        raise InputError(f"{text!r} asks for random weights, but `weights` gives {weights!r}")
    return match[1], match[2]
