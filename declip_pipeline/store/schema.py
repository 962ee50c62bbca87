"""Checks of the fields of JSON records, so that a malformed record is one kind of error."""

import json
import math
import re
from typing import Any, NoReturn

_HEX64 = re.compile(r"[0-9a-f]{64}")
# What NumPy, file systems and Zarr can count.
MOST = 2**62


class DamagedRecordError(Exception):
    """A record is not what it should be; the message says how that was seen."""


def parse_json(blob: bytes) -> Any:
    """Return the value of a JSON record.

    Raises `DamagedRecordError` for what is not JSON, nested too deep, or holds a number that no
    double holds (NaN, 1e999).
    """

    def refuse(text: str) -> NoReturn:
        raise ValueError(f"the number {text[:20]}")

    def finite(text: str) -> float:
        value = float(text)
        return value if math.isfinite(value) else refuse(text)

    try:
        return json.loads(blob, parse_constant=refuse, parse_float=finite)
    except RecursionError as error:
        raise DamagedRecordError("is damaged (nested too deep)") from error
    except ValueError as error:
        # Not its representation: that of a UnicodeDecodeError holds all of the file.
        raise DamagedRecordError(f"is damaged ({error})") from error


class Fields:
    """The fields of one mapping; each is asked for with its type. Raises `DamagedRecordError`."""

    def __init__(self, value: Any, name: str = "it") -> None:
        """`name` is what the mapping is called in errors."""
        if not isinstance(value, dict):
            raise DamagedRecordError(f"is damaged ({name} is {_shown(value)}, expected a mapping)")
        self._value = value
        self._name = name

    def __contains__(self, name: str) -> bool:
        return name in self._value

    def any(self, name: str) -> Any:
        """A field that is there, whatever it holds."""
        if name not in self._value:
            raise DamagedRecordError(f"is damaged ({self._name} lacks {name!r})")
        return self._value[name]

    def integer(self, name: str, low: int = 0, high: int = MOST) -> int:
        """A whole number in a range."""
        return _integer(self.any(name), name, low, high)

    def text(self, name: str) -> str:
        """A text."""
        value = self.any(name)
        if not isinstance(value, str):
            raise DamagedRecordError(f"is damaged ({name!r} is {_shown(value)}, expected a text)")
        return value

    def boolean(self, name: str) -> bool:
        """True or false."""
        value = self.any(name)
        if not isinstance(value, bool):
            raise DamagedRecordError(
                f"is damaged ({name!r} is {_shown(value)}, expected true or false)"
            )
        return value

    def sha256(self, name: str) -> str:
        """A hash of 64 hex digits: SHA-256 or BLAKE3."""
        value = self.text(name)
        if not _HEX64.fullmatch(value):
            raise DamagedRecordError(
                f"is damaged ({name!r} is {_shown(value)}, expected 64 hex digits)"
            )
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        value = self.any(name)
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise DamagedRecordError(f"is damaged ({name!r} is {_shown(value)}, expected texts)")
        return tuple(value)

    def mapping(self, name: str) -> dict[str, Any]:
        """A mapping as plain JSON."""
        return Fields(self.any(name), repr(name))._value

    def fields(self, name: str) -> "Fields":
        """A mapping whose fields are known."""
        return Fields(self.any(name), repr(name))

    def hashes(self, name: str) -> dict[str, str]:
        """A mapping of names to hashes of 64 hex digits."""
        fields = self.fields(name)
        return {key: fields.sha256(key) for key in fields._value}

    def failures(self, name: str, rows: range) -> dict[int, str]:
        """A mapping of rows to the reasons why they failed; each must be one of `rows`."""
        fields = self.fields(name)
        found = {}
        for key in fields._value:
            if not re.fullmatch(r"0|[1-9][0-9]{0,17}", key) or int(key) not in rows:
                raise DamagedRecordError(
                    f"is damaged ({name!r} has the row {_shown(key)}, expected rows from "
                    f"{rows.start} to {rows.stop - 1})"
                )
            found[int(key)] = fields.text(key)
        return found


def _integer(value: Any, name: str, low: int, high: int) -> int:
    # True is an int to Python, and 2.0 is none.
    if type(value) is not int or not low <= value <= high:
        raise DamagedRecordError(
            f"is damaged ({name!r} is {_shown(value)}, expected a whole number "
            f"from {low} to {high})"
        )
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
