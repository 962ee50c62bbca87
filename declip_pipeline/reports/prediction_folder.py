"""Folder of predictions: resumed where it stopped, replaced without touching other files."""

import fcntl
import json
import os
import unicodedata
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from declip_pipeline.errors import ImageError, OutputExistsError, RunBusyError
from declip_pipeline.files import full_disk_as_error, is_partial, write_text
from declip_pipeline.reports.prediction_files import (
    Prediction,
    files_of,
    write_prediction,
    write_prediction_table,
)

TABLE = "predictions.csv"
LEDGER = "predictions.jsonl"

# Version 2: maps are of the decoder's size.
_VERSION = 2
_MARK = "declip_pipe_predictions"
_WAYS_OUT = "pass `overwrite=True` to replace them, or name another folder with `out`"


class PredictionFolder:
    """Results of a decoder on images, by name.

    The first line of `predictions.jsonl` says how the predictions are made; every image has a
    line before its files are written, and one after. So a second run knows which images are
    predicted, and which files are predictions.
    """

    def __init__(
        self,
        path: Path,
        made_with: Mapping[str, Any],
        images: Mapping[str, Path],
        *,
        overwrite: bool = False,
    ) -> None:
        """Read the state of the folder; nothing is changed before `start`.

        Args:
            path: The folder.
            made_with: Plain JSON values that all predictions of a folder share.
            images: Files to predict, by name.
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
        # Names of images with results, by what all disks tell apart.
        self._written: dict[str, str] = {}
        self._header = {_MARK: _VERSION, "made_with": dict(made_with)}
        self._to_remove: set[str] = set()
        self._kept: list[dict[str, Any]] = []
        # Taken first: an image that changes while it is decoded is predicted again next time.
        self._stamps = {name: _stamp(file) for name, file in self.images.items()}
        lines = self._ledger()
        listed = {line["name"] for line in lines[1:]}
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
        for name in sorted(self._to_remove):
            for file in files_of(name).values():
                (self.path / file).unlink(missing_ok=True)
        if self._to_remove:
            self.table.unlink(missing_ok=True)
        lines = [json.dumps(line) + "\n" for line in (self._header, *self._kept)]
        write_text(self.path / LEDGER, "".join(lines))

    def _locked(self) -> int:
        """Hold the folder for this process alone: the kernel lets go of what dies."""
        descriptor = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, descriptor)
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

    def add(
        self,
        name: str,
        image: np.ndarray,
        small_map: np.ndarray,
        heat_map: np.ndarray,
        score: float,
        threshold: float,
        smallest_region: str = "",
    ) -> Prediction:
        """Write an image's files, as `write_prediction` does, and note that it is done.

        Raises:
            ImageError: The files cannot be written, or the disk does not tell their names from
                another image's; none of them is left.
        """
        file = self.images[name]
        about = {"name": name, "image": str(file.absolute())}
        self._refuse_taken_name(name)
        self._note(about)
        try:
            row = write_prediction(
                self.path, name, str(file), image, small_map, heat_map, score, threshold
            )
        except OSError as error:
            for written in files_of(name).values():
                with suppress(OSError):
                    (self.path / written).unlink(missing_ok=True)
            raise ImageError(f"its results cannot be written: {error.strerror}") from error
        row = replace(row, smallest_region=smallest_region)
        self._written[_folded(name)] = name
        self._note({**about, "stamp": self._stamps[name], "row": asdict(row)})
        return row

    def _refuse_taken_name(self, name: str) -> None:
        """Raise `ImageError` where writing would replace the results of another image."""
        other = self._written.get(_folded(name), name)
        if other != name and any(_is_there(self.path / file) for file in files_of(name).values()):
            raise ImageError(
                f"its results would replace those of {self.images[other]}, the disk does not tell "
                "their names apart; rename it"
            )

    def finish(self, rows: list[Prediction]) -> None:
        """Write the table."""
        write_prediction_table(self.table, rows)

    def _note(self, line: dict[str, Any]) -> None:
        path = self.path / LEDGER
        with full_disk_as_error(path), path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _go_on(self, lines: list[dict[str, Any]]) -> None:
        if lines[0] != self._header:
            raise OutputExistsError(
                f"{self.path} holds predictions of another decoder, threshold or version; "
                f"{_WAYS_OUT}"
            )
        for line in lines[1:]:
            name = line["name"]
            image = self.images.get(name)
            if image is None or str(image.absolute()) != line["image"]:
                raise OutputExistsError(
                    f"{self.path} holds predictions of other images, such as {line['image']}; "
                    f"{_WAYS_OUT}"
                )
            files = [self.path / file for file in files_of(name).values()]
            stamp = self._stamps[name]
            unchanged = stamp is not None and line.get("stamp") == stamp
            self.done.pop(name, None)
            if unchanged and all(file.is_file() for file in files):
                self.done[name] = replace(Prediction(**line["row"]), image=str(image))
                self._written[_folded(name)] = name
        self._kept = lines[1:]

    def _refuse_foreign_files(self, listed: set[str]) -> None:
        known = {_folded(name) for name in listed}
        for name in self.images.keys() - listed:
            for file in files_of(name).values():
                if _folded(name) not in known and _is_there(self.path / file):
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
            whole = lines[0][_MARK] in range(1, _VERSION + 1) and all(map(_is_entry, lines[1:]))
        except (ValueError, LookupError, TypeError, RecursionError):
            whole = False
        if not whole:
            raise OutputExistsError(
                f"{path} is damaged or of another program; name another folder with `out`"
            )
        return lines


def _folded(name: str) -> str:
    """Return what is the same for names that some disk does not tell apart."""
    return unicodedata.normalize("NFC", name).casefold()


def _is_there(path: Path) -> bool:
    """Return whether a file is there; a name that is too long is not."""
    try:
        return path.exists()
    except OSError:
        return False


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
