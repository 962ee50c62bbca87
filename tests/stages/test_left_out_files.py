"""Files that are not taken are said by `extract`, `data check` and `predict` alike."""

import json
import os

import numpy as np
import pytest

ESCAPE = r"left out: 1 file .md, such as images/red\x1b[31m.md: of a type that is not read"
NPZ = "left out: 1 file .npz, such as masks/extra.npz: of a type that is not read"
PIPE = (
    "left out: 1 irregular file, such as images/train/pipe.png: pipes, devices and links that lead "
    "nowhere are not read"
)
FOLDER = "left out: folder other (1 file), such as other/a.png: no part of layout folders"


@pytest.fixture
def untidy(dataset):
    np.savez(dataset / "masks" / "extra.npz", mask=np.zeros((2, 2)))
    os.mkfifo(dataset / "images" / "train" / "pipe.png")
    (dataset / "other").mkdir()
    image = next((dataset / "images" / "train").glob("p*.png"))
    (dataset / "other" / "a.png").write_bytes(image.read_bytes())
    (dataset / "images" / "red\x1b[31m.md").write_text("words")
    (dataset / ".DS_Store").write_bytes(b"x")
    return dataset


def test_extract_and_data_check_say_the_same(program, tiny_arch, untidy, tmp_path):
    cache = ("--cache", tmp_path / "cache")
    outcome = program("extract", untidy, *tiny_arch, "--layers", "layer0", *cache)
    assert outcome.code == 0
    said = [line for line in outcome.err.splitlines() if line.startswith("left out")]
    assert said == [ESCAPE, NPZ, FOLDER, PIPE]
    outcome = program("data", "check", untidy)
    assert outcome.code == 0
    assert [line for line in outcome.out.splitlines() if "left out" in line] == [
        f"note: {line}" for line in said
    ]
    found = json.loads(program("data", "check", untidy, "--json").out)["left_out"]
    assert [(one["what"], one["count"], one["example"]) for one in found] == [
        ("files .md", 1, "images/red\x1b[31m.md"),
        ("files .npz", 1, "masks/extra.npz"),
        ("folder other", 1, "other/a.png"),
        ("irregular files", 1, "images/train/pipe.png"),
    ]


@pytest.mark.slow
def test_predict_says_what_it_does_not_take(program, tiny_run, untidy, tmp_path):
    out = untidy / "results"
    for _ in range(2):  # its own results are no files that are left out
        outcome = program("predict", tiny_run, "-i", untidy, "-o", out)
        assert outcome.code == 0, outcome
        said = [line for line in outcome.err.splitlines() if "left out" in line]
        assert said == [
            f"{untidy}: {ESCAPE}",
            f"{untidy}: {NPZ}",
            f"{untidy}: {PIPE}",
        ]


def test_a_pipe_is_no_input(refused, tiny_run, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    command = ("predict", tiny_run, "-i", tmp_path / "pipe.png", "-o", tmp_path / "out")
    assert refused(*command, code=1) == "1 of 1 images could not be used"
    os.mkfifo(tmp_path / "list.csv")
    line = refused("data", "check", tmp_path / "list.csv")
    assert line == f"{tmp_path / 'list.csv'} is no regular file; expected a list in a file"
