"""Maps of other tools: their values, what is missing, and their place beside runs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.made_maps import maps_of, masks_of, write_maps

from declip_pipeline.datasets.file_images import DatasetImages
from declip_pipeline.datasets.layouts import list_dataset
from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.errors import InputError, UnknownNameError
from declip_pipeline.evaluation.cells import UNSTATED
from declip_pipeline.evaluation.compare import compare
from declip_pipeline.evaluation.evaluate import evaluate
from declip_pipeline.evaluation.map_folder import MapFolder
from declip_pipeline.evaluation.matrices import matrices
from declip_pipeline.evaluation.robustness import evaluate_views
from declip_pipeline.evaluation.table import two_way_tables
from declip_pipeline.images.views import parse_view
from declip_pipeline.metrics.localization import localization_metrics
from declip_pipeline.prediction.predict import predict
from declip_pipeline.training.data import TrainingData
from declip_pipeline.training.recipe import Recipe
from declip_pipeline.training.runs import train_run


@pytest.fixture(scope="module")
def run(mixed_store, tmp_path_factory):
    return train_run(
        TrainingData([mixed_store], device=torch.device("cpu")),
        tmp_path_factory.mktemp("runs"),
        layer="layer1",
        recipe=Recipe("linear", epochs=2, batch_size=4, learning_rate=1e-2),
        train_on=["ldm"],
    )


@pytest.fixture(scope="module")
def maps(mixed_store):
    return maps_of(mixed_store)


@pytest.fixture(scope="module")
def folder(maps, tmp_path_factory):
    """A map of every test image, at its own size."""
    return write_maps(tmp_path_factory.mktemp("maps"), maps)


def evaluated(folder, store, name="tool", task="localization", **options):
    return evaluate(MapFolder(folder, name, **options), store, task=task, device="cpu")


def test_maps_are_evaluated_at_the_images_size(folder, maps, mixed_store):
    evaluation = evaluated(folder, mixed_store)
    table = evaluation.to_pandas().set_index("id")
    masks = masks_of(mixed_store)
    assert len(table) == len(mixed_store.fake_rows("test")) == 8
    for name, row in table.iterrows():
        values, mask = (torch.from_numpy(one[name])[None] for one in (maps, masks))
        for metric, value in localization_metrics(values, mask).items():
            assert row[metric] == pytest.approx(value.item(), abs=1e-6), metric
        assert row["score"] == pytest.approx(maps[name].mean(), abs=1e-6)
    assert evaluation.mean("iou") > 20
    low, high = evaluation.interval("iou")
    assert low < evaluation.mean("iou") < high
    assert evaluation.false_alarms()["real_images"] == 5
    findings = evaluation.findings
    assert not findings.missing and not findings.extra and not findings.constant
    assert evaluation.stores[0].dtype == "" and evaluation.fields["dtype"] is None


def test_a_dataset_needs_no_store(folder, mixed_store):
    root = mixed_store.provenance["root"]
    dataset = open_dataset(root)
    found, expected = evaluated(folder, dataset), evaluated(folder, mixed_store)
    assert (
        found.to_pandas().drop(columns="store").equals(expected.to_pandas().drop(columns="store"))
    )
    # Of one split; maps of the others are no extra ones.
    write_maps(folder, {"fake/ldm/images/train/f0000": np.zeros((4, 4))})
    images = DatasetImages(open_dataset(root, splits=["test"]), known=list_dataset(root).samples)
    assert evaluated(folder, images).findings.extra == ()


@pytest.mark.parametrize("ending", [".png", ".npz", ".png.npz"])
def test_other_files_give_the_same_means(folder, maps, mixed_store, tmp_path, ending):
    found = evaluated(write_maps(tmp_path, maps, ending), mixed_store)
    expected = evaluated(folder, mixed_store).mean("iou")
    assert found.mean("iou") == pytest.approx(expected, abs=3 if ending == ".png" else 1e-6)


def test_folders_of_imdl_benco_are_read_as_they_come(dataset, tmp_path):
    """OUT/pred/NAME.png of 8 bits, and labels of images beside them."""
    images = DatasetImages(open_dataset(dataset))
    flat = {Path(name).name: values for name, values in maps_of(images).items()}
    write_maps(tmp_path / "out" / "pred", flat, ".png")
    (tmp_path / "out" / "pred_label_combined.json").write_text("{}")
    found = evaluated(tmp_path / "out", images)
    assert len(found.table) == 4 and not found.findings.missing
    assert found.findings.unread == {".json": 1}


def test_folders_of_trufor_are_read_as_they_come(maps, mixed_store, tmp_path):
    """OUT/PATH.SUFFIX.npz with map, score, conf and imgsize; scores detect."""
    write_maps(tmp_path, maps | maps_of(mixed_store, "valid"), ".png.npz")
    found = evaluated(tmp_path, mixed_store, task="detection")
    assert found.scores == ("mean_sigmoid", "file_score")
    table = found.to_pandas().set_index("id")
    for name, values in maps.items():
        assert table.loc[name, "file_score"] == pytest.approx(values.max() * 0.9, abs=1e-6)
        assert table.loc[name, "mean_sigmoid"] == pytest.approx(values.mean(), abs=1e-6)
    assert 0 <= found.mean("auc", score="file_score") <= 1


def test_detection_needs_maps_of_valid_and_of_real_images(maps, mixed_store, tmp_path):
    write_maps(tmp_path, maps)
    with pytest.raises(InputError, match="tool has no map of a fake image in split 'valid' that"):
        evaluated(tmp_path, mixed_store, task="detection")
    valid = maps_of(mixed_store, "valid")
    write_maps(tmp_path, {name: values for name, values in valid.items() if "fake" in name})
    with pytest.raises(InputError, match="no map of a real image in split 'valid' that can be use"):
        evaluated(tmp_path, mixed_store, task="detection")


@pytest.mark.slow
@pytest.mark.parametrize("save", ["map", "map-full"])
def test_maps_that_predict_wrote_are_as_good_as_the_run(
    run, mixed_store, tiny_backbone, tmp_path, save
):
    root = Path(mixed_store.provenance["root"])
    predict(run, root, out=tmp_path, save=["mask", save], backbone=tiny_backbone, device="cpu")
    expected = evaluate(run, mixed_store, device="cpu")
    found = evaluated(tmp_path, mixed_store, resize_maps=save == "map")
    assert not found.findings.missing
    # Masks were predicted as well.
    assert found.findings.extra and all("/masks/" in file for file in found.findings.extra)
    np.testing.assert_allclose(found.values("score"), expected.values("score"), atol=1e-3)
    assert found.mean("iou") == pytest.approx(expected.mean("iou"), abs=1)


def test_what_is_missing_or_too_much_is_listed(maps, mixed_store, tmp_path):
    names = sorted(name for name in maps if "fake" in name)
    write_maps(tmp_path, {name: maps[name] for name in names[3:]})
    write_maps(tmp_path, {names[3]: np.full(maps[names[3]].shape, 0.2)})
    write_maps(tmp_path, {names[4]: np.full(maps[names[4]].shape, np.nan)})
    write_maps(tmp_path, {names[5]: np.zeros((20, 30))})
    write_maps(tmp_path, {"other/nobody": np.zeros((20, 30))})
    (tmp_path / "notes.txt").write_text("mine")
    found = evaluated(tmp_path, mixed_store)
    assert found.to_pandas()["id"].tolist() == [names[3], *names[6:]]
    height, width = maps[names[5]].shape
    pixels = maps[names[4]].size
    assert found.findings.missing == {
        **dict.fromkeys(names[:3], "no map"),
        names[4]: f"{names[4]}.npy: holds NaN in {pixels} of {pixels} pixels; numbers expected",
        names[5]: f"{names[5]}.npy: has 30x20 pixels, its image {width}x{height}; expected a map "
        "of the image's size, or pass `resize_maps=True`",
    }
    assert found.findings.extra == ("other/nobody.npy",)
    assert found.findings.constant == [names[3]]
    assert found.findings.unread == {".txt": 1}
    assert found.findings.without_real and found.false_alarms()["real_images"] == 0
    (place,) = found.save(tmp_path / "out")
    summary = json.loads((place / "summary.json").read_text())
    assert summary["missing"] == found.findings.missing
    assert summary["extra"] == ["other/nobody.npy"] and summary["maps"] == "tool"


def test_some_real_images_without_a_map_are_missing(maps, mixed_store, tmp_path):
    real = sorted(name for name in maps if "real" in name)
    write_maps(tmp_path, {name: values for name, values in maps.items() if name != real[0]})
    found = evaluated(tmp_path, mixed_store)
    assert found.findings.missing == {real[0]: "no map"}
    assert found.false_alarms()["real_images"] == 4


def test_maps_of_another_size_are_resized_where_asked_for(maps, mixed_store, tmp_path):
    small = {
        name: np.asarray(Image.fromarray(values).resize((32, 32), Image.Resampling.BOX))
        for name, values in maps.items()
    }
    write_maps(tmp_path, small)
    with pytest.raises(InputError, match="no map of .* can be used; of .*resize_maps=True"):
        evaluated(tmp_path, mixed_store)
    found = evaluated(tmp_path, mixed_store, resize_maps=True)
    assert len(found.table) == 8


def test_masks_and_logits(maps, mixed_store, tmp_path):
    masks = {name: (values > 0.5).astype(np.uint8) for name, values in maps.items()}
    expected = evaluated(write_maps(tmp_path / "maps", maps), mixed_store)
    write_maps(tmp_path / "masks", masks)
    found = evaluated(tmp_path / "masks", mixed_store, maps_are="masks")
    np.testing.assert_array_equal(found.values("iou"), expected.values("iou"))
    with pytest.raises(InputError, match='no integer of the maps of .* is above 1.*="masks"`'):
        evaluated(tmp_path / "masks", mixed_store)
    clipped = {name: np.clip(values, 1e-6, 1 - 1e-6) for name, values in maps.items()}
    logits = {name: np.log(values / (1 - values)) for name, values in clipped.items()}
    write_maps(tmp_path / "logits", logits)
    found = evaluated(tmp_path / "logits", mixed_store, maps_are="logits")
    np.testing.assert_allclose(found.values("iou"), expected.values("iou"), atol=1e-3)
    with pytest.raises(InputError, match="probabilities from 0 to 1 expected, or logits with"):
        evaluated(tmp_path / "logits", mixed_store)
    with pytest.raises(InputError, match="all values of the maps of .* are from .* to 1, as of p"):
        evaluated(tmp_path / "maps", mixed_store, maps_are="logits")


def test_folders_that_cannot_be_evaluated_are_refused(mixed_store, tmp_path):
    with pytest.raises(InputError, match="nowhere is no folder; expected one of maps"):
        MapFolder(tmp_path / "nowhere")
    with pytest.raises(UnknownNameError, match="unknown values of maps 'odds'"):
        MapFolder(tmp_path, maps_are="odds")
    with pytest.raises(InputError, match="'..' cannot be the name of maps"):
        MapFolder(tmp_path, "..")
    with pytest.raises(InputError, match=r"holds no map \(found: nothing\); expected files named"):
        evaluated(tmp_path, mixed_store)
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"holds no map \(found: 1 .jpg\)"):
        evaluated(tmp_path, mixed_store)
    write_maps(tmp_path, {"stranger": np.zeros((20, 20))})
    with pytest.raises(InputError, match="no map of .* has the name of an image .*: its first map"):
        evaluated(tmp_path, mixed_store)
    write_maps(tmp_path, {"f0020": np.zeros((20, 20))})
    with pytest.raises(InputError, match="the map f0020.npy may be of .*lama.* or of .*ldm"):
        evaluated(tmp_path, mixed_store)


def test_a_run_needs_a_store(run, shared_dataset):
    with pytest.raises(InputError, match="is a dataset, and a run needs the features of its"):
        evaluate(run, open_dataset(shared_dataset), device="cpu")


def test_maps_on_a_store_of_tiles_are_those_of_whole_images(tiled_store, tiny_store, tmp_path):
    write_maps(tmp_path, maps_of(tiny_store))
    tiled, whole = (evaluated(tmp_path, store) for store in (tiled_store, tiny_store))
    assert tiled.values("id").tolist() == whole.values("id").tolist()
    np.testing.assert_array_equal(tiled.values("iou"), whole.values("iou"))


def test_maps_stand_beside_runs_in_the_matrix(run, folder, mixed_store):
    ours = evaluate(run, mixed_store, device="cpu")
    theirs = evaluated(folder, mixed_store, "TruFor")
    (matrix,) = matrices([ours, theirs])
    assert matrix.table.columns == ("TruFor", "ldm") and matrix.unstated == ("TruFor",)
    np.testing.assert_array_equal(matrix.domain, [[np.nan, 0], [np.nan, 1]])
    inside, outside = matrix.domains["iou"]
    assert (inside.cells, outside.cells) == (1, 1)
    assert matrix.table.cell("lama", "TruFor").value == theirs.mean("iou", generator="lama")
    (alone,) = matrices([theirs, evaluated(folder, mixed_store, "other")])
    assert alone.table.columns == ("TruFor", "other") and alone.title == "maps"
    assert not any(mean.cells for mean in alone.domains["iou"])
    (table,) = two_way_tables([ours, theirs], "decoder", "domain")
    assert (table.rows, table.columns) == (("linear", "TruFor"), ("ID", "OOD", UNSTATED))
    assert table.cell("TruFor", UNSTATED).value == pytest.approx(theirs.mean("iou"))
    assert np.isnan(table.cell("TruFor", "ID").value)


def test_maps_of_a_stated_training_are_in_and_out_of_domain(folder, maps, mixed_store, tmp_path):
    folders = {"ldm": folder, "lama": write_maps(tmp_path, maps)}
    sources = [
        evaluated(place, mixed_store, "PSCC", trained_on=name) for name, place in folders.items()
    ]
    (matrix,) = matrices(sources)
    assert matrix.table.columns == ("lama", "ldm") and not matrix.unstated
    assert [mean.cells for mean in matrix.domains["iou"]] == [2, 2]
    assert matrix.title == "PSCC"
    assert [one.run.name for one in sources] == ["PSCC_ldm", "PSCC_lama"]


def test_maps_are_compared_with_runs_and_with_each_other(run, folder, maps, mixed_store, tmp_path):
    names = sorted(maps)
    worse = {name: values * np.float32(0.9) for name, values in maps.items() if name != names[0]}
    other = MapFolder(write_maps(tmp_path, worse), "worse")
    tool = MapFolder(folder, "tool")
    found = compare([tool, run], mixed_store, device="cpu")
    overall = {one.metric: one for one in found.pairs if one.generator == "overall"}
    assert overall["iou"].images == 8
    mean = found.mean(0, "iou", "overall").value
    assert mean == pytest.approx(evaluated(folder, mixed_store).mean("iou"))
    assert "iou_valid_threshold" not in overall
    root = mixed_store.provenance["root"]
    found = compare([tool, other], open_dataset(root), device="cpu")
    overall = {one.metric: one for one in found.pairs if one.generator == "overall"}
    assert overall["iou"].images == 7 and overall["iou"].difference.value != 0
    assert found.left_out == {Path("tool"): 1}
    assert found.sides[1][0].findings.missing == {names[0]: "no map"}
    with pytest.raises(InputError, match="two sides are called tool; give each its own name"):
        compare([tool, MapFolder(tmp_path, "tool")], mixed_store, device="cpu")


def test_maps_of_views_lie_in_folders_of_their_names(maps, mixed_store, tmp_path):
    views = {"clean": 1.0, "jpeg-70": 0.8, "jpeg-50": 0.6}
    for name, factor in views.items():
        own = {image: values * np.float32(factor) for image, values in maps.items()}
        write_maps(tmp_path / name, own)
    root = mixed_store.provenance["root"]
    source = MapFolder(tmp_path, "tool")
    for images in (mixed_store, open_dataset(root)):
        found = evaluate_views(source, images, device="cpu")
        assert [view.name for view, _ in found.views] == list(views)
        shares = [one.values("fake_share").mean() for one in found.complete]
        assert shares == sorted(shares, reverse=True) and shares[0] > shares[2]
        assert [one.stores[0].view for one in found.complete] == list(views)
        assert len({one.stores[0].folder for one in found.complete}) == 3
    with pytest.raises(InputError, match="has no folder blur-1; maps of a view lie in a folder of"):
        evaluate_views(source, mixed_store, [parse_view("blur:1")], device="cpu")
