import base64
import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from support.made_evaluation import localized
from support.made_maps import maps_of, write_maps

from declip_pipeline.evaluation.ensemble import Ensemble
from declip_pipeline.evaluation.evaluate import evaluate
from declip_pipeline.evaluation.map_folder import MapFolder
from declip_pipeline.reports.page.gallery import _spread_evenly, make_gallery, verdict_of
from declip_pipeline.reports.page.pictures import LEVELS
from declip_pipeline.reports.shown_images import shown_images
from declip_pipeline.store.reader import Store
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.run import Run
from declip_pipeline.training.runs import train_run


def trained(store, folder, layer="layer1", **recipe):
    return train_run(
        TrainingData([store], device=torch.device("cpu")),
        folder,
        layer=layer,
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
    assert {card.run for card in gallery.fakes} == {evaluation.run.name}


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
    assert {card.run for card in gallery.fakes} == {best.name}


def test_tiles_are_put_together_to_their_images(tiled_store, tmp_path, cpu):
    evaluation = evaluate(trained(tiled_store, tmp_path), tiled_store, device="cpu")
    gallery = make_gallery([evaluation], Store, images=200, device=cpu)
    assert {card.id for card in gallery.fakes} == set(evaluation.table.column("id").to_pylist())
    assert all("@" not in card.id for card in gallery.fakes)


@pytest.fixture
def sources(evaluation, mixed_store, tmp_path):
    """A run, an ensemble of it and another one, and a folder of maps; all may be damaged."""
    runs = [tmp_path / "run", trained(mixed_store, tmp_path, "layer2").path]
    shutil.copytree(evaluation.run, runs[0])
    folder = write_maps(tmp_path / "maps", maps_of(mixed_store))
    return [runs[0], Ensemble(runs), MapFolder(folder, "TruFor")]


def levels(uri):
    """The levels of a card's map, (h, w); `LEVELS` where it is outlined."""
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as picture:
        return np.asarray(picture).astype(int)


def test_a_run_an_ensemble_and_maps_are_shown_alike(sources, mixed_store, cpu):
    evaluations = [evaluate(source, mixed_store, device="cpu") for source in sources]
    gallery = make_gallery(evaluations, Store, images=200, device=cpu)
    assert not gallery.missing
    assert gallery.maps_of == (
        "of the run with the best validation score of each training set, of every ensemble and "
        "of every folder of maps"
    )
    for one in evaluations:
        fakes = [card for card in gallery.fakes if card.run == one.run.name]
        real = [card for card in gallery.real if card.run == one.run.name]
        assert (len(fakes), len(real)) == (8, 5)
        assert {card.method for card in fakes + real} == {one.method}
        is_stated = one.method != "TruFor"
        assert {card.domain for card in fakes} == ({"ID"} if is_stated else {""})
        assert {card.trained_on for card in fakes} == ({"lama + ldm"} if is_stated else {""})
        ids = [card.id for card in fakes + real]
        shown = shown_images(one, mixed_store.location, ids, Store, device=cpu)
        heat = {name: image.heat for name, _, image in shown}
        for card in fakes + real:
            found = levels(card.pictures.heat)
            inside = found < LEVELS
            expected = np.rint(heat[card.id] * (LEVELS - 1))
            assert inside.any() and np.array_equal(found[inside], expected[inside])


@pytest.mark.parametrize(
    ("lost", "shown", "said"),
    [
        ("member", {"run", "TruFor"}, "is not a run; expected a folder that"),
        ("run", {"TruFor"}, "is not a run; expected a folder that"),
        ("maps", {"run", "ensemble"}, "is no folder; expected one of maps"),
        ("store", set(), "does not exist and is not a feature store"),
    ],
)
def test_what_is_gone_is_said_and_the_rest_is_shown(
    sources, mixed_store, tmp_path, cpu, lost, shown, said
):
    store = tmp_path / "store"
    shutil.copytree(mixed_store.location, store)
    evaluations = [evaluate(source, store, device="cpu") for source in sources]
    names = dict(
        zip(("run", "ensemble", "TruFor"), (one.run.name for one in evaluations), strict=True)
    )
    member = next(run for run in evaluations[1].runs if run != evaluations[0].run)
    gone = {"member": member, "run": sources[0], "maps": sources[2].folder, "store": store}[lost]
    shutil.rmtree(gone)
    gallery = make_gallery(evaluations, Store, images=200, device=cpu)
    assert {card.run for card in gallery.fakes} == {names[name] for name in shown}
    (reason,) = gallery.missing
    assert said in reason and str(gone) in reason and "\n" not in reason
    assert set(gallery.missing[reason]) == set(names.values()) - {names[name] for name in shown}
