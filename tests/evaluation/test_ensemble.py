"""Several runs evaluated as one: the mean of their logits, whatever their features."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit, logit

from declip_pipeline.decoders.decoder import probability_maps
from declip_pipeline.errors import IdentityMismatchError, InputError
from declip_pipeline.evaluation.compare import compare
from declip_pipeline.evaluation.ensemble import Ensemble, distinct_sources
from declip_pipeline.evaluation.evaluate import evaluate
from declip_pipeline.evaluation.matrices import matrices
from declip_pipeline.images.decode import decode_image
from declip_pipeline.metrics.localization import localization_metrics
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.predictor_opening import open_predictor
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.runs import train_run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trains a quick run, once for each way."""

    @cache
    def train(store, layer="layer1", train_on=None, **recipe):
        return train_run(
            TrainingData([store], device=CPU),
            tmp_path_factory.mktemp("runs"),
            layer=layer,
            recipe=Recipe("linear", epochs=2, batch_size=4, learning_rate=1e-2, **recipe),
            train_on=None if train_on is None else [train_on],
        )

    return train


def logits_of(run, store, layer, row):
    features = store.read_layer(layer, np.asarray([row])).decoded()
    with torch.inference_mode():
        return run.decoder()(features)


def test_the_map_is_the_sigmoid_of_the_mean_logit(trained, mixed_store):
    runs = [trained(mixed_store), trained(mixed_store, "layer2", seed=1)]
    ensemble = Ensemble(runs)
    evaluation = evaluate(ensemble, mixed_store, device="cpu", batch_size=3)
    logits = [logit(run.valid_threshold) for run in runs]
    assert logits[0] != logits[1]
    assert ensemble.valid_threshold == pytest.approx(expit(np.mean(logits)))
    table = evaluation.to_pandas().set_index("id")
    rows = mixed_store.fake_rows("test")
    assert len(table) == len(rows)
    for row in rows:
        name = mixed_store.samples[row].id
        both = [
            logits_of(run, mixed_store, layer, row)
            for run, layer in zip(runs, ("layer1", "layer2"), strict=True)
        ]
        mask = torch.from_numpy(mixed_store.image_mask(np.array([row])))[None]
        maps = probability_maps((both[0] + both[1]) / 2, *mask.shape[1:])
        for metric, value in localization_metrics(maps, mask).items():
            assert table.loc[name, metric] == pytest.approx(value.item(), abs=1e-5), metric
        assert table.loc[name, "score"] == pytest.approx(maps.mean().item(), abs=1e-6)
        called, fake = maps > ensemble.valid_threshold, mask > 0
        expected = 100 * (called & fake).sum().item() / (called | fake).sum().item()
        assert table.loc[name, "iou_valid_threshold"] == pytest.approx(expected, abs=1e-2)
    assert evaluation.false_alarms()["real_images"] == 5
    assert ensemble.min_region == np.mean([run.min_region for run in runs])
    assert not np.isnan(table["iou_min_region"]).any()


def test_prediction_gives_the_maps_that_are_evaluated(trained, mixed_store, tiny_backbone):
    runs = [trained(mixed_store), trained(mixed_store, "layer2", seed=1)]
    evaluation = evaluate(Ensemble(runs), mixed_store, device="cpu")
    predictor = open_predictor(runs, tiny_backbone, device="cpu")
    root = Path(mixed_store.provenance["root"])
    for row in evaluation.to_arrow().to_pylist():
        (number,) = mixed_store.samples.find([row["id"]])
        image = decode_image(root / mixed_store.samples[int(number)].image)
        assert predictor.predict(image).full.mean() == pytest.approx(row["score"], abs=1e-3)


def test_one_run_is_itself(trained, mixed_store):
    run = trained(mixed_store)
    alone, again = evaluate(run, mixed_store, device="cpu"), Ensemble([run, run.path])
    assert again.repeated == [run.path]
    assert (again.path, again.config()) == (run.path, run.config())
    assert evaluate(again, mixed_store, device="cpu").table.equals(alone.table)
    with pytest.raises(InputError, match="no run was given; expected one or several"):
        Ensemble([])


def test_runs_of_other_input_sizes_stand_beside(trained, tiny_store, extracted):
    fine = extracted()
    run, other = trained(tiny_store), trained(fine)
    with pytest.raises(
        IdentityMismatchError, match="preprocessing differs: .*, or give a store of these with `be"
    ):
        evaluate(Ensemble([run, other]), tiny_store, device="cpu")
    found = [
        evaluate(Ensemble([run, other]), store, beside=[beside], device="cpu")
        for store, beside in ((tiny_store, fine), (fine, tiny_store))
    ]
    np.testing.assert_allclose(found[0].values("iou"), found[1].values("iou"), atol=1e-4)
    row = tiny_store.fake_rows("test")[0]
    (place,) = fine.samples.find([tiny_store.samples[row].id])
    mean = logits_of(run, tiny_store, "layer1", row) + logits_of(other, fine, "layer1", int(place))
    mask = tiny_store.image_mask(np.array([row]))
    expected = probability_maps(mean / 2, *mask.shape).mean().item()
    assert found[0].values("score")[0] == pytest.approx(expected, abs=1e-6)


def test_tiles_are_joined(trained, tiled_store):
    runs = [trained(tiled_store), trained(tiled_store, seed=1)]
    ious = [evaluate(run, tiled_store, device="cpu").values("score") for run in runs]
    both = evaluate(Ensemble(runs), tiled_store, device="cpu").values("score")
    assert len(both) == 4
    assert (both >= np.minimum(*ious) - 1e-6).all() and (both <= np.maximum(*ious) + 1e-6).all()


