"""Inference of a published decoder's type, widths, backbone and layer from its tensors."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from declip_pipeline.backbones.weights import differences, is_weight
from declip_pipeline.decoders.building import build_decoder
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.exchange.published_file import PublishedCheckpoint
from declip_pipeline.features import FeatureShape

VIT, RESNET, FUSION = "CLIP:ViT-L/14", "CLIP:RN50", "CLIP:ViT-L/14,CLIP:RN50"

# Shapes of the published layers by backbone, with the registry's names.
PUBLISHED: Mapping[str, Mapping[str, FeatureShape]] = {
    VIT: {f"layer{block}": FeatureShape(1024, 16, 16, 1) for block in range(24)},
    RESNET: {
        f"layer{stage}": FeatureShape(128 * 2**stage, 112 // 2**stage, 112 // 2**stage)
        for stage in range(1, 5)
    },
    FUSION: {f"layer{block}": FeatureShape(2048, 16, 16) for block in range(24)},
}

_FILE_NAME = re.compile(
    r"(?P<backbone>ViT|RN50)_(?P<layer>layer\d+)(?P<fused>(\+|%2B)RN50_layer3)?"
    r"_(?:linear|attention|conv-\d+)_(?P<trained_on>.+)"
)


@dataclass(frozen=True)
class FileNameHints:
    """Content of a published file's name, such as "ViT_layer20+RN50_layer3_conv-20_lama"."""

    arch: str | None = None
    layer: str | None = None
    trained_on: str | None = None

    @classmethod
    def of(cls, path: Path) -> "FileNameHints":
        """Parse a file's name; all hints are None for another kind of name."""
        found = _FILE_NAME.fullmatch(path.name.removesuffix(".pth"))
        if found is None:
            return cls()
        arch = FUSION if found["fused"] else VIT if found["backbone"] == "ViT" else RESNET
        return cls(arch, found["layer"], found["trained_on"])


def stated(option: str | None, found: str | None, what: str, path: Path) -> str | None:
    """Return the given option, or else what the file says.

    Raises `InputError` when both exist and differ.
    """
    if option is not None and found is not None and option != found:
        raise InputError(
            f"{path} says {found} for its {what}, and {option} was asked for; leave that out"
        )
    return option or found


def decoder_type_of(tensors: Mapping[str, Tensor], path: Path) -> str:
    """Return the type of the decoder with these tensors.

    Raises `InputError` when no type fits, with the differences to the nearest type.
    """
    first = tensors.get("fc.0.weight")
    if any(name.startswith("att1.") for name in tensors):
        return "attention"
    if first is not None and first.ndim == 2:
        return "linear"
    depth = sum(tensors[name].ndim == 4 for name in tensors if name.startswith("fc.")) - 1
    if first is None or depth < 4 or depth % 4:
        names = list(tensors)
        found = ", ".join(names[:5]) + (", ..." if names[5:] else "")
        raise InputError(
            _nearest_type(tensors, path)
            or f"{path}: its tensors ({found}) are those of no known decoder; expected linear, "
            "attention or conv-N"
        )
    return f"conv-{depth}"


