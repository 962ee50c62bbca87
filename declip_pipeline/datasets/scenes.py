"""What a stored picture shows: forgeries of one photograph are not independent of one another."""

import re

from declip_pipeline.datasets import autosplice, dolos
from declip_pipeline.datasets.samples import FAKE, REAL_GENERATOR, Sample

_FORGED_OF_DOLOS = re.compile(r"(?P<above>((.*?/)?(?P<generator>[^/]+)/)?)images/.+")
_REAL_OF_DOLOS = re.compile(r"([^/]+/)?real/.+")
_OF_AUTOSPLICE = re.compile(r"(forged_jpeg\d+|authentic)/.+", re.IGNORECASE)


def scene_of_stored(one: Sample) -> str:
    """The scene of a sample of a store, the same for a photograph and all that was forged of it.

    `sample` has the fields of `Sample`. A store does not say its layout; paths do: those of Dolos
    and the demo set (the same source, split and name) and of AutoSplice (the same number, at any
    quality). Any other picture is a scene of its own, named by its id.
    """
    if one.source == autosplice.SOURCE and _OF_AUTOSPLICE.fullmatch(one.image):
        return autosplice.scene_of(one)
    return dolos.scene_of(one) if _is_of_dolos(one) else one.id


def _is_of_dolos(sample: Sample) -> bool:
    if sample.label != FAKE:
        is_named = sample.generator == REAL_GENERATOR
        return is_named and _REAL_OF_DOLOS.fullmatch(sample.image) is not None
    found = _FORGED_OF_DOLOS.fullmatch(sample.image)
    return (
        found is not None
        and found["generator"] in (None, sample.generator)
        and str(sample.mask).startswith(f"{found['above']}masks/")
    )
