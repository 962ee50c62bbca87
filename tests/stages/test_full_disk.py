"""A disk that fills up: one line, nothing half-written, and the same command goes on."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from declip_pipeline.store.reader import Store

PROGRAM = [sys.executable, "-c", "from stages.app import main; main()"]


def run(
    arguments: list[object], largest_file: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the program, in a process of its own, under a quota on the size of a file in bytes."""

    def limit() -> None:
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )


def refusal(outcome: subprocess.CompletedProcess[str]) -> str:
    assert outcome.returncode == 1, outcome.stderr
    lines = [line for line in outcome.stderr.splitlines() if line.startswith("declip-pipe: ")]
    assert len(lines) == 1, outcome.stderr
    assert "Traceback" not in outcome.stderr
    return lines[0]


def partial_files(folder: Path) -> list[Path]:
    return [f for f in folder.rglob("*") if "partial" in f.name or "lock" in f.name]


@pytest.fixture
def extraction(shared_dataset, tiny_arch, tmp_path) -> list[object]:
    """All layers of 15 images: 1 MB a layer, in one shard each."""
    return ["extract", shared_dataset, *tiny_arch, "--cache", tmp_path / "cache"]


@pytest.mark.slow
def test_an_extraction_over_quota_goes_on_later(extraction, tmp_path):
    line = refusal(run(extraction, largest_file=500_000))
    assert "no space left to write" in line
    assert "run the same command again, it goes on where it stopped" in line
    assert partial_files(tmp_path) == []
    outcome = run(extraction)
    assert outcome.returncode == 0, outcome.stderr
    assert len(Store(Path(outcome.stdout.splitlines()[-1])).samples) == 15


@pytest.mark.slow
def test_a_training_over_quota_goes_on_later(tiny_store, tmp_path):
    training = [
        "train",
        tiny_store.location,
        "--feature-layer",
        "layer1",
        "--batch-size",
        8,
        "--decoder-type",
        "conv-4",
    ]
    training += ["--widths", "16,16,8,8", "--epochs", 1, "-o", tmp_path / "runs"]
    line = refusal(run(training, largest_file=100_000))
    assert "no space left while writing" in line
    assert partial_files(tmp_path) == []
    outcome = run(training)
    assert outcome.returncode == 0, outcome.stderr


@pytest.mark.slow
def test_a_prediction_over_quota_goes_on_later(tiny_run, shared_dataset, tmp_path):
    images = shared_dataset / "images" / "test"
    line = refusal(run(["predict", tiny_run, "-i", images, "-o", tmp_path / "out"], 2_000))
    assert "no space left while writing" in line
    assert partial_files(tmp_path) == []
    assert not (tmp_path / "out" / "predictions.csv").exists()
    outcome = run(["predict", tiny_run, "-i", images, "-o", tmp_path / "out"])
    assert outcome.returncode == 0, outcome.stderr
    assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kilobytes", "message"),
    [(3000, "the store needs 4 MB for 15 images, 3 MB are free"), (4000, "no space left to")],
    ids=["told beforehand", "met half-way"],
)
def test_a_full_file_system(extraction, tmp_path, kilobytes, message):
    """A tmpfs that is too small, then grown, in a mount namespace of the test's own."""
    cache = tmp_path / "cache"
    cache.mkdir()
    command = " ".join(f"'{part}'" for part in [*PROGRAM, *extraction])
    script = (
        f"mount -t tmpfs -o size={kilobytes}k tmpfs {cache} || exit 77\n"
        f"{command}; echo first $?\n"
        f"find {cache} -name '*lock*' -o -name '*partial*'\n"
        f"mount -o remount,size=64m {cache}\n"
        f"{command}; echo second $?\n"
    )
    outcome = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in outcome.stderr or outcome.returncode == 77:
        pytest.skip("no mount namespace here (a plain container?); the quota tests do the same")
    assert outcome.returncode == 0, outcome.stderr
    lines = outcome.stdout.splitlines()
    # Neither a result nor a torn file stands between the two outcomes but the store's path.
    assert lines[0] == "first 1"
    assert lines[1].startswith(str(cache))
    assert lines[2:] == ["second 0"]
    assert "Traceback" not in outcome.stderr
    assert message in outcome.stderr
