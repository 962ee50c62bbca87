"""Files of a run that appear together: a record names their hashes, and its rename is the moment.

New files are written beside their places, then the record, then they take their places. After a
kill at any moment the record tells which of them are those that it names.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from declip_pipeline.files import sha256_of_bytes, sha256_of_file, write_bytes, write_json
from declip_pipeline.training.run_records import sealed

_NEXT = ".next."


def commit(
    folder: Path,
    record: str,
    content: Mapping[str, Any],
    files: Mapping[str, bytes],
    kept: Mapping[str, str],
) -> None:
    """Write files and the record that names their SHA-256 under `files`, all or none.

    Args:
        folder: Their folder.
        record: Name of the record, a JSON file.
        content: Its other entries.
        files: New contents by name.
        kept: SHA-256 of files that stay as they are, by name.
    """
    for name, data in files.items():
        write_bytes(folder / f"{_NEXT}{name}", data)
    hashes = {**kept, **{name: sha256_of_bytes(data) for name, data in files.items()}}
    write_json(folder / record, sealed({**content, "files": hashes}))
    for name in files:
        (folder / f"{_NEXT}{name}").replace(folder / name)


def settle(folder: Path, hashes: Mapping[str, str]) -> None:
    """Finish or undo a `commit` that was killed; `hashes` are those of the record."""
    for left in folder.glob(f"{_NEXT}*"):
        name = left.name.removeprefix(_NEXT)
        if sha256_of_file(left) == hashes.get(name):
            left.replace(folder / name)
        else:
            left.unlink()


def read_committed(folder: Path, name: str, sha256: str) -> bytes:
    """Return the content of a file of which a record has the SHA-256.

    Raises:
        FileNotFoundError: It is missing.
        ValueError: It has another content.
    """
    found = ""
    # The second where a commit was killed before the last rename.
    for path in (folder / name, folder / f"{_NEXT}{name}"):
        if path.is_file():
            data = path.read_bytes()
            found = sha256_of_bytes(data)
            if found == sha256:
                return data
    if not found:
        raise FileNotFoundError(folder / name)
    raise ValueError(f"its SHA-256 is {found[:12]}..., recorded is {sha256[:12]}...")