def test_maps_without_a_mean_are_refused(trained, tiled_store, extracted, mixed_store):
    whole = extracted()
    with pytest.raises(
        IdentityMismatchError,
        match="tiles differs: the first run has 'tiles of 56 pixels', another 'whole images'",
    ):
        evaluate(Ensemble([trained(tiled_store), trained(whole)]), tiled_store, device="cpu")
    runs = [trained(mixed_store), trained(mixed_store, pooling="max")]
    with pytest.raises(
        IdentityMismatchError, match="task differs: the first run has 'localization', another 'det"
    ):
        evaluate(Ensemble(runs), mixed_store, device="cpu")


def test_an_ensemble_detects_by_the_mean_of_its_pooled_logits(trained, mixed_store):
    runs = [trained(mixed_store, pooling="max", seed=seed) for seed in range(2)]
    evaluation = evaluate(Ensemble(runs), mixed_store, task="detection", device="cpu")
    assert evaluation.scores == ("mean_sigmoid", "mean_logit", "max")
    table = evaluation.to_pandas().set_index("id")
    row = mixed_store.fake_rows("test")[0]
    pooled = [logits_of(run, mixed_store, "layer1", row).amax() for run in runs]
    expected = torch.sigmoid(sum(pooled) / 2).item()
    assert table.loc[mixed_store.samples[row].id, "max"] == pytest.approx(expected, abs=1e-6)


def test_it_stands_in_tables_as_one_run(trained, mixed_store):
    parts = [trained(mixed_store, train_on="ldm", seed=seed) for seed in range(2)]
    both = evaluate(Ensemble(parts), mixed_store, device="cpu")
    assert both.trained_on == ("ldm",) and both.seed is None
    assert both.is_in_domain("mixed", "ldm") and not both.is_in_domain("mixed", "lama")
    backbone = mixed_store.identity.backbone
    assert both.method == f"mean of 2: linear on layer1 of {backbone}"
    one = evaluate(parts[0], mixed_store, device="cpu")
    found = matrices([one, both])
    assert [matrix.table.columns for matrix in found] == [("ldm",), ("ldm",)]
    inside, outside = found[1].domains["iou"]
    assert inside.value == pytest.approx(both.mean("iou", generator="ldm"))
    assert outside.value == pytest.approx(both.mean("iou", generator="lama"))
    # Other seeds make another ensemble, and the same seed in all of them is a seed.
    third = trained(mixed_store, train_on="ldm", seed=2)
    other = evaluate(Ensemble([parts[0], third]), mixed_store, device="cpu")
    titles = [matrix.title for matrix in matrices([both, other])]
    assert titles == [f"{both.method}, seeds {seeds}" for seeds in ("0+1", "0+2")]
    mixed = [
        Ensemble([parts[seed], trained(mixed_store, "layer2", seed=seed)]) for seed in range(2)
    ]
    assert [one.config()["seed"] for one in mixed] == [0, 1]
    assert mixed[0].config()["train_on"] == ["lama", "ldm"]
    evaluations = [evaluate(one, mixed_store, device="cpu") for one in mixed]
    (matrix,) = matrices(evaluations)
    assert [len(cell.by_seed) for cell in matrix.table.cells.values()] == [2, 2]


def test_its_files_say_what_it_is_of_and_what_it_costs(trained, mixed_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [trained(mixed_store), trained(mixed_store, "layer2", seed=1)]
    source = Ensemble(runs)
    first = evaluate(source, mixed_store, device="cpu")
    (folder,) = first.save()
    assert folder.parts[:2] == ("evaluations", source.name)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["runs"] == [str(run.path) for run in runs]
    assert summary["parameters"] == sum(run.summary()["parameters"] for run in runs)
    assert summary["checkpoint_sha256"] == [run.best_sha256 for run in runs]
    assert "linear_layer1_all_seed0+linear_layer2" in source.name
    with monkeypatch.context() as patch:
        patch.setattr("declip_pipeline.evaluation.ensemble.localize", None)
        again = evaluate(source, mixed_store, device="cpu", reuse=True)
    assert again.to_pandas().equals(first.to_pandas())


def test_it_is_compared_with_a_run(trained, mixed_store):
    runs = [trained(mixed_store), trained(mixed_store, "layer2", seed=1)]
    found = compare([Ensemble(runs), runs[0]], mixed_store, device="cpu")
    ours, theirs = (evaluate(one, mixed_store, device="cpu") for one in (Ensemble(runs), runs[0]))
    iou = next(one for one in found.pairs if (one.generator, one.metric) == ("overall", "iou"))
    assert iou.difference.value == pytest.approx(ours.mean("iou") - theirs.mean("iou"))
    with pytest.raises(InputError, match="have the same weights"):
        compare([Ensemble(runs), Ensemble(runs[::-1])], mixed_store, device="cpu")


def test_sources_given_again_are_taken_once(trained, mixed_store):
    runs = [trained(mixed_store), trained(mixed_store, "layer2", seed=1)]
    one, again = Ensemble(runs), Ensemble(runs[::-1])
    sources, repeated = distinct_sources([one, runs[0], runs[0].path, again])
    assert [source.path for source in sources] == [one.path, runs[0].path]
    assert repeated == [runs[0].path, again.path]
