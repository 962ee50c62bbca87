"""Weights from the hub: from the cache or the network, or a clear error within seconds."""

import logging
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import huggingface_hub
import torch
from huggingface_hub import constants

from declip_pipeline.errors import DownloadError

PROBE_SECONDS = 5.0
WAYS_OUT = (
    "connect to the internet once, or give --weights FILE (an OpenAI .pt, TorchScript archive or "
    "state dict; an open_clip .safetensors or .bin; a timm state dict)"
)

Fetched = TypeVar("Fetched")


def from_hub(name: str, fetch: Callable[[], Fetched]) -> Fetched:
    """What `fetch` returns, with the hub's client set to answer from its cache when offline.

    The client retries an unreachable hub for 47 s a model (huggingface_hub 2.4), so it is asked
    once beforehand. Its log and warnings stay off the screen.
    Raises `DownloadError` with the ways out when the weights cannot be had.
    """
    unreachable = _why_unreachable(constants.ENDPOINT)
    with _quiet(), _offline(unreachable is not None):
        try:
            return fetch()
        except Exception as error:  # the hub's, the network's and the disk's errors share no class
            reason = unreachable or str(error).strip() or type(error).__name__
            raise _cannot_download(name, reason, WAYS_OUT) from error


def download(name: str, url: str, path: Path, *, ways_out: str) -> None:
    """Fetch a file that lies elsewhere than on the hub to `path`; one that is there is left.

    It appears whole or not at all. Raises `DownloadError` with `ways_out` when it cannot be had.
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
    """One short request; None when there is an answer, whatever it is."""
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
