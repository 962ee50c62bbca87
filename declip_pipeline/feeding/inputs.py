"""Inputs of a decoder: the features of one layer, or of several, of one store or several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.compute as pc

from declip_pipeline.datasets.samples import Samples
from declip_pipeline.datasets.tiles import image_ids, whole_images
from declip_pipeline.errors import InputError
from declip_pipeline.features import FeatureShape
from declip_pipeline.images.tiles import window_shares
from declip_pipeline.options import FusionMode
from declip_pipeline.store.identity import joined_identity, parts_of, require_same_features
from declip_pipeline.store.reader import Store

# Between the layers of one decoder: "layer8+layer14".
JOIN = "+"


@dataclass(frozen=True, eq=False)
class FeatureSource:
    """One layer of the fed stores; or, where `beside` is given, of those stores instead.

    Each store beside holds the images of a fed one, as another backbone sees them. Where the fed
    one holds tiles and the other whole images, a tile's features are those of its image at the
    tile's place (`features_at_windows`).
    """

    layer: str
    beside: tuple[Store, ...] = ()

    def store_of(self, fed: Store) -> Store:
        """The store that holds these features of a fed store's images.

        Raises `InputError` when none of those beside has the same manifest and view, and the same
        tiles or whole images.
        """
        if not self.beside:
            return fed
        wanted = fed.identity.manifest_sha256, fed.identity.view
        for store in self.beside:
            if (store.identity.manifest_sha256, store.identity.view) == wanted and (
                store.identity.tiles in (fed.identity.tiles, None)
            ):
                return store
        found = ", ".join(f"{store.location} ({_described(store)})" for store in self.beside)
        raise InputError(
            f"{found} cannot stand beside {fed.location} ({_described(fed)}): "
            f"{_difference(fed, self.beside[0])}; expected a store of the same manifest and view, "
            "extract both from the same DATA with the same options"
        )

    def is_at_windows(self, fed: Store) -> bool:
        """Return whether a fed store's tiles get the features of their whole images."""
        return self.store_of(fed).tiling is None and fed.tiling is not None

    def shares_of(self, fed: Store, rows: np.ndarray) -> np.ndarray:
        """Places of tiles, rows of `fed`, in their images; see `window_shares`."""
        samples = fed.samples.take(rows)
        return window_shares(samples.places, samples.sizes)

    def rows_of(self, fed: Store, rows: np.ndarray) -> np.ndarray:
        """Rows (int64) of `store_of(fed)` that hold the same samples as these rows of `fed`.

        Raises `InputError` for an image that could not be extracted there.
        """
        store = self.store_of(fed)
        if store is fed:
            return rows
        # A store that grew has its rows in another order.
        samples = fed.samples.take(rows)
        ids = image_ids(samples) if self.is_at_windows(fed) else samples.ids
        found = store.samples.find(ids).tolist()
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
        found = [
            _features_for(one, store, self.layer) for one, store in zip(fed, stores, strict=True)
        ]
        first = found[0]
        for store, other in zip(stores[1:], found[1:], strict=True):
            require_same_features(
                first,
                other,
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
        return [
            ("" if alone else f"{part['backbone']}:")
            + ("whole:" if "windows" in part else "")
            + str(part["layer"])
            for part in parts
        ]


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
        offers = [
            one
            for one in (store, *beside)
            if layer in one.layers and _features_for(store, one, layer) == part
        ]
        if store in offers:
            sources.append(FeatureSource(layer))
        elif offers:
            sources.append(FeatureSource(layer, tuple(offers)))
        elif len(parts_of(features)) == 1 or (
            part["weights_sha256"] == store.identity.weights_sha256 and "windows" not in part
        ):
            found = _features_found(store, layer)
            place = f"the store {store.location}"
            require_same_features(part, found, decoder=decoder, features=place)
        else:
            raise InputError(
                f"{decoder} was trained on {layer} of {part['backbone']}"
                f"{', seeing whole images,' if 'windows' in part else ''} as well, which "
                f"{', '.join(one.location for one in (store, *beside))} "
                f"{'have' if beside else 'has'} not; give a store of it with `beside`"
            )
    fusion: FusionMode = features.get("fusion", "concat")
    return joined_inputs([store], sources, fusion)


def _features_for(fed: Store, store: Store, layer: str) -> dict[str, Any]:
    """The identity of a layer of `store` as it is fed for the rows of `fed`.

    Features of whole images at the places of tiles have, as "windows", the size of these.
    """
    found = store.feature_identity(layer)
    if fed.tiling is None or store.tiling is not None:
        return found
    return found | {"windows": fed.tiling.size}


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
    if store.identity.tiles not in (fed.identity.tiles, None):
        return "its tiles are others" if fed.tiling is not None else "its rows are tiles"
    one, other = (_by_content(whole_images(one.samples)[0]) for one in (fed, store))
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
    identity = store.identity
    tiles = "" if identity.tiles is None else f", tiles {identity.tiles}"
    return f"manifest {identity.manifest_sha256[:12]}, view {identity.view}{tiles}"
