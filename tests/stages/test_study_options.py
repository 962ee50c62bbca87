"""Options of a study's file, read as the commands read them, and the commands of its steps."""

from pathlib import Path

import pytest

from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.study.extraction import ExtractionStep
from stages.study_options import read_extraction, read_training
from stages.study_screen import command_of


def extraction(**options):
    return read_extraction(Path("data"), {"arch": "RN50", **options}, "file, extract")


def training(**options):
    return read_training(
        ["a"], {"layers": "layer3", **options}, "file, train[0]", dask=None, scheduler=None
    )


def test_an_extraction_is_the_command_that_makes_it():
    step = extraction(
        generators=["ldm", "lama"],
        weights=["a.pt", "b.pt"],
        assign_splits="0,0,100",
        polarity="black-is-fake",
        compile=True,
        batch_size="64",
        views=["clean", "jpeg:70"],
        allow_unpaired=False,
    )
    assert step.generators == ("ldm", "lama") and step.batch_size == 64
    assert step.assign_splits == (0, 0, 100) and step.fake_is_white is False
    assert command_of(step) == (
        "declip-pipe extract data --arch RN50 --views clean,jpeg:70 --weights a.pt --weights b.pt "
        "--generators ldm,lama --polarity black-is-fake --assign-splits 0,0,100 --batch-size 64 "
        "--compile"
    )


def test_defaults_of_the_command_are_those_of_the_step():
    assert extraction() == ExtractionStep(Path("data"), "RN50")
    assert command_of(extraction()) == "declip-pipe extract data --arch RN50"


def test_a_training_is_the_command_that_makes_it():
    step = training(
        train_on=[["ldm", "lama"], ["pluralistic"]],
        decoders=["linear", "conv-4"],
        widths=[8, 8, 4, 4],
        lr=[1e-3, 2e-4],
        seeds=0,
        detection=True,
        beside=["b:layer1"],
        no_cache=True,
    )
    assert step.options["train_on"] == [("ldm", "lama"), ("pluralistic",)]
    assert step.options["learning_rate"] == [1e-3, 2e-4]
    assert step.options["pooling"] == "mean"
    assert command_of(step, lambda names: [f"cache/{name}" for name in names]) == (
        "declip-pipe train cache/a --feature-layer layer3 --train-on ldm,lama --train-on "
        "pluralistic --decoder-type linear,conv-4 --widths 8,8,4,4 --learning-rate 0.001,0.0002 "
        "--beside cache/b:layer1 --no-cache --detection"
    )


@pytest.mark.parametrize(
    ("read", "options", "line"),
    [
        (extraction, {"dtype": "int9"}, "Invalid value for '--dtype': 'int9': Input should be"),
        (extraction, {"batch_size": 0}, "Invalid value for '--batch-size': 0: Input should be gre"),
        (extraction, {"batch_size": True}, "Invalid value for '--batch-size': True"),
        (extraction, {"compile": 1}, "file, extract: compile: found 1; expected true or false"),
        (extraction, {"split": "a,,b"}, "file, extract: 'a,,b' has an empty item"),
        (training, {"precision": "bf16"}, "Invalid value for '--precision': 'bf16': Input should"),
        (training, {"seeds": ["x"]}, "file, train[0]: --seed 'x'; expected a whole number"),
        (training, {"pooling": "max"}, "file, train[0]: --pooling max is for detection"),
    ],
)
def test_a_value_that_cannot_be_is_told_with_its_place(read, options, line):
    with pytest.raises(InputError) as error:
        read(**options)
    assert line in str(error.value)


def test_keys_are_those_of_the_commands():
    with pytest.raises(UnknownNameError, match="unknown option in file, extract 'dry_run'"):
        extraction(dry_run=True)
    with pytest.raises(UnknownNameError, match="did you mean 'patience'"):
        training(patence=3)
    with pytest.raises(InputError, match="Missing option '--feature-layer'"):
        read_training([], {}, "file", dask=None, scheduler=None)
