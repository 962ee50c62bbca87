"""The commands, one after another, as a user runs them."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from support.made_dataset import forged_picture, write_dataset
from torch.nn.functional import interpolate

import declip_pipeline
from declip_pipeline.evaluation.metrics import PROTOCOL
from declip_pipeline.store.reader import Store


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.mark.slow
def test_extract_train_evaluate(program, shared_dataset, tiny_arch, tmp_path):
    extraction = ("extract", shared_dataset, *tiny_arch, "--layers", "0-1,3")
    extraction += ("--cache", tmp_path / "cache", "--batch-size", 5)
    first = program(*extraction)
    assert first.code == 0, first.err
    path = Path(first.last_line)
    store = Store(path)
    assert list(store.layers) == ["layer0", "layer1", "layer3"]
    assert store.provenance["arch"] == "CLIP:from-file"
    second = program(*extraction)
    assert (second.code, second.last_line) == (0, str(path))
    assert "complete already, nothing to do" in second.err

    training = ("train", path, "--feature-layer", "layer3", "--decoder-type", "linear")
    training += ("--epochs", 2, "--batch-size", 4, "-o", tmp_path / "runs")
    trained = program(*training)
    assert trained.code == 0, trained.err
    run = Path(trained.last_line)
    assert json.loads((run / "summary.json").read_text())["epochs"] == 2
    again = program(*training)
    assert again.last_line == str(run)
    assert "finished already, nothing to do" in again.err

    evaluated = program("evaluate", run, "--on", path)
    assert evaluated.code == 0, evaluated.err
    per_image = rows_of(next(run.glob("evaluations/*/per_image.csv")))
    mean = np.mean([float(row["iou"]) for row in per_image])
    assert f"noisy: IoU {mean:.2f} [" in evaluated.out
    assert "(4 images)" in evaluated.out


def test_splits_and_generators_are_chosen(program, tiny_arch, tmp_path, shared_dataset):
    outcome = program(
        *("extract", shared_dataset, *tiny_arch, "--layers", "layer0", "--split", "valid,test"),
        *("--cache", tmp_path, "--dtype", "float32", "--name", "mine"),
    )
    store = Store(Path(outcome.last_line))
    assert store.splits == ["test", "valid"]
    assert store.identity.dtype == "float32"
    assert Path(outcome.last_line).parents[1].name == "mine"


def test_splits_are_assigned_to_a_dataset_without(program, tiny_arch, tmp_path, shared_dataset):
    for kind in ("images", "masks"):
        (tmp_path / "flat" / kind).mkdir(parents=True)
        for file in sorted((shared_dataset / kind / "train").iterdir()):
            (tmp_path / "flat" / kind / file.name).write_bytes(file.read_bytes())
    outcome = program(
        *("extract", tmp_path / "flat", *tiny_arch, "--layers", "0", "--cache", tmp_path / "c"),
        *("--assign-splits", "50,25,25"),
    )
    assert outcome.code == 0, outcome.err
    assert set(Store(Path(outcome.last_line)).splits) <= {"train", "valid", "test"}


def write_dolos(root: Path) -> Path:
    """A Dolos tree of two generators and real images; black is fake."""
    for number, (generator, split) in enumerate(
        (generator, split) for generator in ("lama", "ldm") for split in ("train", "valid", "test")
    ):
        made = write_dataset(root / "made" / generator / split, {split: 4}, seed=number)
        for kind in ("images", "masks"):
            target = root / "celebahq" / "fake" / generator / kind / split
            target.mkdir(parents=True)
            for file in (made / kind / split).iterdir():
                picture = Image.open(file)
                if kind == "masks":
                    picture = ImageOps.invert(picture)
                picture.save(target / file.name)
    real = root / "celebahq" / "real" / "train"
    real.mkdir(parents=True)
    Image.fromarray(forged_picture(1, 40, 40)[0]).save(real / "r.png")
    shutil.rmtree(root / "made")
    return root


@pytest.mark.slow
def test_a_dolos_tree_gives_the_matrix_of_its_generators(program, tiny_arch, tmp_path):
    tree = write_dolos(tmp_path / "dolos")
    options = ("--layers", "layer1", "--cache", tmp_path / "cache")
    store = program("extract", tree / "celebahq", *tiny_arch, *options).last_line
    assert Store(Path(store)).generators == ["lama", "ldm"]
    assert Store(Path(store)).labels.tolist().count(0) == 1
    runs = []
    for generator in ("lama", "ldm"):
        trained = program(
            *("train", store, "--feature-layer", "layer1", "--decoder-type", "linear"),
            *("--epochs", 1, "--batch-size", 1, "--train-on", generator, "-o", tmp_path / "runs"),
        )
        assert trained.code == 0, trained.err
        runs.append(trained.last_line)
    outcome = program("evaluate", *runs, "--on", store)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.strip().splitlines()
    # After a single step they have learned nothing.
    assert lines.pop().startswith("! of a run that learned nothing")
    assert lines[-6:-4] == ["IoU (percent), test split", PROTOCOL]
    assert lines[-4].split() == ["test", "\\", "train", "lama!", "ldm!"]
    cells = np.asarray([line.split()[1:] for line in lines[-3:-1]], float)
    on_diagonal, off = np.diag(cells).mean(), (cells[0, 1] + cells[1, 0]) / 2
    mean = r"([\d.]+) \[([\d.]+), ([\d.]+)\] \(2 cells\)"
    found = re.fullmatch(f"ID {mean}, OOD {mean}", lines[-1])
    assert found is not None
    for place, expected in ((1, on_diagonal), (4, off)):
        assert float(found[place]) == pytest.approx(expected, abs=0.11)
        assert float(found[place + 1]) <= float(found[place]) <= float(found[place + 2])
    probe = program(
        *("train", store, "--feature-layer", "layer1", "--decoder-type", "probe"),
        *("--epochs", 1, "--batch-size", 1, "-o", tmp_path / "runs"),
    ).last_line
    # Runs of another kind have a matrix of their own, in no mean with these.
    printed = program("evaluate", *runs, probe, "--on", store).out.splitlines()
    backbone = Store(Path(store)).identity.backbone
    first, second = [line for line in printed if line.startswith("IoU (percent)")]
    assert first.startswith(f"IoU (percent), test split, linear on layer1 of {backbone}")
    assert second.startswith(f"IoU (percent), test split, probe on layer1 of {backbone}")
    assert printed[printed.index(first) + 2 :][:4] == lines[-4:]
    assert printed[printed.index(second) + 2].split() == ["test", "\\", "train", "lama+ldm"]


MODES = {
    "grey.png": lambda picture: picture.convert("L"),
    "rgba.png": lambda picture: picture.convert("RGBA"),
    "palette.png": lambda picture: picture.convert("P"),
    "cmyk.jpg": lambda picture: picture.convert("CMYK"),
    "sixteen.png": lambda picture: Image.fromarray(
        np.asarray(picture.convert("L")).astype(np.uint16) * 257
    ),
    "tall.bmp": lambda picture: picture.resize((31, 200)),
    "wide.webp": lambda picture: picture.resize((300, 17)),
}


@pytest.mark.slow
def test_predict_writes_what_it_promises_for_any_mode(program, tiny_run, shared_dataset, tmp_path):
    source = Image.open(next((shared_dataset / "images" / "test").iterdir()))
    pictures = tmp_path / "images"
    (pictures / "below").mkdir(parents=True)
    for name, change in MODES.items():
        change(source).save(pictures / "below" / name)
    rotated = source.getexif()
    rotated[0x0112] = 6
    source.save(pictures / "rotated.jpg", exif=rotated)
    outcome = program("predict", tiny_run, "-i", pictures, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert outcome.last_line == str(tmp_path / "out" / "predictions.csv")
    rows = {Path(row["image"]).name: row for row in rows_of(Path(outcome.last_line))}
    assert set(rows) == {*MODES, "rotated.jpg"}
    width, height = source.size
    assert (rows["rotated.jpg"]["height"], rows["rotated.jpg"]["width"]) == (
        str(width),
        str(height),
    )
    for name, row in rows.items():
        assert row["status"] == "ok"
        assert row["mask"].startswith("below/" if name in MODES else "rotated")
        size = (int(row["height"]), int(row["width"]))
        mask = np.asarray(Image.open(tmp_path / "out" / row["mask"]))
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 255}
        with np.load(tmp_path / "out" / row["map"]) as saved:
            assert saved["map"].shape == (256, 256) and mask.shape == size
            assert saved["map"].dtype == np.float32
            assert saved["imgsize"].tolist() == list(size)
            assert float(saved["score"]) == pytest.approx(float(row["score"]))
            # As the guide says how to make it.
            small = torch.from_numpy(saved["map"])[None, None]
            full = interpolate(small, tuple(saved["imgsize"]), mode="bilinear")[0, 0]
            np.testing.assert_array_equal(mask == 255, full.numpy() > 0.5)
        assert float(row["fake_share"]) == pytest.approx((mask == 255).mean())
        overlay = np.asarray(Image.open(tmp_path / "out" / row["overlay"]))
        assert overlay.shape == (*size, 3)


def test_predict_takes_patterns_and_keeps_names_apart(program, tiny_run, shared_dataset, tmp_path):
    source = Image.open(next((shared_dataset / "images" / "test").iterdir()))
    for folder in ("a", "b"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        source.save(tmp_path / "in" / folder / "one.png")
    source.save(tmp_path / "in" / "a" / "one.bmp")
    pattern = tmp_path / "in" / "*" / "one.*"
    outcome = program("predict", tiny_run, "-i", pattern, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    masks = sorted(row["mask"] for row in rows_of(Path(outcome.last_line)))
    assert masks == ["a/one.bmp_mask.png", "a/one.png_mask.png", "b/one_mask.png"]


def test_a_bad_picture_among_good_ones_is_a_row(program, tiny_run, shared_dataset, tmp_path):
    good = next((shared_dataset / "images" / "test").iterdir())
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.png").write_bytes(good.read_bytes())
    (tmp_path / "in" / "bad.png").write_text("not an image")
    outcome = program("predict", tiny_run, "-i", tmp_path / "in", "-o", tmp_path / "out")
    assert outcome.code == 1
    assert "1 of 2 images could not be used" in outcome.err
    rows = {Path(row["image"]).name: row for row in rows_of(tmp_path / "out" / "predictions.csv")}
    assert rows["good.png"]["status"] == "ok"
    assert rows["bad.png"]["status"] == "failed"
    assert "not an image PIL can read" in rows["bad.png"]["reason"]


def test_version_and_help(program):
    assert program("--version").out == f"declip-pipe {declip_pipeline.__version__}\n"
    for command in ("extract", "train", "evaluate", "predict", "demo"):
        assert program(command, "--help").code == 0
