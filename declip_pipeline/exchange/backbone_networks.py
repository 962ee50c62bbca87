"""The networks that backbones are made of."""

from collections.abc import Iterable

from torch import nn

from declip_pipeline.backbones.contract import Backbone
from declip_pipeline.backbones.fusion import FusedBackbone
from declip_pipeline.backbones.network_backbone import NetworkBackbone


def networks_of(backbones: Iterable[Backbone]) -> list[nn.Module]:
    """The network of each backbone, of a fusion those of its parts; each once, in order."""
    networks: list[nn.Module] = []
    for backbone in backbones:
        if isinstance(backbone, FusedBackbone):
            found = networks_of(backbone.parts)
        elif isinstance(backbone, NetworkBackbone):
            found = [backbone.tower.network]
        else:
            raise TypeError(f"{type(backbone).__name__} has no known network")
        networks += [network for network in found if not any(network is one for one in networks)]
    return networks
