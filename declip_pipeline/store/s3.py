"""Storage in a bucket that speaks the S3 protocol."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import S3Store

from declip_pipeline.errors import InputError, StoreError
from declip_pipeline.store.storage import Prepared, Storage, lacking, replaced

CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
# Of S3's answers, those that are about the key alone, besides any with status 401 or 403.
_REFUSALS = ("ExpiredToken", "InvalidToken", "InvalidTokenId", "TokenRefreshRequired")
_LONGEST = 200


def bucket_error(error: Exception, action: str, place: str) -> StoreError:
    """The library's error for the client's, which is long and repeats itself.

    `action` is a verb (`read`), `place` is the URL it was done to.
    """
    # After a blank line comes the same again, as Rust prints it.
    text, _, detail = str(error).partition("\n\nDebug source")
    code = _element(text, "Code")
    status = re.search(r"status code: (\d+[^:\n]*)", text)
    answer = f"{code}, {_element(text, 'Message')}" if code else status and status[1]
    said = _shown(answer or text)
    if "/latest/api/token" in text or "/latest/meta-data" in text:
        # Without a key, the client asks a cloud machine's own address for one.
        return StoreError(
            f"cannot {action} {place}: no credentials were found; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY in the environment (files in ~/.aws are not read)"
        )
    if code == "NoSuchBucket":
        return StoreError(
            f"cannot {action} {place}: there is no such bucket; check its name, AWS_ENDPOINT_URL "
            "and AWS_REGION, or make the bucket first"
        )
    if code in _REFUSALS or (status and status[1].startswith(("401", "403"))):
        return StoreError(
            f"no permission to {action} {place} ({said}); check AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and what that key may do"
        )
    if "HTTP error" in text:
        server = re.search(r"\w+://[^/\s?]+", text)
        return StoreError(
            f"cannot {action} {place}: no answer from {server[0] if server else 'the server'} "
            f"({_connection_reason(text, detail)}); check AWS_ENDPOINT_URL and the network, and "
            "run the same command again"
        )
    return StoreError(
        f"cannot {action} {place} ({said}); check AWS_ENDPOINT_URL and AWS_REGION, and run the "
        "same command again"
    )


def is_without_bucket(error: Exception) -> bool:
    """Return whether what was not found is the bucket, rather than an object in it."""
    return _element(str(error), "Code") == "NoSuchBucket"


def is_beyond_end(error: Exception) -> bool:
    """Return whether a part was asked for that begins at an object's end or after it."""
    return _element(str(error), "Code") == "InvalidRange" or "status code: 416" in str(error)


def _element(text: str, name: str) -> str:
    """Return the text of an element of the server's XML, empty without one."""
    found = re.search(f"<{name}>([^<]*)</{name}>", text)
    return found[1] if found else ""


def _connection_reason(text: str, detail: str) -> str:
    if "kind: Timeout" in detail:
        return "it took too long"
    found = re.search(r'(?:message|error): "([^"]*)"', detail)
    return _shown(found[1] if found else text.rpartition("HTTP error: ")[2])


def _shown(text: str) -> str:
    """`text` as one short line without credentials, should a server repeat them."""
    for name in CREDENTIALS:
        value = os.environ.get(name)
        if value:
            text = text.replace(value, f"${name}")
    return " ".join(text.split())[:_LONGEST]


SCHEME = "s3://"


@dataclass(frozen=True)
class Patience:
    """Seconds to wait for a server: to connect, for its next bytes, and in all for one request
    with its retries (seconds)."""

    connect: int
    read: int
    retries: int
    total: int


# A first request without an answer is mostly a wrong setting, to be said soon; a later one is
# mostly a pause of the server, to be waited out.
AT_FIRST = Patience(connect=2, read=4, retries=2, total=5)
LATER = Patience(connect=5, read=60, retries=10, total=180)


def parse_url(url: str) -> tuple[str, str]:
    """Bucket and folder (without slashes around it, empty for the bucket itself) of an s3:// URL.

    Raises `InputError`; no message repeats a URL that may hold a secret.
    """
    name, _, folder = url.removeprefix(SCHEME).partition("/")
    if "@" in url or ":" in name or "?" in url or "#" in url:
        raise InputError(
            "an s3:// URL with ':', '@', '?' or '#' was given; expected s3://BUCKET/FOLDER, with "
            "credentials in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) and the "
            "server in AWS_ENDPOINT_URL"
        )
    if not name:
        raise InputError(f"{url} names no bucket; expected s3://BUCKET/FOLDER")
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise InputError(
            f"{name!r} cannot be a bucket; expected s3://BUCKET/FOLDER, a bucket's name has "
            "letters, digits, '.', '_' and '-'"
        )
    parts = [part for part in folder.split("/") if part]
    if {".", ".."} & set(parts):
        raise InputError(f"{url} has '.' or '..' in it; a bucket has no such folders")
    return name, "/".join(parts)


