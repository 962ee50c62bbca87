"""Where features are read: a layer of the fed stores, or of other backbones' stores beside them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from declip_pipeline.errors import InputError
from declip_pipeline.store.identity import require_same_features
from declip_pipeline.store.reader import Store


@dataclass(frozen=True, eq=False)
class FeatureSource:
    """One layer of the fed stores; or, where `beside` is given, of those stores instead.

    Each store beside holds the pictures of a fed one, as another backbone sees them.
    """

    layer: str
    beside: tuple[Store, ...] = ()

    def store_of(self, fed: Store) -> Store:
        """The store that holds these features of a fed store's pictures.

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
            f"{found} cannot stand beside {fed.location} ({_described(fed)}): its pictures are "
            "others; expected a store of the same manifest and view, extract both from the same "
            "pictures"
        )

    def rows_of(self, fed: Store, rows: np.ndarray) -> np.ndarray:
        """Rows (int64) of `store_of(fed)` that hold the same samples as these rows of `fed`.

        Raises `InputError` for a picture that could not be extracted there.
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


def _described(store: Store) -> str:
    return f"manifest {store.identity.manifest_sha256[:12]}, view {store.identity.view}"
