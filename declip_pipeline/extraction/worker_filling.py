"""Shards of one store filled by Dask workers: each shard is a task that commits its own work."""

import socket
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import TYPE_CHECKING, Any

from declip_pipeline import __version__
from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.dask_workers import DaskWorkers, require_version, scheduler_needed
from declip_pipeline.devices import choose_device
from declip_pipeline.errors import DeclipError, InputError
from declip_pipeline.extraction.recorded_backbones import open_store_backbone
from declip_pipeline.extraction.reuse import match_rows
from declip_pipeline.extraction.sample_reading import sample_reader
from declip_pipeline.extraction.shard_filling import ShardFiller
from declip_pipeline.extraction.stage_times import StageTimes
from declip_pipeline.fingerprint import sha256_of_file
from declip_pipeline.images.views import view_named
from declip_pipeline.store import format as fmt
from declip_pipeline.store.header import StoreHeader, read_json
from declip_pipeline.store.reader import Store
from declip_pipeline.store.shared_place import require_token, token_at
from declip_pipeline.store.writer import StoreWriter

if TYPE_CHECKING:
    from distributed import Client

# While a worker computes one shard, it decodes another's pictures and writes a third's files.
SHARDS_AT_ONCE = 2


@dataclass(frozen=True)
class FillingJob:
    """All that a worker must know to fill shards of a store that was begun.

    What the store says of itself is read from there. `location`, `data_root` (the folder of the
    pictures), `earlier` (stores to take from what they have) and `weights` are the same from every
    machine: absolute paths or URLs.
    """

    version: str
    location: str
    data_root: str
    arch: str
    weights: tuple[str, ...]
    device: str
    earlier: tuple[str, ...]
    batch_size: int
    decode_threads: int | None
    max_megapixels: float
    is_compiled: bool


class ShardWorkers:
    """The workers of a Dask client, for the extraction of stores with one backbone.

    `arch`, `weights` and `device` are those of `open_backbone`; a worker process keeps the backbone
    until `release`. No worker is given more shards than keep it busy.
    """

    def __init__(
        self, client: "Client", *, arch: str, weights: Sequence[str] = (), device: str = "auto"
    ) -> None:
        self._workers = DaskWorkers(client)
        self._arch = arch
        self._weights = tuple(weights)
        self._device = device

    def device_kind(self) -> str:
        """Where the workers compute, "cpu" or "cuda".

        Raises `InputError` when they differ, or one has another version of this package.
        """
        # For workers that come later, too.
        self._device = self._workers.device_kind(self._device)
        return self._device

    def require_sight(self, root: str | Path, data_root: Path, files: Mapping[str, str]) -> None:
        """Raise `InputError` unless every worker sees what it needs as it is here.

        That is the place of the stores `root`, `files` (path under `data_root` to SHA-256), and the
        files of the weights.
        """
        weights = {
            name: Path(name).stat().st_size for name in self._weights if Path(name).is_file()
        }
        with token_at(str(root)) as (place, token):
            self._workers.ask(
                _see, __version__, str(data_root.absolute()), files, weights, place, token
            )

    def release(self) -> None:
        """Let the workers forget the backbone: those of a scheduler live on."""
        self._workers.client.run(_forget, on_error="ignore")

    def fill(
        self,
        shards: Sequence[int],
        *,
        location: str,
        data_root: Path,
        earlier: Sequence[str],
        batch_size: int,
        decode_threads: int | None,
        max_megapixels: float,
        is_compiled: bool,
        notice: Callable[[str], None],
        times: StageTimes,
    ) -> Generator[int, None, None]:
        """Have these shards of a begun store written; yields each that is done.

        A shard whose worker is lost goes to another one. Raises what a worker raised, and
        `DeclipError` when the scheduler is lost, or workers die of one shard again and again.
        """
        from distributed.scheduler import KilledWorker

        job = FillingJob(
            version=__version__,
            location=location,
            data_root=str(data_root.absolute()),
            arch=self._arch,
            weights=self._weights,
            device=self._device,
            earlier=tuple(earlier),
            batch_size=batch_size,
            decode_threads=decode_threads,
            max_megapixels=max_megapixels,
            is_compiled=is_compiled,
        )
        client = self._workers.client
        tasks = client.map(
            _fill_shard,
            [job] * len(shards),
            shards,
            pure=False,
            resources={"GPU": 1 / SHARDS_AT_ONCE} if self._workers.has_gpus() else None,
        )
        try:
            with scheduler_needed():
                for task in self._workers.as_they_end(tasks, notice):
                    done: _FilledShard = task.result()
                    times.add_all(done.seconds)
                    for line in done.notices:
                        notice(f"the worker on {done.worker}: {line}")
                    yield done.shard
        except KilledWorker as error:
            raise DeclipError(
                f"workers died at the same shard {error.allowed_failures + 1} times, for want of "
                "memory or because their machines were taken away; give them more memory or take a "
                "smaller --batch-size, and run the same command again, it goes on where it stopped"
            ) from error
        finally:
            client.cancel(tasks)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _FilledShard:
    """What a worker tells of a shard: who it is, what it noticed, and seconds by stage."""

    shard: int
    worker: str
    notices: list[str]
    seconds: dict[str, float]


