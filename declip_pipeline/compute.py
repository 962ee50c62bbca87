"""Device, threads and seeds of a computation."""

import ctypes
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from statistics import median
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.random import PCG64, Generator

from declip_pipeline.errors import InputError
from declip_pipeline.options import DeviceName

if TYPE_CHECKING:
    import torch

DEVICES = get_args(DeviceName)

MEASURED_SECONDS = 1.0
"""Time that `median_milliseconds` measures for."""

# Like the built-in `map`: the results of a function for each part, in the order of the parts.
MapParts = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


def choose_device(name: str) -> "torch.device":
    """Return the device called `name`.

    Args:
        name: "cpu", "cuda", "cuda:N", or "auto" (CUDA if there is a GPU, else the CPU).

    Raises:
        InputError: The name is unknown, or this machine has no such GPU.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in DEVICES or (number and not number.isdecimal()):
        raise InputError(f"unknown device {name!r}; known: {', '.join(DEVICES)}, cuda:N")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {name} is not there, this machine shows {torch.cuda.device_count()} CUDA "
            'devices; use `device="cpu"`'
        )
    return torch.device(name)


def exact_float32(device: "torch.device") -> AbstractContextManager[object]:
    """Compute convolutions in full float32 inside the context.

    On CUDA, cuDNN rounds their inputs to TF32 (10 bits of mantissa) by default.
    """
    from torch.backends import cudnn

    if device.type != "cuda":
        return nullcontext()
    return cudnn.flags(enabled=True, allow_tf32=False)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the device is out of memory.

    cuDNN, cuBLAS and the CPU's allocator report it as a plain `RuntimeError` with words of their
    own, NumPy and Python as a `MemoryError`.
    """
    import torch

    words = ("out of memory", "ALLOC_FAILED", "can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def multiply_accumulates(compute: Callable[[], object]) -> int:
    """Return the multiply-accumulates (MACs) of what a function computes with PyTorch.

    PyTorch's own counter counts matrix products, convolutions and attention as two floating point
    operations a multiply-accumulate: MACs are half of its FLOPs. It counts nothing for additions,
    normalization, activations and interpolation, and nothing inside a custom or quantized kernel.
    Attention's kernel on a CPU, which it leaves out, is counted as it counts those on a GPU.

    Args:
        compute: Is called once. Computes in float32, and on the CPU where it runs a transformer:
            fused layers elsewhere are kernels that the counter does not know.
    """
    import torch
    import torch.utils.flop_counter

    counting: Any = torch.utils.flop_counter

    def forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        return counting.sdpa_flop_count(query, key, value)

    def backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        return counting.sdpa_backward_flop_count(gradient, query, key, value)

    aten: Any = torch.ops.aten
    on_cpu = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    with counting.FlopCounterMode(display=False, custom_mapping=on_cpu) as counter:
        compute()
    return int(counter.get_total_flops()) // 2


def median_milliseconds(compute: Callable[[], object], device: "torch.device") -> float:
    """Return the time that a function takes, median of several calls after a first one.

    It is called for `MEASURED_SECONDS`, but at least once beside the first.
    """
    import torch

    def timed() -> float:
        started = time.perf_counter()
        compute()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    timed()
    seconds: list[float] = []
    while sum(seconds) < MEASURED_SECONDS:
        seconds.append(timed())
    return 1000 * median(seconds)


def release_freed_memory() -> None:
    """Give memory that was freed back to the system, where the C library can (glibc).

    After arrays of many sizes, glibc keeps most of what they took: 1.3 GB after a few steps of the
    demo, which the next step's arrays did not fit into.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def mapping_parts(workers: int) -> Iterator[MapParts]:
    """Provide a `map` that runs `workers` parts at a time, each on one core.

    PyTorch by default splits every operation over all cores and waits for the slowest core, a
    thousand times a second where operations are small. On an idle machine that is as fast; where
    other programs use the cores, it takes three times as long or more
    (benchmarks/light_decoders.py).

    Args:
        workers: Number of threads; with 1 or less, parts run in the calling thread.
    """
    import torch

    if workers <= 1:
        yield map
        return
    with (
        torch_threads(1),
        ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as threads,
    ):
        yield threads.map


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let PyTorch use `count` threads for each operation inside the context."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        # The number belongs to a thread; a new thread starts with the number that was set last.
        torch.set_num_threads(before)


def derived_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for one purpose, e.g. `derived_seed(0, "shuffle", epoch)`.

    It depends on `seed` and `purpose` alone, not on random numbers that were drawn before.
    """
    text = "/".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def generator(seed: int, *purpose: str | int) -> Generator:
    """Return a NumPy generator for one purpose; see `derived_seed`."""
    return Generator(PCG64(derived_seed(seed, *purpose)))


def permutation(length: int, seed: int, *purpose: str | int) -> np.ndarray:
    """Return the numbers 0..length-1 (int64) in an order fixed by the seed and the purpose."""
    return generator(seed, *purpose).permutation(length)
