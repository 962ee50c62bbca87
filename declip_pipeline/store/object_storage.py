"""Storage in a bucket that speaks the S3 protocol."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from declip_pipeline.errors import InputError, StoreError
from declip_pipeline.store.storage import Storage

# Beyond this, an object goes up in parts, several at once.
MULTIPART_BYTES = 16 * 2**20


class ObjectStorage(Storage):
    """Keys are objects below a URL, s3://BUCKET/PREFIX.

    Credentials, region and endpoint come from the usual environment variables (AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL) or the machine's role;
    they are handed to the client alone. An object appears whole or not at all.
    """

    parallel_reads = 32

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if "@" in parts.netloc or parts.query or parts.fragment or not parts.netloc:
            raise InputError(
                "a URL of another form than s3://BUCKET/FOLDER was given; credentials belong "
                "into the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
            )
        self.location = url.rstrip("/")
        self._prefix = parts.path.strip("/")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
        options: Any = {"allow_http": endpoint.startswith("http://"), "timeout": "60s"}
        config: Any = {"endpoint": endpoint} if endpoint else {}
        self._bucket = S3Store(
            parts.netloc,
            config=config,
            client_options=options,
            retry_config={"max_retries": 4, "retry_timeout": timedelta(seconds=60)},
        )

    def read(self, key: str) -> bytes | None:
        with self._errors("read", key):
            try:
                return bytes(obstore.get(self._bucket, self._path(key)).bytes())
            except NotFoundError:
                return None

    def read_tail(self, key: str, length: int) -> bytes | None:
        with self._errors("read", key):
            try:
                options: Any = {"range": {"suffix": length}}
                return bytes(obstore.get(self._bucket, self._path(key), options=options).bytes())
            except NotFoundError:
                return None

    def read_part(self, key: str, offset: int, buffers: Sequence[np.ndarray]) -> bool:
        length = sum(len(buffer) for buffer in buffers)
        with self._errors("read", key):
            try:
                found = obstore.get_range(
                    self._bucket, self._path(key), start=offset, length=length
                )
            except NotFoundError:
                return False
        data = np.frombuffer(memoryview(found), np.uint8)
        if len(data) != length:
            return False
        for buffer in buffers:
            buffer[...] = data[: len(buffer)]
            data = data[len(buffer) :]
        return True

    def write(self, key: str, pieces: Sequence[bytes | memoryview]) -> None:
        whole = b"".join(pieces)
        with self._errors("write", key):
            obstore.put(
                self._bucket,
                self._path(key),
                whole,
                use_multipart=len(whole) > MULTIPART_BYTES,
            )

    def create(self, key: str, data: bytes) -> bool:
        with self._errors("write", key):
            try:
                obstore.put(self._bucket, self._path(key), data, mode="create")
            except AlreadyExistsError:
                return False
            return True

    def link(self, key: str, source: Storage, source_key: str) -> None:
        if isinstance(source, ObjectStorage) and source._bucket.config == self._bucket.config:
            with self._errors("write", key):
                obstore.copy(self._bucket, source._path(source_key), self._path(key))
            return
        data = source.read(source_key)
        if data is None:
            raise StoreError(f"{source.location} lacks its {source_key}; verify that store")
        self.write(key, [data])

    def exists(self, key: str) -> bool:
        with self._errors("read", key):
            try:
                obstore.head(self._bucket, self._path(key))
            except NotFoundError:
                return False
            return True

    def sizes(self) -> dict[str, int]:
        below = f"{self._prefix}/" if self._prefix else ""
        with self._errors("list", ""):
            found = {
                item["path"].removeprefix(below): int(item["size"])
                for batch in obstore.list(self._bucket, prefix=self._prefix or None)
                for item in batch
                if item["path"].startswith(below)
            }
        return dict(sorted(found.items()))

    def folders(self) -> list[str]:
        with self._errors("list", ""):
            found = obstore.list_with_delimiter(self._bucket, prefix=self._prefix or None)
        return sorted(path.rstrip("/").split("/")[-1] for path in found["common_prefixes"])

    def delete(self, key: str) -> None:
        with self._errors("remove", key):
            try:
                obstore.delete(self._bucket, self._path(key))
            except NotFoundError:
                return

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
    def exclusively(self) -> Iterator[None]:
        """A bucket has no locks; what must be first is put with `create`."""
        yield

    def _path(self, key: str) -> str:
        return f"{self._prefix}/{key}".strip("/")

    @contextmanager
    def _errors(self, action: str, key: str) -> Iterator[None]:
        place = f"{self.location}/{key}".rstrip("/")
        try:
            yield
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise StoreError(
                f"no permission to {action} {place}: the credentials were refused; check "
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy"
            ) from error
        except BaseError as error:
            raise StoreError(
                f"cannot {action} {place} ({_reason(error)}); check the bucket's name, "
                "AWS_ENDPOINT_URL, AWS_REGION, the credentials and the network"
            ) from error


def _reason(error: BaseError) -> str:
    """The first line of the client's error, which repeats itself in its sources after that."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
