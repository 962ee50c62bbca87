"""How a decoder is trained: what a run is, besides its features and its pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from declip_pipeline.decoders.building import InitializationScheme
from declip_pipeline.decoders.names import is_probe
from declip_pipeline.decoders.pooling import PoolingName
from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.feeding.feed import TargetKind
from declip_pipeline.files import sha256_of_file
from declip_pipeline.training.validation_score import ScoreName

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Recipe:
    """Options of a training; the defaults are the paper's.

    `initialization` "imagenet" is for `patch-forensics`; `initial_weights` is a file of them, None
    takes the downloaded ones.
    `widths` are a conv decoder's, `decoder_options` (JSON values) those of a decoder of one's own.
    `batch_size` pictures are a step, `micro_batch_size` of them are computed at once (all where
    None), their gradients added up: for less memory, and BatchNorm sees so many. `precision` is
    that of the decoder's forward and backward pass; weights, loss and optimizer are float32.
    `compile` uses `torch.compile`. `pooling` makes it a training of
    detection: on labels of pictures, whose logit is the pooled map; None is localization, on masks.
    """

    decoder_type: str
    widths: tuple[int, ...] | None = None
    initialization: InitializationScheme | Literal["imagenet"] = "paper"
    initial_weights: str | None = None
    seed: int = 0
    epochs: int = 400
    batch_size: int = 64
    micro_batch_size: int | None = None
    learning_rate: float = 1e-3
    patience: int = 5
    precision: Precision = "float32"
    compile: bool = False
    pooling: PoolingName | None = None
    decoder_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise UnknownNameError("precision", self.precision, ("auto", *get_args(Precision)))
        if self.initial_weights is not None:
            if self.initialization != "imagenet":
                raise InputError(
                    f"initial weights {self.initial_weights} for --initialization "
                    f"{self.initialization}, which draws them; take --initialization imagenet, or "
                    "leave them out"
                )
            if not Path(self.initial_weights).is_file():
                raise InputError(
                    f"initial weights {self.initial_weights}: no such file; expected one of timm's "
                    "legacy_xception, or leave them out to download them"
                )
        if self.pooling is not None and self.pooling not in get_args(PoolingName):
            raise UnknownNameError("pooling", self.pooling, get_args(PoolingName))
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise InputError(
                f"a micro batch of {self.micro_batch_size} pictures is larger than the batch of "
                f"{self.batch_size}; expected a part of it"
            )

    @property
    def targets(self) -> TargetKind:
        """What it learns from."""
        return "masks" if self.pooling is None else "labels"

    @property
    def score(self) -> ScoreName:
        """What it is judged by after each epoch."""
        return "iou" if self.pooling is None else "ap"

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain JSON values; a file of initial weights by its hash.

        `pooling`, initial weights and decoder options only where there are any: what a run was
        named by before there were such it still is.
        """
        values = asdict(self) | {"widths": list(self.widths) if self.widths else None}
        if self.pooling is None:
            del values["pooling"]
        if not self.decoder_options:
            del values["decoder_options"]
        file = values.pop("initial_weights")
        if file is None:
            return values
        return values | {"initial_weights_sha256": sha256_of_file(Path(file))}


def choose_precision(
    asked: str, decoder_type: str, device: torch.device, cpuinfo: Path = Path("/proc/cpuinfo")
) -> str:
    """The precision that is asked for; of "auto", the fastest that the device computes in itself.

    That is bfloat16 on CUDA from Ampere on, and on CPUs with AVX512-BF16 or AMX (conv-4 and conv-20
    take half of the time there, see `benchmarks/train.py`). A linear decoder waits for memory, not
    for arithmetic, and stays in float32. A probe has no other, whatever is asked for.
    """
    if is_probe(decoder_type):
        return "float32"
    if asked != "auto":
        return asked
    if decoder_type == "linear":
        return "float32"
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if _flags(cpuinfo) & {"avx512_bf16", "amx_bf16"} else "float32"


def _flags(cpuinfo: Path) -> set[str]:
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return set()
    flags: Sequence[str] = [line for line in lines if line.startswith("flags")]
    return set(flags[0].split()) if flags else set()
