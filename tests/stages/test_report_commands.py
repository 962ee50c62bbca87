"""Commands that runs were made by, told from what their folders record."""

from pathlib import Path

from stages.report_commands import _trainings

CONFIG = {
    "layer": "layer3",
    "decoder_type": "linear",
    "train_on": ["ldm"],
    "seed": 0,
    "learning_rate": 0.002,
    "stores": [["a" * 64]],
}
PLACES = {"a" * 64: "cache/store"}


def test_training_sets_and_seeds_of_a_grid_are_one_command():
    configs = {
        Path(f"{name}{seed}"): {**CONFIG, "train_on": [name], "seed": seed}
        for name in ("ldm", "lama")
        for seed in (0, 1)
    }
    (command,) = _trainings(configs, PLACES)
    assert command.startswith("declip-pipe train cache/store --feature-layer layer3")
    assert "--train-on ldm --train-on lama" in command and "--seed 0,1" in command
    assert "--learning-rate 0.002" in command


def test_what_is_no_full_grid_is_a_command_for_each_run():
    configs = {
        Path("one"): CONFIG,
        Path("two"): {**CONFIG, "train_on": ["lama"], "seed": 1},
    }
    assert len(_trainings(configs, PLACES)) == 2


def test_a_store_that_is_not_known_is_named_by_its_identity():
    (command,) = _trainings({Path("one"): CONFIG}, {})
    assert command.startswith(f"declip-pipe train STORE-{'a' * 12} ")


def test_an_imported_run_has_no_command():
    assert _trainings({Path("one"): {**CONFIG, "stores": None}}, PLACES) == []


def test_all_generators_together_are_the_default():
    configs = {
        Path(f"linear_layer3_all_seed{seed}_0123"): {**CONFIG, "seed": seed} for seed in (1, 2)
    }
    (command,) = _trainings(configs, PLACES)
    assert "--train-on" not in command and "--seed 1,2" in command
