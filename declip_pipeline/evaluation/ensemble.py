"""Runs as a source of maps: one, or the mean of the logits of several."""

import math
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from declip_pipeline.datasets.labelled import LabelledImages
from declip_pipeline.datasets.tiles import whole_images
from declip_pipeline.decoders.averaged import AveragedDecoders, mean_logits, require_averageable
from declip_pipeline.errors import IdentityMismatchError, InputError
from declip_pipeline.evaluation.groups import MEMBERS
from declip_pipeline.evaluation.joined_scores import detect_joined, joined_maps
from declip_pipeline.evaluation.map_source import (
    ImageMap,
    ImageValues,
    MapSource,
    OpenedSource,
)
from declip_pipeline.evaluation.scores import (
    BestOnValid,
    Progress,
    detect,
    localize,
    logits_of,
    score_names,
)
from declip_pipeline.feeding.inputs import FeatureSource, inputs_like
from declip_pipeline.files import sha256_of_json
from declip_pipeline.metrics.localization import TOP_SHARE
from declip_pipeline.store.identity import parts_of
from declip_pipeline.store.reader import Store
from declip_pipeline.training.run import RunLike, as_run

# Of the name of an ensemble's folder, beside its hash.
_LONGEST_NAME = 80


class Ensemble(MapSource):
    """The mean of the logits of several runs, evaluated as one run; a single run is itself.

    The runs may have other layers, decoders, seeds, backbones and input sizes.

    Example:
        >>> evaluation = evaluate(Ensemble(["runs/one", "runs/other"]), store, beside=[other_store])

    Attributes:
        runs: The runs, each once.
        repeated: Folders of runs that were given again.
    """

    def __init__(self, runs: Sequence[RunLike]) -> None:
        """Name the runs, or their folders.

        Raises `InputError` for none, and for a folder that is not a run's.
        """
        opened = [as_run(run) for run in runs]
        if not opened:
            raise InputError("no run was given; expected one or several")
        # Copies of a run's folder are the same run: another seed would have another `run_sha256`.
        distinct = {str(run.config()["run_sha256"]): run for run in reversed(opened)}
        self.runs = tuple(run for run in opened if run in distinct.values())
        self.repeated = [run.path for run in opened if run not in distinct.values()]

    @cached_property
    def path(self) -> Path:
        """Folder of the run; of several, their names and a hash."""
        if len(self.runs) == 1:
            return self.runs[0].path
        # A run's folder is named by what it is, then its hash.
        names = "+".join(re.sub("_[0-9a-f]{12}$", "", run.name) for run in self.runs)
        return Path(f"{names[:_LONGEST_NAME]}_{self.config()['run_sha256'][:12]}")

    def config(self) -> dict[str, Any]:
        """Return the run's config.yaml; of several, what they share, `members`, and their cost.

        Raises `InputError` for a folder that is not a run's, and of several where one is not
        finished.
        """
        configs = [run.config() for run in self.runs]
        if len(configs) == 1:
            return configs[0]
        first = configs[0]
        shared = {
            name: value
            for name, value in first.items()
            if all(name in one and one[name] == value for one in configs)
        }
        identities = sorted(str(one["run_sha256"]) for one in configs)
        return {
            **shared,
            "train_on": sorted({name for one in configs for name in one["train_on"]}),
            MEMBERS: configs,
            "runs": [str(run.path) for run in self.runs],
            "parameters": self.parameters,
            "run_sha256": sha256_of_json(identities),
        }

    @property
    def problem(self) -> str | None:
        """Problem of the training of a run, in a line; None if there is none."""
        found = [(run, run.problem) for run in self.runs if run.problem is not None]
        if not found or len(self.runs) == 1:
            return found[0][1] if found else None
        return "; ".join(f"{run.name}: {problem}" for run, problem in found)

    @property
    def score_threshold(self) -> float | None:
        """Threshold of image scores of a single run."""
        return self.runs[0].score_threshold if len(self.runs) == 1 else None

    @property
    def valid_threshold(self) -> float | None:
        """Threshold of probabilities, see `Run.valid_threshold`.

        Of several runs the sigmoid of the mean of their thresholds' logits, as their map is that of
        the maps'. None where a run keeps none.
        """
        if any(run.valid_threshold is None for run in self.runs):
            return None
        return self.require_valid_threshold()

    @property
    def min_region(self) -> float | None:
        """Minimum size of a mask's regions, see `Run.min_region`; of several runs the mean.

        None where a run keeps none.
        """
        found = [run.min_region for run in self.runs]
        known = [one for one in found if one is not None]
        return fmean(known) if len(known) == len(found) else None

    def require_valid_threshold(self) -> float:
        """Return `valid_threshold`. Raises `InputError` where a run keeps none."""
        found = [run.require_valid_threshold() for run in self.runs]
        if len(found) == 1:
            return found[0]
        logit = fmean(math.log(one / (1 - one)) for one in found)
        return 1 / (1 + math.exp(-logit))

    @property
    def parameters(self) -> int:
        """Number of parameters of the decoders together."""
        return sum(int(run.summary()["parameters"]) for run in self.runs)

    @property
    def features(self) -> list[dict[str, Any]]:
        """Identities of the layers that the decoders take."""
        return [part for run in self.runs for part in parts_of(run.best_decoder()[1])]

    @property
    def fingerprint(self) -> str:
        """Identity of the weights, as text."""
        return "+".join(sorted(run.best_sha256 for run in self.runs))

    def opened(self, images: Sequence[LabelledImages], beside: Sequence[Store]) -> OpenedSource:
        """Open the decoders. Raises as `MapSource.opened`, and for maps that have no mean."""
        return _OpenedEnsemble(self, images, beside)


