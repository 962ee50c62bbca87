"""`cache export` and `cache import`, and work from the file itself, as a user does it."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.s3_server import running_s3_server

from declip_pipeline.store import format as fmt

DECODER = ("--feature-layer", "layer1", "--decoder-type", "conv-4", "--widths", "8,8,4,4")


@pytest.fixture
def exported(program, tiny_store, tmp_path) -> Path:
    path = tmp_path / "out.h5"
    outcome = program("cache", "export", tiny_store.location, path)
    assert (outcome.code, outcome.last_line) == (0, str(path)), outcome.err
    return path


def files_of(folder: Path | str) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in Path(folder).rglob("*")
        if file.is_file()
    }


def test_a_store_comes_back_as_it_was(program, exported, tiny_store, tmp_path):
    arguments = ("cache", "import", exported, "--cache", tmp_path / "cache")
    first = program(*arguments)
    assert first.code == 0, first.err
    assert files_of(first.last_line) == files_of(tiny_store.location)
    second = program(*arguments)
    assert (second.code, second.last_line) == (0, first.last_line)
    assert "the store is there already, nothing to do" in second.err


def test_an_import_with_another_zstd_says_so(program, exported, tmp_path, monkeypatch):
    monkeypatch.setattr("declip_pipeline.store.shards.ZSTD_LEVEL", 1)
    outcome = program("cache", "import", exported, "--cache", tmp_path / "cache")
    assert outcome.code == 0
    assert "the same rows, but another zstd than the exporter's compressed them" in outcome.err


@pytest.mark.slow
def test_training_and_evaluation_take_the_file(program, exported, tiny_store, tmp_path):
    """The results are those from the store, to the byte."""
    results = []
    for number, store in enumerate((tiny_store.location, exported)):
        runs = tmp_path / f"runs{number}"
        run = program("train", store, *DECODER, "--epochs", 2, "--batch-size", 3, "-o", runs)
        assert run.code == 0, run.err
        judged = program("evaluate", run.last_line, "--on", store)
        assert judged.code == 0, judged.err
        assert "IoU" in judged.out
        kept = ("per_image.csv", "checkpoint_best.safetensors", "config.yaml")
        files = files_of(runs).items()
        found = {n: data for n, data in files if n.endswith(kept) or "/evaluations/" in n}
        (name,) = (n for n in found if n.endswith("summary.json"))
        summary = json.loads(found[name])
        assert [summary.pop("location")] == summary.pop("input_locations") == [str(store)]
        results.append({**found, name: summary})
    # The run's settings and weights; the evaluation's figures, whole and by image.
    assert len(results[0]) == 4
    assert results[0] == results[1]


@pytest.mark.slow
def test_a_store_in_a_bucket(program, tiny_store, tmp_path, monkeypatch):
    server = running_s3_server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = server.new_bucket()
    local = tmp_path / "local.h5"
    assert program("cache", "export", tiny_store.location, local).code == 0
    imported = program("cache", "import", local, "--cache", f"s3://{bucket}/root")
    assert imported.code == 0, imported.err
    place = imported.last_line.removeprefix(f"s3://{bucket}/") + "/"
    assert server.objects(bucket, place) == files_of(tiny_store.location)
    again = tmp_path / "again.h5"
    assert program("cache", "export", imported.last_line, again).code == 0
    assert again.read_bytes() == local.read_bytes()


def test_a_file_that_is_there_stays(refused, program, exported, tiny_store):
    before = exported.read_bytes()
    exported.write_bytes(b"mine")
    line = refused("cache", "export", tiny_store.location, exported, code=1)
    assert "out.h5 exists; pass --overwrite to replace it, or name another" in line
    assert exported.read_bytes() == b"mine"
    assert program("cache", "export", tiny_store.location, exported, "--overwrite").code == 0
    assert exported.read_bytes() == before


@pytest.mark.parametrize("file", ["folder", "s3://bucket/out.h5"])
def test_an_export_to_what_cannot_be_a_file(refused, tiny_store, tmp_path, monkeypatch, file):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    line = refused("cache", "export", tiny_store.location, file)
    assert f"{file} is a " in line
    assert "; expected a file" in line
    assert [place.name for place in tmp_path.iterdir()] == ["folder"]


def test_nothing_is_written_into_a_store(program, refused, tiny_store, tmp_path):
    """Neither an exported file, nor runs."""
    before = files_of(tiny_store.location)
    inside = Path(tiny_store.location, "ledger", "out.h5")
    line = refused("cache", "export", tiny_store.location, inside)
    assert f"{inside} lies in the store {tiny_store.location}; name a file elsewhere" in line
    runs = Path(tiny_store.location, "runs")
    line = refused("train", tiny_store.location, *DECODER, "-o", runs, code=1)
    assert f"{runs} lies in the store {tiny_store.location}; name another with -o" in line
    assert files_of(tiny_store.location) == before


def test_an_export_of_what_is_no_store(refused, tmp_path, tiny_store):
    (tmp_path / "notes.txt").write_text("hello")
    for place, message in {
        tmp_path / "nowhere": "is not a feature store; expected what `declip-pipe extract` printed",
        tmp_path: "is not a feature store; expected what `declip-pipe extract` printed",
        tmp_path / "notes.txt": "is not an HDF5 file; expected a store's folder, or a file that",
        Path(tiny_store.location) / fmt.GROUP: "is not an HDF5 file; expected a store's folder",
    }.items():
        line = refused("cache", "export", place, tmp_path / "out.h5", code=1)
        assert line.startswith(str(place))
        assert message in line
        assert not (tmp_path / "out.h5").exists()


def text_file(path: Path) -> None:
    path.write_text("hello")


def other_hdf5_file(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["weights"] = np.zeros(3)


def truncated_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def newer_file(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["declip_pipe_store"] = fmt.FORMAT_VERSION + 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (text_file, "is not an HDF5 file; expected a store's folder, or a file that `declip-pipe"),
        (other_hdf5_file, "is an HDF5 file of something else; expected a file that `declip-pipe"),
        (truncated_file, "it may have been cut short: copy or export it again"),
        (
            newer_file,
            "this program reads 4; upgrade declip-pipe",
        ),
    ],
)
def test_files_that_cannot_be_used(refused, exported, tmp_path, damage, message):
    damage(exported)
    cache, runs = tmp_path / "cache", tmp_path / "runs"
    for arguments in (
        ("cache", "import", exported, "--cache", cache),
        ("train", exported, *DECODER, "-o", runs),
        ("cache", "export", exported, tmp_path / "again.h5"),
    ):
        line = refused(*arguments, code=1)
        assert line.startswith(f"{exported} ")
        assert message in line
    assert [place.name for place in tmp_path.iterdir()] == ["out.h5"]


def test_an_import_of_what_is_no_file(refused, tmp_path, tiny_store):
    for place, state in ((tiny_store.location, "is not a file"), ("absent.h5", "does not exist")):
        line = refused("cache", "import", place, "--cache", tmp_path / "cache")
        assert line == f"{place} {state}; expected a file that `declip-pipe cache export` wrote"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_export_over_quota_leaves_nothing(tiny_store, tmp_path):
    """In a process of its own: HDF5 would bring it down as it ends."""
    for largest_file in (10_000, 1_000_000):
        outcome = subprocess.run(
            [
                *(sys.executable, "-c", "from stages.app import main; main()"),
                *("cache", "export", tiny_store.location, str(tmp_path / "out.h5")),
            ],
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda size=largest_file: resource.setrlimit(
                resource.RLIMIT_FSIZE, (size, size)
            ),
        )
        assert outcome.returncode == 1, outcome.stderr
        assert "no space left while writing" in outcome.stderr
        assert "Traceback" not in outcome.stderr
        assert list(tmp_path.iterdir()) == []
