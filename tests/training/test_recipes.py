"""Values of a recipe that are not given: the paper's, or those that suit decoder and images."""

import pytest
import torch

from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.sweeps.grid_training import GridTraining
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.recipes import CHOSEN, recipe_defaults
from declip_pipeline.training.runs import train


@pytest.mark.parametrize("decoder_type", ["linear", "attention", "conv-4", "conv-20", "pup"])
@pytest.mark.parametrize("images", [1, 5, 100, 300, 1000, 10_000, 100_000])
def test_any_number_of_images_has_steps_enough(decoder_type, images):
    values = recipe_defaults("auto", decoder_type, images)
    assert set(values) == set(CHOSEN)
    recipe = Recipe(decoder_type, **values)
    steps = recipe.most_epochs * -(-images // recipe.batch_size)
    expected = 400 * (images / 100) ** (1 / 3)
    assert 0.8 * expected <= steps
    assert steps <= 1.2 * expected or recipe.epochs == 3
    assert 1 <= recipe.batch_size <= min(64, images)


@pytest.mark.parametrize("batch_size", [1, 16, 100])
def test_the_steps_are_those_of_a_batch_size_that_is_given(batch_size):
    values = recipe_defaults("auto", "linear", 100, {"batch_size": batch_size})
    assert values["batch_size"] == batch_size
    steps = values["epochs"] * -(-100 // batch_size)
    assert steps == pytest.approx(400, rel=0.05)


def test_plateaus_that_are_asked_for_stop_by_themselves(tiny_store, tmp_path):
    assert "epochs" not in recipe_defaults("auto", "linear", 100, {"schedule": "plateau"})
    options = {"layer": ["layer1"], "decoder_type": ["linear"], "runs": str(tmp_path)}
    grid = GridTraining([tiny_store], {**options, "schedule": "plateau", "device": "cpu"})
    recipe = grid.trainer.plan(grid.cells[0]).recipe
    assert (recipe.schedule, recipe.epochs, recipe.learning_rate) == ("plateau", 400, 3e-2)


def test_the_papers_recipe_is_that_of_the_defaults():
    assert recipe_defaults("paper", "linear", 100) == {}
    assert Recipe("linear").learning_rate == 1e-3 and Recipe("linear").batch_size == 64


@pytest.mark.parametrize("decoder_type", ["probe", "probe-pca-8", "patch-forensics"])
def test_other_papers_keep_their_own(decoder_type):
    assert recipe_defaults("auto", decoder_type, 100) == {}
    assert recipe_defaults("auto", decoder_type, 20) == {"batch_size": 20}


def test_unknown_recipes_list_the_known_ones():
    with pytest.raises(UnknownNameError, match="unknown recipe 'papers'; did you mean 'paper'"):
        recipe_defaults("papers", "linear", 100)


def test_what_is_chosen_is_recorded_and_what_is_given_wins(tiny_store, tmp_path):
    run = train(
        tiny_store, layer="layer1", decoder="linear", recipe="auto", epochs=2, runs=tmp_path,
        device="cpu",
    )  # fmt: skip
    config = run.config()
    expected = recipe_defaults("auto", "linear", 8)
    assert {name: config[name] for name in CHOSEN} == {**expected, "epochs": 2}
    # It is the run of the same values, however these were given.
    again = train(
        tiny_store, layer="layer1", decoder="linear", runs=tmp_path, device="cpu",
        **{**expected, "epochs": 2},
    )  # fmt: skip
    assert again.path == run.path


def test_each_cell_of_a_grid_has_its_own(mixed_store, tmp_path):
    options = {
        "layer": ["layer1"],
        "decoder_type": ["linear", "conv-4", "probe"],
        "widths": (8, 8, 4, 4),
        "train_on": [("ldm",), ("lama", "ldm")],
        "recipe_name": "auto",
        "seed": [0],
        "runs": str(tmp_path),
        "device": "cpu",
    }
    grid = GridTraining([mixed_store], options)
    found = {
        (cell.decoder_type, cell.train_on): grid.trainer.plan(cell).recipe for cell in grid.cells
    }
    for (decoder_type, learned), recipe in found.items():
        expected = recipe_defaults("auto", decoder_type, 8 * len(learned))
        assert all(getattr(recipe, name) == value for name, value in expected.items())
    assert found["probe", ("ldm",)].schedule == "plateau"
    assert {cell.learning_rate for cell in grid.cells} == {3e-2, 2e-3, 1e-3}
    given = GridTraining([mixed_store], {**options, "learning_rate": [5e-3], "batch_size": 3})
    assert {cell.learning_rate for cell in given.cells} == {5e-3}
    assert {given.trainer.plan(cell).recipe.batch_size for cell in given.cells} == {3}
    # Side by side are those of one batch size.
    groups = grid.trainer.groups(grid.cells)
    sizes = [{grid.trainer.plan(grid.cells[n]).recipe.batch_size for n in some} for some in groups]
    assert all(len(some) == 1 for some in sizes)
    assert grid.trainer.identity() != given.trainer.identity()


@pytest.mark.slow
def test_without_knowing_a_recipe_a_decoder_learns(tiny_store, tmp_path):
    torch.manual_seed(0)
    run = train(
        tiny_store, layer="layer2", decoder="linear", recipe="auto", runs=tmp_path, device="cpu"
    )
    assert run.problem is None
    assert run.best_score > run.summary()["constant_score"] + 10


def test_a_patience_without_a_plateau_is_refused(tiny_store, tmp_path):
    with pytest.raises(InputError, match='`patience=3` with `schedule="one-cycle"`, which waits'):
        train(
            tiny_store, layer="layer1", decoder="linear", recipe="auto", patience=3, runs=tmp_path
        )
