"""Views in order of harm, the stores to evaluate them on, and the table that is written."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from support.made_evaluation import localized

from declip_pipeline.errors import InputError
from declip_pipeline.evaluation import robustness
from declip_pipeline.evaluation.ensemble import Ensemble
from declip_pipeline.evaluation.robustness import (
    OpenedView,
    Robustness,
    evaluate_views,
    family_of,
    mild_to_strong,
    open_views,
    over_seeds,
    view_text,
)
from declip_pipeline.images.views import View, parse_view
from declip_pipeline.store.reader import Store


def test_views_are_sorted_from_mild_to_strong():
    texts = [
        *("clean", "jpeg:90", "jpeg:50", "blur:0.5", "blur:2", "resize:0.75", "resize:0.25"),
        *("noise:2", "noise:10", "jitter:0.3", "blur:1+jpeg:70"),
    ]
    views = [parse_view(text) for text in texts]
    views.reverse()
    assert [view_text(view) for view in sorted(views, key=mild_to_strong)] == texts


def test_a_family_is_one_change_of_a_known_strength():
    assert family_of(parse_view("jpeg:70")) == ("jpeg", 70.0)
    assert family_of(parse_view("blur:1+jpeg:70")) is None
    assert family_of(parse_view("clean")) is None
    assert family_of(View((("jpeg", None),), 0)) is None


@pytest.mark.slow
def test_views_that_are_not_there_are_named_with_their_command(tiny_store, tiny_run):
    views = [parse_view("jpeg:70"), parse_view("blur:1+noise:4")]
    with pytest.raises(InputError) as refusal:
        open_views(tiny_store, views, [Ensemble([tiny_run])], [])
    root, weights = (tiny_store.provenance[key] for key in ("root", "weights"))
    cache = Path(tiny_store.location).parents[2]
    assert str(refusal.value) == (
        f"no complete store of the view jpeg:70 or blur:1+noise:4 beside {tiny_store.location}; "
        f"make it as that one was made, with `declip-pipe extract {root} --arch CLIP:from-file "
        f"--weights {weights[0]} --image-size 224x224 --layers layer1 --split test,train,valid "
        f"--dtype float16 --precision float32 --cache {cache} --views jpeg:70,blur:1+noise:4`"
    )
    with pytest.raises(InputError, match="no complete store of the view jpeg:70 or blur:1 beside"):
        open_views(tiny_store, None, [], [])


def test_views_are_looked_for_beside_the_clean_store(tiny_store):
    blurred = Store(tiny_store.location)
    blurred.identity = replace(blurred.identity, view="blur-1")
    with pytest.raises(InputError, match="is of the view blur-1; expected the clean store, other"):
        open_views(blurred, None, [], [])
    assert open_views(tiny_store, [View()], [], []) == [OpenedView(View(), tiny_store, ())]


CLEAN, JPEG = View(), parse_view("jpeg:70")


def test_the_table_has_a_row_for_each_view_and_generator(tmp_path):
    path = tmp_path / "robustness.csv"
    clean = localized("ldm", lama=[50.0, 70.0], ldm=[10.0])
    jpeg = localized("ldm", view="jpeg-70", lama=[40.0, 60.0], ldm=[0.0])
    Robustness(((CLEAN, clean), (JPEG, jpeg)), (clean, jpeg), 0).save(path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    about = ("view", "family", "strength", "generator", "images", "iou")
    assert [[row[name] for name in about] for row in rows] == [
        ["clean", "", "", "lama", "2", "60.0"],
        ["clean", "", "", "ldm", "1", "10.0"],
        ["clean", "", "", "overall", "3", str(130 / 3)],
        ["jpeg:70", "jpeg", "70.0", "lama", "2", "50.0"],
        ["jpeg:70", "jpeg", "70.0", "ldm", "1", "0.0"],
        ["jpeg:70", "jpeg", "70.0", "overall", "3", str(100 / 3)],
    ]
    assert (rows[3]["iou_low"], rows[3]["iou_high"]) == ("40.0", "60.0")
    assert rows[1]["iou_low"] == ""
    assert {row["mark"] for row in rows} == {""}
    clean, jpeg = (replace(one, problem="it learned nothing") for one in (clean, jpeg))
    Robustness(((CLEAN, clean), (JPEG, jpeg)), (clean, jpeg), 0).save(path)
    assert path.read_text().splitlines()[0].endswith(",mark")
    assert all(line.endswith(",!") for line in path.read_text().splitlines()[1:])


def test_views_are_compared_over_the_images_that_all_have(tiny_store, tiny_run, monkeypatch):
    """Views whose extraction failed for some images were compared by means over other images."""
    lacking = {
        "clean": localized("noisy", noisy=[80.0, 60.0, 10.0]),
        "jpeg-70": localized("noisy", view="jpeg-70", noisy=[70.0, 50.0]),
    }
    monkeypatch.setattr(
        robustness, "evaluate", lambda run, store, **options: lacking[store.identity.view]
    )
    other = Store(tiny_store.location)
    other.identity = replace(other.identity, view="jpeg-70")
    opened = [OpenedView(CLEAN, tiny_store, ()), OpenedView(JPEG, other, ())]
    found = evaluate_views(tiny_run, tiny_store, opened=opened)
    assert [evaluation.mean() for _, evaluation in found.views] == [70, 60]
    assert found.left_out == 1
    assert [evaluation.mean() for evaluation in found.complete] == [50, 60]


def test_views_over_seeds_are_over_the_same_images():
    def run(seed, shift, *jpeg):
        clean = localized("ldm", seed, ldm=[80.0 + shift, 60.0 + shift])
        harmed = localized("ldm", seed, view="jpeg-70", ldm=list(jpeg))
        return Robustness(((CLEAN, clean), (JPEG, harmed)), (clean, harmed), 0)

    ((group, figured),) = over_seeds([run(0, 0.0, 70.0, 50.0), run(1, 10.0, 50.0, 30.0)])
    assert [one.seed for one in group.members] == [0, 1]
    assert [(view, figures["ldm"]["iou"]) for view, figures in figured] == [(CLEAN, 75), (JPEG, 50)]
    assert over_seeds([run(0, 0.0, 70.0, 50.0)]) == []
