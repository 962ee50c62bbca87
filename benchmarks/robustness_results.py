"""Digests of what commands leave behind: stores, runs and files, to be compared."""

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

Result = Mapping[str, str]
"""Digests or texts by what they are of."""

_TIMES = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?([.+\d:]*)")
_TORN = re.compile(r"\.partial")


_VARYING = ("seconds", "record_sha256", "location", "input_locations")


def digest(data: bytes) -> str:
    """Return the first half of the SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()[:32]


def store_result(location: str | Path) -> Result:
    """Return a digest of each array that a reader of the store sees, and of its records.

    Masks, targets, thumbnails, labels, sizes, the columns of the manifest, failures, and the bits
    of all features; rows that failed have none. Raises what the reader raises.
    """
    from declip_pipeline.store.reader import Store

    store = Store(location)
    rows = np.array([r for r in range(len(store)) if r not in store.failures], np.int64)
    found = {
        "layers": repr(list(store.layers.items())),
        "failures": repr(sorted(store.failures.items())),
        "samples": repr(list(store.samples)),
        "labels": digest(np.ascontiguousarray(store.labels).tobytes()),
        "sizes": digest(np.ascontiguousarray(store.sizes).tobytes()),
        "polarity": repr(store.fake_is_white),
    }
    for name in store.arrays:
        if name == "masks":
            each = [store.read_masks(np.array([row])).tobytes() for row in rows]
            found[name] = digest(b"".join(each))
        elif name not in ("labels", "sizes"):
            found[name] = digest(store.read_array(name, rows).tobytes())
    return found


def run_result(folder: str | Path) -> Result:
    """Return digests of a finished run: its weights, and its records without times."""
    path = Path(folder)
    names = ("checkpoint_best.safetensors", "summary.json", "metrics.jsonl", "config.yaml")
    return {name: digest(without_times(path / name)) for name in names}


def folder_result(folder: str | Path, with_partial: bool = False) -> Result:
    """Return digests of all regular files below a folder, without times.

    `with_partial` counts what interrupted writers left, too.
    """
    path = Path(folder)
    return {
        file.relative_to(path).as_posix(): digest(without_times(file))
        for file in sorted(path.rglob("*"))
        if file.is_file()
        and not file.is_symlink()
        and (with_partial or not _TORN.search(file.name))
    }


def without_times(file: Path) -> bytes:
    """Return a file's content without the seconds that something took, of records their values.

    Of `predictions.jsonl` the last line of each image: an interrupted prediction is begun twice.
    """
    if not file.is_file():
        return b"no file"
    data, reader = file.read_bytes(), _READERS.get(file.name)
    try:
        return data if reader is None else repr(reader(data)).encode()
    except Exception:
        return data  # a record that cannot be read is compared as it is


def _untimed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record without seconds, places, and hashes of what has these in it."""
    plain = {name: value for name, value in record.items() if name not in _VARYING}
    if isinstance(plain.get("files"), dict):
        plain["files"] = {
            name: sha for name, sha in plain["files"].items() if name != "metrics.jsonl"
        }
    return plain


def _table(data: bytes) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return [_untimed(row) for row in pq.read_table(io.BytesIO(data)).to_pylist()]


_READERS: Mapping[str, Callable[[bytes], Any]] = {
    "config.yaml": yaml.safe_load,
    "summary.json": lambda data: _untimed(json.loads(data)),
    "state.json": lambda data: _untimed(json.loads(data)),
    "metrics.jsonl": lambda data: [_untimed(json.loads(line)) for line in data.splitlines()],
    "results.csv": lambda data: [
        _untimed(row) for row in csv.DictReader(io.StringIO(data.decode()))
    ],
    "results.parquet": _table,
    "predictions.jsonl": lambda data: {
        line.get("name"): line for line in map(json.loads, data.splitlines())
    },
}
"""Records that hold times, or whose wording is free, by the name of their file."""


def shown_text(text: str, folder: Path) -> str:
    """Return what a command printed, without the place of its files and times."""
    return _TIMES.sub("TIME", text.replace(str(folder), "FOLDER"))


def differences(found: Result, expected: Result) -> str:
    """Return the names under which two results differ, "" where they are the same."""
    names = sorted(set(found) | set(expected))
    return ", ".join(name for name in names if found.get(name) != expected.get(name))
