"""Run: the folder of one training, with its configuration, its history and its weights."""

import fcntl
import io
import json
import platform
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from declip_pipeline import __version__
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.decoders.factories import DecoderFactory
from declip_pipeline.errors import DecoderError, InputError, OutputExistsError, RunBusyError
from declip_pipeline.files import folder_name, write_bytes, write_json, write_text
from declip_pipeline.store.local import LocalStorage
from declip_pipeline.training.validation_score import score_name

if TYPE_CHECKING:
    from declip_pipeline.backbones.backbone import Backbone
    from declip_pipeline.training.predictor import Predictor

_LIBRARIES = ("torch", "numpy", "zarr", "open_clip_torch", "timm")

# What others read out of a run's files, with its type.
_CONFIG = {"train_on": list, "inputs": list, "run_sha256": str}
# An imported run does not know how its training went.
_SUMMARY = {"best_epoch": int | None, "epochs": int | None}
_RECORD = {"epoch": int, "train_loss": float, "seconds": float}
_STATE = {
    "learner": dict,
    "schedule": dict,
    "best_score": float,
    "best_epoch": int,
    "epoch": int,
}


class Run:
    """One training: a folder with its configuration, its history, and the trained decoder.

    `train` returns it, `open_run` opens it again. `summary.json` is written last: with it, the run
    is finished.

    Example:
        >>> run = open_run("runs/conv-4_layer3_all_seed0_0123456789ab")
        >>> run.best_score, run.config()["layer"]
        >>> probability = run.predictor()("suspicious.jpg")

    Attributes:
        path: The folder.
    """

    def __init__(self, path: str | Path, decoder: DecoderFactory | None = None) -> None:
        """Name a run's folder, without looking into it.

        Args:
            path: The folder.
            decoder: Builds the decoder, where it is one of one's own that cannot be imported.
        """
        self.path = Path(path)
        self._decoder = decoder

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def name(self) -> str:
        """Name of the folder: made out of decoder, layers, generators, seed and identity."""
        return self.path.name

    @property
    def best_checkpoint(self) -> Path:
        """The decoder with the best validation score, as safetensors."""
        return self.path / "checkpoint_best.safetensors"

    @property
    def is_finished(self) -> bool:
        """Return whether the training came to its end."""
        return (self.path / "summary.json").is_file()

    @property
    def best_score(self) -> float | None:
        """Best validation score in percent: mean IoU, or for detection average precision.

        None for an imported run. Raises `InputError` when the run is not finished, or damaged.
        """
        summary = self.summary()
        score: float | None = summary[f"best_valid_{score_name(summary, 'best_valid_')}"]
        return score

    def begin(self, config: Mapping[str, Any], sha256: str) -> None:
        """Record what the run is.

        `sha256` is the run's identity: the same one may go on in the folder, another is refused
        with `OutputExistsError`.
        """
        if not (self.path / "config.yaml").is_file():
            if self.path.exists() and any(f for f in self.path.iterdir() if f.name[0] != "."):
                raise OutputExistsError(
                    f"{self.path} holds other files; name another output folder"
                )
            text = yaml.safe_dump({**config, "run_sha256": sha256}, sort_keys=False)
            # Of processes that begin at once, the first one's file stays: it is what they lock.
            LocalStorage(self.path).create("config.yaml", text.encode())
        self.require(sha256)

    def require(self, sha256: str) -> None:
        """Raise `OutputExistsError` when the folder holds a run of another identity."""
        if (self.path / "config.yaml").is_file() and self.config()["run_sha256"] != sha256:
            raise OutputExistsError(f"{self.path} holds another run; name another output folder")

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Be the only process that trains in the folder: the kernel lets go of what dies.

        Who is so first leaves its environment.json.

        Raises `RunBusyError` at once when another one does.
        """
        with (self.path / "config.yaml").open("rb+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunBusyError(
                    f"{self.path} is being trained by another process; wait for it, or name "
                    "another output folder"
                ) from error
            except OSError:
                pass  # some network file systems have no locks
            else:
                # What another process was writing when it was killed. All but config.yaml is
                # written under the lock.
                for left in self.path.glob(".*.partial*"):
                    if not left.name.startswith(".config"):
                        left.unlink(missing_ok=True)
            if not (self.path / "environment.json").is_file():
                write_json(self.path / "environment.json", _environment())
            yield

    def config(self) -> dict[str, Any]:
        """Return the content of `config.yaml`: what was trained, from what, and how.

        Raises `InputError` when the folder is not a run's, or damaged.
        """
        path = self.path / "config.yaml"
        if not path.is_file():
            raise InputError(
                f"{self.path} is not a run; expected a folder that `declip-pipe train` printed"
            )
        with self._reading(path.name, self.path):
            return _checked(yaml.safe_load(path.read_bytes().decode()), _CONFIG)

    def summary(self) -> dict[str, Any]:
        """Return the content of `summary.json`: scores, epochs, images, parameters, seconds.

        Raises `InputError` when the run is not finished, or damaged.
        """
        if not self.is_finished:
            self.config()
            raise InputError(
                f"{self.path} is not finished; run the same `declip-pipe train` command again"
            )
        path = self.path / "summary.json"
        with self._reading(path.name, path):
            return _checked(json.loads(path.read_bytes()), _SUMMARY, {"best_valid_": float | None})

    def decoder(self) -> Decoder:
        """Return the decoder with the best validation score, on the CPU, in evaluation mode.

        It takes one batch of features for each layer, (N, *shape) float32, and returns logits
        (N, 256, 256) float32, positive = manipulated.

        Raises `InputError` when its file is missing or damaged, `DecoderError` for a decoder of
        one's own that cannot be imported.
        """
        return self.best_decoder()[0].eval()

    def predictor(
        self,
        backbone: "Backbone | Sequence[Backbone] | None" = None,
        *,
        weights: str | Path | Sequence[str | Path] | None = None,
        device: str = "auto",
    ) -> "Predictor":
        """Join the decoder to the backbone of its features, for images of any size.

        Args:
            backbone: Opened backbone, or several for a decoder that takes several backbones'
                features. None opens the recorded ones.
            weights: Files of the backbones' weights, as for `open_backbone`. None takes the
                recorded ones.
            device: "auto", "cpu", "cuda" or "cuda:N"; backbone and decoder are moved there.

        Returns:
            A function from an image to a map (height, width) float32 in [0, 1].

        Raises:
            InputError: The run is not finished or damaged.
            WeightsError: Recorded weights are missing or cannot be downloaded.
            IdentityMismatchError: The backbone gives other features than the decoder was trained
                on; names the field that differs.
        """
        from declip_pipeline.backbones.backbone import Backbone
        from declip_pipeline.compute import choose_device
        from declip_pipeline.extraction.recorded_backbones import open_run_backbones
        from declip_pipeline.store.identity import parts_of
        from declip_pipeline.training.predictor import Predictor

        self.summary()
        inputs = self.config()["inputs"]
        decoder, features = self.best_decoder()
        chosen = choose_device(device)
        files = [weights] if isinstance(weights, str | Path) else weights or ()
        backbones = open_run_backbones(
            parts_of(features),
            inputs,
            weights=[str(one) for one in files],
            device=str(chosen),
            backbones=[backbone] if isinstance(backbone, Backbone) else backbone or (),
        )
        dtypes = [str(one["dtype"]) for one in inputs]
        return Predictor(backbones, decoder.to(chosen), features, dtypes=dtypes)

    def best_decoder(self) -> tuple[Decoder, dict[str, Any]]:
        """Return the decoder with the best validation score and the identity of its features.

        Raises as `decoder`.
        """
        from declip_pipeline.decoders.file import load_decoder

        with self._reading(self.best_checkpoint.name, self.path):
            return load_decoder(self.best_checkpoint, self._decoder)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Declare the run finished."""
        write_json(self.path / "summary.json", dict(summary))

    def save_state(self, state: dict[str, Any]) -> None:
        """Keep what is needed to go on after this epoch."""
        import torch

        content = io.BytesIO()
        # Through memory: on a full disk torch.save ends in an error of its own.
        torch.save(state, content)
        write_bytes(self.path / "checkpoint_last.pt", content.getvalue())

    def load_state(self) -> dict[str, Any] | None:
        """Return the state that `save_state` kept, or None before the first epoch's end.

        Raises `InputError` when it is damaged, or when what belongs to it is missing or damaged:
        the best weights so far, and the records of its epochs.
        """
        import torch

        path = self.path / "checkpoint_last.pt"
        if not path.is_file():
            return None
        with self._reading(path.name, self.path):
            state = torch.load(path, map_location="cpu", weights_only=True)
            if isinstance(state, dict) and "best_iou" in state:
                # What was trained before there was another score.
                state["best_score"] = state.pop("best_iou")
            state = _checked(state, _STATE)
        self.best_decoder()
        if len(self.epochs()) < state["epoch"]:
            with self._reading("metrics.jsonl", self.path):
                raise ValueError(f"it lacks epochs before {state['epoch'] + 1}")
        return state

    def epochs(self) -> list[dict[str, Any]]:
        """Return the history, the records of `metrics.jsonl`, one an epoch.

        Keys: `epoch`, `train_loss`, `valid_iou` (percent; for detection `valid_ap`),
        `learning_rate`, `seconds`. Raises `InputError` when the file is damaged.
        """
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return []
        with self._reading(path.name, self.path):
            lines = path.read_bytes().decode().splitlines()
            return [_checked(json.loads(line), _RECORD, {"valid_": float}) for line in lines]

    def record_epochs(self, records: list[dict[str, Any]]) -> None:
        """Write `metrics.jsonl` again, whole or not at all."""
        lines = [json.dumps(record, allow_nan=False) + "\n" for record in records]
        write_text(self.path / "metrics.jsonl", "".join(lines))

    @contextmanager
    def _reading(self, name: str, remedy: Path) -> Iterator[None]:
        """Turn any error of reading one of the folder's files into what is wrong, and the remedy.

        The readers raise a dozen unrelated classes on damaged files. Removing `remedy`, the file or
        the whole run, lets the training be done again.
        """
        try:
            yield
        except (PermissionError, DecoderError):
            raise
        except Exception as error:
            reason = textwrap.shorten(str(error) or type(error).__name__, 160, placeholder=" ...")
            found = f"damaged ({reason})" if (self.path / name).is_file() else "missing"
            raise InputError(
                f"{self.path}: its {name} is {found}; "
                f"remove {'that file' if remedy != self.path else 'the folder'} and run the same "
                "`declip-pipe train` command again"
            ) from error