def bucket_client(bucket: str, patience: Patience) -> S3Store:
    """The client of a bucket, with what the environment says of credentials, region and server.

    Raises `InputError` for variables that cannot be meant.
    """
    _check_credentials()
    endpoint = _endpoint()
    config: Any = {"endpoint": endpoint} if endpoint else {}
    options: Any = {
        "allow_http": endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=patience.connect),
        "read_timeout": timedelta(seconds=patience.read),
        # An answer is waited for as long as it comes on, however slowly.
        "timeout": timedelta(hours=1),
    }
    try:
        return S3Store(
            bucket,
            config=config,
            client_options=options,
            retry_config={
                "max_retries": patience.retries,
                "retry_timeout": timedelta(seconds=patience.total),
            },
        )
    except (BaseError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"the environment's AWS_ variables cannot be used: {reason}; correct or unset it"
        ) from None


def _check_credentials() -> None:
    """Refuse what takes the client down with a panic, and half a pair."""
    for name in (*CREDENTIALS, "AWS_REGION", "AWS_DEFAULT_REGION"):
        value = os.environ.get(name, "")
        if not value.isascii() or not value.isprintable() or " " in value:
            raise InputError(
                f"{name} holds a space, a line break or another character that belongs in no such "
                "value; set it again"
            )
    key, secret = (bool(os.environ.get(name)) for name in CREDENTIALS[:2])
    if key != secret:
        there, missing = CREDENTIALS[:2] if key else CREDENTIALS[1::-1]
        raise InputError(f"{there} is set and {missing} is not; set both")


