"""Ways to compute a ViT's forward pass on a CPU, and how far their features are from PyTorch's.

python benchmarks/engines.py [--models dinov2-vit-s14 CLIP:ViT-L/14] [--batch-size 16] [--rounds 5]
    [--engines pytorch backbone ...]

Writes results/engines.json. Contestants take turns, medians over rounds, all as deep as the layer.
"pytorch" is the network as timm and open_clip build it, in PyTorch's float32; "backbone" is what
`declip-pipe` computes with. ONNX Runtime and OpenVINO run the graph that PyTorch exports. OpenVINO
is not among the dependencies: without it, its rows are left out and a line says so.
The difference is the largest over all features, over their range.
"""

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from reporting import report
from torch import Tensor, nn

from declip_pipeline.backbones import network as network_module
from declip_pipeline.backbones.network import NetworkBackbone
from declip_pipeline.backbones.registry import open_backbone

LAYERS = {"dinov2-vit-s14": "layer8", "CLIP:ViT-L/14": "layer20"}
# Weights that cannot be had offline are drawn: they take as long.
WEIGHTS = {"CLIP:ViT-L/14": ["random:0"]}
GOAL = 1e-3

Forward = Callable[[], Tensor]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--models", nargs="+", default=list(LAYERS))
    arguments.add_argument("--batch-size", type=int, default=16)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    options = arguments.parse_args()
    engines = list(options.engines)
    if importlib.util.find_spec("openvino") is None:
        left_out = [engine for engine in engines if engine.startswith("openvino")]
        engines = [engine for engine in engines if engine not in left_out]
        print(f"not installed, left out: {', '.join(left_out)}; pip install openvino")
    rows = []
    for model in options.models:
        rows += compared(model, engines, options.batch_size, options.rounds)
    report("engines", rows, vars(options) | {"engines": engines})