def _nearest_type(tensors: Mapping[str, Tensor], path: Path) -> str | None:
    """Return a message with missing and unexpected names, compared to the nearest known type.

    None if no type has most of its names in common with the tensors.
    """
    given = set(filter(is_weight, tensors))
    convolutions = sum(value.ndim == 4 for value in tensors.values())
    stages = min(convolutions // 4, 23)
    depths = sorted({4, 12, 20, 4 * stages, 4 * stages + 4} - {0})
    # Names also depend on the layer: decoders of a ResNet's first layers skip upsamplings.
    shapes = [PUBLISHED[VIT]["layer0"], *PUBLISHED[RESNET].values()]
    names = {
        (kind, number): set(filter(is_weight, empty_decoder(kind, shape, {}).state_dict()))
        for kind in ("linear", "attention", *(f"conv-{depth}" for depth in depths))
        for number, shape in enumerate(shapes)
        if not shape.is_grid or kind.startswith("conv-")
    }
    nearest = min(names, key=lambda place: len(names[place] ^ given))
    own = names[nearest]
    if len(own ^ given) > len(own & given):
        return None
    faults = {"missing": sorted(own - given), "unexpected": sorted(given - own)}
    texts = [
        f"{what}: {', '.join(some[:3])}" + (f" and {len(some) - 3} more" if some[3:] else "")
        for what, some in faults.items()
        if some
    ]
    return (
        f"{path}: its tensors look like those of a {nearest[0]} decoder; {'; '.join(texts)}; give "
        "a complete checkpoint"
    )


def empty_decoder(decoder_type: str, shape: FeatureShape, tensors: Mapping[str, Tensor]) -> Decoder:
    """Build the decoder of a type for a shape on the meta device, with the tensors' widths."""
    widths = None
    if decoder_type.startswith("conv-"):
        convolutions = [value for value in tensors.values() if value.ndim == 4]
        per_stage = max(1, (len(convolutions) - 1) // 4)
        found = [len(value) for value in convolutions[:-1:per_stage]]
        widths = found if len(found) == 4 else None
    with torch.device("meta"):
        return build_decoder(decoder_type, shape, widths=widths)


def infer_arch(
    checkpoint: PublishedCheckpoint, decoder_type: str, layer: str | None, hints: FileNameHints
) -> str:
    """Return the published backbone that a checkpoint's decoder fits, on `layer` if it is given.

    Linear and attention decoders were published for tokens alone, so never for RN50 by itself.
    Raises `InputError` when none fits or several do.
    """
    path, tensors = checkpoint.path, checkpoint.decoder
    archs = [arch for arch in PUBLISHED if _backbone_fits(arch, checkpoint.visual)]
    if not archs:
        raise InputError(
            f"{path}: the backbone in its model is neither ViT-L/14 nor RN50; name it with `arch`"
        )
    misfits = {
        (arch, name): _misfit(decoder_type, shape, tensors)
        for arch in archs
        if arch != RESNET or archs == [RESNET] or decoder_type.startswith("conv-")
        for name, shape in PUBLISHED[arch].items()
        if layer in (None, name)
    }
    if not misfits:
        raise UnknownNameError(f"layer of {path}", str(layer), PUBLISHED[archs[0]])
    fitting = list(dict.fromkeys(arch for (arch, _), misfit in misfits.items() if not misfit))
    if hints.arch in fitting:
        return hints.arch
    if len(fitting) > 1:
        raise InputError(
            f"{path}: its {decoder_type} decoder may be one of {' and of '.join(fitting)}; "
            "say which with `arch`"
        )
    if not fitting:
        arch, name = min(misfits, key=lambda place: misfits[place])
        require_decoder(checkpoint, decoder_type, arch, name, PUBLISHED[arch])
    return fitting[0]


def infer_layer(
    checkpoint: PublishedCheckpoint,
    decoder_type: str,
    arch: str,
    layer: str | None,
    shapes: Mapping[str, FeatureShape],
    hints: FileNameHints,
) -> str:
    """Return the layer, of a backbone with layers of these shapes, that the decoder is for.

    Raises `InputError` when the decoder fits none or several, `UnknownNameError` for a layer that
    the backbone does not have.
    """
    if layer is None and hints.arch in (None, arch) and hints.layer in shapes:
        layer = hints.layer
    if layer is not None:
        if layer not in shapes:
            raise UnknownNameError(f"layer of {arch}", layer, shapes)
        require_decoder(checkpoint, decoder_type, arch, layer, shapes)
        return layer
    fitting = [
        name
        for name, shape in shapes.items()
        if not _misfit(decoder_type, shape, checkpoint.decoder)
    ]
    if not fitting:
        require_decoder(checkpoint, decoder_type, arch, next(iter(shapes)), shapes)
    if len(fitting) > 1:
        raise InputError(
            f"{checkpoint.path} does not say which layer of {arch} its decoder is for, and it fits "
            f"{len(fitting)} of them ({fitting[0]} to {fitting[-1]}); say it with `feature_layer`"
        )
    return fitting[0]


def require_decoder(
    checkpoint: PublishedCheckpoint,
    decoder_type: str,
    arch: str,
    layer: str,
    shapes: Mapping[str, FeatureShape],
) -> None:
    """Raise `InputError` naming missing, unexpected and misshaped tensors of a decoder."""
    expected = empty_decoder(decoder_type, shapes[layer], checkpoint.decoder).state_dict()
    faults = differences(expected, checkpoint.decoder)
    if faults:
        raise InputError(
            f"{checkpoint.path}: its model is no {decoder_type} decoder for {layer} of {arch} "
            f"({'; '.join(faults)}); give a complete checkpoint, or say what it is with `arch`, "
            "`feature_layer` and `decoder_type`"
        )


def _misfit(decoder_type: str, shape: FeatureShape, tensors: Mapping[str, Tensor]) -> int:
    """Return how many tensors are missing, of another shape, or not of the decoder."""
    expected = empty_decoder(decoder_type, shape, tensors).state_dict()
    own = {(name, value.shape) for name, value in expected.items() if is_weight(name)}
    given = {(name, value.shape) for name, value in tensors.items() if is_weight(name)}
    return len(own ^ given)


def _backbone_fits(arch: str, visual: Mapping[str, Tensor]) -> bool:
    """Return whether backbone weights can be those of a published arch; a fusion saved none."""
    if not visual:
        return True
    if arch == VIT:
        return visual.get("class_embedding", torch.empty(0)).shape == (1024,)
    stem = visual.get("layer1.0.conv1.weight", torch.empty(0))
    return arch == RESNET and stem.shape == (64, 64, 1, 1)
