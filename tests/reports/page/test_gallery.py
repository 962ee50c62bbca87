import numpy as np
import pytest
import torch
from support.made_evaluation import localized

from declip_pipeline.evaluation.evaluate import evaluate
from declip_pipeline.reports.page.gallery import _spread_evenly, make_gallery, verdict_of
from declip_pipeline.store.reader import Store
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.run import Run
from declip_pipeline.training.runs import train_run


def trained(store, folder, **recipe):
    return train_run(
        TrainingData([store], device=torch.device("cpu")),
        folder,
        layer="layer1",
        recipe=Recipe("linear", epochs=2, batch_size=4, learning_rate=1e-2, **recipe),
    )


@pytest.fixture(scope="module")
def evaluation(mixed_store, tmp_path_factory):
    run = trained(mixed_store, tmp_path_factory.mktemp("runs"))
    return evaluate(run, mixed_store, device="cpu")


@pytest.mark.parametrize(
    ("iou", "word"), [(0, "missed"), (9.9, "missed"), (10, "in part"), (50, "found")]
)
def test_verdicts_follow_the_iou(iou, word):
    assert verdict_of(iou) == word


def test_images_are_spread_over_cells_with_the_worst_and_the_best():
    one = localized("ldm", ldm=[1.0])
    large, small = [{"iou": n} for n in range(100)], [{"iou": n} for n in range(2)]
    (_, of_large), (_, of_small) = _spread_evenly([(one, large), (one, small)], 12)
    # What the small cell leaves is the large one's.
    assert len(of_small) == 2 and len(of_large) == 10
    assert (of_large[0]["iou"], of_large[-1]["iou"]) == (0, 99)
    assert set(np.diff([row["iou"] for row in of_large])) == {11}


def test_cards_say_what_the_evaluation_says(evaluation, mixed_store, cpu):
    gallery = make_gallery([evaluation], Store, images=200, device=cpu)
    rows = {row["id"]: row for row in evaluation.table.to_pylist()}
    assert {card.id for card in gallery.fakes} == set(rows)
    assert [card.iou for card in gallery.fakes] == sorted(row["iou"] for row in rows.values())
    sizes = dict(zip(mixed_store.samples.ids, mixed_store.sizes.tolist(), strict=True))
    for card in gallery.fakes:
        row = rows[card.id]
        assert (card.generator, card.iou) == (row["generator"], row["iou"])
        assert card.verdict == verdict_of(row["iou"]) and card.domain == "ID"
        assert card.fake_share == pytest.approx(100 * row["fake_share"])
        assert [card.height, card.width] == sizes[card.id]
    shares = [card.fake_share for card in gallery.real]
    assert len(shares) == 5 and shares == sorted(shares, reverse=True)
    assert gallery.runs == [evaluation.run.name]


def test_no_more_images_than_asked_for_are_shown(evaluation, cpu):
    gallery = make_gallery([evaluation], Store, images=5, device=cpu)
    assert (len(gallery.fakes), len(gallery.real)) == (4, 1)
    empty = make_gallery([evaluation], Store, images=0, device=cpu)
    assert (len(empty.fakes), len(empty.real)) == (0, 0)


def test_of_a_training_set_the_best_run_is_shown(evaluation, mixed_store, tmp_path, cpu):
    weak = trained(mixed_store, tmp_path, initialization="paper", seed=3)
    other = evaluate(weak, mixed_store, device="cpu")
    best = max((weak, Run(evaluation.run)), key=lambda run: run.best_score)
    gallery = make_gallery([other, evaluation], Store, images=10, device=cpu)
    assert gallery.runs == [best.name]


def test_tiles_are_put_together_to_their_images(tiled_store, tmp_path, cpu):
    evaluation = evaluate(trained(tiled_store, tmp_path), tiled_store, device="cpu")
    gallery = make_gallery([evaluation], Store, images=200, device=cpu)
    assert {card.id for card in gallery.fakes} == set(evaluation.table.column("id").to_pylist())
    assert all("@" not in card.id for card in gallery.fakes)
