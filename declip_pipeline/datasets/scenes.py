"""Scenes of today's stores, whose manifests have none; goes when a store holds `Samples`."""

import re
from collections.abc import Mapping
from typing import Any

from declip_pipeline.datasets.samples import FAKE, REAL, REAL_GENERATOR, Sample, stem_of

_FORGED_OF_DOLOS = re.compile(r"(?P<above>((.*?/)?(?P<generator>[^/]+)/)?)images/.+")
_REAL_OF_DOLOS = re.compile(r"([^/]+/)?real/.+")
_OF_AUTOSPLICE = re.compile(r"(forged_jpeg\d+|authentic)/.+", re.IGNORECASE)


def scene_of_stored(sample: Mapping[str, Any]) -> str:
    """Return the scene of a stored sample, told from its paths."""
    one = Sample.from_json(sample)
    if one.source == "autosplice" and _OF_AUTOSPLICE.fullmatch(one.image):
        name = stem_of(one.image).rpartition("/")[2]
        return name if one.label == REAL else name.rpartition("_")[0]
    if not _is_of_dolos(one):
        return one.id
    below = "/real/" if one.label == REAL else "/images/"
    return f"{one.source}/{stem_of(f'/{one.image}'.partition(below)[2])}"


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
