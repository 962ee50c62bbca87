"""Opening of predictors: the decoders of runs, and the backbones of their features."""

from collections.abc import Sequence
from pathlib import Path

from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.compute import choose_device
from declip_pipeline.extraction.recorded_backbones import open_run_backbones
from declip_pipeline.store.identity import parts_of
from declip_pipeline.training.predictor import Predictor
from declip_pipeline.training.run import Run


def open_predictor(
    runs: Sequence[Run],
    backbone: Backbone | Sequence[Backbone] | None = None,
    *,
    weights: str | Path | Sequence[str | Path] | None = None,
    device: str = "auto",
) -> Predictor:
    """Open the predictor of one run, or of the mean of several.

    Arguments and errors are those of `open_predictors`; also raises `IdentityMismatchError` where
    the maps of the runs cannot be averaged.
    """
    return Predictor.joined(open_predictors(runs, backbone, weights=weights, device=device))


def open_predictors(
    runs: Sequence[Run],
    backbone: Backbone | Sequence[Backbone] | None = None,
    *,
    weights: str | Path | Sequence[str | Path] | None = None,
    device: str = "auto",
) -> list[Predictor]:
    """Open the predictor of each run, each backbone once.

    `backbone`, `weights` and `device` are those of `Run.predictor`; the weights are those of all
    backbones in the order in which the runs first take them.

    Raises:
        InputError: A run is not finished or damaged.
        WeightsError: Recorded weights are missing or cannot be downloaded.
        IdentityMismatchError: A backbone gives other features than a decoder was trained on, naming
            the field that differs.
    """
    for run in runs:
        run.summary()
    configs = [run.config() for run in runs]
    decoders = [run.best_decoder() for run in runs]
    chosen = choose_device(device)
    files = [weights] if isinstance(weights, str | Path) else weights or ()
    parts = [parts_of(features) for _, features in decoders]
    opened = iter(
        open_run_backbones(
            [part for own in parts for part in own],
            [one for config in configs for one in config["inputs"]],
            weights=[str(one) for one in files],
            device=str(chosen),
            backbones=[backbone] if isinstance(backbone, Backbone) else backbone or (),
        )
    )
    return [
        Predictor(
            [next(opened) for _ in own],
            decoder.to(chosen),
            features,
            dtypes=[str(one["dtype"]) for one in config["inputs"]],
            tiles=next((one["tiles"] for one in config["inputs"] if "tiles" in one), None),
        )
        for own, (decoder, features), config in zip(parts, decoders, configs, strict=True)
    ]
