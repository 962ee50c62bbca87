"""Tokens that tell whether other processes see the same place."""

import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from declip_pipeline.errors import DeclipError, InputError
from declip_pipeline.store.storage import absolute_location, storage_at


@contextmanager
def token_at(location: str) -> Iterator[tuple[str, str]]:
    """Leaves a token at a folder or URL for as long as it is looked for; yields place and token.

    Raises what the place's storage does when nothing can be written there.
    """
    storage = storage_at(absolute_location(location))
    token = f".seen-by-workers-{secrets.token_hex(8)}"
    storage.write(token, [token.encode()])
    try:
        yield storage.location, token
    finally:
        storage.delete(token)


def require_token(place: str, token: str, option: str, expected: str) -> None:
    """In a worker: raise `InputError` unless it sees the token. `option` named the place.

    `expected` says which places all workers see.
    """
    host = socket.gethostname()
    try:
        is_seen = storage_at(place).read(token) == token.encode()
    except DeclipError as error:
        raise InputError(f"the worker on {host} cannot use {option} {place}: {error}") from error
    if not is_seen:
        raise InputError(f"the worker on {host} sees another {option} {place}; expected {expected}")
