"""A run's folder: what was asked, how it went, and the weights."""

import io
import json
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml

from declip_pipeline import __version__
from declip_pipeline.atomic_files import write_bytes, write_json, write_text
from declip_pipeline.errors import InputError, OutputExistsError

_LIBRARIES = ("torch", "numpy", "zarr", "open_clip_torch", "timm")


class RunFolder:
    """One training's folder. `summary.json` is written last: with it, the run is finished."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def best_checkpoint(self) -> Path:
        """The decoder with the best validation IoU, as safetensors."""
        return self.path / "checkpoint_best.safetensors"

    @property
    def is_finished(self) -> bool:
        """Whether the training came to its end."""
        return (self.path / "summary.json").is_file()

    def begin(self, config: Mapping[str, Any], sha256: str) -> None:
        """Record what the run is.

        `sha256` is the run's identity: the same one may go on in the folder, another is refused
        with `OutputExistsError`.
        """
        if (self.path / "config.yaml").is_file():
            if self.config().get("run_sha256") != sha256:
                raise OutputExistsError(
                    f"{self.path} holds another run; name another output folder"
                )
            return
        if self.path.exists() and any(self.path.iterdir()):
            raise OutputExistsError(f"{self.path} holds other files; name another output folder")
        write_json(self.path / "environment.json", _environment())
        text = yaml.safe_dump({**config, "run_sha256": sha256}, sort_keys=False)
        write_text(self.path / "config.yaml", text)

    def config(self) -> dict[str, Any]:
        """What the run is. Raises `InputError` when the folder is not a run's."""
        try:
            found = yaml.safe_load((self.path / "config.yaml").read_text())
        except (OSError, yaml.YAMLError) as error:
            raise InputError(
                f"{self.path} is not a run; expected a folder that `declip-pipe train` printed"
            ) from error
        return dict(found)

    def summary(self) -> dict[str, Any]:
        """What came of it. Raises `InputError` when the run is not finished."""
        if not self.is_finished:
            self.config()
            raise InputError(
                f"{self.path} is not finished; run the same `declip-pipe train` command again"
            )
        try:
            return dict(json.loads((self.path / "summary.json").read_text()))
        except ValueError as error:
            raise InputError(
                f"{self.path}: its summary.json is damaged; remove that file and run the same "
                "`declip-pipe train` command again"
            ) from error

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Declare the run finished; the state to resume from is no longer needed."""
        write_json(self.path / "summary.json", dict(summary))

    def save_state(self, state: dict[str, Any]) -> None:
        """Keep what is needed to go on after this epoch."""
        content = io.BytesIO()
        # Through memory: on a full disk torch.save ends in an error of its own.
        torch.save(state, content)
        write_bytes(self.path / "checkpoint_last.pt", content.getvalue())

    def load_state(self) -> dict[str, Any] | None:
        """What `save_state` kept, or None before the first epoch's end."""
        path = self.path / "checkpoint_last.pt"
        if not path.is_file():
            return None
        return dict(torch.load(path, map_location="cpu", weights_only=True))

    def epochs(self) -> list[dict[str, Any]]:
        """The records of `metrics.jsonl`, one an epoch."""
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return []
        return [json.loads(line) for line in path.read_text().splitlines()]

    def record_epochs(self, records: list[dict[str, Any]]) -> None:
        """Write `metrics.jsonl` anew, whole or not at all."""
        lines = [json.dumps(record, allow_nan=False) + "\n" for record in records]
        write_text(self.path / "metrics.jsonl", "".join(lines))


def _environment() -> dict[str, Any]:
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "declip_pipe": __version__,
        "python": sys.version.split()[0],
        "machine": platform.machine(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "libraries": versions,
    }
