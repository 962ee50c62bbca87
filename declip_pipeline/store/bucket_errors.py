"""What a bucket's client says went wrong, in one line."""

import os
import re

from declip_pipeline.errors import StoreError

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
    """Whether what was not found is the bucket, rather than an object in it."""
    return _element(str(error), "Code") == "NoSuchBucket"


def is_beyond_end(error: Exception) -> bool:
    """Whether a part was asked for that begins at an object's end or after it."""
    return _element(str(error), "Code") == "InvalidRange" or "status code: 416" in str(error)


def _element(text: str, name: str) -> str:
    """What an element of the server's XML holds, empty without one."""
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
