"""Package with a backbone of its own, as a user would write and install it."""

from pathlib import Path

MODULE = """
import torch
from declip_pipeline.backbones.backbone import Preprocessing
from declip_pipeline.backbones.network import NetworkBackbone
from declip_pipeline.features import FeatureShape

def open_cells(weights, device, **options):
    network = torch.nn.Conv2d(3, 8, 14, stride=14)
    torch.nn.init.constant_(network.weight, 0.01)
    torch.nn.init.zeros_(network.bias)
    if weights is not None:
        network.load_state_dict(torch.load(weights, weights_only=True))
    return NetworkBackbone(
        "cells",
        network,
        layers={"layer0": FeatureShape(8, 16, 16)},
        preprocessing=Preprocessing(224, 224, "bilinear", (0.5,) * 3, (0.5,) * 3),
        compute=lambda images, layers: {"layer0": network(images)},
    ).to(device)

def open_nothing(weights, device, **options):
    return None

def open_badly(weights, device, **options):
    raise ValueError("no such mirror\\nand more")
"""
ENTRY_POINTS = """
[declip_pipeline.backbones]
cells = own_cells:open_cells
renamed = own_cells:open_cells
nothing = own_cells:open_nothing
badly = own_cells:open_badly
gone = own_cells_that_is_gone:open_it
"""


def install_own_backbone(folder: Path) -> None:
    """Write the package into a folder that is on `sys.path`, as pip would."""
    (folder / "own_cells.py").write_text(MODULE)
    info = folder / "own_cells-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-cells\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
