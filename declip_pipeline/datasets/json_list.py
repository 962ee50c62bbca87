"""A JSON list of pairs: [image, mask], or [image, "Negative"] for a real picture."""

import json
from pathlib import Path
from typing import Any

from declip_pipeline.datasets.listed_files import Listed, is_negative, read_listed
from declip_pipeline.datasets.manifest import REAL_GENERATOR, Manifest
from declip_pipeline.datasets.splits import UNSPLIT
from declip_pipeline.errors import InputError

EXPECTED = 'a .json file with a list of [image, mask | "Negative"]'
FAKE_IS_WHITE = True


def read_json_list(file: Path, *, name: str, fake_is_white: bool, allow_unpaired: bool) -> Manifest:
    """Read the list; it has no splits, and every fake is of generator and source `name`.

    Raises `InputError` for another content, and as `read_listed` does.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON ({error}); expected {EXPECTED}") from error
    if not isinstance(value, list):
        raise InputError(f"{file} holds no list; expected {EXPECTED}")
    listed = [_listed(file, number, entry, name) for number, entry in enumerate(value, start=1)]
    return read_listed(
        file, listed, name=name, fake_is_white=fake_is_white, allow_unpaired=allow_unpaired
    )


def _listed(file: Path, number: int, entry: Any, name: str) -> Listed:
    is_pair = isinstance(entry, list) and len(entry) == 2
    if not is_pair or not all(isinstance(path, str) for path in entry) or not entry[0].strip():
        raise InputError(f"{file}: entry {number} is {_shown(entry)}; expected {EXPECTED}")
    image, mask = entry
    if is_negative(mask):
        return Listed(image, None, UNSPLIT, REAL_GENERATOR, name)
    return Listed(image, mask, UNSPLIT, name, name)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
