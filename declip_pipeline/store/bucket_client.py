"""The client of a bucket, from its URL and the environment."""

import os
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from obstore.exceptions import BaseError
from obstore.store import S3Store

from declip_pipeline.errors import InputError
from declip_pipeline.store.bucket_errors import CREDENTIALS

SCHEME = "s3://"


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for: to connect, for its next bytes, and in all for one request
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