def _endpoint() -> str:
    """The server's address without a trailing slash, empty for Amazon's own."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        value = os.environ.get(name, "").rstrip("/")
        if value and not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s@?#]*)?", value):
            raise InputError(
                f"{name} is not the address of a server; expected such as https://s3.example.org "
                "or http://127.0.0.1:9000, without credentials"
            )
        if value:
            return value
    return ""


# Beyond this, an object goes up in parts, several at once.
MULTIPART_BYTES = 16 * 2**20
PARTS_AT_ONCE = 8

_Found = TypeVar("_Found")


class ObjectStorage(Storage):
    """Keys are objects below a URL, s3://BUCKET/FOLDER.

    Credentials, region and endpoint come from the usual environment variables (AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL) or the machine's role;
    they are handed to the client alone. An object appears whole or not at all.
    """

    # As many as a batch has rows: at 30 ms a request, 64 rows of 0.5 MB come at 900 a second, with
    # 32 at 650 (loopback, 2 cores).
    parallel_reads = 64

    def __init__(self, url: str) -> None:
        """Raises `InputError` for a URL of another form, and for variables that cannot be meant."""
        bucket, self._prefix = parse_url(url)
        self.location = SCHEME + "/".join(filter(None, [bucket, self._prefix]))
        self._at_first = bucket_client(bucket, AT_FIRST)
        self._later = bucket_client(bucket, LATER)
        self._has_answered = False
        # Of each key that was read in part: which bytes it had.
        self._versions: dict[str, str | None] = {}

    @property
    def _bucket(self) -> S3Store:
        return self._later if self._has_answered else self._at_first

    def read(self, key: str) -> bytes | None:
        return self._found(key, lambda path: bytes(obstore.get(self._bucket, path).bytes()))

    def read_tail(self, key: str, length: int) -> bytes | None:
        def tail(path: str) -> bytes:
            try:
                return bytes(self._part(key, path, {"suffix": length}))
            except BaseError:
                # Nothing has no last bytes: servers answer that in different ways.
                if obstore.head(self._bucket, path)["size"]:
                    raise
                return b""

        return self._found(key, tail)

    def read_part(self, key: str, offset: int, buffers: Sequence[np.ndarray]) -> bool:
        length = sum(len(buffer) for buffer in buffers)

        def part(path: str) -> obstore.Bytes | None:
            try:
                return self._part(key, path, (offset, offset + length))
            except BaseError as error:
                if not is_beyond_end(error):
                    raise
                return None

        found = self._found(key, part)
        if found is None or len(found) != length:
            return False
        data = np.frombuffer(memoryview(found), np.uint8)
        for buffer in buffers:
            buffer[...] = data[: len(buffer)]
            data = data[len(buffer) :]
        return True

    def _part(self, key: str, path: str, part: Any) -> obstore.Bytes:
        """Bytes of an object, as long as it is the one that a part was read of before."""
        options: Any = {"range": part}
        known = self._versions.get(key)
        if known is not None:
            options["if_match"] = known
        try:
            found = obstore.get(self._bucket, path, options=options)
        except PreconditionError:
            raise replaced(f"{self.location}/{key}") from None
        self._versions.setdefault(key, found.meta["e_tag"])
        return found.bytes()

    def prepare(self, key: str, pieces: Iterable[bytes | memoryview]) -> "_Whole":
        return _Whole(self, key, b"".join(pieces))

    def flush(self, key: str) -> None:
        """Do nothing: an object that can be seen is durable."""

    def put(self, key: str, data: bytes) -> None:
        """Put the bytes at `key`, in several parts at once where they are many."""
        with self._errors("write", key):
            obstore.put(
                self._bucket,
                self._path(key),
                data,
                use_multipart=len(data) > MULTIPART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            )

    def create(self, key: str, data: bytes) -> bool:
        with self._errors("write", key):
            try:
                obstore.put(self._bucket, self._path(key), data, mode="create")
            except AlreadyExistsError:
                return False
            return True

    def link(self, key: str, source: Storage, source_key: str) -> None:
        if isinstance(source, ObjectStorage) and source._later.config == self._later.config:
            with self._errors("write", key):
                try:
                    # Within a bucket, the server copies.
                    obstore.copy(self._bucket, source._path(source_key), self._path(key))
                except FileNotFoundError as error:
                    if is_without_bucket(error):
                        raise
                    raise lacking(source, source_key) from None
            return
        self.copy(key, source, source_key)

    def exists(self, key: str) -> bool:
        return self._found(key, lambda path: obstore.head(self._bucket, path)) is not None

    def version(self, key: str) -> str | None:
        return self._found(key, lambda path: str(obstore.head(self._bucket, path)["e_tag"]))

    def move(self, target: Storage) -> bool:
        """A bucket renames nothing."""
        return False

    def sizes(self, folder: str = "") -> dict[str, int]:
        below = f"{self._prefix}/" if self._prefix else ""
        with self._errors("list", folder):
            found = {
                item["path"].removeprefix(below): int(item["size"])
                for batch in obstore.list(self._bucket, prefix=self._path(folder) or None)
                for item in batch
            }
        return dict(sorted(found.items()))

    def folders(self) -> list[str]:
        with self._errors("list", ""):
            found = obstore.list_with_delimiter(self._bucket, prefix=self._prefix or None)
        return sorted(path.rstrip("/").split("/")[-1] for path in found["common_prefixes"])

    def delete(self, key: str) -> None:
        with self._errors("remove", key):
            obstore.delete(self._bucket, self._path(key))

    def delete_all(self) -> None:
        paths = [self._path(key) for key in self.sizes()]
        if paths:
            with self._errors("remove", ""):
                obstore.delete(self._bucket, paths)

    def remove_leftovers(self) -> None:
        """An object is never there in part."""

    def free_bytes(self) -> None:
        """A bucket has no end."""

    @contextmanager
    def exclusively(self, key: str = "") -> Iterator[None]:
        """A bucket has no locks; what must be first is put with `create`."""
        yield

    def _path(self, key: str) -> str:
        return f"{self._prefix}/{key}".strip("/")

    def _found(self, key: str, get: Callable[[str], _Found]) -> _Found | None:
        """Return what `get` makes of the object's path, None where there is no object."""
        with self._errors("read", key):
            try:
                return get(self._path(key))
            except FileNotFoundError as error:
                if is_without_bucket(error):
                    raise
                return None

    @contextmanager
    def _errors(self, action: str, key: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            place = f"{self.location}/{key}".rstrip("/")
            # Not "from error": a server's answer to a refused key may hold that key.
            raise bucket_error(error, action, place) from None
        self._has_answered = True


class _Whole(Prepared):
    """All bytes of an object, to be sent when they are placed: a bucket can rename nothing."""

    def __init__(self, storage: ObjectStorage, key: str, data: bytes) -> None:
        self.key = key
        self._storage, self._data = storage, data

    def place(self) -> None:
        self._storage.put(self.key, self._data)

    def discard(self) -> None:
        """Do nothing: the bytes go with this object."""
