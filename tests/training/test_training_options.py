"""Options beside the paper's: reproducible, resumable, the same in company and alone."""

from dataclasses import replace

import pytest
import torch

from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.features import FeatureShape
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.learner import averaged_model
from declip_pipeline.training.learner_choice import decoder_of, learner_of
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.runs import plan_run, train_run, train_runs

CPU = torch.device("cpu")
SHAPE = FeatureShape(8, 4, 4, prefix_tokens=1)
LINEAR = Recipe("linear", epochs=3, batch_size=3, learning_rate=1e-2)
CONV = Recipe("conv-4", widths=(8, 8, 4, 4), epochs=3, batch_size=3, initialization="pytorch")
OPTIONS = {
    "weight_decay": {"weight_decay": 0.1},
    "one_cycle": {"schedule": "one-cycle"},
    "cosine": {"schedule": "cosine"},
    "flips": {"flips": True},
    "channel_dropout": {"channel_dropout": 0.2},
    "feature_noise": {"feature_noise": 0.2},
    "mixup": {"mixup": 0.4},
    "bce_dice": {"loss": "bce+dice"},
    "focal": {"loss": "focal", "positive_weight": 2.0},
    "lovasz": {"loss": "lovasz"},
    "average": {"average": 0.9},
    "positive_weight": {"positive_weight": 3.0},
}
ALL = {
    **{"weight_decay": 0.05, "schedule": "one-cycle", "flips": True, "channel_dropout": 0.2},
    **{"feature_noise": 0.1, "mixup": 0.2, "loss": "bce+dice", "average": 0.9},
}


def losses(run):
    return [record["train_loss"] for record in run.epochs()]


def trained(store, runs, recipe, on_epoch=lambda epoch: None, layer="layer1"):
    data = TrainingData([store], device=CPU)
    return train_run(data, runs, layer=layer, recipe=recipe, on_epoch=on_epoch)


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_is_another_run_that_learns_otherwise(tiny_store, tmp_path, name):
    plain = trained(tiny_store, tmp_path, LINEAR)
    own = trained(tiny_store, tmp_path, replace(LINEAR, **OPTIONS[name]))
    assert own.path != plain.path
    for key, value in OPTIONS[name].items():
        assert own.config()[key] == value and key not in plain.config()
    mine, theirs = (one.best_decoder()[0].state_dict() for one in (own, plain))
    assert not all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*OPTIONS, "all"])
@pytest.mark.parametrize("base", [LINEAR, CONV])
def test_resumed_it_ends_the_same(tiny_store, tmp_path, name, base):
    recipe = replace(base, **(ALL if name == "all" else OPTIONS[name]))

    def interrupt(epoch):
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    undisturbed = trained(tiny_store, tmp_path / "one", recipe)
    with pytest.raises(KeyboardInterrupt):
        trained(tiny_store, tmp_path / "two", recipe, interrupt)
    resumed = trained(tiny_store, tmp_path / "two", recipe)
    assert losses(resumed) == losses(undisturbed)
    assert resumed.best_checkpoint.read_bytes() == undisturbed.best_checkpoint.read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("two_threads")
def test_side_by_side_each_is_as_alone(tiny_store, tmp_path):
    some = [
        (layer, replace(base, **own, epochs=2))
        for own in (*OPTIONS.values(), ALL, {})
        for layer, base in (("layer1", LINEAR), ("layer2", CONV))
    ]
    data = TrainingData([tiny_store], device=CPU)
    together = [plan_run(data, tmp_path / "one", layer=n, recipe=r) for n, r in some]
    assert train_runs(data, together) == [None] * len(some)
    data = TrainingData([tiny_store], device=CPU, tier="stream")
    for run, (layer, recipe) in zip(together, some, strict=True):
        alone = plan_run(data, tmp_path / "two", layer=layer, recipe=recipe)
        assert train_runs(data, [alone]) == [None]
        assert losses(run.folder) == losses(alone.folder)
        first, second = (one.folder.best_checkpoint.read_bytes() for one in (run, alone))
        assert first == second


def test_detection_takes_those_that_need_no_masks(mixed_store, tmp_path):
    recipe = replace(LINEAR, pooling="mean", **{**ALL, "loss": "bce"}, positive_weight=2.0)
    assert len(trained(mixed_store, tmp_path, recipe).epochs()) == 3


