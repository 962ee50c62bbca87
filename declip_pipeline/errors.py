"""Errors of the library. A message is one line: what was found, what was expected, what to do."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any


class DeclipError(Exception):
    """Base of every error a user can cause or meet."""

    def __reduce__(self) -> tuple[Callable[..., "DeclipError"], tuple[Any, ...]]:
        # Errors travel between processes; by default a class is called with the message alone.
        return type(self).__new__, (type(self), *self.args)


class InputError(DeclipError):
    """Images, masks, folders or arguments of the user are not as expected."""


class UnknownNameError(InputError):
    """A name that is not among the known ones; the message lists them."""

    def __init__(self, kind: str, found: str, known: Iterable[str], separator: str = ", ") -> None:
        names = list(known)
        near = get_close_matches(found, names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        super().__init__(f"unknown {kind} {found!r}; {hint}known: {separator.join(names)}")


class ImageError(InputError):
    """One image cannot be used; the message is the reason in the status table."""


class DecoderError(InputError):
    """A decoder of one's own cannot be imported or built, or does not keep the contract."""


class WeightsError(DeclipError):
    """Backbone weights are missing, unreadable, or belong to another architecture."""


class DownloadError(WeightsError):
    """Weights that are not here cannot be fetched; the message ends with the ways out."""


class NotInstalledError(WeightsError):
    """A package that carries a backbone's weights is not installed."""


class StoreError(DeclipError):
    """A feature store is missing, incomplete, damaged, or of another format version."""


class IdentityMismatchError(DeclipError):
    """Features are not those a decoder was trained on; the message names the field."""


class OutputExistsError(DeclipError):
    """The output is already there, and nothing is replaced without being asked to."""


class StorageFullError(DeclipError):
    """The disk cannot hold what has to be written."""


class TrainingError(DeclipError):
    """A training cannot go on; its last good checkpoint is kept."""


class RunBusyError(TrainingError):
    """Another process is at the same training, or at the same folder of predictions."""