def _checked(
    found: Any, expected: Mapping[str, Any], score: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """`found` if it is a mapping with the expected keys, each of its type; else a `ValueError`.

    `score` is the type of a score, whose key, but for its name, is given.
    """
    if not isinstance(found, dict):
        raise ValueError(f"keys and values expected, found {type(found).__name__}")
    scores = {f"{key}{score_name(found, key)}": kind for key, kind in (score or {}).items()}
    for key, kind in {**scores, **expected}.items():
        if key not in found:
            raise ValueError(f"{key} is missing")
        if not isinstance(found[key], kind):
            raise ValueError(f"{key} is of type {type(found[key]).__name__}")
    return found


def _environment() -> dict[str, Any]:
    import torch

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


def open_run(path: str | Path, decoder: DecoderFactory | None = None) -> Run:
    """Open the folder of a run, finished or not.

    Args:
        path: The folder that `train` or `declip-pipe train` made.
        decoder: Builds the decoder, where it is one of one's own that cannot be imported.

    Raises:
        InputError: The folder is not a run's, or damaged.

    Example:
        >>> run = open_run("runs/conv-4_layer3_all_seed0_0123456789ab")
    """
    run = Run(path, decoder)
    run.config()
    return run


RunLike = Run | str | Path
"""A run, or its folder."""


def as_run(run: RunLike) -> Run:
    """Open a run that is given by its folder, without looking into it."""
    if isinstance(run, str | Path):
        return Run(run)
    if not isinstance(run, Run):
        raise InputError(f"found {type(run).__name__} for a run; expected one run or its folder")
    return run


def require_name(name: str) -> None:
    """Raise `InputError` for a name that cannot be that of a folder within another."""
    if folder_name(name) != name or name in (".", ".."):
        raise InputError(
            f"`name` {name!r} cannot name a folder; expected letters, digits, _, ., + or -"
        )
