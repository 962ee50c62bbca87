"""`declip-pipe` in processes of its own that start at once, to be killed at chosen moments.

Run as a program, this is a process that imports everything and loads a backbone once, then forks
one child a run: the child is the whole program from its arguments on, under its own handling of
signals. Requests and answers are one line of JSON each.
"""

import atexit
import errno
import gc
import json
import os
import pkgutil
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

GIVE_UP_AFTER = 60


@dataclass(frozen=True)
class Run:
    """One run of the program.

    `signal` comes when it has used `moment` seconds of processor time, if `moment` is given: a
    machine that is busy with something else does not move the moments. `fault` happens inside: a
    worker that decodes dies at the `fault_number`-th image, or the disk is full from the
    `fault_number`-th write on. It starts when the one before has used `delay` seconds.
    """

    arguments: tuple[str, ...]
    moment: float | None = None
    signal: int = signal.SIGKILL
    fault: Literal["worker dies", "disk full"] | None = None
    fault_number: int = 0
    delay: float = 0.0


@dataclass(frozen=True)
class Ending:
    """How a run ended: its exit code (minus the signal that killed it), what it printed, the
    seconds of processor time it used, and the shards it has computed."""

    code: int
    out: str
    err: str
    seconds: float
    computed: list[int]


class ForkedExtractions:
    """Starts runs; those given together run at the same time."""

    def __init__(self, weights: Path, rows_per_shard: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(weights), str(rows_per_shard)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def run(self, *runs: Run) -> list[Ending]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([asdict(run) for run in runs]) + "\n")
        answer = self._process.stdout.readline()
        assert answer, "the process that forks has ended"
        return [Ending(**ending) for ending in json.loads(answer)]

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(GIVE_UP_AFTER)
        self._process.stdout.close()


@cache
def forked_extractions(weights: Path, rows_per_shard: int) -> ForkedExtractions:
    """One that is there for all tests: it takes seconds to start."""
    started = ForkedExtractions(weights, rows_per_shard)
    atexit.register(started.close)
    return started


def serve(weights: str, rows_per_shard: int) -> None:
    prepare(weights, rows_per_shard)
    for line in sys.stdin:
        print(json.dumps(_answer([Run(**run) for run in json.loads(line)])), flush=True)
    # What is frozen would be said to leak.
    os._exit(0)


def prepare(weights: str, rows_per_shard: int) -> None:
    """Make this process one whose children are the program from its arguments on.

    It has imported what the commands need, stores have `rows_per_shard` rows a shard, and the
    backbone of `weights`, under the name CLIP:from-file, is loaded.
    """
    import torch

    from declip_pipeline.backbones import registry
    from declip_pipeline.store import format as fmt

    # A pool of threads would not come along into a child.
    torch.set_num_threads(1)
    fmt.ROWS_PER_SHARD = rows_per_shard
    open_backbone = registry.open_backbone
    loaded = open_backbone("CLIP:from-file", weights=[weights], device="cpu")

    def open_loaded(arch: Any, *arguments: Any, **options: Any) -> Any:
        given = options.get("weights")
        of_file = isinstance(given, list | tuple) and list(map(str, given)) == [weights]
        as_loaded = options.get("precision", "auto") in ("auto", "float32")
        if arch == "CLIP:from-file" and of_file and as_loaded and not arguments:
            return loaded
        return open_backbone(arch, *arguments, **options)

    registry.open_backbone = open_loaded
    _import_the_rest()
    # Else each child's first collection would copy every page of the parent.
    gc.collect()
    gc.freeze()


def _import_the_rest() -> None:
    """Import what a command imports only when it runs."""
    import declip_pipeline
    import stages

    for package in (declip_pipeline, stages):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            import_module(module.name)
    for name in ("h5py", "matplotlib.pyplot", "pandas", "sklearn.decomposition", "zarr"):
        import_module(name)


def _answer(runs: list[Run]) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        children: list[int] = []
        for number, run in enumerate(runs):
            if children:
                _wait_until_used(children[-1], run.delay)
            pid = os.fork()
            if pid == 0:
                _be_the_program(run, Path(folder), number)
            children.append(pid)
        for pid, run in zip(children, runs, strict=True):
            if run.moment is not None:
                _wait_until_used(pid, run.moment)
                os.kill(pid, run.signal)  # one that has ended, but was not waited for, takes it too
        return [_ending(pid, Path(folder), number) for number, pid in enumerate(children)]


def _wait_until_used(pid: int, seconds: float) -> None:
    """Wait until a child has used so much processor time, or has ended."""
    clock = (~pid << 3) | 2  # Linux: the clock of a process, that of all its threads
    while time.clock_gettime(clock) < seconds:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.0005)


def _ending(pid: int, folder: Path, number: int) -> dict[str, Any]:
    _, status, usage = os.wait4(pid, 0)
    out, err, computed = (
        place.read_text() if place.exists() else ""  # killed before it made them
        for place in (folder / f"{kind}{number}" for kind in ("out", "err", "shards"))
    )
    return {
        "code": os.waitstatus_to_exitcode(status),
        "out": out,
        "err": err,
        "seconds": usage.ru_utime + usage.ru_stime,
        "computed": [int(shard) for shard in computed.split()],
    }


def _be_the_program(run: Run, folder: Path, number: int) -> None:
    import torch

    code: object = 1
    try:
        # Torch makes its pool again after a fork, which two threads at once do not survive.
        torch.set_num_threads(1)
        for place, kind in ((1, "out"), (2, "err")):
            descriptor = os.open(folder / f"{kind}{number}", os.O_WRONLY | os.O_CREAT)
            os.dup2(descriptor, place)
        signal.alarm(GIVE_UP_AFTER)
        random.seed()
        # What was written outlives a kill, flushed or not: the disk need not be waited for.
        os.fsync = lambda descriptor: None
        _note_shards(folder / f"shards{number}")
        if run.fault is not None:
            {"worker dies": _let_a_worker_die, "disk full": _fill_the_disk}[run.fault](
                run.fault_number
            )
        sys.argv = ["declip-pipe", *run.arguments]
        from stages.app import main

        main()
        code = 0
    except SystemExit as ending:
        code = ending.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def _note_shards(place: Path) -> None:
    """Keep a record, that a kill leaves, of the shards this process has computed."""
    from declip_pipeline.store.writer import StoreWriter

    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    write_shard = StoreWriter.write_shard

    def noted(self: StoreWriter, shard: int, *arguments: Any) -> None:
        os.write(descriptor, f"{shard}\n".encode())
        write_shard(self, shard, *arguments)

    StoreWriter.write_shard = noted  # type: ignore[method-assign]


class _Counter:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def next(self) -> int:
        with self._lock:
            self._count += 1
            return self._count


def _let_a_worker_die(number: int) -> None:
    from declip_pipeline.extraction import sample_reading

    counter, decode_image = _Counter(), sample_reading.decode_image

    def dying(*arguments: Any, **options: Any) -> Any:
        if counter.next() == number:
            raise RuntimeError("a worker died")
        return decode_image(*arguments, **options)

    sample_reading.decode_image = dying


def _fill_the_disk(number: int) -> None:
    counter, writev = _Counter(), os.writev

    def full(descriptor: int, buffers: list[memoryview]) -> int:
        if counter.next() < number:
            return writev(descriptor, buffers)
        half = b"".join(buffers)[: sum(map(len, buffers)) // 2]
        os.write(descriptor, half)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.writev = full


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
