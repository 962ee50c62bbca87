"""The device that computations run on."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.backends import cudnn

from declip_pipeline.errors import InputError

DEVICES = ("auto", "cpu", "cuda")


def choose_device(name: str) -> torch.device:
    """The device of a name; "auto" is CUDA where there is one. Raises `InputError`."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in DEVICES or (number and not number.isdecimal()):
        raise InputError(f"unknown device {name!r}; known: {', '.join(DEVICES)}, cuda:N")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {name} is not there, this machine shows {torch.cuda.device_count()} CUDA "
            "devices; use --device cpu"
        )
    return torch.device(name)


def exact_float32(device: torch.device) -> AbstractContextManager[object]:
    """Compute in float32 as it is.

    On CUDA, convolutions would round what they multiply to 10 bits (TF32) by default.
    """
    if device.type != "cuda":
        return nullcontext()
    return cudnn.flags(enabled=True, allow_tf32=False)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's memory is too small.

    The libraries beneath PyTorch have words of their own for it, as plain `RuntimeError`.
    """
    words = ("out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )
