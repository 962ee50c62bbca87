"""Cost of a run: parameters, multiply-accumulates and time of its decoder and its backbone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.backbones.registry import open_backbone
from declip_pipeline.compute import (
    choose_device,
    exact_float32,
    median_milliseconds,
    multiply_accumulates,
)
from declip_pipeline.decoders.decoder import Decoder, PositionDecoder
from declip_pipeline.errors import InputError, WeightsError
from declip_pipeline.extraction.recorded_backbones import open_run_backbones, size_of
from declip_pipeline.store.identity import parts_of
from declip_pipeline.training.run import RunLike, as_run

BATCH_SIZE = {"cpu": 8, "cuda": 64}
"""Images that are computed at once where time is measured."""


@dataclass(frozen=True)
class Cost:
    """Cost of a network for one image; of a run on tiles, for one tile.

    Attributes:
        parameters: Number of parameters.
        macs: Multiply-accumulates, see `multiply_accumulates`.
        milliseconds: Measured time, float32.
    """

    parameters: int
    macs: int
    milliseconds: float

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.parameters + other.parameters,
            self.macs + other.macs,
            self.milliseconds + other.milliseconds,
        )


@dataclass(frozen=True)
class RunCost:
    """Cost of a run's decoder and of the backbones whose features it takes.

    Attributes:
        decoder: Of all layers that it joins, with what normalizes and joins them.
        backbone: All backbones together, each as far as its deepest layer, but with the parameters
            of the whole network; None where one is no PyTorch network.
        measured: Device, threads and images at once of the measured time.
    """

    decoder: Cost
    backbone: Cost | None
    measured: str


class CostMeter:
    """Measures what runs cost, each backbone once for all runs that share it.

    What is counted and measured does not depend on the values of weights, so nothing is downloaded:
    backbones have random weights wherever they take such.
    """

    def __init__(self, device: str | torch.device = "auto") -> None:
        """`device` is where time is measured, see `choose_device`; operations are counted on the
        CPU.
        """
        self.device = choose_device(device) if isinstance(device, str) else device
        self._batch_size = BATCH_SIZE.get(self.device.type, BATCH_SIZE["cuda"])
        self._decoders: dict[Any, Cost] = {}
        self._backbones: dict[Any, Cost | None] = {}

    @property
    def measured(self) -> str:
        """Device, threads and images at once of the measured time."""
        name = (
            torch.cuda.get_device_name(self.device)
            if self.device.type == "cuda"
            else f"{self.device.type}, {torch.get_num_threads()} threads"
        )
        return f"{name}, {self._batch_size} images at once"

    def of(self, *runs: RunLike) -> RunCost:
        """Return the cost of a finished run, or of several for the mean of their maps.

        Raises:
            InputError: The run is not finished or damaged.
            WeightsError: A backbone needs its own weights' file, which is missing.
        """
        decoders = Cost(0, 0, 0.0)
        parts: list[Mapping[str, Any]] = []
        inputs: list[Mapping[str, Any]] = []
        for run in map(as_run, runs):
            run.summary()
            decoder, features = run.best_decoder()
            decoders += self._of_decoder(decoder)
            parts += parts_of(features)
            inputs += run.config()["inputs"]
        return RunCost(decoders, self._of_backbones(parts, inputs), self.measured)

    def of_decoder(self, decoder: Decoder) -> Cost:
        """Return the cost of a decoder, see `decoder_macs`."""
        macs = decoder_macs(decoder)
        with torch.inference_mode(), exact_float32(self.device):
            batch = [part.to(self.device) for part in _features(decoder, self._batch_size)]
            decoder.to(self.device)
            taken = median_milliseconds(lambda: decoder(*batch), self.device)
        parameters = sum(one.numel() for one in decoder.parameters())
        return Cost(parameters, macs, taken / self._batch_size)

    def of_backbone(self, backbone: Backbone, layers: Sequence[str]) -> Cost | None:
        """Return the cost of a backbone on the CPU, as far as the deepest of the layers.

        None for a backbone that holds no PyTorch network.
        """
        if not backbone.networks:
            return None
        sides = backbone.preprocessing.height, backbone.preprocessing.width
        images = torch.zeros((self._batch_size, 3, *sides), dtype=torch.uint8)
        macs = multiply_accumulates(lambda: backbone.features(images[:1], layers))
        on_device = backbone.to(self.device)
        batch = images.to(self.device)
        taken = median_milliseconds(lambda: on_device.features(batch, layers), self.device)
        parameters = sum(
            one.numel() for network in backbone.networks for one in network.parameters()
        )
        return Cost(parameters, macs, taken / self._batch_size)

    def _of_decoder(self, decoder: Decoder) -> Cost:
        """Return the cost of a decoder, measured once for those of the same structure."""
        key = decoder.decoder_type, decoder.input_shapes, decoder.output_size, repr(decoder)
        if key not in self._decoders:
            self._decoders[key] = self.of_decoder(decoder)
        return self._decoders[key]

    def _of_backbones(
        self, parts: Sequence[Mapping[str, Any]], inputs: Sequence[Mapping[str, Any]]
    ) -> Cost | None:
        """Return the cost of the backbones of a run's features, each size of input by itself."""
        layers: dict[Any, list[str]] = {}
        first: dict[Any, tuple[Mapping[str, Any], Mapping[str, Any]]] = {}
        for part, recorded in zip(parts, inputs, strict=True):
            # A whole image beside tiles goes through the backbone as well.
            key = part["backbone"], size_of(part["preprocessing"]), "windows" in part
            layers.setdefault(key, []).append(part["layer"])
            first.setdefault(key, (part, recorded))
        total: Cost | None = Cost(0, 0, 0.0)
        counted: set[str] = set()
        for key, names in layers.items():
            part, recorded = first[key]
            place = (*key[:2], part["weights_sha256"], frozenset(names))
            if place not in self._backbones:
                self._backbones[place] = self.of_backbone(_opened(part, recorded), names)
            own = self._backbones[place]
            if own is None or total is None:
                total = None
                continue
            # The same network twice has its parameters once.
            again = part["weights_sha256"] in counted
            counted.add(part["weights_sha256"])
            total += Cost(0, own.macs, own.milliseconds) if again else own
        return total


def decoder_macs(decoder: Decoder) -> int:
    """Return the multiply-accumulates of a decoder for one image, which is left on the CPU.

    Interpolation counts nothing, which leaves out the enlarging of a `PositionDecoder`'s grid,
    although it is computed by products of matrices.
    """
    decoder.to("cpu").eval()
    one = _features(decoder, 1)

    def decode_grid() -> torch.Tensor:
        joined = decoder.joined(*one)
        if isinstance(decoder, PositionDecoder):
            return decoder.position_logits(joined)
        return decoder.decode(joined)

    with torch.inference_mode(), exact_float32(torch.device("cpu")):
        return multiply_accumulates(decode_grid)


def _features(decoder: Decoder, count: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [
        torch.randn(count, *shape.array_shape, generator=random) for shape in decoder.input_shapes
    ]


def _opened(part: Mapping[str, Any], recorded: Mapping[str, Any]) -> Backbone:
    """Return the backbone of a layer on the CPU, with random weights where it takes them."""
    name = str(part["backbone"])
    try:
        return open_backbone(
            name,
            weights=["random:0"] * len(name.split(",")),
            image_size=size_of(part["preprocessing"]),
            device="cpu",
        )
    except (InputError, WeightsError):
        return open_run_backbones([part], [recorded], device="cpu")[0]
