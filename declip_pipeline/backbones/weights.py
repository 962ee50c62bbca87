"""Weights of backbones: downloaded or random; loaded strictly and hashed."""

import hashlib
import logging
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import huggingface_hub
import torch
from huggingface_hub import constants
from torch import Tensor, nn

from declip_pipeline.compute import derived_seed
from declip_pipeline.errors import DownloadError, InputError, WeightsError

WAYS_OUT = (
    "connect to the internet once, or give `weights=FILE` (an OpenAI .pt, TorchScript archive or "
    "state dict; an open_clip .safetensors or .bin; a timm state dict)"
)
PROBE_SECONDS = 5.0
N_SHOWN = 3

Fetched = TypeVar("Fetched")


def absolute_weights(weights: Sequence[str]) -> list[str]:
    """Return weights with files as absolute paths, so that they are found from any folder."""
    return [text if text.startswith("random:") else str(Path(text).absolute()) for text in weights]


def random_seed(weights: str | None) -> int | None:
    """Return the seed of "random:SEED"; None for a file or no weights. Raises `InputError`.

    Random weights have this explicit name only, since no decoder learns from their features.
    """
    if weights is None or not weights.startswith("random:"):
        return None
    text = weights.removeprefix("random:")
    if not re.fullmatch(r"[0-9]+", text):
        raise InputError(f"weights {weights!r}: expected random:SEED with a whole number, random:0")
    return int(text)


def name_with_seed(name: str, seed: int | None) -> str:
    """Return the canonical name of a backbone with random weights: "CLIP:RN50[random:0]"."""
    return name if seed is None else f"{name}[random:{seed}]"


@contextmanager
def initialized_from(seed: int | None) -> Iterator[None]:
    """Make the weights of networks built inside depend on `seed` alone; keep torch's own state."""
    with torch.random.fork_rng(devices=[]):
        # The CPU's generator only: torch.manual_seed would also reseed every GPU.
        torch.default_generator.manual_seed(derived_seed(seed or 0, "backbone weights"))
        yield


def is_weight(name: str) -> bool:
    """Return whether a tensor affects the features: BatchNorm's step counter does not."""
    return not name.endswith("num_batches_tracked")


def sha256_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, shapes and float32 values, in order of the names.

    The same values give the same 64 hex digits whatever file they came from: float16 and float32
    files of equal values agree, and step counters, which some files lack, are left out.
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
            f"{'; '.join(faults)}); give a file of {arch}, or the `arch` of this file"
        )
    network.load_state_dict(
        {name: tensor for name, tensor in tensors.items() if is_weight(name)}, strict=False
    )


def differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """Describe how names and shapes of tensors differ; an empty list where they agree.

    At most three texts: tensors of another shape, missing ones, and unexpected ones.
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
    """Return a shape as messages write it: "1024x3x14x14", or "scalar"."""
    return "x".join(map(str, tensor.shape)) or "scalar"


def from_hub(name: str, fetch: Callable[[], Fetched]) -> Fetched:
    """Return what `fetch` returns; an unreachable hub's client uses only its cache.

    The client retries an unreachable hub for 47 s a model (huggingface_hub 2.4), so one short
    request is made beforehand. The client's log and warnings are silenced.
    Raises `DownloadError` with the ways out when the weights cannot be fetched.
    """
    unreachable = _why_unreachable(constants.ENDPOINT)
    with _quiet(), _offline(unreachable is not None):
        try:
            return fetch()
        except Exception as error:  # the hub's, the network's and the disk's errors share no class
            reason = unreachable or str(error).strip() or type(error).__name__
            raise _cannot_download(name, reason, WAYS_OUT) from error


def download(name: str, url: str, path: Path, *, ways_out: str) -> None:
    """Download a file that is not on the hub to `path`, whole or not at all, unless it exists.

    Raises `DownloadError` with `ways_out` when it cannot be fetched.
    """
    if path.is_file():
        return
    with _quiet():
        reason = _why_unreachable(url)
        if reason is None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(url, str(path), progress=False)
            except Exception as error:  # the network's and the disk's errors share no class
                reason = str(error).strip() or type(error).__name__
    if reason is not None:
        raise _cannot_download(name, reason, ways_out)


def _cannot_download(name: str, reason: str, ways_out: str) -> DownloadError:
    shortened = textwrap.shorten(reason.splitlines()[0], 200, placeholder=" ...")
    return DownloadError(f"cannot download the weights of {name} ({shortened}); {ways_out}")


def _why_unreachable(url: str) -> str | None:
    """Make one short request; return None when there is any answer, else the reason."""
    with _quiet():
        try:
            huggingface_hub.get_session().head(url, timeout=PROBE_SECONDS)
        except Exception as error:  # offline mode, no route, no name, no certificate, no proxy
            return f"no answer from {url}: {error}".splitlines()[0]
    return None


@contextmanager
def _offline(active: bool) -> Iterator[None]:
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or active
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
