"""Commands and options in the documents are those of the program."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from declip_pipeline.decoders.names import DECODER_TYPES
from stages.app import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "CONTRIBUTING.md"]
CODE = re.compile(r"^```sh\n(.*?)^```|`([^`\n]+)`", re.DOTALL | re.MULTILINE)


def commands_in(text: str) -> list[str]:
    """Return every command of the program in a page: lines of blocks, and code in sentences."""
    found = []
    for block, inline in CODE.findall(text):
        lines = block.replace("\\\n", " ").splitlines() if block else [inline]
        for line in lines:
            found += re.findall(r"declip-pipe ([^#|)]+)", line)
    return found


@cache
def command_named(words: tuple[str, ...]) -> Any:
    command: Any = app
    for word in words:
        command = command.commands[word]
    return getattr(command, "command", command)


def unknown_words(line: str) -> list[str]:
    """Return the command, or the options, that the program does not have."""
    words = line.split()
    depth = 2 if words[0] in ("cache", "data", "runs") else 1
    if words[0] == "COMMAND":
        return []
    try:
        command = command_named(tuple(words[:depth]))
    except KeyError:
        return words[:depth]
    known = {flag for option in command.params for flag in option.opts} | {"--help", "-h"}
    flags = re.findall(r"(?<=\s)(--?[a-z][\w-]*)", line)
    return [flag for flag in flags if flag not in known]


@pytest.mark.parametrize("page", PAGES, ids=lambda file: file.name)
def test_commands_and_options_exist(page):
    wrong = {
        line: words for line in commands_in(page.read_text()) if (words := unknown_words(line))
    }
    assert wrong == {}


def test_options_in_sentences_belong_to_some_command():
    known = {"--help", "-h", "--version"}
    for name, command in app.commands.items():
        subs = getattr(command, "commands", None)
        for path in [(name, sub) for sub in subs] if subs else [(name,)]:
            known |= {flag for option in command_named(path).params for flag in option.opts}
    others = {"--nthreads", "--resources", "--pooling"}  # dask worker's, and one with its value
    for page in (ROOT / "README.md", ROOT / "docs" / "guide.md"):
        for inline in re.findall(r"`(--[a-z][\w-]*)", page.read_text()):
            assert inline in known | others, f"{page.name}: {inline}"


def test_a_wrong_option_is_found():
    assert unknown_words("train STORE --layer 1") == ["--layer"]
    assert unknown_words("cache mend STORE") == ["cache", "mend"]
    assert commands_in("```sh\nRUN=$(declip-pipe train S --layers all | tail -1)\n```") == [
        "train S --layers all "
    ]


def test_decoder_types_of_the_guide_are_the_programs():
    guide = (ROOT / "docs" / "guide.md").read_text()
    for name in DECODER_TYPES:
        assert f"`{name}`" in guide
