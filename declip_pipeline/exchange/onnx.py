"""Export of a backbone and a decoder as one ONNX file, checked against torch."""

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
from torch import Tensor, nn

from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.errors import DeclipError, InputError
from declip_pipeline.files import write_with
from declip_pipeline.images.resize import resize_image
from declip_pipeline.store.identity import parts_of
from declip_pipeline.training.predictor import Predictor

TOLERANCE = 1e-4
"""Largest accepted difference of a probability; another order of sums gives about 1e-6."""

LARGEST_FILE = 2**31
"""Limit in bytes of protocol buffers, the format of ONNX files."""

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_METADATA = "declip_pipe"


def require_onnx() -> None:
    """Raise `InputError` if a package that writes or checks ONNX files is missing."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise InputError(
            f"ONNX needs {', '.join(missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not installed; "
            "pip install 'declip-pipe[onnx]'"
        )


class WholeNetwork(nn.Module):
    """Backbones and a decoder as one network, from images to maps.

    Maps images (N, 3, height, width), uint8 RGB of the backbones' input size, to probabilities of
    "manipulated", (N, output_size, output_size) float32 in [0, 1]. Scaling and normalisation are
    included; features are float32, not rounded as in a store.
    """

    def __init__(
        self, backbones: Sequence[Backbone], decoder: Decoder, features: Mapping[str, Any]
    ) -> None:
        """Connect a decoder to the backbones of its features, one for each layer that it joins.

        Raises `IdentityMismatchError` naming the field when a backbone gives other features,
        `InputError` for backbones with different input sizes or interpolations.
        """
        super().__init__()
        if any("windows" in part for part in parts_of(features)):
            raise InputError(
                "it takes whole images beside tiles, and one graph takes one image, so such a run "
                "cannot be exported to ONNX"
            )
        # Checks that backbones and decoder belong together, as for a prediction.
        Predictor(backbones, decoder, features, dtypes=["float32"] * len(backbones))
        self.preprocessing = backbones[0].preprocessing
        ways = {
            f"{p.height}x{p.width} {p.interpolation}": None
            for p in (backbone.preprocessing for backbone in backbones)
        }
        if len(ways) > 1:
            raise InputError(
                f"its backbones see images of {' and '.join(ways)}; one graph takes one image, "
                "so such a run cannot be exported to ONNX"
            )
        for backbone in backbones:
            if not backbone.networks:
                raise InputError(
                    f"{backbone.name} has no PyTorch network, so such a run cannot be exported to "
                    "ONNX"
                )
        layers = [str(part["layer"]) for part in parts_of(features)]
        self._inputs = list(zip(backbones, layers, strict=True))
        networks = [network for backbone in backbones for network in backbone.networks]
        self.networks = nn.ModuleList(dict.fromkeys(networks))
        self.decoder = decoder.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return the probabilities of a batch of images; see the class."""
        inputs = [backbone.features(images, [layer])[layer] for backbone, layer in self._inputs]
        logits: Tensor = self.decoder(*inputs)
        return torch.sigmoid(logits.float())


def export_onnx(
    path: Path,
    network: WholeNetwork,
    images: Sequence[np.ndarray],
    *,
    about: Mapping[str, Any],
) -> float:
    """Write a network on the CPU to `path`, whole or not at all, and check it on images.

    The graph's input is `images` (N, 3, height, width) uint8 RGB, its output `probabilities`
    (N, output_size, output_size) float32, with any N.

    Args:
        path: The file.
        network: The network.
        images: Images to compare onnxruntime and torch on, HWC uint8 RGB of any size.
        about: Plain values for the file's metadata, written as JSON.

    Returns:
        Largest difference of a probability between onnxruntime and torch.

    Raises:
        DeclipError: The difference is above `TOLERANCE`, or the network cannot be exported; no
            file is written.
        InputError: The weights take 2 GB or more.
    """
    size = sum(value.nbytes for value in network.state_dict().values())
    if size >= LARGEST_FILE:
        raise InputError(
            f"the weights take {size / 1e9:.1f} GB, and an ONNX file holds less than 2.1; "
            "export a run of a smaller backbone"
        )
    wanted = network.preprocessing
    batch = np.stack(
        [resize_image(image, wanted.height, wanted.width, wanted.interpolation) for image in images]
    ).transpose(0, 3, 1, 2)
    # This also fills the networks' caches, which the trace must find.
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
    path: Path, network: WholeNetwork, images: torch.Tensor, about: Mapping[str, Any]
) -> None:
    with _quiet():
        try:
            program = torch.onnx.export(
                network,
                (images,),
                input_names=["images"],
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
    """Return the largest difference to `expected`, of all images at once and of the first alone."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        together = session.run(None, {"images": batch})[0]
        alone = session.run(None, {"images": batch[:1]})[0]
    except Exception as error:  # onnxruntime's own classes share no public one
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DeclipError(f"onnxruntime cannot run what was exported: {reason}") from error
    found = np.concatenate([together, alone])
    return float(np.abs(found - np.concatenate([expected, expected[:1]])).max())


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's messages on its progress and versions."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
