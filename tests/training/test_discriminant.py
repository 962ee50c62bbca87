"""lda is the linear discriminant analysis of patches, with the bias of the highest IoU."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from declip_pipeline.decoders.file import load_decoder
from declip_pipeline.decoders.names import is_fitted
from declip_pipeline.decoders.normalization import normalized_images
from declip_pipeline.errors import InputError, TrainingError
from declip_pipeline.features import FeatureShape
from declip_pipeline.sweeps.grid_training import GridTraining
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.discriminant import DiscriminantLearner
from declip_pipeline.training.learner_choice import decoder_of, learner_of
from declip_pipeline.training.learning import learning_problem
from declip_pipeline.training.recipe import Recipe, choose_precision
from declip_pipeline.training.recipes import recipe_defaults
from declip_pipeline.training.runs import plan_run, train_run, train_runs

CPU = torch.device("cpu")
GRID = FeatureShape(6, 4, 4)
TOKENS = FeatureShape(5, 4, 4, prefix_tokens=2)


def recipe(**changes) -> Recipe:
    return Recipe(**({"decoder_type": "lda", "batch_size": 3} | changes))


def run(store, runs, layer="layer1", on_epoch=lambda epoch: None, **changes):
    data = TrainingData([store], device=CPU)
    return train_run(data, runs, layer=layer, recipe=recipe(**changes), on_epoch=on_epoch)


def pictures(shapes, count=12):
    """Inputs with a difference between fake and real positions; targets along the patches."""
    draw = torch.Generator().manual_seed(0)
    fakes = torch.rand(count, 4, 4, generator=draw) < 0.3
    inputs = []
    for shape in shapes:
        x = 3 + 2 * torch.randn(count, *shape.array_shape, generator=draw)
        if shape.is_grid:
            x[:, :2] += 2.0 * fakes[:, None]
        else:
            x[:, 2:, :2] += 2.0 * fakes.flatten(1)[..., None]
        inputs.append(x)
    targets = fakes.float().repeat_interleave(64, 1).repeat_interleave(64, 2)
    return inputs, targets, fakes


def patches_of(inputs, shapes):
    grids = [
        x if shape.is_grid else x[:, 2:].transpose(1, 2).reshape(len(x), -1, 4, 4)
        for x, shape in zip(inputs, shapes, strict=True)
    ]
    joined = torch.cat(grids, 1)
    return joined.permute(0, 2, 3, 1).reshape(-1, joined.shape[1]).double().numpy()


def fitted(shapes, inputs, targets, pieces=4, **changes) -> DiscriminantLearner:
    learner = learner_of(recipe(**changes), shapes, "concat", CPU)
    parts = [[x[start::pieces] for x in inputs] for start in range(pieces)]
    for start, part in enumerate(parts):
        learner.look(part, targets[start::pieces])
    learner.end_look()
    learner.begin_epoch(1.0)
    for start, part in enumerate(parts):
        learner.accumulate(learner.compute(part, targets[start::pieces], 1 / pieces))
    learner.update()
    return learner


class ShrunkToTheDiagonal:
    """Covariance for scikit-learn."""

    def __init__(self, shrinkage):
        self.shrinkage = shrinkage

    def fit(self, x):
        covariance = np.cov(x.T, bias=True)
        diagonal = np.diag(np.diag(covariance))
        self.covariance_ = (1 - self.shrinkage) * covariance + self.shrinkage * diagonal
        return self


@pytest.mark.parametrize("shrinkage", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("shapes", [[GRID], [TOKENS], [GRID, TOKENS]], ids=["grid", "tokens", "2"])
def test_it_is_scikit_learns_discriminant(shapes, shrinkage):
    inputs, targets, fakes = pictures(shapes)
    learner = fitted(shapes, inputs, targets, normalize="none", shrinkage=shrinkage)
    analysis = LinearDiscriminantAnalysis(
        solver="lsqr", covariance_estimator=ShrunkToTheDiagonal(shrinkage)
    ).fit(patches_of(inputs, shapes), fakes.flatten().numpy())
    state = learner.state()
    assert state["weights"].numpy() == pytest.approx(analysis.coef_[0], rel=1e-4, abs=1e-5)
    assert float(state["bias"]) == pytest.approx(analysis.intercept_[0], rel=1e-4)
    assert learner.decoder.decoder_type == "linear"


def test_the_bias_is_that_of_the_highest_iou():
    shapes = [GRID]
    inputs, targets, fakes = pictures(shapes)
    learner = fitted(shapes, inputs, targets, normalize="none")
    logits = learner.decoder.position_logits(learner.decoder.joined(*inputs)).detach()
    _, bias = (value.detach() for value in learner.decoder.parameters())
    own = logits - bias.item()
    thresholds = np.linspace(-12, 12, 193)

    def iou(threshold):
        called = own > threshold
        return float((called & fakes).sum() / (called | fakes).sum())

    best = max(iou(threshold - float(learner.state()["bias"])) for threshold in thresholds)
    assert iou(-bias.item()) == best
    assert best > iou(-float(learner.state()["bias"])) or bias == learner.state()["bias"]
    assert best > 0.3


def test_a_patch_belongs_to_a_class_by_its_area():
    """Half of a patch counts half: as if every patch came twice, of each half once."""
    inputs, _, fakes = pictures([GRID])
    halves = fakes.float().repeat_interleave(64, 1).repeat_interleave(64, 2)
    halves.view(12, 4, 64, 256)[:, :, :32] = 0
    learner = fitted([GRID], inputs, halves, normalize="none")
    x = patches_of(inputs, [GRID])
    labels = np.concatenate([fakes.flatten().numpy(), np.zeros(len(x), bool)])
    analysis = LinearDiscriminantAnalysis(
        solver="lsqr", covariance_estimator=ShrunkToTheDiagonal(0.5)
    ).fit(np.concatenate([x, x]), labels)
    assert learner.state()["weights"].numpy() == pytest.approx(analysis.coef_[0], rel=1e-4)


def test_each_image_is_normalized_by_itself_before():
    inputs, targets, _ = pictures([GRID])
    learner = fitted([GRID], inputs, targets)
    assert learner.decoder.normalization.mode == "instance"
    by_hand = fitted([GRID], [normalized_images(inputs[0], GRID)], targets, normalize="none")
    assert torch.allclose(
        learner.logits(inputs), by_hand.logits([normalized_images(inputs[0], GRID)]), atol=1e-4
    )


def test_a_constant_channel_has_no_weight():
    inputs, targets, _ = pictures([GRID])
    inputs[0][:, 3] = 7.0
    learner = learner_of(recipe(normalize="none"), [GRID], "concat", CPU)
    learner.look(inputs, targets)
    assert learner.end_look() == [[3]]
    weights = learner.state()["weights"]
    assert weights[3] == 0 and (weights != 0).sum() == 5
    assert torch.isfinite(weights).all()


def test_a_run_is_one_epoch_and_one_linear_decoder(tiny_store, tmp_path):
    folder = run(tiny_store, tmp_path, "layer0+layer1")
    (epoch,) = folder.epochs()
    assert epoch["epoch"] == 1 and folder.is_finished
    decoder, _ = load_decoder(folder.best_checkpoint)
    assert decoder.decoder_type == "linear" and decoder.normalization.mode == "instance"
    config = folder.config()
    assert (config["decoder_type"], config["normalize"], config["epochs"]) == ("lda", "instance", 1)
    assert "shrinkage" not in config
    assert run(tiny_store, tmp_path, shrinkage=0.2).config()["shrinkage"] == 0.2
    # The order of the images does not matter, nor does the size of the batches.
    again = run(tiny_store, tmp_path, "layer0+layer1", seed=1, batch_size=8)
    other, _ = load_decoder(again.best_checkpoint)
    for one, two in zip(decoder.parameters(), other.parameters(), strict=True):
        assert torch.allclose(one, two, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("recipe_name", ["paper", "auto"])
@pytest.mark.parametrize("decoders", [["lda"], ["lda", "linear"], ["linear", "lda"]])
def test_in_a_grid_it_alone_has_one_epoch(tiny_store, tmp_path, decoders, recipe_name):
    options = {
        "layer": ["layer1"],
        "decoder_type": decoders,
        "batch_size": 4,
        "recipe_name": recipe_name,
        "seed": [0],
        "runs": str(tmp_path),
        "device": "cpu",
    }
    grid = GridTraining([tiny_store], options)
    epochs = {cell.decoder_type: grid.trainer.plan(cell).recipe.most_epochs for cell in grid.cells}
    expected = recipe_defaults("auto", "linear", 8, {"batch_size": 4})["epochs"]
    expected = {"lda": 1, "linear": 400 if recipe_name == "paper" else expected}
    assert epochs == {name: expected[name] for name in decoders}


def test_real_images_have_their_share(mixed_store, tmp_path):
    found = [
        run(mixed_store, tmp_path, with_real=share).best_decoder()[0].state_dict()
        for share in (0.0, 0.2, 0.5)
    ]
    weights = [next(iter(one.values())).flatten() for one in found]
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert not torch.allclose(weights[one], weights[other], rtol=1e-3)


def test_of_thresholds_as_good_it_takes_the_middle_one():
    inputs, targets, fakes = pictures([GRID])
    # Far from each other: all thresholds between the two are as good.
    inputs[0][:, 0] += 40.0 * fakes
    learner = fitted([GRID], inputs, targets, normalize="none")
    logits = learner.decoder.position_logits(learner.decoder.joined(*inputs)).detach()
    lowest, highest = logits[fakes].min(), logits[~fakes].max()
    assert highest < 0 < lowest
    assert 0.5 < float(-highest / lowest) < 2


def test_classes_far_apart_have_thresholds_between_them():
    inputs, targets, fakes = pictures([GRID])
    # A few fakes lie close to what is real, so that the best threshold is far from the middle.
    near = torch.where(torch.arange(12) == 0, 40.0, 200.0)
    inputs[0][:, 0] += near[:, None, None] * fakes
    learner = fitted([GRID], inputs, targets, normalize="none", shrinkage=0.0)
    logits = learner.decoder.position_logits(learner.decoder.joined(*inputs)).detach()
    assert torch.equal(logits > 0, fakes)
    assert learner.state()["half_distance"] > 12


def test_a_mean_far_from_zero_costs_no_precision():
    inputs, targets, _ = pictures([GRID])
    moved = [inputs[0] + 4096.0]
    learner, other = (fitted([GRID], x, targets, normalize="none") for x in (inputs, moved))
    exact = fitted([GRID], [moved[0] - 4096.0], targets, normalize="none")
    weights = [one.state()["weights"].numpy() for one in (other, exact, learner)]
    assert weights[0] == pytest.approx(weights[1], rel=1e-4)
    assert weights[0] == pytest.approx(weights[2], rel=1e-2)


def test_features_that_are_not_finite_or_all_constant_are_refused():
    inputs, targets, _ = pictures([GRID])
    for value, said in (
        (float("nan"), "are not finite, or too large"),
        (1.0, "all 6 channels are"),
    ):
        learner = learner_of(recipe(normalize="none"), [GRID], "concat", CPU)
        learner.look([inputs[0] * 0 + value], targets)
        with pytest.raises(TrainingError, match=said):
            learner.end_look()


@pytest.mark.slow
def test_in_company_it_ends_as_alone(tiny_store, tmp_path):
    data = TrainingData([tiny_store], device=CPU)
    cells = [("layer1", "lda"), ("layer0+layer1", "lda"), ("layer1", "probe"), ("layer1", "linear")]

    def of(name):
        return recipe(decoder_type=name, epochs=1 if name == "lda" else 2)

    plans = [
        plan_run(data, tmp_path / "together", layer=layer, recipe=of(name)) for layer, name in cells
    ]
    assert train_runs(data, plans) == [None] * 4
    for plan, (layer, name) in zip(plans, cells, strict=True):
        alone = train_run(data, tmp_path / "alone", layer=layer, recipe=of(name))
        assert alone.best_checkpoint.read_bytes() == plan.folder.best_checkpoint.read_bytes()


@pytest.mark.slow
def test_interrupted_after_its_epoch_it_ends_as_undisturbed(tiny_store, tmp_path):
    def interrupt(epoch):
        raise KeyboardInterrupt

    undisturbed = run(tiny_store, tmp_path / "one")
    with pytest.raises(KeyboardInterrupt):
        run(tiny_store, tmp_path / "two", on_epoch=interrupt)
    resumed = run(tiny_store, tmp_path / "two")
    assert resumed.best_checkpoint.read_bytes() == undisturbed.best_checkpoint.read_bytes()


def test_images_all_real_or_all_fake_are_refused():
    inputs, targets, _ = pictures([GRID])
    for value, said in ((0.0, "nothing in the training images is fake"), (1.0, "everything in")):
        learner = learner_of(recipe(), [GRID], "concat", CPU)
        learner.look(inputs, targets * 0 + value)
        with pytest.raises(TrainingError, match=said):
            learner.end_look()


def test_a_covariance_that_cannot_be_inverted_says_how_to_go_on():
    inputs, targets, _ = pictures([GRID])
    inputs[0][:, 4] = inputs[0][:, 5]
    learner = learner_of(recipe(shrinkage=0.0, normalize="none"), [GRID], "concat", CPU)
    learner.look(inputs, targets)
    with pytest.raises(TrainingError, match="6 channels over 192 patches cannot be inv"):
        learner.end_look()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": 2}, "`epochs=2` for lda, which is computed from one look at the images"),
        ({"patience": 2}, "`patience=2` for lda"),
        ({"initialization": "pytorch"}, "`initialization=pytorch` for lda"),
        ({"learning_rate": 0.1}, "`learning_rate=0.1` for lda"),
        ({"weight_decay": 0.1}, "`weight_decay=0.1` for lda"),
        ({"flips": True}, "`flips=True` for lda"),
        ({"average": 0.9}, "`average=0.9` for lda"),
        (
            {"normalize": "channel"},
            "lda does not depend on the scale of channels; leave out `normalize`",
        ),
        ({"widths": (8,)}, r"lda got widths \[8\], expected none"),
        ({"compile": True}, "lda is computed from one look .*, which torch.compile cannot comp"),
        ({"pooling": "mean"}, "lda learns which patches are fake, from masks; detection learns"),
        ({"decoder_type": "linear", "shrinkage": 0.1}, "`shrinkage=0.1` for linear; it is for lda"),
    ],
)
def test_what_means_nothing_to_it_is_refused(changes, said):
    with pytest.raises(InputError, match=said):
        decoder_of(recipe(**changes), [GRID], "concat")


def test_more_channels_than_memory_are_refused():
    with pytest.raises(InputError, match="lda on 20000 channels, .* 3 GB; expected at most 16384"):
        decoder_of(recipe(), [FeatureShape(20000, 4, 4)], "concat")
    with pytest.raises(InputError, match="lda cannot learn the weights of a weighted sum of 2 lay"):
        decoder_of(recipe(), [GRID, GRID], "weighted")


@pytest.mark.parametrize("value", [-0.1, 1.1, "x", None, True])
def test_a_shrinkage_that_is_no_share_is_refused(value):
    with pytest.raises(InputError, match="`shrinkage` is .*; expected"):
        recipe(shrinkage=value)


def test_where_it_learns_nothing_it_advises_what_it_takes():
    record = {"train_loss": 0.3, "valid_iou": 10.0}
    problem = learning_problem([record], 17.0, Recipe("lda"), 144)
    assert problem.endswith("; try other layers, another `normalize` or another `shrinkage`")


def test_its_options_are_its_own():
    assert [is_fitted(name) for name in ("lda", "probe-pca-8", "linear")] == [True, True, False]
    assert choose_precision("bfloat16", "lda", CPU) == "float32"
    assert recipe_defaults("auto", "lda", 20) == {"epochs": 1, "batch_size": 20}
    assert recipe_defaults("auto", "lda", 1000) == {"epochs": 1}
    assert (Recipe("lda").most_epochs, Recipe("linear").most_epochs) == (1, 400)
    assert replace(Recipe("lda"), decoder_type="linear").most_epochs == 400