def test_the_rates_of_a_schedule_in_steps_are_recorded(tiny_store, tmp_path):
    run = trained(tiny_store, tmp_path, replace(LINEAR, schedule="one-cycle"))
    rates = [record["learning_rate"] for record in run.epochs()]
    assert rates[0] == pytest.approx(1e-2 / 25) and rates[1] > rates[2]
    assert run.summary()["stopped_by"] == "epochs"


def test_an_average_is_what_is_validated_and_kept(tiny_store, tmp_path):
    """With a decay of 0.9 after six steps, it is the average of (1 + n) / (10 + n)."""
    decoder = torch.nn.Linear(1, 1, bias=False)
    average = averaged_model(decoder, 0.9)
    expected = None
    for step in range(6):
        with torch.no_grad():
            decoder.weight.fill_(float(step))
        average.update_parameters(decoder)
        kept = min(0.9, (1 + step) / (10 + step))
        expected = 0.0 if expected is None else kept * expected + (1 - kept) * step
    assert average.module.weight.item() == pytest.approx(expected)

    learner = learner_of(replace(LINEAR, average=0.9), [SHAPE], "concat", CPU)
    learner.begin_epoch(0.1)
    features, targets = torch.randn(2, 17, 8), torch.ones(2, 256, 256)
    for _ in range(3):
        learner.accumulate(learner.compute([features], targets, 1.0))
        learner.update()
    assert learner.learned is not learner.decoder
    learner.learned.eval()
    assert torch.equal(learner.logits([features]), learner.learned(features))
    assert not torch.equal(learner.logits([features]), learner.decoder(features))


def test_runs_of_before_are_named_as_they_were():
    """The recipe as plain values before there were these options."""
    assert Recipe().to_json() == {
        **{"decoder_type": "conv-20", "widths": None, "initialization": "paper", "seed": 0},
        **{"epochs": 400, "batch_size": 64, "micro_batch_size": None, "learning_rate": 1e-3},
        **{"patience": 5, "precision": "float32", "compile": False},
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"schedule": "one-cycle"},
            '`schedule="one-cycle"` without a number of epochs, over which it goes; give `epochs`',
        ),
        (
            {"schedule": "cosine", "epochs": 3, "patience": 2},
            '`patience=2` with `schedule="cosine"`, which waits for no plateau; leave it out, or '
            'take `schedule="plateau"`',
        ),
        ({"average": 1.0}, "`average` is 1.0; expected less than 1"),
        ({"channel_dropout": 1.5}, "`channel_dropout` is 1.5; expected less than 1"),
        ({"weight_decay": -1.0}, "`weight_decay` is -1.0; expected a number of at least 0"),
        ({"mixup": float("nan")}, "`mixup` is nan; expected a number of at least 0"),
        ({"loss": "bce+bce"}, "`loss` is 'bce+bce'; name each loss once"),
        (
            {"loss": "dice", "pooling": "mean"},
            "`loss=dice` compares maps with masks; detection learns from labels of images, leave "
            "it out",
        ),
        (
            {"loss": "bce+lovasz", "mixup": 0.2},
            "`mixup=0.2` with `loss=bce+lovasz`; mixed masks are soft, and lovasz compares binary "
            "ones: leave out one of the two",
        ),
        (
            {"loss": "dice", "positive_weight": 2.0},
            "`positive_weight=2` with `loss=dice`; it is for bce and focal, leave it out",
        ),
    ],
)
def test_what_means_nothing_is_refused(options, message):
    with pytest.raises(InputError) as caught:
        Recipe("linear", **options)
    assert str(caught.value) == message


def test_unknown_names_list_the_known_ones():
    with pytest.raises(UnknownNameError, match="unknown loss 'iou'; known: bce, dice, focal"):
        Recipe("linear", loss="bce+iou")
    with pytest.raises(UnknownNameError, match="unknown schedule 'step'; known: plateau, one-"):
        Recipe("linear", schedule="step", epochs=3)


@pytest.mark.parametrize(
    ("decoder_type", "options", "message"),
    [
        ("probe", {"loss": "dice"}, "`loss=dice` for probe, which is learned by scikit-learn"),
        ("probe", {"average": 0.9}, "`average=0.9` for probe, which is learned by scikit-learn"),
        ("patch-forensics", {"loss": "dice"}, "`loss=dice` for patch-forensics, which learns by"),
    ],
)
def test_what_a_learner_does_not_do_is_refused(decoder_type, options, message):
    with pytest.raises(InputError, match=message):
        decoder_of(Recipe(decoder_type, **options), [SHAPE], "concat")
