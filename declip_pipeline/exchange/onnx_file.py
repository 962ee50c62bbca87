"""A whole network as an ONNX file, which is left only when it computes what torch does."""

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from declip_pipeline.errors import DeclipError, InputError
from declip_pipeline.exchange.whole_network import WholeNetwork
from declip_pipeline.files import write_with
from declip_pipeline.images.resize import resize_image

TOLERANCE = 1e-4
"""The largest difference of a probability; sums in another order differ by some 1e-6."""

LARGEST_FILE = 2**31
"""Protocol buffers, which ONNX files are made of, hold less than 2 GB."""

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_METADATA = "declip_pipe"


def require_onnx() -> None:
    """Raise `InputError` where the packages that write and check ONNX files are missing."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise InputError(
            f"ONNX needs {', '.join(missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not installed; "
            "pip install 'declip-pipe[onnx]'"
        )


def export_onnx(
    path: Path,
    network: WholeNetwork,
    pictures: Sequence[np.ndarray],
    *,
    about: Mapping[str, Any],
) -> float:
    """Write a network on the CPU to `path`, whole or not at all, and check it on `pictures`.

    The graph's input is `pictures` (N, 3, height, width) uint8 RGB, its output `probabilities`
    (N, output_size, output_size) float32, with any N. `about` goes into the file's metadata as
    JSON. `pictures` are HWC uint8 RGB of any size.

    Returns the largest difference of a probability between onnxruntime and torch. Raises
    `DeclipError` when that is above `TOLERANCE`, or the network cannot be exported; then there is
    no file. Raises `InputError` for weights of 2 GB or more.
    """
    size = sum(value.nbytes for value in network.state_dict().values())
    if size >= LARGEST_FILE:
        raise InputError(
            f"the weights take {size / 1e9:.1f} GB, and an ONNX file holds less than 2.1; "
            "export a run of a smaller backbone"
        )
    wanted = network.preprocessing
    batch = np.stack(
        [
            resize_image(picture, wanted.height, wanted.width, wanted.interpolation)
            for picture in pictures
        ]
    ).transpose(0, 3, 1, 2)
    # Also makes the tables that networks keep, which the trace must find.
    with torch.inference_mode():
        expected = network(torch.from_numpy(batch)).numpy()
    difference = np.inf

    def write(temporary: Path) -> None:
        nonlocal difference
        _write_graph(temporary, network, torch.from_numpy(batch[:1].repeat(2, 0)), about)
        difference = _largest_difference(temporary, batch, expected)
        if not difference <= TOLERANCE:
            raise DeclipError(
                f"onnxruntime differs from torch by up to {difference:.2g} in a probability, "
                f"expected at most {TOLERANCE:g}; {path} was not written"
            )

    write_with(path, write)
    return difference


def _write_graph(
    path: Path, network: WholeNetwork, pictures: torch.Tensor, about: Mapping[str, Any]
) -> None:
    with _quiet():
        try:
            program = torch.onnx.export(
                network,
                (pictures,),
                input_names=["pictures"],
                output_names=["probabilities"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # of torch.export, onnxscript and onnx; they share no class
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DeclipError(f"this network cannot be exported to ONNX: {reason}") from error
        assert program is not None
        program.model.metadata_props[_METADATA] = json.dumps(dict(about), sort_keys=True)
        program.save(str(path), external_data=False)


def _largest_difference(path: Path, batch: np.ndarray, expected: np.ndarray) -> float:
    """Between what a file computes for all pictures at once, and for the first alone, and this."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        together = session.run(None, {"pictures": batch})[0]
        alone = session.run(None, {"pictures": batch[:1]})[0]
    except Exception as error:  # onnxruntime's own classes share no public one
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DeclipError(f"onnxruntime cannot run what was exported: {reason}") from error
    found = np.concatenate([together, alone])
    return float(np.abs(found - np.concatenate([expected, expected[:1]])).max())


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on its own progress and versions off the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
