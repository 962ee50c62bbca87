"""Parts of a light decoder's step, and a step of each light decoder beside one of conv-4.

Parts of a linear decoder: enlarging, the loss of enlarged maps, and pieces one to a core.

python benchmarks/light_decoders.py [--device cuda] [--part parts|steps|all]

Contestants in turns, forward and backward, a median over rounds. Steps of a linear decoder are
timed as the machine is, and beside as many busy processes as it has cores.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from reporting import report
from torch import Tensor

from declip_pipeline.compute import mapping_parts
from declip_pipeline.decoders.decoder import enlarge
from declip_pipeline.decoders.names import LIGHT_TYPES
from declip_pipeline.features import FeatureShape
from declip_pipeline.training.learner import GradientLearner, enlarged_cross_entropy
from declip_pipeline.training.recipe import Recipe, choose_precision

SIDE, SIZE = 16, 256
BATCH = 32
# Images of a step, and rounds, beside conv-4, which takes seconds.
FEW, FEW_ROUNDS = 8, 5
# One layer of ViT-L/14.
SHAPE = FeatureShape(channels=1024, height=SIDE, width=SIDE, prefix_tokens=1)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--rounds", type=int, default=20)
    arguments.add_argument("--part", choices=("parts", "steps", "all"), default="all")
    options = arguments.parse_args()
    device = torch.device(options.device)
    if options.part in ("parts", "all"):
        report("light_decoders", of_parts(options.rounds, device), vars(options))
    if options.part in ("steps", "all"):
        rounds = min(options.rounds, FEW_ROUNDS)
        report("light_steps", beside_conv_4(rounds, device), vars(options))


def of_parts(n_rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """Parts of a linear decoder's step."""
    logits = torch.randn(BATCH, SIDE, SIDE, device=device, requires_grad=True)
    targets = torch.rand(BATCH, SIZE, SIZE, device=device)
    rows = compared(
        "enlarge 16x16 to 256x256",
        {
            "F.interpolate": lambda: gradient_of(interpolated(logits).sum(), logits),
            "enlarge": lambda: gradient_of(enlarge(logits, SIZE).sum(), logits),
        },
        n_rounds,
        device,
    )
    rows += compared(
        "loss of enlarged maps",
        {
            "F.interpolate, then the loss": lambda: gradient_of(
                F.binary_cross_entropy_with_logits(interpolated(logits), targets), logits
            ),
            "enlarge, then the loss": lambda: gradient_of(
                F.binary_cross_entropy_with_logits(enlarge(logits, SIZE), targets), logits
            ),
            "enlarged_cross_entropy": lambda: gradient_of(
                enlarged_cross_entropy(logits, targets), logits
            ),
        },
        n_rounds,
        device,
    )
    if device.type == "cpu":
        features = torch.randn(BATCH, *SHAPE.array_shape)
        steps = {
            "each operation on all cores": step_of(features, targets, 1),
            "each piece on one core": step_of(features, targets, torch.get_num_threads()),
        }
        rows += compared("step of a linear decoder", steps, n_rounds, device)
        with busy_cores():
            rows += compared("the same, cores busy", steps, n_rounds, device)
    return rows


def interpolated(logits: Tensor) -> Tensor:
    return F.interpolate(logits[:, None], (SIZE, SIZE), mode="bicubic", align_corners=False)[:, 0]


def gradient_of(value: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(value, logits)[0]


def step_of(features: Tensor, targets: Tensor, workers: int) -> Callable[[], Any]:
    """A step on a batch, in the pieces that the learner takes."""
    recipe = Recipe("linear", batch_size=BATCH)
    learner = GradientLearner(recipe, [SHAPE], "concat", torch.device("cpu"))
    learner.begin_epoch(recipe.learning_rate)
    size = learner.piece_size
    pieces = list(zip(features.split(size), targets.split(size), strict=True))

    def step() -> None:
        with mapping_parts(workers) as map_pieces:
            taught = map_pieces(
                lambda piece: learner.compute([piece[0]], piece[1], len(piece[0]) / BATCH), pieces
            )
            for computed in taught:
                learner.accumulate(computed)
        learner.update()

    return step


def beside_conv_4(rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """Steps of the light decoders, of one layer and of four, beside one of conv-4 of one layer."""
    layers = [torch.randn(FEW, *SHAPE.array_shape, device=device) for _ in range(4)]
    targets = torch.rand(FEW, SIZE, SIZE, device=device)

    def step_of_type(decoder_type: str, count: int) -> Callable[[], Any]:
        precision = choose_precision("auto", decoder_type, device)
        recipe = Recipe(decoder_type, batch_size=FEW, precision=precision)
        learner = GradientLearner(recipe, [SHAPE] * count, "concat", device)
        learner.begin_epoch(recipe.learning_rate)

        def step() -> None:
            learner.accumulate(learner.compute(layers[:count], targets, 1.0))
            learner.update()

        return step

    kinds = [(name, count) for name in LIGHT_TYPES for count in (1, 4)] + [("conv-4", 1)]
    steps = {
        f"{name}, {count} layer{'s' if count > 1 else ''}": step_of_type(name, count)
        for name, count in kinds
    }
    return compared("step of a decoder", steps, rounds, device, FEW)


@contextmanager
def busy_cores() -> Iterator[None]:
    """Have as many processes as torch has threads compute all the while."""
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_compute, daemon=True) for _ in range(torch.get_num_threads())]
    for other in others:
        other.start()
    time.sleep(5)  # until they have imported torch
    yield
    for other in others:
        other.terminate()
        other.join()


def _compute() -> None:
    torch.set_num_threads(1)
    matrix = torch.randn(512, 512)
    while True:
        matrix @ matrix


def compared(
    measure: str,
    contestants: dict[str, Callable[[], Any]],
    rounds: int,
    device: torch.device,
    n_images: int = BATCH,
) -> list[dict[str, Any]]:
    """Median milliseconds of an image for each, and how many times the last one's."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 2):
        for name, work in contestants.items():
            started = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number >= 2:
                seconds[name].append(time.perf_counter() - started)
    ours = median(list(seconds.values())[-1])
    return [
        {
            "measure": f"{measure}, ms an image",
            "contestant": name,
            "milliseconds": 1e3 * median(found) / n_images,
            "ratio": f"{median(found) / ours:.2f}x",
        }
        for name, found in seconds.items()
    ]


if __name__ == "__main__":
    main()
