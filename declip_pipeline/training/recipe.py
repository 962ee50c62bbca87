"""Recipe: how a decoder is trained; what a run is, besides its features and its images."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

from declip_pipeline.decoders.names import (
    DESCRIBED_TYPES,
    DESCRIBED_WIDTHS,
    LDA,
    LIGHT_TYPES,
    is_fitted,
)
from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.files import sha256_of_file
from declip_pipeline.options import (
    Field,
    Initialization,
    LossName,
    Normalization,
    Option,
    PoolingName,
    Precision,
    ScheduleName,
    described_fields,
)
from declip_pipeline.training.validation_score import ScoreName

if TYPE_CHECKING:
    import torch

    from declip_pipeline.feeding.feed import TargetKind


PLATEAU_EPOCHS = 400
"""Most epochs of the schedule "plateau", which mostly stops before."""

PATIENCE = 5

LATER = (
    *("weight_decay", "schedule", "loss", "positive_weight", "average"),
    *("flips", "channel_dropout", "feature_noise", "mixup", "with_real", "shrinkage"),
)
"""Fields that runs may lack, which then had the default: those that came later."""


@dataclass(frozen=True)
class Recipe:
    """Options of a training; the defaults are the paper's.

    Command lines and settings files are made from these fields, so a new one is an option at once.
    The gradients of micro batches are added up: for less memory, and BatchNorm sees so many images.
    Weights, loss and optimizer are float32 in any precision. `pooling` makes it a training of
    detection, on labels of images; None is localization, on masks. `decoder_options` (JSON values)
    are those of a decoder of one's own.
    """

    decoder_type: Annotated[
        str,
        Option(
            f"{DESCRIBED_TYPES}; several are a grid.",
            "main",
            several=True,
        ),
    ] = "conv-20"
    widths: Annotated[
        tuple[int, ...] | None,
        Option(
            "Channels of the decoder's stages: four of conv-N, one of mlp, two of fcn, three of "
            f"pup. Default: {DESCRIBED_WIDTHS}.",
            "decoder",
            form="C1,C2,...",
            expected="whole numbers, one for each stage, such as 512,256,128,64",
        ),
    ] = None
    initialization: Annotated[
        Initialization,
        Option(
            "Initial weights: as published, N(0, 0.02); PyTorch's own (as published for "
            "patch-forensics); or, for patch-forensics, ImageNet's.",
            "decoder",
        ),
    ] = "paper"
    initial_weights: Annotated[
        str | None,
        Option(
            'Those for `initialization="imagenet"`: timm\'s legacy_xception. Default: downloaded.',
            "decoder",
            form="FILE",
        ),
    ] = None
    normalize: Annotated[
        Normalization | None,
        Option(
            "Normalization of each layer's features: each channel by its mean and deviation over "
            "the training images (channel) or over the image itself (instance), each token by its "
            "own (layernorm), or none. Default: channel "
            f"for {', '.join(LIGHT_TYPES)}, instance for {LDA}; else none, as published.",
            "decoder",
        ),
    ] = None
    shrinkage: Annotated[
        float,
        Option(
            f"Part of {LDA}'s covariance that is replaced by its diagonal, from 0 to 1: less with "
            "more images.",
            "decoder",
            least=0,
        ),
    ] = 0.5
    seed: Annotated[
        int,
        Option(
            "Seed of the weights and of the order; several are a grid.",
            "training",
            least=0,
            several=True,
        ),
    ] = 0
    epochs: Annotated[
        int | None,
        Option(
            "Epochs; the most for the schedule plateau, which mostly stops before. The paper has "
            "400; its recipe needs a number for other schedules.",
            "training",
            least=1,
        ),
    ] = None
    batch_size: Annotated[int, Option("Images a step.", "training", least=1)] = 64
    micro_batch_size: Annotated[
        int | None,
        Option(
            "Images computed at once, where a step's do not fit into memory: their gradients are "
            "added up. BatchNorm sees so many. Default: all of a step's.",
            "machine",
            least=1,
        ),
    ] = None
    learning_rate: Annotated[
        float,
        Option(
            "Highest learning rate, of the schedule plateau the first; several are a grid.",
            "training",
            least=1e-6,
            several=True,
        ),
    ] = 1e-3
    schedule: Annotated[
        ScheduleName,
        Option(
            "Learning rate: a tenth at each plateau of the validation score, as published; or in "
            "steps over all epochs, one-cycle (up for 30%, then down) or cosine (up for 5%).",
            "training",
        ),
    ] = "plateau"
    patience: Annotated[
        int,
        Option("Epochs without a better validation score that end a plateau.", "training", least=1),
    ] = PATIENCE
    weight_decay: Annotated[
        float, Option("AdamW's decay of all weights, times the learning rate.", "training", least=0)
    ] = 0.0
    loss: Annotated[
        str,
        Option(
            "bce, dice, focal or lovasz, or a sum such as bce+dice. lovasz takes a pixel for fake "
            "where more than half of it is; the others take soft masks.",
            "training",
            expected="losses among bce, dice, focal and lovasz, such as bce+dice",
        ),
    ] = "bce"
    positive_weight: Annotated[
        float,
        Option("Weight of fake pixels in the losses bce and focal.", "training", least=1e-3),
    ] = 1.0
    average: Annotated[
        float,
        Option(
            "Decay of an exponential moving average of the weights, below 1, which is validated "
            "and kept in their place; 0 for none.",
            "training",
            least=0,
        ),
    ] = 0.0
    flips: Annotated[
        bool,
        Option("Mirror features and masks of half of the images, drawn each epoch.", "training"),
    ] = False
    channel_dropout: Annotated[
        float,
        Option(
            "Share of an image's input channels that are replaced by their mean over the image, "
            "drawn each epoch.",
            "training",
            least=0,
        ),
    ] = 0.0
    feature_noise: Annotated[
        float,
        Option(
            "Standard deviation of Gaussian noise on features, in units of each channel's own "
            "over the image.",
            "training",
            least=0,
        ),
    ] = 0.0
    mixup: Annotated[
        float,
        Option(
            "Mix features and masks of each image with those of another, by a share drawn from "
            "Beta(A, A); 0 for none.",
            "training",
            least=0,
            form="A",
        ),
    ] = 0.0
    precision: Precision = "float32"
    compile: Annotated[
        bool,
        Option(
            "Train with torch.compile: measured slower on a CPU (benchmarks/train.py).",
            "machine",
        ),
    ] = False
    pooling: Annotated[
        PoolingName | None,
        Option(
            "With `detection`, how a map becomes one logit: its mean (the paper's, the default), "
            "its maximum, or learned between the two (log-mean-exp).",
            "data",
        ),
    ] = None
    with_real: Annotated[
        float,
        Option(
            "Share of an epoch's images that are real, with empty masks, from 0 to below 1, drawn "
            "again each epoch; they have the same share in the validation score.",
            "data",
            least=0,
            form="SHARE",
        ),
    ] = 0.0
    decoder_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for described in described_fields(type(self)):
            _require_number(described, getattr(self, described.name))
        if self.precision not in get_args(Precision):
            raise UnknownNameError("precision", self.precision, ("auto", *get_args(Precision)))
        if self.initialization not in get_args(Initialization):
            raise UnknownNameError("initialization", self.initialization, get_args(Initialization))
        if self.normalize is not None and self.normalize not in get_args(Normalization):
            raise UnknownNameError("normalization", self.normalize, get_args(Normalization))
        if self.widths is not None and not isinstance(self.widths, tuple | list):
            raise InputError(
                f"`widths` is {self.widths!r}; expected whole numbers, one for each stage"
            )
        self._check_initial_weights()
        self._check_schedule()
        for name in ("average", "channel_dropout", "with_real"):
            if getattr(self, name) >= 1:
                raise InputError(f"`{name}` is {getattr(self, name)!r}; expected less than 1")
        if self.shrinkage > 1:
            raise InputError(f"`shrinkage` is {self.shrinkage!r}; expected at most 1")
        if self.with_real and self.pooling is not None:
            raise InputError(
                f"`with_real={self.with_real:g}` is for localization; detection learns from all "
                "real images, leave it out"
            )
        self._check_loss()
        if self.pooling is not None and self.pooling not in get_args(PoolingName):
            raise UnknownNameError("pooling", self.pooling, get_args(PoolingName))
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise InputError(
                f"a micro batch of {self.micro_batch_size} images is larger than the batch of "
                f"{self.batch_size}; expected a part of it"
            )

    def _check_initial_weights(self) -> None:
        if self.initial_weights is None:
            return
        if self.initialization != "imagenet":
            raise InputError(
                f"initial weights {self.initial_weights} for "
                f'`initialization="{self.initialization}"`, which draws them; take '
                '`initialization="imagenet"`, or leave them out'
            )
        if not Path(self.initial_weights).is_file():
            raise InputError(
                f"initial weights {self.initial_weights}: no such file; expected one of timm's "
                "legacy_xception, or leave them out to download them"
            )

    def _check_schedule(self) -> None:
        if self.schedule not in get_args(ScheduleName):
            raise UnknownNameError("schedule", self.schedule, get_args(ScheduleName))
        if self.schedule == "plateau":
            return
        if self.epochs is None:
            raise InputError(
                f'`schedule="{self.schedule}"` without a number of epochs, over which it goes; '
                "give `epochs`"
            )
        if self.patience != PATIENCE:
            raise InputError(
                f'`patience={self.patience}` with `schedule="{self.schedule}"`, which waits for '
                'no plateau; leave it out, or take `schedule="plateau"`'
            )

    def _check_loss(self) -> None:
        for name in self.losses:
            if name not in get_args(LossName):
                raise UnknownNameError("loss", name, get_args(LossName))
        if len(set(self.losses)) < len(self.losses):
            raise InputError(f"`loss` is {self.loss!r}; name each loss once")
        if self.pooling is not None and self.losses != ("bce",):
            raise InputError(
                f"`loss={self.loss}` compares maps with masks; detection learns from labels of "
                "images, leave it out"
            )
        if self.mixup and "lovasz" in self.losses:
            raise InputError(
                f"`mixup={self.mixup:g}` with `loss={self.loss}`; mixed masks are soft, and lovasz "
                "compares binary ones: leave out one of the two"
            )
        if self.positive_weight != 1 and not {"bce", "focal"} & set(self.losses):
            raise InputError(
                f"`positive_weight={self.positive_weight:g}` with `loss={self.loss}`; it is for "
                "bce and focal, leave it out"
            )

    @classmethod
    def unrecorded(cls) -> dict[str, Any]:
        """Return the defaults of the fields `LATER`, which records lack where they are set so."""
        return {one.name: one.default for one in fields(cls) if one.name in LATER}

    @property
    def losses(self) -> tuple[LossName, ...]:
        """Names of the losses that are added up."""
        return cast(tuple[LossName, ...], tuple(str(self.loss).split("+")))

    @property
    def most_epochs(self) -> int:
        """Number of epochs, of the schedule "plateau" the most."""
        if self.epochs is not None:
            return self.epochs
        return 1 if self.decoder_type == LDA else PLATEAU_EPOCHS

    @property
    def targets(self) -> "TargetKind":
        """Kind of targets: masks or labels."""
        return "masks" if self.pooling is None else "labels"

    @property
    def normalization(self) -> Normalization:
        """Normalization of the features: that of `normalize`, or the decoder type's own."""
        own: Normalization = "none"
        if self.decoder_type in LIGHT_TYPES:
            own = "channel"
        elif self.decoder_type == LDA:
            own = "instance"
        return self.normalize or own

    @property
    def score(self) -> ScoreName:
        """Validation score after each epoch."""
        return "iou" if self.pooling is None else "ap"

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain JSON values; a file of initial weights by its hash.

        `pooling`, normalization, initial weights, decoder options and the fields `LATER` only where
        they are set: what a run was named by before there were such it still is.
        """
        values = asdict(self) | {"widths": list(self.widths) if self.widths else None}
        values["epochs"] = self.most_epochs
        for one in fields(self):
            if one.name in LATER and values[one.name] == one.default:
                del values[one.name]
        if self.pooling is None:
            del values["pooling"]
        values["normalize"] = self.normalization
        if self.normalization == "none":
            del values["normalize"]
        if not self.decoder_options:
            del values["decoder_options"]
        file = values.pop("initial_weights")
        if file is None:
            return values
        return values | {"initial_weights_sha256": sha256_of_file(Path(file))}


def choose_precision(
    asked: str, decoder_type: str, device: "torch.device", cpuinfo: Path = Path("/proc/cpuinfo")
) -> str:
    """The precision that is asked for; of "auto", the fastest that the device computes in itself.

    That is bfloat16 on CUDA from Ampere on, and on CPUs with AVX512-BF16 or AMX (conv-4 and conv-20
    take half of the time there, see `benchmarks/train.py`). A linear decoder waits for memory, not
    for arithmetic, and stays in float32. Those that are fitted have no other, whatever is asked
    for.
    """
    if is_fitted(decoder_type):
        return "float32"
    if asked != "auto":
        return asked
    if decoder_type == "linear":
        return "float32"
    if device.type == "cuda":
        import torch

        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if _flags(cpuinfo) & {"avx512_bf16", "amx_bf16"} else "float32"


def _flags(cpuinfo: Path) -> set[str]:
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return set()
    flags: Sequence[str] = [line for line in lines if line.startswith("flags")]
    return set(flags[0].split()) if flags else set()


def _require_number(described: Field, value: Any) -> None:
    """Raise `InputError` for a value of a number's field that is none, or too small."""
    if described.kind not in (int, float) or (value is None and described.default is None):
        return
    kind = Integral if described.kind is int else Real
    least = described.option.least
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    # Not `isfinite`, which turns whole numbers into floats that may not hold them.
    is_number = is_number and -math.inf < value < math.inf
    if not is_number or (least is not None and value < least):
        what = "a whole number" if described.kind is int else "a number"
        bound = "" if least is None else f" of at least {least:g}"
        raise InputError(f"`{described.name}` is {value!r}; expected {what}{bound}")
