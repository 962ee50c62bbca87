"""Names are shown to the letter, whatever they look like."""

import io
import sys

import pytest

from stages.screen import console, progress, remark, result

ODD = "runs/[bold]x[/] :smile: [/x] {task}"


def test_a_remark_is_shown_to_the_letter(capsys):
    remark(ODD)
    assert capsys.readouterr().err == f"{ODD}\n"


def test_a_path_that_stdout_cannot_hold_is_escaped_and_said(capsys, monkeypatch):
    # The encoding of a terminal or log file ended an extraction that was finished.
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", stdout)
    result("runs/caf\xe9")
    result("runs/\u65e5")
    assert stdout.buffer.getvalue() == b"runs/caf\xe9\nruns/\\u65e5\n"
    said = capsys.readouterr().err
    assert said == (
        "the line above is escaped: stdout is latin-1, which lacks '\\u65e5'; set "
        "PYTHONIOENCODING=utf-8\n"
    )


def test_a_bar_is_named_to_the_letter(capsys):
    with progress(ODD) as tell:
        tell(1, 1)
    assert ODD in capsys.readouterr().err


LONG = "conv-20_layer20_" + "repaint-p2-9k+" * 5 + "ldm_0123456789ab on celebahq"


@pytest.mark.parametrize(("total", "unit"), [(9, "images"), (12345, "pictures")])
@pytest.mark.parametrize("name", ["judging", "x" * 40, LONG])
def test_a_bar_takes_one_line(capsys, monkeypatch, name, total, unit):
    monkeypatch.setattr(console, "_width", 80)
    with progress(name, unit) as tell:
        tell(0, total)
        tell(total, total)
    line, end = capsys.readouterr().err.rstrip(" ").split("\n")
    assert end == ""
    assert len(line) <= 80


def test_of_a_long_name_both_ends_are_shown(capsys, monkeypatch):
    for width, shown in ((80, "conv-20_layer20_rep...6789ab on celebahq "), (300, f"{LONG} ")):
        monkeypatch.setattr(console, "_width", width)
        with progress(LONG) as tell:
            tell(1, 2)
        assert capsys.readouterr().err.startswith(shown)