class _OpenedEnsemble(OpenedSource):
    def __init__(
        self, source: Ensemble, images: Sequence[LabelledImages], beside: Sequence[Store]
    ) -> None:
        self._runs = source.runs
        self._beside = beside
        for run in self._runs:
            run.summary()
            run.config()
        opened = [run.best_decoder() for run in self._runs]
        self._features = [features for _, features in opened]
        if len(opened) > 1:
            require_averageable(
                [
                    {
                        "task": AveragedDecoders([decoder]).task,
                        "tiles": _tiles_of(features),
                        "output_size": decoder.output_size,
                    }
                    for decoder, features in opened
                ]
            )
        self._decoders = AveragedDecoders([decoder for decoder, _ in opened])
        self.best = BestOnValid(source.valid_threshold, source.min_region)
        taken = [
            one.store_of(store) for store in map(_as_store, images) for one in self._inputs(store)
        ]
        self.taken = tuple(one for one in beside if one in taken)

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the decoders' image scores."""
        return score_names(self._decoders)

    def prepare(self, images: LabelledImages, rows: np.ndarray) -> None:
        """Do nothing: decoders give a map of every image."""

    def dtype(self, images: LabelledImages) -> str:
        """Return the dtype of the store."""
        return _as_store(images).identity.dtype

    def _inputs(self, store: Store) -> list[FeatureSource]:
        """Return what the decoders take from a store and those beside it.

        What several take is one source, and read once.
        """
        known: dict[tuple[str, tuple[Store, ...]], FeatureSource] = {}
        found = []
        for run, features in zip(self._runs, self._features, strict=True):
            try:
                own = inputs_like(features, store, self._beside, decoder=f"the run {run.path}")
            except IdentityMismatchError as error:
                if len(self._runs) == 1:
                    raise
                raise IdentityMismatchError(
                    f"{error}, or give a store of these with `beside`"
                ) from error
            found += [known.setdefault((one.layer, one.beside), one) for one in own.sources]
        return found

    def made_from(self, images: LabelledImages) -> dict[str, Any]:
        """Return the stores of the features, and the weights."""
        store = _as_store(images)
        weights = [run.best_sha256 for run in self._runs]
        return {
            "inputs": [one.store_of(store).identity.sha256 for one in self._inputs(store)],
            "checkpoint_sha256": weights[0] if len(weights) == 1 else weights,
        }

    def input_locations(self, images: LabelledImages) -> tuple[str, ...]:
        """Return where the features of these images lie."""
        store = _as_store(images)
        return tuple(one.store_of(store).location for one in self._inputs(store))

    def maps(
        self,
        images: LabelledImages,
        rows: np.ndarray,
        *,
        device: torch.device,
        batch_size: int,
        progress: Progress = lambda done, total: None,
    ) -> Iterator[ImageMap]:
        """Yield the decoders' maps at their output size; of tiles, joined ones."""
        store = _as_store(images)
        decoders, sources = self._decoders.to(device), self._inputs(store)
        if store.tiling is not None:
            joined = joined_maps(
                decoders,
                store,
                sources,
                rows,
                device=device,
                batch_size=batch_size,
                progress=progress,
            )
            for number, pair in enumerate(joined):
                yield ImageMap(number, *pair)
            return
        for positions, logits in logits_of(
            decoders, store, sources, rows, "labels", device, batch_size
        ):
            values = torch.sigmoid(mean_logits(logits)).cpu().numpy()
            for position, own in zip(positions.tolist(), values, strict=True):
                yield ImageMap(position, own, store.image_mask(rows[[position]]))
            progress(int(positions[-1]) + 1, len(rows))

    def localize(
        self,
        images: LabelledImages,
        rows: np.ndarray,
        *,
        device: torch.device,
        batch_size: int,
        progress: Progress,
        top_share: float = TOP_SHARE,
    ) -> ImageValues:
        """Evaluate the decoders' maps: of whole images in batches, of tiles joined ones."""
        store = _as_store(images)
        if store.tiling is not None:
            return super().localize(
                images,
                rows,
                device=device,
                batch_size=batch_size,
                progress=progress,
                top_share=top_share,
            )
        values = localize(
            self._decoders.to(device),
            store,
            self._inputs(store),
            rows,
            device=device,
            best=self.best,
            top_share=top_share,
            batch_size=batch_size,
            progress=progress,
        )
        return _of_all(store, rows, values)

    def detect(
        self,
        images: LabelledImages,
        rows: np.ndarray,
        *,
        device: torch.device,
        batch_size: int,
        progress: Progress,
    ) -> ImageValues:
        """Score images by the decoders' maps; of tiles, by all of an image."""
        store = _as_store(images)
        values = (detect if store.tiling is None else detect_joined)(
            self._decoders.to(device),
            store,
            self._inputs(store),
            rows,
            device=device,
            batch_size=batch_size,
            progress=progress,
        )
        return _of_all(store, rows, values)


