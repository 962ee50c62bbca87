"""Shards of one store filled by Dask workers: each shard is a task that commits its own work."""

import socket
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from declip_pipeline import __version__
from declip_pipeline.devices import choose_device
from declip_pipeline.errors import DeclipError, InputError
from declip_pipeline.extraction.recorded_backbone import open_recorded_backbone
from declip_pipeline.extraction.reuse import match_rows
from declip_pipeline.extraction.sample_reading import sample_reader
from declip_pipeline.extraction.shard_filling import ShardFiller
from declip_pipeline.extraction.stage_times import StageTimes
from declip_pipeline.fingerprint import sha256_of_file
from declip_pipeline.images.views import view_named
from declip_pipeline.store import format as fmt
from declip_pipeline.store.header import read_json
from declip_pipeline.store.reader import Store
from declip_pipeline.store.writer import StoreWriter

if TYPE_CHECKING:
    from distributed import Client, Future

# While a worker computes one shard, it decodes another's pictures and writes a third's files.
SHARDS_AT_ONCE = 2
POLL_SECONDS = 0.1


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

    `arch`, `weights` and `device` are those of `open_backbone`, opened once in each worker process.
    A worker that declares the resource GPU is given no more shards than keep one GPU busy.
    """

    def __init__(
        self, client: "Client", *, arch: str, weights: Sequence[str] = (), device: str = "auto"
    ) -> None:
        self._client = client
        self._arch = arch
        self._weights = tuple(weights)
        self._device = device

    def device_kind(self) -> str:
        """Where the workers compute, "cpu" or "cuda".

        Raises `InputError` when they differ, or one has another version of this package.
        """
        kinds = self._ask(_device_kind, __version__, self._device)
        if len(set(kinds.values())) != 1:
            found = ", ".join(f"{worker} {kind}" for worker, kind in sorted(kinds.items()))
            raise InputError(
                f"the workers compute on different devices: {found}; the features would differ, "
                "so name one with --device"
            )
        return next(iter(kinds.values()))

    def require_picture(self, data_root: Path, picture: str, sha256: str) -> None:
        """Raise `InputError` unless every worker sees a picture under `data_root` as it is here."""
        self._ask(_see_picture, __version__, str(data_root.absolute()), picture, sha256)

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
        from distributed import CancelledError
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
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        has_gpus = any("GPU" in worker["resources"] for worker in workers)
        tasks = self._client.map(
            _fill_shard,
            [job] * len(shards),
            shards,
            pure=False,
            resources={"GPU": 1 / SHARDS_AT_ONCE} if has_gpus else None,
        )
        try:
            for task in self._as_they_end(tasks, notice):
                done: _FilledShard = task.result()
                times.add_all(done.seconds)
                for line in done.notices:
                    notice(f"{done.worker}: {line}")
                yield done.shard
        except KilledWorker as error:
            raise DeclipError(
                f"workers died of the same shard {error.allowed_failures + 1} times, most likely "
                "for want of memory; give them more or take a smaller --batch-size, and run the "
                "same command again, it goes on where it stopped"
            ) from error
        except CancelledError as error:
            raise DeclipError(
                "the Dask scheduler is gone; start it and run the same command again, it goes on "
                "where it stopped"
            ) from error
        finally:
            self._client.cancel(tasks)  # type: ignore[no-untyped-call]

    def _as_they_end(
        self, tasks: Sequence["Future[Any]"], notice: Callable[[str], None]
    ) -> Iterator["Future[Any]"]:
        """Tasks in the order in which they end; says so when no worker is left to end them."""
        from distributed import as_completed

        untyped: Any = as_completed
        waiting = untyped(tasks, loop=self._client.loop)
        left, told = len(tasks), False
        while left:
            ended = waiting.next_batch(block=False)
            left -= len(ended)
            yield from ended
            has_workers = bool(self._client.scheduler_info(n_workers=-1)["workers"])
            if not has_workers and not told:
                notice("no worker is left; waiting for one to come")
            told = not has_workers
            if not ended:
                time.sleep(POLL_SECONDS)

    def _ask(self, question: Callable[..., str], *arguments: str) -> dict[str, str]:
        """Every worker's answer, by its address. Raises `InputError` for one that has none."""
        answers: dict[str, str] = self._client.run(question, *arguments, on_error="return")
        for worker, answer in sorted(answers.items()):
            if isinstance(answer, DeclipError):
                raise answer
            if isinstance(answer, BaseException):
                raise InputError(
                    f"the worker {worker} cannot run this: {type(answer).__name__}: {answer}; "
                    f"install declip-pipe {__version__} there"
                )
        return answers


@dataclass(frozen=True)
class _FilledShard:
    """What a worker tells of a shard: who it is, what it noticed, and seconds by stage."""

    shard: int
    worker: str
    notices: list[str]
    seconds: dict[str, float]


def _require_version(expected: str) -> None:
    if expected != __version__:
        raise InputError(
            f"the worker on {socket.gethostname()} has declip-pipe {__version__}, this is "
            f"{expected}; install the same version there"
        )


def _device_kind(version: str, device: str) -> str:
    _require_version(version)
    return choose_device(device).type


def _see_picture(version: str, data_root: str, picture: str, sha256: str) -> str:
    _require_version(version)
    path = Path(data_root, picture)
    try:
        found = sha256_of_file(path)
    except OSError as error:
        raise InputError(
            f"the worker on {socket.gethostname()} cannot see the pictures: {path}: "
            f"{error.strerror}; keep them on a disk that all workers mount at the same path"
        ) from error
    if found != sha256:
        raise InputError(
            f"the worker on {socket.gethostname()} sees another {path}: its SHA-256 is "
            f"{found[:12]}..., expected {sha256[:12]}...; keep the pictures on one shared disk"
        )
    return found


def _fill_shard(job: FillingJob, shard: int) -> _FilledShard:
    """The task: idempotent, since a shard that is there already is left alone."""
    with _opening:
        filler, times, notices = _open_filler(job)
    for _ in filler.fill([shard]):
        pass
    said = [notices.pop() for _ in range(len(notices))]
    return _FilledShard(shard, socket.gethostname(), said, times.take())


# A worker's threads share one filler, and with it one backbone.
_opening = Lock()


@lru_cache(maxsize=1)
def _open_filler(job: FillingJob) -> tuple[ShardFiller, StageTimes, list[str]]:
    _require_version(job.version)
    writer = StoreWriter.reopen(job.location)
    header = writer.header
    manifest = read_json(writer.storage.read, fmt.MANIFEST, job.location)
    backbone = open_recorded_backbone(
        header,
        job.location,
        arch=job.arch,
        weights=job.weights,
        device=str(choose_device(job.device)),
    )
    if job.is_compiled:
        backbone.compile()
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
