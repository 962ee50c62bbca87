"""Folder of predictions: resumed where it stopped, replaced without touching other files."""

import fcntl
import json
import os
import unicodedata
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path, PurePosixPath
from threading import Event, Lock
from typing import Any

from declip_pipeline.errors import ImageError, OutputExistsError, RunBusyError
from declip_pipeline.files import full_disk_as_error, is_partial, write_bytes, write_text
from declip_pipeline.prediction.files import (
    DEFAULT_SAVE,
    PredictedFiles,
    Prediction,
    files_of,
    write_prediction_table,
)

TABLE = "predictions.csv"
LEDGER = "predictions.jsonl"

# Version 2: maps are of the decoder's size. Version 3: what is saved is chosen, overlays are JPEG.
_VERSION = 3
_FILES_OF_VERSION_2 = ("_mask.png", "_map.npz", "_overlay.png")
# Of what predictions are made with; without a minimum size of regions its field is left out.
_NUMBERS = ("threshold", "min_region")
_MARK = "declip_pipe_predictions"
_WAYS_OUT = "pass `overwrite=True` to replace them, or name another folder with `out`"


class PredictionFolder:
    """Results of a decoder on images, by name.

    The first line of `predictions.jsonl` says how the predictions are made; every image has a
    line before its files are written, and one after. So a second run knows which images are
    predicted, and which files are predictions. Images are claimed in their order by one thread, and
    added by many.
    """

    def __init__(
        self,
        path: Path,
        made_with: Mapping[str, Any],
        images: Mapping[str, Path],
        *,
        kinds: Sequence[str] = DEFAULT_SAVE,
        overwrite: bool = False,
    ) -> None:
        """Read the state of the folder; nothing is changed before `start`.

        Args:
            path: The folder.
            made_with: Plain JSON values that all predictions of a folder share.
            images: Files to predict, by name.
            kinds: Files that are saved of each, of `chosen_kinds`.
            overwrite: Replace predictions made with other values or of other images.

        Raises:
            OutputExistsError: The folder holds other files than predictions, or, unless
                `overwrite`, predictions made with other values or of other images.
            RunBusyError: Another process writes into the folder.
        """
        self.path = path
        self._lock = self._locked() if path.is_dir() else None
        self.images = dict(images)
        self.done: dict[str, Prediction] = {}
        self._kinds = list(kinds)
        # Of names that some disk does not tell apart, the last one that was claimed.
        self._claimed: dict[str, str] = {}
        self._being_written: dict[str, Event] = {}
        self._lock_of_ledger = Lock()
        self._made_with = {**made_with, "save": self._kinds}
        self._header = {_MARK: _VERSION, "made_with": self._made_with}
        self._to_remove: set[str] = set()  # files
        self._kept: list[dict[str, Any]] = []
        # Taken first: an image that changes while it is decoded is predicted again next time.
        self._stamps = {name: _stamp(file) for name, file in self.images.items()}
        lines = self._ledger()
        listed = _listed_files(lines)
        self._refuse_foreign_files(listed)
        if overwrite:
            self._to_remove = listed
        elif lines:
            self._go_on(lines)

    @property
    def table(self) -> Path:
        """Path of the table of all predictions."""
        return self.path / TABLE

    def start(self) -> None:
        """Prepare the folder for writing: remove the predictions that are to be replaced.

        What a killed process was writing goes as well. Raises `RunBusyError` where another process
        began with the folder meanwhile.
        """
        if self._lock is None:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = self._locked()
            if (self.path / LEDGER).exists():
                raise self._busy()
        for left in self.path.rglob(".*.partial*"):
            if is_partial(left):
                left.unlink(missing_ok=True)
        for file in sorted(self._to_remove):
            (self.path / file).unlink(missing_ok=True)
        if self._to_remove:
            self.table.unlink(missing_ok=True)
        lines = [json.dumps(line) + "\n" for line in (self._header, *self._kept)]
        write_text(self.path / LEDGER, "".join(lines))

    def close(self) -> None:
        """Let other processes predict into the folder; so does the end of this one."""
        if self._lock is not None:
            self._unlock()
            self._lock = None

    def _locked(self) -> int:
        """Hold the folder for this process alone: the kernel lets go of what dies."""
        descriptor = os.open(self.path, os.O_RDONLY)
        self._unlock = weakref.finalize(self, os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise self._busy() from error
        except OSError:
            pass  # some network file systems have no locks
        return descriptor

    def _busy(self) -> RunBusyError:
        return RunBusyError(
            f"another process predicts into {self.path}; wait for it, or name another folder with "
            "`out`"
        )

    def claim(self, name: str) -> None:
        """Note that an image's files are to be written, in the order of the images.

        Waits for the files of another image whose name some disk does not tell from it.

        Raises:
            ImageError: The disk does not tell its files from those of another image.
        """
        key = _folded(name)
        other = self._claimed.get(key, name)
        if other != name:
            if writing := self._being_written.get(other):
                writing.wait()
            if any(_is_there(self.path / file) for file in files_of(name, self._kinds).values()):
                raise ImageError(
                    f"its results would replace those of {self.images[other]}, the disk does not "
                    "tell their names apart; rename it"
                )
        self._claimed[key] = name
        self._being_written[name] = Event()
        self._note(self._about(name))

    def add(self, name: str, files: PredictedFiles, row: Prediction) -> Prediction:
        """Write the files of an image that was claimed, note that it is done, and return its row.

        Raises:
            ImageError: The files cannot be written; none of them is left.
        """
        names = files_of(name, files.content)
        row = replace(row, **{kind.replace("-", "_"): file for kind, file in names.items()})
        try:
            for kind, content in files.content.items():
                write_bytes(self.path / names[kind], content)
        except OSError as error:
            for file in names.values():
                with suppress(OSError):
                    (self.path / file).unlink(missing_ok=True)
            raise ImageError(f"its results cannot be written: {error.strerror}") from error
        finally:
            self._being_written.pop(name).set()
        self._note({**self._about(name), "stamp": self._stamps[name], "row": asdict(row)})
        return row

    def _about(self, name: str) -> dict[str, Any]:
        return {"name": name, "image": str(self.images[name].absolute())}

    def finish(self, rows: list[Prediction]) -> None:
        """Write the table."""
        write_prediction_table(self.table, rows)

    def _note(self, line: dict[str, Any]) -> None:
        path = self.path / LEDGER
        with self._lock_of_ledger, full_disk_as_error(path), path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _go_on(self, lines: list[dict[str, Any]]) -> None:
        if lines[0] != self._header:
            raise OutputExistsError(
                f"{self.path} holds predictions of another {self._other(lines[0])}; {_WAYS_OUT}"
            )
        for line in lines[1:]:
            name = line["name"]
            image = self.images.get(name)
            if image is None or str(image.absolute()) != line["image"]:
                raise OutputExistsError(
                    f"{self.path} holds predictions of other images, such as {line['image']}; "
                    f"{_WAYS_OUT}"
                )
            files = [self.path / file for file in files_of(name, self._kinds).values()]
            stamp = self._stamps[name]
            unchanged = stamp is not None and line.get("stamp") == stamp
            self.done.pop(name, None)
            if unchanged and all(file.is_file() for file in files):
                self.done[name] = replace(Prediction(**line["row"]), image=str(image))
                self._claimed[_folded(name)] = name
        self._kept = lines[1:]

    def _other(self, header: Mapping[str, Any]) -> str:
        """Return what differs from a header, its value where it is short."""
        made_with = header.get("made_with")
        if header[_MARK] != _VERSION or not isinstance(made_with, dict):
            return "version"
        for field in {**self._made_with, **made_with}:
            own, found = self._made_with.get(field), made_with.get(field)
            if found != own:
                if field == "save":
                    return f"`save`, {_as_text(found)} instead of {_as_text(own)}"
                if field in _NUMBERS:
                    return f"`{field}`, {found or 0} instead of {own or 0}"
                return str(field)
        return "version"

    def _refuse_foreign_files(self, listed: set[str]) -> None:
        known = {_folded(file) for file in listed}
        for name in self.images:
            for file in files_of(name, self._kinds).values():
                if _folded(file) not in known and _is_there(self.path / file):
                    raise OutputExistsError(
                        f"{self.path / file} is in the way and no earlier prediction; "
                        "move it, or name another folder with `out`"
                    )

    def _ledger(self) -> list[dict[str, Any]]:
        """Return the ledger's lines; none where the folder is empty or absent."""
        if not self.path.is_dir() or all(is_partial(file) for file in self.path.iterdir()):
            return []
        path = self.path / LEDGER
        if not path.is_file():
            raise OutputExistsError(
                f"{self.path} exists, is not empty and holds no predictions; "
                "name another folder with `out`"
            )
        # The end of the last line is missing where a run was killed while writing it.
        texts = path.read_bytes().split(b"\n")[:-1]
        try:
            lines = [json.loads(text) for text in texts]
            whole = _is_header(lines[0]) and all(map(_is_entry, lines[1:]))
        except (ValueError, LookupError, TypeError, RecursionError):
            whole = False
        if not whole:
            raise OutputExistsError(
                f"{path} is damaged or of another program; name another folder with `out`"
            )
        return lines


def _listed_files(lines: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the files that a ledger accounts for, written or not."""
    names = [line["name"] for line in lines[1:]]
    if lines and lines[0][_MARK] == _VERSION:
        kinds = lines[0]["made_with"]["save"]
        return {file for name in names for file in files_of(name, kinds).values()}
    return {name + ending for name in names for ending in _FILES_OF_VERSION_2}


def _as_text(kinds: Any) -> str:
    return ",".join(map(str, kinds)) if isinstance(kinds, list) else str(kinds)


def _folded(name: str) -> str:
    """Return what is the same for names that some disk does not tell apart."""
    return unicodedata.normalize("NFC", name).casefold()


def _is_there(path: Path) -> bool:
    """Return whether a file is there; a name that is too long is not."""
    try:
        return path.exists()
    except OSError:
        return False


def _is_header(line: Mapping[str, Any]) -> bool:
    """Return whether a line is the first of a ledger of any version."""
    if line[_MARK] == _VERSION:
        save = line["made_with"]["save"]
        return isinstance(save, list) and all(isinstance(kind, str) for kind in save)
    return line[_MARK] in range(1, _VERSION)


def _is_entry(line: Any) -> bool:
    """Return whether a line of the ledger is one of an image: its name and path, a stamp, a row."""
    if not isinstance(line, dict):
        return False
    known = {field.name for field in fields(Prediction)}
    row = line.get("row", {"image": "", "status": ""})
    return (
        isinstance(line.get("name"), str)
        and isinstance(line.get("image"), str)
        and isinstance(row, dict)
        and {"image", "status"} <= row.keys() <= known
        and _is_inside(line["name"])
    )


def _is_inside(name: str) -> bool:
    """Return whether the files of a name lie in the folder itself: no others are removed."""
    place = PurePosixPath(name)
    return not place.is_absolute() and ".." not in place.parts


def _stamp(file: Path) -> list[int] | None:
    """Return size and modification time of a file; None where they cannot be read."""
    try:
        status = file.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]
