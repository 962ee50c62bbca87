"""Extraction on Dask workers: each shard of a store is a task that commits its own work."""

import socket
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from declip_pipeline.backbones.backbone import Backbone
from declip_pipeline.compute import choose_device
from declip_pipeline.datasets.contents import read_content
from declip_pipeline.errors import InputError
from declip_pipeline.extraction.recorded_backbones import open_store_backbone
from declip_pipeline.extraction.reuse import match_rows
from declip_pipeline.extraction.sample_reading import SampleReader
from declip_pipeline.extraction.shard_filling import ShardFiller
from declip_pipeline.extraction.stage_times import StageTimes
from declip_pipeline.files import sha256_of_bytes
from declip_pipeline.images.views import view_named
from declip_pipeline.jobs import worker
from declip_pipeline.jobs.tasks import run_tasks
from declip_pipeline.jobs.workers import Workers
from declip_pipeline.store.header import StoreHeader
from declip_pipeline.store.reader import Store
from declip_pipeline.store.tokens import require_token, token_at
from declip_pipeline.store.writer import StoreWriter

if TYPE_CHECKING:
    from distributed import Client

# While a worker computes one shard, it decodes another's images and writes a third's files. More
# shards would only fill its memory.
SHARDS_AT_ONCE = 2


@dataclass(frozen=True)
class ShardJob:
    """Task of filling shards of a store that was begun; the store holds the rest.

    Every path is absolute and every location absolute or a URL, the same from every machine.

    Args:
        location: Location of the store.
        data_root: Folder of the images.
        arch: Name of the backbone, as in `open_backbone`.
        weights: Weights of the backbone, as in `open_backbone`.
        device: Device of the worker.
        earlier: Locations of stores whose features are reused.
        batch_size: Images a batch.
        decode_threads: Threads that decode images; None is one a core.
        max_megapixels: Largest size of an image that is decoded.
        is_compiled: Whether the backbone is compiled.
    """

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

    A worker process keeps the backbone until `release`.
    """

    def __init__(
        self, client: "Client", *, arch: str, weights: Sequence[str] = (), device: str = "auto"
    ) -> None:
        """`arch`, `weights` and `device` are those of `open_backbone`."""
        self._workers = Workers(client)
        self._arch = arch
        self._weights = tuple(weights)
        self._device = device

    def device_kind(self) -> str:
        """Return the kind of device on which every worker computes, "cpu" or "cuda".

        Raises:
            InputError: The workers differ, or a worker has another version of this package.
        """
        # "auto" might choose another device on a worker that connects later.
        self._device = self._workers.device_kind(self._device)
        return self._device

    def require_sight(self, root: str | Path, data_root: Path, files: Mapping[str, str]) -> None:
        """Check that every worker sees the same files as this process.

        Args:
            root: Folder or URL of the stores.
            data_root: Folder of the images.
            files: SHA-256 of some files, by their path under `data_root`.

        Raises:
            InputError: A worker has another version of this package, or does not see the stores'
                root, one of the files, or a file of the backbone's weights.
        """
        weights = {
            name: Path(name).stat().st_size for name in self._weights if Path(name).is_file()
        }

        def check(addresses: list[str] | None) -> dict[str, None]:
            with token_at(str(root)) as (place, token):
                return self._workers.ask(
                    _require_files,
                    str(data_root.absolute()),
                    files,
                    weights,
                    place,
                    token,
                    workers=addresses,
                )

        self._workers.admit(check)

    def release(self) -> None:
        """Drop the backbone from the workers: those of a scheduler live on."""
        self._workers.release()

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
        """Have shards of a begun store written; yield each shard that is done.

        Args:
            shards: The shards.
            notice: Called with lines for the user.
            times: Adds up the seconds that workers spend, by stage.
            location, data_root, earlier, batch_size, decode_threads, max_megapixels, is_compiled:
                As in `ShardJob`.

        Raises:
            DeclipError: Raised by a worker, or the scheduler is lost, or workers die again and
                again at one shard.
        """
        job = ShardJob(
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
        ended = run_tasks(
            self._workers,
            _fill_shard,
            [(job, shard) for shard in shards],
            at_once=SHARDS_AT_ONCE,
            notice=notice,
            title=lambda number: "the same shard",
            smaller="`batch_size`",
        )
        with closing(ended):
            for number, outcome in ended:
                if isinstance(outcome, Exception):
                    raise outcome
                times.add_all(outcome)
                yield shards[number]


def _require_files(
    data_root: str,
    files: Mapping[str, str],
    weights: Mapping[str, int],
    root: str,
    token: str,
) -> None:
    """In a worker: raise `InputError` unless it sees the files, the weights and the token."""
    host = socket.gethostname()
    for name, sha256 in files.items():
        try:
            found = sha256_of_bytes(read_content(Path(data_root), name))
        except OSError as error:
            found = f"nothing ({error.strerror})"
        if found != sha256:
            raise InputError(
                f"the worker on {host} sees no {Path(data_root, name)} of SHA-256 "
                f"{sha256[:12]}..., but {found}; "
                "keep the dataset on a disk that all workers mount at the same path"
            )
    for name, size in weights.items():
        if (found := _fingerprint(Path(name), lambda path: str(path.stat().st_size))) != str(size):
            raise InputError(
                f"the worker on {host} sees no weights {name} of {size} bytes, but {found}; keep "
                "them on a disk that all workers mount at the same path"
            )
    require_token(
        root, token, "`cache`", "a disk that all workers mount at the same path, or a bucket"
    )


def _fingerprint(path: Path, of: Callable[[Path], str]) -> str:
    try:
        return of(path)
    except OSError as error:
        return f"nothing ({error.strerror})"


def _fill_shard(job: ShardJob, shard: int) -> dict[str, float]:
    """In a worker: write a shard unless it is there already; return the seconds by stage."""
    filler, times = worker.keep("filler", job, lambda: _open_filler(job))
    for _ in filler.fill([shard]):
        pass
    return times.take()


def _open_filler(job: ShardJob) -> tuple[ShardFiller, StageTimes]:
    writer = StoreWriter.reopen(job.location)
    header = writer.header
    backbone = _open_backbone(job, header)
    times = StageTimes()
    filler = ShardFiller(
        writer,
        backbone,
        match_rows(writer.samples, header.identity, [Store(place) for place in job.earlier]),
        read=SampleReader(
            root=Path(job.data_root),
            view=view_named(header.identity.view),
            fake_is_white=header.fake_is_white,
            preprocessing=backbone.preprocessing,
            max_megapixels=job.max_megapixels,
        ),
        batch_size=job.batch_size,
        decode_threads=job.decode_threads,
        notice=worker.notice,
        times=times,
    )
    return filler, times


def _open_backbone(job: ShardJob, header: StoreHeader) -> Backbone:
    identity = header.identity

    def make() -> Backbone:
        backbone = open_store_backbone(
            header,
            job.location,
            arch=job.arch,
            weights=job.weights,
            device=str(choose_device(job.device)),
        )
        return backbone.compile() if job.is_compiled else backbone

    # Not by the job: the stores of several views share a backbone.
    made_with = (job.arch, job.weights, job.device, job.is_compiled)
    return worker.keep("backbone", (*made_with, identity.weights_sha256, identity.precision), make)
