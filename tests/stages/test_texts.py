"""Parameters in the library's messages are flags on the screen."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import NAMES, command_of

import declip_pipeline
from stages.app import COMMANDS
from stages.texts import FLAGS, PLAIN, flags_of, parameters, printable, spelled
from stages.training_options import option_fields


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("raise `max_megapixels`", "raise --max-megapixels"),
        ("pass `overwrite=True` to replace it", "pass --overwrite to replace it"),
        ("pass `fake_is_white=False`", "pass --polarity black-is-fake"),
        ("`fake_is_white=True`", "--polarity white-is-fake"),
        ("where `fake_is_white` is passed", "where --polarity is passed"),
        ('expected `dask="local:N"` (workers here)', "expected --dask local:N (workers here)"),
        ("take `batch_size=4` or less", "take --batch-size 4 or less"),
        ("with `assign_splits=(80, 10, 10)`", "with --assign-splits 80,10,10"),
        ("`layers=['layer1', 'layer2']`", "--layers layer1,layer2"),
        ("give `weights=FILE`", "give --weights FILE"),
        ("say it with `layer`, `decoder`", "say it with --feature-layer, --decoder-type"),
        ("`root` or `cache`", "--cache or --cache"),
        ("`uncached=True`", "--no-cache"),
        ("another `runs`", "another -o"),
    ],
)
def test_parameters_are_spelled_as_flags(message, line):
    assert spelled(message) == line


@pytest.mark.parametrize(
    "message", ["run `train` again", "run `declip-pipe cache verify X --repair`", "`metrics.jsonl`"]
)
def test_what_is_no_parameter_is_left_as_it_is(message):
    assert spelled(message) == message


def test_every_option_of_a_command_can_be_spelled():
    known = {flag for name in [*FLAGS, *PLAIN, *option_fields()] for flag in flags_of(name)}
    for name in NAMES:
        for parameter in command_of(name).params:
            if parameter.param_type_name == "option":
                assert known & set(parameter.opts), f"{name}: {parameter.opts}"


def test_every_option_of_a_recipe_is_one_of_train_and_of_a_grid_file():
    from stages.settings import grid_settings

    flags = {flag for parameter in command_of("train").params for flag in parameter.opts}
    for name, field in option_fields().items():
        assert set(flags_of(name)) <= flags
        if field.option.group not in ("machine", "output"):
            assert name in {field.name for field in grid_settings().values()}


LIBRARY = Path(declip_pipeline.__file__).parent


def texts_of(file: Path) -> Iterator[str]:
    """The strings in a file's code, values in f-strings as X; docstrings and comments are none."""
    tree = ast.parse(file.read_text())
    left_out = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            left_out.update(map(id, node.values))
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values
            )
        elif isinstance(node, ast.Constant) and id(node) not in left_out:
            yield str(node.value)


@pytest.mark.slow
def test_the_parameters_that_the_library_names_can_be_spelled():
    names = {
        name
        for file in LIBRARY.rglob("*.py")
        for text in texts_of(file)
        for name, _ in re.findall(r"`([a-z_]+)(=[^`]+)?`", text)
    }
    assert {"layers", "fake_is_white", "overwrite"} <= names
    # Parameters of what a notebook uses and no command does.
    of_python_alone = {"targets", "multiprocessing_context"}
    assert names - {*COMMANDS} - of_python_alone <= parameters()


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted(LIBRARY.rglob("*.py")), ids=lambda file: file.stem)
def test_the_library_names_no_flags_but_in_commands(file):
    for text in texts_of(file):
        if not re.fullmatch("--[a-z-]+", text):  # a word of a command that is put together
            outside = re.sub("`[^`]*`|pip install.*|^declip-pipe .*", "", text)
            assert not re.search(r"(?<![\w-])(--[a-z]|-[a-z]\b)", outside), text


def test_control_characters_are_shown_and_not_acted_on() -> None:
    assert printable("\x1b[31mred\x07.png\tb\x9b1m ä\n") == "\\x1b[31mred\\x07.png\\tb\\x9b1m ä\n"
