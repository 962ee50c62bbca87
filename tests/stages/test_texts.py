"""Parameters in the library's messages are flags on the screen."""

import pytest
from commands import NAMES, command_of

from stages.texts import FLAGS, PLAIN, flags_of, spelled
from stages.training_options import option_fields


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("raise `max_megapixels`", "raise --max-megapixels"),
        ("pass `overwrite=True` to replace it", "pass --overwrite to replace it"),
        ('`polarity="black-is-fake"`', "--polarity black-is-fake"),
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
