"""Weights go in whole or not at all, and are known by the hash of their values."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from declip_pipeline.errors import WeightsError

N_SHOWN = 3


def is_weight(name: str) -> bool:
    """Whether a tensor bears on the features: BatchNorm's step counter does not."""
    return not name.endswith("num_batches_tracked")


def sha256_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and float32 values, in order of the names; 64 hex digits.

    The same values give the same hash whatever file they came from: float16 and float32 files of
    equal values agree, and step counters, which some files lack, are left out.
    """
    digest = hashlib.sha256()
    for name in sorted(filter(is_weight, tensors)):
        values = tensors[name].detach().to("cpu", torch.float32).contiguous().numpy()
        digest.update(f"{name} {list(values.shape)}\n".encode())
        digest.update(values.astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def load_strictly(
    network: nn.Module, tensors: Mapping[str, Tensor], *, arch: str, source: str
) -> None:
    """Copy `tensors` into `network` as float32; names and shapes must agree exactly.

    Raises `WeightsError` that names `arch`, `source` and the first tensors that do not fit.
    """
    own = network.state_dict()
    faults = differences(own, tensors)
    if faults:
        raise WeightsError(
            f"{source} does not hold the weights of {arch} ({sum(map(is_weight, own))} tensors; "
            f"{'; '.join(faults)}); give a file of {arch}, or the --arch of this file"
        )
    network.load_state_dict(
        {name: tensor for name, tensor in tensors.items() if is_weight(name)}, strict=False
    )


def differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """What is wrong with the names and shapes of tensors, none where all is as expected.

    At most three texts: what is of another shape, what is missing, and what is unexpected.
    """
    own = {name: tensor for name, tensor in expected.items() if is_weight(name)}
    given = {name: tensor for name, tensor in found.items() if is_weight(name)}
    missing = [f"{name} {shape_text(own[name])}" for name in own if name not in given]
    unexpected = [f"{name} {shape_text(given[name])}" for name in given if name not in own]
    misshaped = [
        f"{name} {shape_text(given[name])} instead of {shape_text(own[name])}"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    return [
        f"{len(names)} {kind}: {', '.join(names[:N_SHOWN])}{', ...' if names[N_SHOWN:] else ''}"
        for kind, names in (
            ("of another shape", misshaped),
            ("missing", missing),
            ("unexpected", unexpected),
        )
        if names
    ]


def shape_text(tensor: Tensor) -> str:
    """A shape as it reads in a message: 1024x3x14x14, or "scalar"."""
    return "x".join(map(str, tensor.shape)) or "scalar"
