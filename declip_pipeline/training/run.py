"""Run: the folder of one training, with its configuration, its history and its weights."""

import fcntl
import io
import json
import platform
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from declip_pipeline import __version__
from declip_pipeline.arguments import require_path
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.decoders.factories import DecoderFactory
from declip_pipeline.entry_points import installed_versions
from declip_pipeline.errors import DeclipError, InputError, OutputExistsError, RunBusyError
from declip_pipeline.files import folder_name, write_json
from declip_pipeline.store.local import LocalStorage
from declip_pipeline.training.run_files import commit, read_committed, settle
from declip_pipeline.training.run_records import (
    CONFIG,
    EPOCH,
    SEAL,
    STATE,
    SUMMARY,
    checked,
    sealed,
)
from declip_pipeline.training.validation_score import score_name

if TYPE_CHECKING:
    import numpy as np

    from declip_pipeline.backbones.backbone import Backbone
    from declip_pipeline.training.predictor import Predictor

_LIBRARIES = ("torch", "numpy", "zarr", "open_clip_torch", "timm")

CONFIG_FILE, STATE_FILE, SUMMARY_FILE = "config.yaml", "state.json", "summary.json"
BEST_FILE, LAST_FILE, EPOCHS_FILE = (
    "checkpoint_best.safetensors",
    "checkpoint_last.pt",
    "metrics.jsonl",
)
REAL_SHARES_FILE = "valid_real_shares.npy"

# Of a file that a process at work replaces.
ATTEMPTS = 3