def _of_all(store: Store, rows: np.ndarray, values: dict[str, np.ndarray]) -> ImageValues:
    return ImageValues(values, np.arange(len(whole_images(store.samples.take(rows))[0])))


def _tiles_of(features: dict[str, Any]) -> str:
    """Return what a decoder sees at a time: whole images, or tiles of a size."""
    parts = parts_of(features)
    size = next((part[key] for part in parts for key in ("tiles", "windows") if key in part), None)
    return "whole images" if size is None else f"tiles of {size} pixels"


def _as_store(images: LabelledImages) -> Store:
    """Return images as a store. Raises `InputError` where they are no store's."""
    if not isinstance(images, Store):
        raise InputError(
            f"{images.location} is a dataset, and a run needs the features of its images; give "
            "the store that `declip-pipe extract` made of it"
        )
    return images


def as_map_source(source: "RunLike | MapSource") -> MapSource:
    """Return a run, or its folder, as a source of maps."""
    return source if isinstance(source, MapSource) else Ensemble([as_run(source)])


def distinct_sources(
    sources: Sequence[RunLike | MapSource],
) -> tuple[list[MapSource], list[Path]]:
    """Return each source once, and the folders of those that were given again.

    Copies of a run's folder are the same run.
    """
    found: dict[str, MapSource] = {}
    repeated: list[Path] = []
    for source in map(as_map_source, sources):
        identity = str(source.config()["run_sha256"])
        if identity in found:
            repeated.append(source.path)
        found.setdefault(identity, source)
    return list(found.values()), repeated
