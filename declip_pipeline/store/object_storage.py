"""Storage in a bucket that speaks the S3 protocol."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from declip_pipeline.store.bucket_client import AT_FIRST, LATER, SCHEME, bucket_client, parse_url
from declip_pipeline.store.bucket_errors import bucket_error, is_beyond_end, is_without_bucket
from declip_pipeline.store.storage import Prepared, Storage, lacking

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

    @property
    def _bucket(self) -> S3Store:
        return self._later if self._has_answered else self._at_first

    def read(self, key: str) -> bytes | None:
        return self._found(key, lambda path: bytes(obstore.get(self._bucket, path).bytes()))

    def read_tail(self, key: str, length: int) -> bytes | None:
        options: Any = {"range": {"suffix": length}}

        def tail(path: str) -> bytes:
            try:
                return bytes(obstore.get(self._bucket, path, options=options).bytes())
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
                return obstore.get_range(self._bucket, path, start=offset, length=length)
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

    def prepare(self, key: str, pieces: Sequence[bytes | memoryview]) -> "_Whole":
        return _Whole(self, key, b"".join(pieces))

    def flush(self, key: str) -> None:
        """An object that can be seen is durable."""

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

    def sizes(self) -> dict[str, int]:
        below = f"{self._prefix}/" if self._prefix else ""
        with self._errors("list", ""):
            found = {
                item["path"].removeprefix(below): int(item["size"])
                for batch in obstore.list(self._bucket, prefix=self._prefix or None)
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
        """What `get` makes of the object's path, None where there is no object."""
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
        """The bytes go with this."""
