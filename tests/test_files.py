"""Files are written whole or not at all, what killed writers left is removed, names are short."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from declip_pipeline.files import folder_name, remove_abandoned, write_bytes, write_with

KILLED = """
import os, signal, sys
from pathlib import Path
from declip_pipeline.files import write_with

def write(path):
    path.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)

write_with(Path(sys.argv[1]), write)
"""


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / ".notes.partial.csv").touch()
    (tmp_path / ".0123456789ab.partial.d").mkdir()
    subprocess.run([sys.executable, "-c", KILLED, tmp_path / "a.csv"], check=False)
    assert len(names(tmp_path)) == 3
    remove_abandoned(tmp_path)
    assert names(tmp_path) == [".0123456789ab.partial.d", ".notes.partial.csv"]


def test_what_another_process_is_writing_stays(tmp_path):
    def write(path: Path) -> None:
        path.write_bytes(b"whole")
        remove_abandoned(tmp_path)

    write_with(tmp_path / "a.csv", write)
    assert names(tmp_path) == ["a.csv"]
    assert (tmp_path / "a.csv").read_bytes() == b"whole"


def test_a_file_removed_before_it_was_locked_is_created_again(tmp_path, monkeypatch):
    created, make = [], os.open

    def removed_once(path, *arguments):
        descriptor = make(path, *arguments)
        created.append(path)
        if len(created) == 1:
            remove_abandoned(tmp_path)
        return descriptor

    monkeypatch.setattr(os, "open", removed_once)
    write_bytes(tmp_path / "a.csv", b"whole")
    assert len(set(created)) == 2
    assert names(tmp_path) == ["a.csv"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("CLIP:ViT-L/14,RN50", "CLIP-ViT-L-14-RN50"),
        ("lama+ldm", "lama+ldm"),
        ("../esc", "..-esc"),
        ("[/x]", "x"),
        ("Bücher", "Bücher"),
        ("", "unnamed"),
        ("..", "unnamed"),
        ("///", "unnamed"),
        ("x" * 300, "x" * 100),
        ("字" * 300, "字" * 33),
    ],
)
def test_a_name_is_one_level_and_short(text, name):
    assert folder_name(text) == name
    assert len(name.encode()) <= 100
