"""The command that makes a store, as it was made."""

import shlex
from collections.abc import Collection, Sequence

from declip_pipeline.store.reader import Store
from declip_pipeline.store.storage import folder_of


def extraction_command(
    store: Store, *, layers: Collection[str] | None = None, views: Sequence[str] = ()
) -> str:
    """Return the command that makes a store of the same images, as typed in a shell.

    Args:
        store: The store.
        layers: Layers to store; None for the store's.
        views: Views to make of it, as `--views` takes them.
    """
    made, identity = store.provenance, store.identity
    seen = identity.preprocessing
    weights = [word for file in made.get("weights") or () for word in ("--weights", str(file))]
    wanted = store.layers if layers is None else layers
    return shlex.join(
        [
            *("declip-pipe", "extract", str(made.get("root", "DATA"))),
            *("--arch", str(made.get("arch", identity.backbone)), *weights),
            *(
                ("--tiles", identity.tiles)
                if identity.tiles is not None
                else ("--image-size", f"{seen['height']}x{seen['width']}")
            ),
            *("--layers", ",".join(name for name in store.layers if name in wanted)),
            # Other splits would be another set of images.
            *("--split", ",".join(store.splits)),
            *("--dtype", identity.dtype, "--precision", identity.precision),
            *("--cache", folder_of(store.location, 3)),
            *(("--views", ",".join(views)) if views else ()),
        ]
    )
