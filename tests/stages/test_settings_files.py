"""Settings files that are no files, or hold what no settings are: one line, and at once."""

import os

import pytest

# A list of nine lists of nine lists, and so on: 400 million texts.
BOMB = ", ".join(
    f"&s{level} [{', '.join([f'*s{level - 1}' if level else 'x'] * 9)}]" for level in range(9)
)


@pytest.fixture
def lines_of(refused, tmp_path):
    """Returns what `train --config` and `reproduce` say of a settings file."""
    file = tmp_path / "settings.yaml"
    commands = [
        ("train", tmp_path, "--config", file),
        ("reproduce", file, "--data", f"made={tmp_path}"),
    ]
    return file, lambda: [refused(*command) for command in commands]


def test_a_named_pipe_is_not_waited_for(lines_of):
    file, lines = lines_of
    os.mkfifo(file)
    for line in lines():
        assert line == f"config {file} is no regular file; expected a YAML file"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("layers: " + "[" * 3000 + "]" * 3000, "is nested too deeply; expected keys and values"),
        ("layers: 2020-13-45", "is not YAML: month must be in 1..12"),
        ("layers: [", "is not YAML: "),
        ("layers", "holds no settings; expected keys and values"),
    ],
)
def test_what_is_no_settings_is_refused(lines_of, text, words):
    file, lines = lines_of
    file.write_text(text)
    for line in lines():
        assert line.startswith(f"config {file} {words}")


def test_a_value_of_aliases_of_aliases_is_shown_in_part(refused, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(f"layers: [{BOMB}]")
    line = refused("train", tmp_path, "--config", file)
    assert line.startswith(f"config {file}: layers: found [")
    assert line.endswith("Input should be a valid string")
    assert len(line) < 1000


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("learning_rate: [true, 1.0e-3]", "learning_rate"),
        ("epochs: true", "epochs"),
        ("patience: false", "patience"),
    ],
)
def test_true_and_false_are_no_numbers(refused, tiny_store, tmp_path, text, place):
    file = tmp_path / "grid.yaml"
    file.write_text(f"{text}\n")
    line = refused("train", tiny_store.location, "--config", file, "-o", tmp_path / "runs")
    assert line.startswith(f"config {file}: {place}: found ")
    assert line.endswith("expected a number")
