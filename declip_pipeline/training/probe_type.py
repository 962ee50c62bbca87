"""The names of probes: linear classifiers of patches that scikit-learn fits."""

import re

PROBE_TYPES = ("probe", "probe-pca-64")
"""What is asked for as a decoder type; the 64 may be any number of components."""


def is_probe(decoder_type: str) -> bool:
    """Whether a decoder type is a probe's: `probe`, or `probe-pca-K`."""
    return _match(decoder_type) is not None


def probe_components(decoder_type: str) -> int | None:
    """The K of `probe-pca-K`, None of `probe`."""
    match = _match(decoder_type)
    return int(match[1]) if match is not None and match[1] else None


def _match(decoder_type: str) -> re.Match[str] | None:
    return re.fullmatch(r"probe(?:-pca-([1-9][0-9]{0,5}))?", decoder_type)
