"""Names of decoder types, and the one function that reads them."""

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from declip_pipeline.decoders.factories import FoundFactory, find_factory, registered_names
from declip_pipeline.errors import UnknownNameError

PATCH_FORENSICS: Literal["patch-forensics"] = "patch-forensics"

LIGHT_TYPES = ("mlp", "fcn", "pup")
"""Heads of at most 1.5 million parameters for a layer of ViT-L/14, on normalized features."""

WIDTHS = {
    "conv": (512, 256, 128, 64),
    "mlp": (32,),
    "fcn": (128, 64),
    "pup": (128, 64, 32),
}
"""Channels of each stage of the built-in types that take `widths`, by default."""

DESCRIBED_WIDTHS = "; ".join(f"{','.join(map(str, own))} ({name})" for name, own in WIDTHS.items())
"""`WIDTHS` in a line of help."""

TAKERS_OF_WIDTHS = "conv-N, mlp, fcn or pup"
"""The keys of `WIDTHS`, in messages."""

DECODER_TYPES = (
    "linear", "attention", "conv-4", "conv-12", "conv-20", *LIGHT_TYPES, PATCH_FORENSICS,
)  # fmt: skip
"""Built-in decoders; `conv-N` may have any other multiple N of 4 up to 96."""

LDA: Literal["lda"] = "lda"

FITTED_TYPES = ("probe", "probe-pca-64", LDA)
"""Linear decoders that are fitted: probes by scikit-learn, the 64 may be any number of components,
and lda in closed form."""

DESCRIBED_TYPES = (
    f'{", ".join(DECODER_TYPES)} (on a store of `arch="pixels:299"`), lda (linear, in closed form '
    "after one look at the images), probe (scikit-learn on patches), probe-pca-64, or one of your "
    "own (MODULE:FACTORY, or as a package names it)"
)
"""Values of `decoder_type`, in a line of help."""


@dataclass(frozen=True)
class DecoderType:
    """Decoder type, read from its name.

    Attributes:
        kind: "conv", "probe", "lda", "custom", or the name of a built-in type.
        depth: Number of convolutions before the last one, of `conv-N` alone.
        components: The K of `probe-pca-K`; None for other types.
        found: The factory of a custom decoder; None for built-in types.
    """

    name: str
    kind: str
    depth: int | None = None
    components: int | None = None
    found: FoundFactory | None = None

    @property
    def stages(self) -> int | None:
        """Return the number of `widths` that the type takes; None for any number, or none."""
        return len(WIDTHS[self.kind]) if self.kind in WIDTHS else None

    @property
    def described_widths(self) -> str:
        """Return how many `widths` a type of `WIDTHS` takes, in words."""
        count = len(WIDTHS[self.kind])
        word = ("one", "two", "three", "four")[count - 1]
        return f"{word} positive whole number{'' if count == 1 else 's, one for each stage'}"

    def takes(self, widths: Sequence[int]) -> bool:
        """Return whether `widths` are as many as the type takes."""
        return self.takes_widths and self.stages in (None, len(widths))

    @property
    def takes_widths(self) -> bool:
        """Return whether the type takes `widths`: one of `WIDTHS`, or a factory with them."""
        if self.found is None:
            return self.kind in WIDTHS
        try:
            parameters = inspect.signature(self.found.factory).parameters.values()
        except (TypeError, ValueError):  # some callables written in C have no signature
            return True
        return any(one.name == "widths" or one.kind is one.VAR_KEYWORD for one in parameters)


def read_decoder_type(name: str) -> DecoderType:
    """Return the type with a name: built-in, an entry point's, or a factory's `module:qualname`.

    Installed packages are searched only for a name that is not built in. Raises `UnknownNameError`,
    and what `find_factory` does.
    """
    depth = _convolutional_depth(name)
    if depth is not None:
        return DecoderType(name, "conv", depth=depth)
    if name in DECODER_TYPES:
        return DecoderType(name, name)
    if is_probe(name):
        return DecoderType(name, "probe", components=probe_components(name))
    if name == LDA:
        return DecoderType(name, LDA)
    found = find_factory(name)
    if found is None:
        raise UnknownNameError("decoder type", name, known_decoder_types())
    return DecoderType(name, "custom", found=found)


def known_decoder_types() -> list[str]:
    """Return the names of built-in, fitted and registered types; nothing is imported."""
    return [*DECODER_TYPES, *FITTED_TYPES, *registered_names()]


def is_published_type(name: str) -> bool:
    """Return whether a type is one of the paper's: `linear`, `attention` or `conv-N`."""
    return name in ("linear", "attention") or _convolutional_depth(name) is not None


def is_fitted(name: str) -> bool:
    """Return whether a type is a linear decoder that is fitted: a probe, or `lda`."""
    return name == LDA or is_probe(name)


def is_probe(name: str) -> bool:
    """Return whether a type is a probe: `probe`, or `probe-pca-K`."""
    return _PROBE.fullmatch(name) is not None


def probe_components(name: str) -> int | None:
    """Return the K of `probe-pca-K`, None for `probe`."""
    match = _PROBE.fullmatch(name)
    return int(match[1]) if match is not None and match[1] else None


def _convolutional_depth(name: str) -> int | None:
    match = re.fullmatch(r"conv-([1-9][0-9]?)", name)
    return int(match[1]) if match is not None and int(match[1]) % 4 == 0 else None


_PROBE = re.compile(r"probe(?:-pca-([1-9][0-9]{0,5}))?")
