"""Inputs of a decoder: the features of one layer, or of several, of one store or several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.compute as pc

from declip_pipeline.datasets.samples import Samples
from declip_pipeline.errors import InputError
from declip_pipeline.features import FeatureShape
from declip_pipeline.options import FusionMode
from declip_pipeline.store.identity import joined_identity, parts_of, require_same_features
from declip_pipeline.store.reader import Store

# Between the layers of one decoder: "layer8+layer14".
JOIN = "+"


@dataclass(frozen=True, eq=False)
class FeatureSource:
    """One layer of the fed stores; or, where `beside` is given, of those stores instead.

    Each store beside holds the images of a fed one, as another backbone sees them.
    """

    layer: str
    beside: tuple[Store, ...] = ()

    def store_of(self, fed: Store) -> Store:
        """The store that holds these features of a fed store's images.

        Raises `InputError` when none of those beside has the same manifest and view.
        """
        if not self.beside:
            return fed
        wanted = fed.identity.manifest_sha256, fed.identity.view
        for store in self.beside:
            if (store.identity.manifest_sha256, store.identity.view) == wanted:
                return store
        found = ", ".join(f"{store.location} ({_described(store)})" for store in self.beside)
        raise InputError(
            f"{found} cannot stand beside {fed.location} ({_described(fed)}): "
            f"{_difference(fed, self.beside[0])}; expected a store of the same manifest and view, "
            "extract both from the same DATA with the same options"
        )

    def rows_of(self, fed: Store, rows: np.ndarray) -> np.ndarray:
        """Rows (int64) of `store_of(fed)` that hold the same samples as these rows of `fed`.

        Raises `InputError` for an image that could not be extracted there.
        """
        store = self.store_of(fed)
        if store is fed:
            return rows
        # A store that grew has its rows in another order.
        found = store.samples.find(fed.samples.take(rows).ids).tolist()
        for row in found:
            if row in store.failures:
                raise InputError(
                    f"{store.location} has no features of {store.samples[row].id} "
                    f"({store.failures[row]}), {fed.location} has; extract both anew"
                )
        return np.asarray(found, np.int64)

    def identity(self, fed: Sequence[Store]) -> dict[str, Any]:
        """The identity of the features, the same in all of the fed stores.

        Raises `IdentityMismatchError` when they hold different features, `UnknownNameError` for a
        layer that one does not have, `InputError` as `store_of` does.
        """
        stores = [self.store_of(store) for store in fed]
        first = stores[0].feature_identity(self.layer)
        for store in stores[1:]:
            require_same_features(
                first,
                store.feature_identity(self.layer),
                decoder=f"the run with {stores[0].location}",
                features=store.location,
            )
        return first


@dataclass(frozen=True)
class DecoderInputs:
    """Sources whose features are joined by `fusion`; `features` is their identity."""

    sources: tuple[FeatureSource, ...]
    fusion: FusionMode
    features: dict[str, Any]

    @cached_property
    def shapes(self) -> list[FeatureShape]:
        """The shape of each source's features."""
        return [FeatureShape.from_json(part["shape"]) for part in parts_of(self.features)]

    @property
    def names(self) -> list[str]:
        """A name of each source, different from the others'."""
        parts = parts_of(self.features)
        alone = len({part["backbone"] for part in parts}) == 1
        return [part["layer"] if alone else f"{part['backbone']}:{part['layer']}" for part in parts]


def joined_inputs(
    stores: Sequence[Store],
    sources: Sequence[FeatureSource],
    fusion: FusionMode = "concat",
) -> DecoderInputs:
    """Inputs of a decoder from these stores.

    Raises `IdentityMismatchError` when the stores hold different features, `UnknownNameError` for a
    layer that is not there, `InputError` for features given twice, or of other images.
    """
    parts = [source.identity(stores) for source in sources]
    for place, part in enumerate(parts):
        if part in parts[:place]:
            raise InputError(
                f"{part['layer']} of {part['backbone']} is given twice; give each layer once"
            )
    if fusion == "weighted" and len(parts) == 1:
        raise InputError(
            f"a weighted sum of {parts[0]['layer']} alone; expected several layers, such as "
            "layer8+layer14, or leave out `fusion`"
        )
    return DecoderInputs(tuple(sources), fusion, joined_identity(parts, fusion))


def inputs_like(
    features: Mapping[str, Any], store: Store, beside: Sequence[Store] = (), *, decoder: str
) -> DecoderInputs:
    """The inputs that a decoder was trained on, from a store and those beside it.

    `features` is their identity, `decoder` names the decoder in messages. Raises
    `IdentityMismatchError` naming the field that differs, `InputError` for a backbone that no store
    has the features of, or those of other images.
    """
    sources = []
    for part in parts_of(features):
        layer = part["layer"]
        offers = [one for one in (store, *beside) if _features_found(one, layer) == part]
        if store in offers:
            sources.append(FeatureSource(layer))
        elif offers:
            sources.append(FeatureSource(layer, tuple(offers)))
        elif (
            len(parts_of(features)) == 1 or part["weights_sha256"] == store.identity.weights_sha256
        ):
            found = _features_found(store, layer)
            place = f"the store {store.location}"
            require_same_features(part, found, decoder=decoder, features=place)
        else:
            raise InputError(
                f"{decoder} was trained on {layer} of {part['backbone']} as well, which "
                f"{', '.join(one.location for one in (store, *beside))} "
                f"{'have' if beside else 'has'} not; give a store of it with `beside`"
            )
    fusion: FusionMode = features.get("fusion", "concat")
    return joined_inputs([store], sources, fusion)


def _features_found(store: Store, layer: str) -> dict[str, Any]:
    """The features a store offers for a layer; one it does not have is named by those it has.

    So a store of another backbone is refused for that, not for the names of its layers.
    """
    if layer in store.layers:
        return store.feature_identity(layer)
    some_layer = next(iter(store.layers))
    return store.feature_identity(some_layer) | {"layer": ", ".join(store.layers)}


def _difference(fed: Store, store: Store) -> str:
    """Say in what the images of a store are not those of a fed one."""
    if fed.identity.view != store.identity.view:
        return "its view is another"
    one, other = (_by_content(one.samples) for one in (fed, store))
    if not one.content().equals(other.content()):
        return "its images are others"
    for column in ("id", "split", "generator", "source", "label", "scene", "mask"):
        pair = (samples.table.column(column).to_pylist() for samples in (one, other))
        for own, found in zip(*pair, strict=True):
            if own != found:
                how = ", as of a dataset listed from another folder" if column == "id" else ""
                return (
                    f"its images are the same, but their {column} differs ({found} there, {own} "
                    f"here{how})"
                )
    return "its images are the same, but their polarity or their paths differ"


def _by_content(samples: Samples) -> Samples:
    return samples.take(np.asarray(pc.sort_indices(samples.content()), np.int64))


def _described(store: Store) -> str:
    return f"manifest {store.identity.manifest_sha256[:12]}, view {store.identity.view}"