def _see(
    version: str,
    data_root: str,
    files: Mapping[str, str],
    weights: Mapping[str, int],
    root: str,
    token: str,
) -> str:
    """Raise `InputError` unless this worker sees all of it."""
    require_version(version)
    host = socket.gethostname()
    for name, sha256 in files.items():
        path = Path(data_root, name)
        found = _fingerprint(path, sha256_of_file)
        if found != sha256:
            raise InputError(
                f"the worker on {host} sees no {path} of SHA-256 {sha256[:12]}..., but {found}; "
                "keep the dataset on a disk that all workers mount at the same path"
            )
    for name, size in weights.items():
        if (found := _fingerprint(Path(name), lambda path: str(path.stat().st_size))) != str(size):
            raise InputError(
                f"the worker on {host} sees no weights {name} of {size} bytes, but {found}; keep "
                "them on a disk that all workers mount at the same path"
            )
    require_token(
        root, token, "--cache", "a disk that all workers mount at the same path, or a bucket"
    )
    return token


def _fingerprint(path: Path, of: Callable[[Path], str]) -> str:
    try:
        return of(path)
    except OSError as error:
        return f"nothing ({error.strerror})"


def _fill_shard(job: FillingJob, shard: int) -> _FilledShard:
    """The task: idempotent, since a shard that is there already is left alone."""
    host = socket.gethostname()
    with _slots:
        try:
            with _opening:
                filler, times, notices = _open_filler(job)
            for _ in filler.fill([shard]):
                pass
        except DeclipError as error:
            error.args = (f"the worker on {host}: {error}",)
            raise
    said = [notices.pop() for _ in range(len(notices))]
    return _FilledShard(shard, host, said, times.take())


# However many threads a worker has: more shards would only fill its memory.
_slots = BoundedSemaphore(SHARDS_AT_ONCE)
# A worker's threads share one filler, and with it one backbone.
_opening = Lock()


@lru_cache(maxsize=1)
def _open_filler(job: FillingJob) -> tuple[ShardFiller, StageTimes, list[str]]:
    require_version(job.version)
    writer = StoreWriter.reopen(job.location)
    header = writer.header
    manifest = read_json(writer.storage.read, fmt.MANIFEST, job.location)
    backbone = _open_backbone(job, header)
    times, notices = StageTimes(), list[str]()
    filler = ShardFiller(
        writer,
        backbone,
        match_rows(writer.samples, header.identity, [Store(place) for place in job.earlier]),
        read=sample_reader(
            writer.samples,
            root=Path(job.data_root),
            view=view_named(header.identity.view),
            fake_is_white=bool(manifest["fake_is_white"]),
            preprocessing=backbone.preprocessing,
            max_megapixels=job.max_megapixels,
        ),
        batch_size=job.batch_size,
        decode_threads=job.decode_threads,
        notice=notices.append,
        times=times,
    )
    return filler, times, notices


# The backbone of the last job, under what it was opened with: views of one dataset share it.
_kept: dict[tuple[Any, ...], Backbone] = {}


def _open_backbone(job: FillingJob, header: StoreHeader) -> Backbone:
    identity = header.identity
    key = (
        job.arch,
        job.weights,
        job.device,
        job.is_compiled,
        identity.weights_sha256,
        identity.precision,
    )
    if key not in _kept:
        _kept.clear()  # its memory goes before more is taken
        backbone = open_store_backbone(
            header,
            job.location,
            arch=job.arch,
            weights=job.weights,
            device=str(choose_device(job.device)),
        )
        _kept[key] = backbone.compile() if job.is_compiled else backbone
    return _kept[key]


def _forget() -> None:
    _open_filler.cache_clear()
    _kept.clear()
