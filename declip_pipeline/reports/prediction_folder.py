"""A folder of predictions: gone on with where it stopped, replaced without touching other files."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from declip_pipeline.errors import OutputExistsError
from declip_pipeline.files import full_disk_as_error, write_text
from declip_pipeline.reports.prediction_files import (
    Prediction,
    files_of,
    write_prediction,
    write_prediction_table,
)

TABLE = "predictions.csv"
LEDGER = "predictions.jsonl"

_MARK = "declip_pipe_predictions"
_WAYS_OUT = "pass `overwrite=True` to replace them, or name another folder with `out`"


class PredictionFolder:
    """The results of a decoder on pictures, by name.

    The first line of `predictions.jsonl` says how the predictions are made; every picture has a
    line before its files are written, and one after. So a second run knows what is done, and
    which files are predictions.
    """

    def __init__(
        self,
        path: Path,
        made_with: Mapping[str, Any],
        pictures: Mapping[str, Path],
        *,
        overwrite: bool = False,
    ) -> None:
        """Look at what is in the folder; nothing is changed before `start`.

        `made_with` (plain JSON) is what predictions must share to stand in one folder. `pictures`
        are the files to predict, by name. Raises `OutputExistsError` when the folder holds what is
        not a prediction, or, unless `overwrite`, predictions made otherwise or of other pictures.
        """
        self.path = path
        self.pictures = dict(pictures)
        self.done: dict[str, Prediction] = {}
        self._header = {_MARK: 1, "made_with": dict(made_with)}
        self._to_remove: set[str] = set()
        self._kept: list[dict[str, Any]] = []
        # Told beforehand: a picture that changes while it is decoded is predicted again next time.
        self._stamps = {name: _stamp(file) for name, file in self.pictures.items()}
        lines = self._ledger()
        listed = {line["name"] for line in lines[1:]}
        self._refuse_foreign_files(listed)
        if overwrite:
            self._to_remove = listed
        elif lines:
            self._go_on(lines)

    @property
    def table(self) -> Path:
        """The table of all predictions."""
        return self.path / TABLE

    def start(self) -> None:
        """Make the folder fit to be written to: what is to be replaced is removed."""
        for name in sorted(self._to_remove):
            for file in files_of(name).values():
                (self.path / file).unlink(missing_ok=True)
        if self._to_remove:
            self.table.unlink(missing_ok=True)
        lines = [json.dumps(line) + "\n" for line in (self._header, *self._kept)]
        write_text(self.path / LEDGER, "".join(lines))

    def add(
        self, name: str, picture: np.ndarray, heat_map: np.ndarray, score: float, threshold: float
    ) -> Prediction:
        """Write a picture's files, as `write_prediction` does, and note that it is done."""
        image = self.pictures[name]
        about = {"name": name, "image": str(image.absolute())}
        self._note(about)
        row = write_prediction(self.path, name, str(image), picture, heat_map, score, threshold)
        self._note({**about, "stamp": self._stamps[name], "row": asdict(row)})
        return row

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
                f"{self.path} holds predictions of another decoder or threshold; {_WAYS_OUT}"
            )
        for line in lines[1:]:
            name = line["name"]
            image = self.pictures.get(name)
            if image is None or str(image.absolute()) != line["image"]:
                raise OutputExistsError(
                    f"{self.path} holds predictions of other pictures, such as {line['image']}; "
                    f"{_WAYS_OUT}"
                )
            files = [self.path / file for file in files_of(name).values()]
            stamp = self._stamps[name]
            unchanged = stamp is not None and line.get("stamp") == stamp
            self.done.pop(name, None)
            if unchanged and all(file.is_file() for file in files):
                self.done[name] = replace(Prediction(**line["row"]), image=str(image))
        self._kept = lines[1:]

    def _refuse_foreign_files(self, listed: set[str]) -> None:
        for name in self.pictures.keys() - listed:
            for file in files_of(name).values():
                if (self.path / file).exists():
                    raise OutputExistsError(
                        f"{self.path / file} is in the way and no earlier prediction; "
                        "move it, or name another folder with -o"
                    )

    def _ledger(self) -> list[dict[str, Any]]:
        """The ledger's lines; none where the folder is empty or not there."""
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return []
        path = self.path / LEDGER
        if not path.is_file():
            raise OutputExistsError(
                f"{self.path} exists, is not empty and holds no predictions; "
                "name another folder with -o"
            )
        # The end of the last line is missing where a run was killed while writing it.
        texts = path.read_bytes().split(b"\n")[:-1]
        try:
            lines = [json.loads(text) for text in texts]
            whole = lines[0][_MARK] == 1 and all(_is_inside(line["name"]) for line in lines[1:])
        except (ValueError, LookupError, TypeError):
            whole = False
        if not whole:
            raise OutputExistsError(
                f"{path} is damaged or of another program; name another folder with -o"
            )
        return lines


def _is_inside(name: str) -> bool:
    """Whether the files of a name lie in the folder itself: nothing else is ever removed."""
    place = PurePosixPath(name)
    return not place.is_absolute() and ".." not in place.parts


def _stamp(file: Path) -> list[int] | None:
    """What changes when a file does; None where it cannot be told."""
    try:
        status = file.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]