class Run:
    """One training: a folder with its configuration, its history, and the trained decoder.

    `train` returns it, `open_run` opens it again. After each epoch the weights and the history
    appear together with `state.json`, which has their SHA-256. `summary.json` is written last, with
    those of the best weights and the history: with it, the run is finished. What is read is
    compared with these hashes.

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
        require_path(path, "a run", "its folder")
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
        return self.path / BEST_FILE

    @property
    def best_sha256(self) -> str:
        """Recorded SHA-256 of the best weights' file. Raises as `summary`."""
        sha256: str = self.summary()["files"][BEST_FILE]
        return sha256

    @property
    def is_finished(self) -> bool:
        """Return whether the training came to its end."""
        return (self.path / SUMMARY_FILE).is_file()

    @property
    def best_score(self) -> float | None:
        """Best validation score in percent: mean IoU, or for detection average precision.

        None for an imported run. Raises `InputError` when the run is not finished, or damaged.
        """
        summary = self.summary()
        score: float | None = summary[f"best_valid_{score_name(summary, 'best_valid_')}"]
        return score

    @property
    def problem(self) -> str | None:
        """Problem of the training and what to change, in a line; None if there is none.

        Raises as `summary`.
        """
        problem: str | None = self.summary().get("problem")
        return problem

    @property
    def valid_threshold(self) -> float | None:
        """Threshold of probabilities with the best mean IoU on the split `valid`, in (0, 1).

        None for runs of detection, imported ones, and those of versions that did not keep it.
        Raises as `summary`.
        """
        threshold: float | None = self.summary().get("valid_threshold")
        return threshold

    @property
    def min_region(self) -> float | None:
        """Minimum size of a mask's regions with the best mean IoU on the split `valid`.

        A share of the image's pixels, in [0, 1), 0 where all regions are kept; see
        `without_small_regions`. None for runs of detection, runs whose images of `valid` are in
        several tiles, imported ones, and those of versions that did not keep it. Raises as
        `summary`.
        """
        share: float | None = self.summary().get("valid_min_region")
        return share

    @property
    def score_threshold(self) -> float | None:
        """Threshold of image scores with the best balanced accuracy on the split `valid`.

        An image is forged where its score is at least this: for a run of localization the mean of
        its map, for one of detection its score. None for runs whose split `valid` has no real
        image, imported ones, and those of versions that did not keep it. Raises as `summary`.
        """
        threshold: float | None = self.summary().get("valid_score_threshold")
        return threshold

    def require_valid_threshold(self) -> float:
        """Return `valid_threshold`. Raises `InputError` where there is none."""
        threshold = self.valid_threshold
        if threshold is None:
            raise InputError(
                f"{self.path} has no threshold from its split valid: runs of detection, imported "
                "ones and those of earlier versions keep none; give `threshold` as a number"
            )
        return threshold

    def valid_real_shares(self) -> "np.ndarray | None":
        """Return the share of pixels called fake in each real image of the split `valid`.

        The maps are those of the validation, at the decoder's output size.

        Returns:
            (images, 99) float32 in [0, 1], at the thresholds 0.01 to 0.99. None for runs whose
            split `valid` has no real image, runs of detection, imported ones, and those of versions
            that did not keep it.

        Raises:
            InputError: The run is not finished, or its file is damaged.
        """
        import numpy as np

        hashes = self.summary()["files"]
        if REAL_SHARES_FILE not in hashes:
            return None
        with self._reading(REAL_SHARES_FILE, self.path):
            data = read_committed(self.path, REAL_SHARES_FILE, hashes[REAL_SHARES_FILE])
            shares: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
            return shares

    def begin(self, config: Mapping[str, Any], sha256: str) -> None:
        """Record what the run is.

        `sha256` is the run's identity: the same one may go on in the folder, another is refused
        with `OutputExistsError`.
        """
        if not (self.path / CONFIG_FILE).is_file():
            if self.path.exists() and any(f for f in self.path.iterdir() if f.name[0] != "."):
                raise OutputExistsError(
                    f"{self.path} holds other files; name another output folder"
                )
            text = yaml.safe_dump(sealed({**config, "run_sha256": sha256}), sort_keys=False)
            # Of processes that begin at once, the first one's file stays: it is what they lock.
            LocalStorage(self.path).create(CONFIG_FILE, text.encode())
        self.require(config, sha256)

    def require(self, config: Mapping[str, Any], sha256: str) -> None:
        """Raise `OutputExistsError` when the folder holds a run of another identity."""
        if (self.path / CONFIG_FILE).is_file() and self.config()["run_sha256"] != sha256:
            differences = _differences(self.config(), config)
            raise OutputExistsError(
                f"{self.path} holds another run{differences}; name another output folder"
            )

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Be the only process that trains in the folder: the kernel lets go of what dies.

        Cleans up after a process that was killed. The first one leaves its environment.json.

        Raises `RunBusyError` at once when another one does.
        """
        with (self.path / CONFIG_FILE).open("rb+") as file:
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
                settle(self.path, self._hashes())
            if not (self.path / "environment.json").is_file():
                write_json(self.path / "environment.json", _environment())
            yield

    def config(self) -> dict[str, Any]:
        """Return the content of `config.yaml`: what was trained, from what, and how.

        Raises `InputError` when the folder is not a run's, or damaged.
        """
        if not (self.path / CONFIG_FILE).is_file():
            raise InputError(
                f"{self.path} is not a run; expected a folder that `declip-pipe train` printed"
            )
        with self._reading(CONFIG_FILE, self.path) as path:
            return checked(yaml.safe_load(path.read_bytes().decode()), CONFIG)

    def summary(self) -> dict[str, Any]:
        """Return the content of `summary.json`: scores, epochs, images, parameters, seconds.

        Raises `InputError` when the run is not finished, or damaged.
        """
        config = self.config()
        if not self.is_finished:
            raise InputError(
                f"{self.path} is not finished; run the same `declip-pipe train` command again"
            )
        with self._reading(SUMMARY_FILE, self.path / SUMMARY_FILE) as path:
            summary = checked(json.loads(path.read_bytes()), SUMMARY, score="best_valid_")
            _require_same_run(summary, config)
            return summary

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
        from declip_pipeline.training.predictor_opening import open_predictor

        return open_predictor([self], backbone, weights=weights, device=device)

    def best_decoder(self) -> tuple[Decoder, dict[str, Any]]:
        """Return the decoder with the best validation score and the identity of its features.

        Raises as `decoder`.
        """
        from declip_pipeline.decoders.file import decode_decoder

        hashes = self._hashes()
        with self._reading(BEST_FILE, self.path):
            data = read_committed(self.path, BEST_FILE, hashes[BEST_FILE])
            return decode_decoder(data, str(self.best_checkpoint), self._decoder)

    def require_whole(self) -> None:
        """Raise `InputError` unless a finished run's files are those that it recorded."""
        for name, sha256 in self._hashes().items():
            with self._reading(name, self.path):
                read_committed(self.path, name, sha256)

    def finish(self, summary: Mapping[str, Any], files: Mapping[str, bytes] | None = None) -> None:
        """Declare the run finished, with the last saved state's best weights and history.

        `files` are others by name, for a run that was not trained here.
        """
        kept = {name: sha for name, sha in self._hashes().items() if name != LAST_FILE}
        content = {**summary, "run_sha256": self.config()["run_sha256"]}
        commit(self.path, SUMMARY_FILE, content, files or {}, kept)

    def save_state(
        self,
        learner: Mapping[str, Any],
        state: Mapping[str, Any],
        records: Sequence[Mapping[str, Any]],
        best: bytes | None,
    ) -> None:
        """Keep what is needed to go on after an epoch, all of it or nothing.

        Args:
            learner: Tensors and plain values to go on from.
            state: `epoch`, `best_epoch`, `best_score` and the `schedule`, as plain JSON.
            records: The history, a record for each epoch.
            best: File of the decoder, if the epoch is the best so far.
        """
        import torch

        content = io.BytesIO()
        # Through memory: on a full disk torch.save ends in an error of its own.
        torch.save(dict(learner), content)
        lines = [json.dumps(record, allow_nan=False) + "\n" for record in records]
        files = {LAST_FILE: content.getvalue(), EPOCHS_FILE: "".join(lines).encode()}
        kept = {}
        if best is None:
            kept = {BEST_FILE: self._hashes()[BEST_FILE]}
        else:
            files[BEST_FILE] = best
        record = {**state, "run_sha256": self.config()["run_sha256"]}
        commit(self.path, STATE_FILE, record, files, kept)

    def load_state(self) -> dict[str, Any] | None:
        """Return the state that `save_state` kept, with the `learner`; None before the first epoch.

        Raises `InputError` when it is damaged, or when what belongs to it is missing or damaged:
        the best weights so far, and the records of its epochs.
        """
        import torch

        if not (self.path / STATE_FILE).is_file():
            if any((self.path / name).is_file() for name in (LAST_FILE, EPOCHS_FILE, BEST_FILE)):
                with self._reading(STATE_FILE, self.path):
                    raise FileNotFoundError(STATE_FILE)
            return None
        state = self._state()
        with self._reading(LAST_FILE, self.path):
            data = read_committed(self.path, LAST_FILE, state["files"][LAST_FILE])
            learner = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        self.best_decoder()
        self.epochs()
        return {**state, "learner": learner}

    def epochs(self) -> list[dict[str, Any]]:
        """Return the history, the records of `metrics.jsonl`, one an epoch.

        Keys: `epoch`, `train_loss`, `valid_iou` (percent; for detection `valid_ap`),
        `learning_rate`, `seconds`. Raises `InputError` when the file is damaged.
        """
        with self._reading(EPOCHS_FILE, self.path):
            lines = self._read_epochs().decode().splitlines()
            return [
                checked(json.loads(line), EPOCH, score="valid_", is_sealed=False) for line in lines
            ]

    def _read_epochs(self) -> bytes:
        for attempt in range(ATTEMPTS):
            hashes = self._hashes()
            if EPOCHS_FILE not in hashes:
                break
            try:
                return read_committed(self.path, EPOCHS_FILE, hashes[EPOCHS_FILE])
            except ValueError:
                # A process that trains here may have kept another epoch since the hash was read.
                if attempt == ATTEMPTS - 1:
                    raise
        return b""

    def _state(self) -> dict[str, Any]:
        config = self.config()
        with self._reading(STATE_FILE, self.path) as path:
            state = checked(json.loads(path.read_bytes()), STATE)
            _require_same_run(state, config)
            return state

    def _hashes(self) -> dict[str, str]:
        """Return the recorded SHA-256 of files by name: those of the summary, or of the state."""
        if self.is_finished:
            hashes: dict[str, str] = self.summary()["files"]
        elif (self.path / STATE_FILE).is_file():
            hashes = self._state()["files"]
        else:
            hashes = {}
        return hashes

    @contextmanager
    def _reading(self, name: str, remedy: Path) -> Iterator[Path]:
        """Yield the path of one of the folder's files; errors of parsing name it and the remedy.

        The readers raise a dozen unrelated classes on damaged files. Removing `remedy`, the file or
        the whole run, lets the training be done again.
        """
        path = self.path / name
        try:
            yield path
        except (DeclipError, MemoryError):
            raise
        except Exception as error:
            if isinstance(error, OSError) and path.is_file():
                raise  # the disk or its rights, not the content
            reason = textwrap.shorten(str(error) or type(error).__name__, 160, placeholder=" ...")
            found = f"damaged ({reason})" if path.is_file() else "missing"
            raise InputError(
                f"{self.path}: its {name} is {found}; "
                f"restore it, or remove {'the folder' if remedy == self.path else 'it'} and run "
                "the same `declip-pipe train` command again"
            ) from error


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Return the first entries of two configs that differ, in brackets; nothing if none is short.

    What only one of them has is none in the other: options are recorded where they are not none.
    """
    keys = [key for key in {**there, **here} if key not in (SEAL, "run_sha256")]
    pairs = [(key, there.get(key), here.get(key)) for key in keys]
    found = [
        f"{key} is {'none' if old is None else old} there, {'none' if new is None else new} here"
        for key, old, new in pairs
        if old != new and not isinstance(old, dict | list) and not isinstance(new, dict | list)
    ]
    return f" ({'; '.join(found[:3])})" if found else ""


def _require_same_run(record: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    if record["run_sha256"] != config["run_sha256"]:
        raise ValueError(f"it is of another run than {CONFIG_FILE}")


def _environment() -> dict[str, Any]:
    import torch

    return {
        "declip_pipe": __version__,
        "python": sys.version.split()[0],
        "machine": platform.machine(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "libraries": installed_versions(_LIBRARIES),
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
