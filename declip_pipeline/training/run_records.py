"""Records of a run's folder: a schema each, and the hash that a record has of itself."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from declip_pipeline.files import sha256_of_json
from declip_pipeline.training.validation_score import SCORES

SEAL = "record_sha256"
"""Key of a record's SHA-256 over all of its other entries."""


@dataclass(frozen=True)
class Kind:
    """Values that an entry may have.

    Args:
        title: What is expected, in an error.
        holds: Returns whether a value is one of them.
        optional: Whether the entry may be missing.
    """

    title: str
    holds: Callable[[Any], bool]
    optional: bool = False

    def or_none(self) -> "Kind":
        """Return the kind that also allows None."""
        return Kind(f"{self.title} or nothing", lambda v: v is None or self.holds(v), self.optional)

    def or_missing(self) -> "Kind":
        """Return the kind of an entry that may be missing."""
        return Kind(self.title, self.holds, optional=True)

    def listed(self) -> "Kind":
        """Return the kind of lists of such values."""
        return Kind(
            f"a list, each {self.title}",
            lambda v: isinstance(v, list) and all(map(self.holds, v)),
            self.optional,
        )

    def by_name(self) -> "Kind":
        """Return the kind of mappings from names to such values."""
        return Kind(
            f"names, each with {self.title}",
            lambda v: isinstance(v, dict) and all(map(self.holds, v.values())),
            self.optional,
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


TEXT = Kind("a text", lambda v: isinstance(v, str))
NUMBER = Kind("a finite number", _is_number)
COUNT = Kind("a whole number from 0 on", lambda v: type(v) is int and v >= 0)
FLAG = Kind("true or false", lambda v: isinstance(v, bool))
HASH = Kind("a SHA-256", _is_hash)
ENTRIES = Kind("names with values", lambda v: isinstance(v, dict))
_SOURCE = Kind(
    "a dtype and a provenance",
    lambda v: (
        isinstance(v, dict)
        and isinstance(v.get("dtype"), str)
        and isinstance(v.get("provenance"), dict)
    ),
)
_FEATURES = Kind(
    "the identity of features",
    lambda v: (
        isinstance(v, dict)
        and isinstance(v.get("parts", [v]), list)
        and all(
            isinstance(part, dict)
            and isinstance(part.get("backbone"), str)
            and isinstance(part.get("layer"), str)
            and _is_hash(part.get("weights_sha256"))
            and isinstance(part.get("preprocessing"), dict)
            and isinstance(part.get("shape"), dict)
            for part in v.get("parts", [v])
        )
    ),
)

CONFIG = {
    "layer": TEXT,
    "decoder_type": TEXT,
    "train_on": TEXT.listed(),
    "features": _FEATURES,
    "inputs": _SOURCE.listed(),
    "run_sha256": HASH,
    # An imported run has none of these; others have no pooling.
    "seed": COUNT.or_missing(),
    "learning_rate": NUMBER.or_missing(),
    "batch_size": COUNT.or_missing(),
    "stores": HASH.listed().listed().or_missing(),
    "datasets": TEXT.listed().by_name().or_missing(),
    "pooling": TEXT.or_missing(),
    "images": COUNT.by_name().by_name().or_missing(),
    "imported": ENTRIES.or_missing(),
}
"""Entries of `config.yaml` that something reads; it may have others."""

_SCHEDULE = {
    "learning_rate": NUMBER,
    "patience": COUNT,
    "minimum_learning_rate": NUMBER,
    "best_of_count": NUMBER.or_none(),
    "epochs_without_gain": COUNT,
    "delta": NUMBER,
    "stopped": FLAG,
}
_STEP_SCHEDULE = {"step": COUNT}
STATE = {
    "epoch": COUNT,
    "best_epoch": COUNT,
    "best_score": NUMBER,
    "schedule": Kind(
        "the state of a schedule",
        lambda v: not faults(v, _SCHEDULE) or not faults(v, _STEP_SCHEDULE),
    ),
    "files": HASH.by_name(),
    "run_sha256": HASH,
}
"""Entries of `state.json`."""

SUMMARY = {
    # An imported run does not know how its training went.
    "best_epoch": COUNT.or_none(),
    "epochs": COUNT.or_none(),
    "train_images": COUNT.or_missing(),
    "valid_images": COUNT.or_missing(),
    "parameters": COUNT,
    "seconds": NUMBER.or_missing(),
    "layer_weights": NUMBER.by_name().or_missing(),
    "constant_score": NUMBER.or_missing(),
    "problem": TEXT.or_none().or_missing(),
    "valid_threshold": NUMBER.or_missing(),
    "valid_iou_at_threshold": NUMBER.or_missing(),
    "valid_min_region": NUMBER.or_missing(),
    "valid_iou_at_min_region": NUMBER.or_missing(),
    "valid_score_threshold": NUMBER.or_missing(),
    "valid_balanced_accuracy": NUMBER.or_missing(),
    "files": HASH.by_name(),
    "run_sha256": HASH,
}
"""Entries of `summary.json`, beside its score."""

EPOCH = {"epoch": COUNT, "train_loss": NUMBER, "learning_rate": NUMBER, "seconds": NUMBER}
"""Entries of a line of `metrics.jsonl`, beside its score."""


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with its own SHA-256, which `checked` compares.

    Raises `ValueError` for a number that is not finite.
    """
    return {**record, SEAL: sha256_of_json(dict(record))}


def checked(
    found: Any,
    schema: Mapping[str, Kind],
    *,
    score: str | None = None,
    is_sealed: bool = True,
) -> dict[str, Any]:
    """Return a record that was read, without its seal.

    Args:
        found: What was read.
        schema: Kinds of its entries.
        score: Prefix of the key of a validation score that the record must have.
        is_sealed: Whether the record has a SHA-256 of its own.

    Raises:
        ValueError: It is not a record, lacks an entry, has one of another kind, or was edited.
    """
    if _size(found, {}) > _MOST_VALUES:
        raise ValueError("it holds aliases of aliases, and is too large without them")
    if isinstance(found, dict) and score is not None:
        name = next((name for name in SCORES if f"{score}{name}" in found), "iou")
        kind = NUMBER.or_none() if score.startswith("best") else NUMBER
        schema = {**schema, f"{score}{name}": kind}
    if problem := faults(found, schema):
        raise ValueError(problem)
    record = dict(found)
    if is_sealed:
        if SEAL not in record:
            raise ValueError(f"{SEAL} is missing: it was written by an earlier version, or edited")
        seal = record.pop(SEAL)
        if seal != sha256_of_json(record):
            raise ValueError(f"it was edited, its content is not that of its {SEAL}")
    return record


# A run's records hold some hundreds; a few aliases of aliases in YAML make a billion.
_MOST_VALUES = 1_000_000


def _size(value: Any, known: dict[int, int]) -> int:
    """Return the number of values within a value, what is in several places counted in each."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = _MOST_VALUES  # until it is counted: it may hold itself
        inside = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(one, known) for one in inside)
    return known[id(value)]


def faults(found: Any, schema: Mapping[str, Kind]) -> str:
    """Return what is wrong with a record, "" if nothing is."""
    if not isinstance(found, dict):
        return f"keys and values expected, found {type(found).__name__}"
    for key, kind in schema.items():
        if key not in found:
            if kind.optional:
                continue
            return f"{key} is missing"
        if not kind.holds(found[key]):
            return f"{key} is {str(found[key])[:40]!r}, expected {kind.title}"
    return ""
