"""The stores of other views of the same pictures, beside the clean one."""

from collections.abc import Collection
from pathlib import Path

from declip_pipeline.errors import InputError
from declip_pipeline.store.identity import StoreIdentity
from declip_pipeline.store.listing import list_stores
from declip_pipeline.store.reader import Store, is_single_file
from declip_pipeline.store.storage import URL_MARK


def find_view_stores(store: Store, layers: Collection[str]) -> dict[str, str]:
    """Complete stores of every view of a store's pictures, by the view's name: their locations.

    They lie in the same folder and have the same manifest, backbone, weights and preprocessing, and
    at least `layers`. Of several for a view, that which is most like the store (its dtype, layers
    and precision). The store's own view is among them.
    Raises `InputError` for a store that is a single file.
    """
    if is_single_file(store.location):
        raise InputError(
            f"{store.location} is a single file; its views are looked for in the folder of a "
            "store, give the path that `declip-pipe extract` printed"
        )
    own = store.identity
    found: dict[str, tuple[tuple[bool, ...], str]] = {own.view: ((), store.location)}
    for other in list_stores(folder_of(store.location)):
        identity = None if other.header is None else other.header.identity
        if identity is None or not other.is_complete or identity.view == own.view:
            continue
        if _same_pictures_and_features(identity, own) and set(layers) <= set(identity.layers):
            unlike = tuple(
                getattr(identity, name) != getattr(own, name)
                for name in ("dtype", "layers", "precision")
            )
            offer = (unlike, other.location)
            found[identity.view] = min(found.get(identity.view, offer), offer)
    return {view: location for view, (_, location) in found.items()}


def folder_of(location: str, levels: int = 1) -> str:
    """The folder that holds a store (or the one `levels` above it), a path or an s3:// URL."""
    if URL_MARK in location:
        return location.rstrip("/").rsplit("/", levels)[0]
    return str(Path(location).absolute().parents[levels - 1])


def _same_pictures_and_features(one: StoreIdentity, other: StoreIdentity) -> bool:
    names = ("manifest_sha256", "backbone", "weights_sha256", "preprocessing")
    return all(getattr(one, name) == getattr(other, name) for name in names)
