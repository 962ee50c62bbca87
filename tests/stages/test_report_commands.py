"""Commands that runs were made by, told from what their folders record."""

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
        f"{name}{seed}": {**CONFIG, "train_on": [name], "seed": seed}
        for name in ("ldm", "lama")
        for seed in (0, 1)
    }
    (command,) = _trainings(configs, PLACES)
    assert command.startswith("declip-pipe train cache/store --feature-layer layer3")
    assert "--train-on ldm --train-on lama" in command and "--seed 0,1" in command
    assert "--learning-rate 0.002" in command


def test_what_is_no_full_grid_is_a_command_for_each_run():
    configs = {
        "one": CONFIG,
        "two": {**CONFIG, "train_on": ["lama"], "seed": 1},
    }
    assert len(_trainings(configs, PLACES)) == 2


def test_a_store_that_is_not_known_is_named_by_its_identity():
    (command,) = _trainings({"one": CONFIG}, {})
    assert command.startswith(f"declip-pipe train STORE-{'a' * 12} ")


def test_an_imported_run_has_no_command():
    assert _trainings({"one": {**CONFIG, "stores": None}}, PLACES) == []