def compared(
    model: str, engines: Sequence[str], batch_size: int, rounds: int
) -> list[dict[str, Any]]:
    """Return the rows of one model."""
    layer = LAYERS[model]
    backbone = opened(model)
    sides = backbone.preprocessing.height, backbone.preprocessing.width
    images = torch.randint(0, 256, (batch_size, 3, *sides), dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        contestants = {
            engine: ENGINES[engine](model, layer, images, Path(folder)) for engine in engines
        }
        reference = plain(model, layer, images, Path(folder))()
        # The first pass of each compiles, or fills memory.
        differences = {
            engine: float((run() - reference).abs().max() / (reference.max() - reference.min()))
            for engine, run in contestants.items()
        }
        seconds: dict[str, list[float]] = {engine: [] for engine in contestants}
        for _ in range(rounds):
            for engine, run in contestants.items():
                started = time.perf_counter()
                run()
                seconds[engine].append(time.perf_counter() - started)
    slowest = median(seconds.get("pytorch", seconds[engines[0]]))
    return [
        {
            "model": model,
            "layer": layer,
            "engine": engine,
            "ms an image": 1000 * median(values) / batch_size,
            "times as fast": slowest / median(values),
            "difference over range": differences[engine],
            "equal to 1e-3": "yes" if differences[engine] <= GOAL else "no",
        }
        for engine, values in seconds.items()
    ]


def opened(model: str) -> NetworkBackbone:
    """Open a backbone on the CPU."""
    backbone = open_backbone(model, weights=WEIGHTS.get(model, ()), device="cpu")
    assert isinstance(backbone, NetworkBackbone)
    return backbone


def as_built(model: str) -> NetworkBackbone:
    """Open a backbone whose network computes as its library builds it."""
    replaced = network_module.use_onednn
    network_module.use_onednn = lambda network: None
    try:
        return opened(model)
    finally:
        network_module.use_onednn = replaced


def plain(model: str, layer: str, images: Tensor, _folder: Path) -> Forward:
    """PyTorch alone."""
    backbone = as_built(model)
    return lambda: backbone.features(images, [layer])[layer]


def contiguous(model: str, layer: str, images: Tensor, _folder: Path) -> Forward:
    """PyTorch alone, weights and images not in the channels-last layout."""
    backbone = as_built(model)
    backbone.network.to(memory_format=torch.contiguous_format)
    normalized = backbone._normalized
    backbone._normalized = lambda given: normalized(given).contiguous()  # type: ignore[method-assign]
    return lambda: backbone.features(images, [layer])[layer]


def without_fused_attention(model: str, layer: str, images: Tensor, _folder: Path) -> Forward:
    """PyTorch alone, attention as two products and a softmax."""
    backbone = as_built(model)
    for module in backbone.network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False

    def forward() -> Tensor:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return backbone.features(images, [layer])[layer]

    return forward


def current(model: str, layer: str, images: Tensor, _folder: Path) -> Forward:
    """The backbone as it is."""
    backbone = opened(model)
    return lambda: backbone.features(images, [layer])[layer]


def in_bfloat16(model: str, layer: str, images: Tensor, _folder: Path) -> Forward:
    """The backbone under autocast."""
    backbone = opened(model).in_precision("bfloat16")
    return lambda: backbone.features(images, [layer])[layer]


def compiled(model: str, layer: str, images: Tensor, _folder: Path) -> Forward:
    """The backbone with torch.compile."""
    backbone = opened(model).compile()
    return lambda: backbone.features(images, [layer])[layer]


def compiled_in_bfloat16(model: str, layer: str, images: Tensor, _folder: Path) -> Forward:
    """The backbone with torch.compile, under autocast."""
    backbone = opened(model).in_precision("bfloat16").compile()
    return lambda: backbone.features(images, [layer])[layer]


def onnx_runtime(model: str, layer: str, images: Tensor, folder: Path) -> Forward:
    """ONNX Runtime's CPU provider."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(exported(model, layer, images, folder)), providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda: torch.from_numpy(session.run(None, {name: images.float().numpy()})[0])


def openvino(precision: str) -> Callable[[str, str, Tensor, Path], Forward]:
    """OpenVINO's CPU plugin in a precision."""

    def build(model: str, layer: str, images: Tensor, folder: Path) -> Forward:
        import openvino as ov

        core = ov.Core()
        graph = core.read_model(str(exported(model, layer, images, folder)))
        options = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        request = core.compile_model(graph, "CPU", options).create_infer_request()
        return lambda: torch.from_numpy(request.infer([images.float().numpy()])[0].copy())

    return build


class _Network(nn.Module):
    """Pixels in [0, 255] to the features of one layer."""

    def __init__(self, backbone: NetworkBackbone, layer: str) -> None:
        super().__init__()
        self.network = backbone.network
        self._backbone = backbone
        self._layer = layer

    def forward(self, pixels: Tensor) -> Tensor:
        backbone = self._backbone
        normalized = (pixels / 255 - backbone._mean) / backbone._std
        return backbone._compute(normalized, [self._layer])[self._layer]


def exported(model: str, layer: str, images: Tensor, folder: Path) -> Path:
    """Write the graph of a backbone unless it is there; return its path."""
    file = folder / "backbone.onnx"
    if not file.exists():
        program = torch.onnx.export(
            _Network(as_built(model), layer).eval(), (images.float(),), dynamo=True, verbose=False
        )
        assert program is not None
        program.save(file)
    return file


ENGINES: dict[str, Callable[[str, str, Tensor, Path], Forward]] = {
    "pytorch": plain,
    "pytorch, not channels last": contiguous,
    "pytorch, attention not fused": without_fused_attention,
    "backbone": current,
    "backbone, bfloat16": in_bfloat16,
    "backbone, torch.compile": compiled,
    "backbone, bfloat16, torch.compile": compiled_in_bfloat16,
    "onnxruntime": onnx_runtime,
    "openvino": openvino("f32"),
    "openvino, bfloat16": openvino("bf16"),
}


if __name__ == "__main__":
    main()
