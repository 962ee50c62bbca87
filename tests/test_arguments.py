"""Arguments of another type are refused in one line by every public function; nothing is left."""

import math

import pytest

import declip_pipeline as dp
from declip_pipeline.arguments import names_in, require_positive, require_whole
from declip_pipeline.errors import InputError

TRAIN = {"layer": "layer1", "decoder": "linear", "epochs": 1, "batch_size": 2}
CASES = {
    "store of a training": (
        lambda store, run, runs: dp.train(None, **TRAIN, runs=runs),
        "found NoneType for stores; expected one or a list",
    ),
    "item of the stores": (
        lambda store, run, runs: dp.train([store, 3], **TRAIN, runs=runs),
        "found int for a store; expected its location, or an open `Store`",
    ),
    "layer": (
        lambda store, run, runs: dp.train(store, layer=None, runs=runs),
        "`layer` is None; expected the name of a layer, or several to join",
    ),
    "layer beside": (
        lambda store, run, runs: dp.train(store, **TRAIN, runs=runs, beside=["other:layer1"]),
        "`beside` has 'other:layer1'; expected pairs of a store and a layer",
    ),
    "widths": (
        lambda store, run, runs: dp.train(store, layer="layer1", widths=4, runs=runs),
        "`widths` is 4; expected whole numbers, one for each stage",
    ),
    "seed": (
        lambda store, run, runs: dp.train(store, **TRAIN, seed=-1, runs=runs),
        "`seed` is -1; expected a whole number of at least 0",
    ),
    "learning rate": (
        lambda store, run, runs: dp.train(store, **TRAIN, learning_rate=None, runs=runs),
        "`learning_rate` is None; expected a number of at least 1e-06",
    ),
    "folder of runs": (
        lambda store, run, runs: dp.train(store, **TRAIN, runs=None),
        "found NoneType for the folder of runs; expected a path",
    ),
    "several runs": (
        lambda store, run, runs: dp.evaluate([run, run], store),
        "found list for a run; expected one run or its folder",
    ),
    "store of an evaluation": (
        lambda store, run, runs: dp.evaluate(run, None),
        "found NoneType for stores; expected one or a list",
    ),
    "batch of an evaluation": (
        lambda store, run, runs: dp.evaluate(run, store, batch_size=0),
        "`batch_size` is 0; expected a whole number of at least 1",
    ),
    "task": (
        lambda store, run, runs: dp.evaluate(run, store, task="x"),
        "unknown task 'x'; known: localization, detection",
    ),
    "generators": (
        lambda store, run, runs: dp.evaluate(run, store, generators=3),
        "found 3 for generators; expected names",
    ),
    "folder of a run": (
        lambda store, run, runs: dp.Run(None),
        "found NoneType for a run; expected its folder",
    ),
    "dataset": (
        lambda store, run, runs: dp.open_dataset(3),
        "found int for a dataset; expected the path of a folder or list",
    ),
}
EXTRACT = {
    "batch_size": (0, "`batch_size` is 0; expected a whole number of at least 1"),
    "layers": (3, "`layers` is 3; expected one text, or a list"),
    "view": (3, "found int for a view; expected its name or a `View`"),
    "weights": (3, "`weights` is 3; expected one text, or a list"),
    "image_size": ("x", "`image_size` is 'x'; expected a side, or height and width"),
    "max_failures": (-1, "`max_failures` is -1; expected a whole number of at least 0"),
    "max_megapixels": ("x", "`max_megapixels` is 'x'; expected a number above 0"),
    "cache": (None, "found NoneType for a cache; expected a folder or an s3:// URL"),
}


@pytest.mark.parametrize("case", CASES)
def test_an_argument_of_another_type_is_refused_in_a_line(case, tiny_store, tiny_run, tmp_path):
    call, expected = CASES[case]
    with pytest.raises(dp.DeclipError) as caught:
        call(tiny_store, tiny_run, tmp_path)
    assert str(caught.value) == expected
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", EXTRACT)
def test_an_argument_of_extract_is_refused_before_the_dataset_is_opened(name, tmp_path):
    value, expected = EXTRACT[name]
    given = {"cache": tmp_path, name: value}
    with pytest.raises(dp.DeclipError) as caught:
        dp.extract(tmp_path / "nowhere", "efficientnet-lite0", **given)
    assert str(caught.value) == expected


def test_extract_takes_layers_by_numbers_and_refuses_what_is_no_dataset(tmp_path):
    with pytest.raises(dp.DeclipError, match="found object for a dataset; expected the path"):
        dp.extract(object(), "efficientnet-lite0", layers=[1], cache=tmp_path)


def test_one_generator_may_be_given_as_a_text(tiny_store, tiny_run):
    name = tiny_store.generators[0]
    one, several = (dp.evaluate(tiny_run, tiny_store, generators=g) for g in (name, [name]))
    assert one.images() == several.images()


@pytest.mark.parametrize("value", [math.nan, 0, -1, True, "1", None])
def test_numbers_above_zero_are_no_other_values(value):
    with pytest.raises(InputError, match="expected a number above 0"):
        require_positive("x", value)
    require_positive("x", math.inf)


@pytest.mark.parametrize("value", [True, 1.0, "1", None, 0])
def test_whole_numbers_are_no_truth_values_and_no_fractions(value):
    with pytest.raises(InputError, match="expected a whole number of at least 1"):
        require_whole("x", value, 1)
    require_whole("x", 1, 1)


def test_names_are_texts():
    assert names_in("ldm", "x") == ("ldm",)
    assert names_in(["ldm", "lama"], "x") == ("ldm", "lama")
    with pytest.raises(InputError, match=r"found \['ldm', 1\] for x; expected names"):
        names_in(["ldm", 1], "x")
