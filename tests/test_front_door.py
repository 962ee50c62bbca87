"""The public names: from images to masks in ten lines of Python."""

import functools
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.made_dataset import write_dataset
from torch import nn

import declip_pipeline as dp

README = (Path(__file__).parents[1] / "README.md").read_text()
(TEN_LINES,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

HANDLERS = "import signal; handlers = [signal.getsignal(n) for n in signal.valid_signals()]"
CHECKS = """
assert handlers == [signal.getsignal(number) for number in signal.valid_signals()]
assert probability.shape == (90, 50) and probability.dtype == "float32"
assert 0 <= probability.min() <= probability.max() <= 1
assert len(table) == 4 and "iou" in table
assert features.shape == store.layers["layer3"].array_shape
assert target.shape == (256, 256) and target.max() == 1
assert dp.open_run(run.path).best_score == run.best_score
"""


class Small(nn.Module):
    """A decoder of one's own: a convolution, then bilinear upsampling."""

    def __init__(self, shape, size=256):
        super().__init__()
        self.convolution = nn.Conv2d(shape.channels, 1, 1)
        self.size = size

    def forward(self, features):
        maps = self.convolution(features)
        return nn.functional.interpolate(maps, (self.size, self.size), mode="bilinear")[:, 0]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of the embedded backbone."""
    root = tmp_path_factory.mktemp("front")
    write_dataset(root / "DATA")
    return dp.extract(
        root / "DATA", "efficientnet-lite0", layers="layer2,layer3", cache=root / "cache"
    )


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    """A folder of images without masks."""
    root = tmp_path_factory.mktemp("unlabelled")
    write_dataset(root / "made")
    shutil.move(root / "made" / "images", root / "photos")
    return root / "photos"


def run_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_the_ten_lines_run_in_a_fresh_folder_and_print_one_line(tmp_path):
    write_dataset(tmp_path / "DATA")
    shutil.copy(tmp_path / "DATA" / "images" / "test" / "p0011.png", tmp_path / "suspicious.jpg")
    ended = run_python(f"{HANDLERS}\n{TEN_LINES}\n{CHECKS}", tmp_path)
    assert (ended.stderr, ended.returncode) == ("", 0)
    assert len(ended.stdout.splitlines()) == 1
    assert "Interval(low=" in ended.stdout


def test_importing_the_package_takes_less_than_a_tenth_of_a_second(tmp_path):
    code = """
import time
started = time.process_time()
import declip_pipeline
print(time.process_time() - started)
"""
    assert float(run_python(code, tmp_path).stdout) < 0.1


def test_every_public_name_is_there_documented_and_typed():
    assert {*dp.__all__} <= set(dir(dp))
    assert set(dp._MODULES) == {*dp.__all__} - {"__version__"}
    for name in dp._MODULES:
        found = getattr(dp, name)
        assert found.__module__ == f"declip_pipeline.{dp._MODULES[name]}"
        assert found.__doc__
    with pytest.raises(AttributeError, match="has no attribute 'open_stor'"):
        _ = dp.open_stor
    seen_by_type_checkers = Path(dp.__file__).read_text().partition("__version__")[0]
    for name, module in dp._MODULES.items():
        assert f"from declip_pipeline.{module} import" in seen_by_type_checkers, name


@pytest.mark.slow
def test_a_second_call_does_nothing_again(store, tmp_path):
    again = dp.extract(
        Path(store.provenance["root"]),
        "efficientnet-lite0",
        layers=["layer3", "layer2"],
        cache=Path(store.location).parents[2],
        progress=lambda done, total: pytest.fail("nothing was to be extracted"),
    )
    assert again.location == store.location
    epochs = []
    options = {"decoder": "linear", "epochs": 2, "batch_size": 4, "runs": tmp_path}
    run = dp.train(store, layer="layer3", **options, progress=epochs.append)
    assert [epoch.epoch for epoch in epochs] == [1, 2] == [one["epoch"] for one in run.epochs()]
    again = dp.train(store.location, layer="layer3", **options, progress=epochs.append)
    assert again.path == run.path and len(epochs) == 2


@pytest.mark.slow
def test_layers_of_one_decoder_are_joined(store, tmp_path):
    run = dp.train(
        store, layer=["layer2", "layer3"], decoder="linear", epochs=1, batch_size=8, runs=tmp_path
    )
    assert run.config()["layer"] == "layer2+layer3"
    assert [shape.channels for shape in run.decoder().input_shapes] == [24, 40]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"layer": None}, "`layer` is None; expected the name of a layer, or several to join"),
        ({"widths": 4}, "`widths` is 4; expected whole numbers, one for each stage"),
        ({"initialization": "x"}, "unknown initialization 'x'; known: paper, pytorch, imagenet"),
        ({"epochs": 0}, "`epochs` is 0; expected a whole number of at least 1"),
        ({"name": "../up"}, "'../up' cannot name a folder; expected letters"),
    ],
)
def test_a_training_that_cannot_be_is_refused_and_leaves_nothing(store, tmp_path, option, message):
    options = {"layer": "layer3", "decoder": "conv-4", "batch_size": 2, "runs": tmp_path / "runs"}
    with pytest.raises(dp.DeclipError, match=message):
        dp.train(store, **(options | option))
    assert list(tmp_path.iterdir()) == []


def test_several_runs_are_not_one(store):
    with pytest.raises(
        dp.DeclipError, match="found list for a run; expected one run or its folder"
    ):
        dp.evaluate([store.location], store)


def test_a_batch_of_no_images_is_refused(store, tmp_path):
    with pytest.raises(dp.DeclipError, match="`batch_size` is 0; expected a whole number"):
        dp.extract(tmp_path, "efficientnet-lite0", layers="all", batch_size=0, cache=tmp_path)


def test_an_unknown_option_of_a_training_is_named(store, tmp_path):
    with pytest.raises(dp.DeclipError, match=r"unknown option .* 'batchsize'; did you mean 'batch"):
        dp.train(store, layer="layer3", batchsize=8, runs=tmp_path)
    with pytest.raises(dp.DeclipError, match="unknown layer in .* 'layer9'.* known: layer2, layer"):
        dp.train(store, layer="layer9", runs=tmp_path)


@pytest.mark.slow
def test_paths_images_and_arrays_are_predicted_alike(store, tmp_path):
    run = dp.train(store, layer="layer3", decoder="linear", epochs=1, batch_size=8, runs=tmp_path)
    predict = run.predictor(dp.open_backbone("efficientnet-lite0"), device="cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 70, 3), np.uint8)
    turned = Image.fromarray(np.rot90(pixels))  # a quarter to the left
    exif = Image.Exif()
    exif[274] = 6  # to be shown a quarter to the right
    turned.save(tmp_path / "turned.png", exif=exif)
    expected = predict(pixels)
    assert expected.shape == (40, 70) and expected.dtype == np.float32
    for image in (tmp_path / "turned.png", str(tmp_path / "turned.png")):
        np.testing.assert_array_equal(predict(image), expected)
    with Image.open(tmp_path / "turned.png") as image:
        np.testing.assert_array_equal(predict(image), expected)
    np.testing.assert_array_equal(predict(Image.fromarray(pixels)), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("missing.jpg", "missing.jpg: cannot be opened: No such file or directory"),
        (np.zeros((40, 70)), r"an image of shape \(40, 70\) and dtype float64; expected a path"),
        (np.zeros((40, 7, 3), np.uint8), "an image of 7x40 pixels; expected at least 16x16"),
        (Image.new("RGB", (7, 40)), "7x40 pixels; at least 16x16 expected"),
    ],
)
def test_what_is_no_image_is_refused(store, tmp_path_factory, image, message):
    runs = tmp_path_factory.getbasetemp() / "refused"
    run = dp.train(store, layer="layer3", decoder="linear", epochs=1, batch_size=8, runs=runs)
    with pytest.raises(dp.DeclipError, match=message):
        run.predictor(device="cpu")(image)


@pytest.mark.slow
def test_a_decoder_of_ones_own_saves_resumes_evaluates_and_predicts(store, tmp_path):
    decoder = functools.partial(Small, size=256)
    options = {"layer": "layer3", "decoder": decoder, "batch_size": 4, "runs": tmp_path}

    def interrupt(epoch):
        if epoch.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dp.train(store, **options, epochs=2, progress=interrupt)
    epochs = []
    run = dp.train(store, **options, epochs=2, progress=epochs.append)
    assert [epoch.epoch for epoch in epochs] == [2]
    assert run.config()["decoder_options"] == {"size": 256}
    opened = dp.open_run(run.path, decoder=Small)
    evaluation = dp.evaluate(opened, store)
    assert evaluation.to_arrow().num_rows == 4
    assert opened.predictor(device="cpu")(np.zeros((30, 40, 3), np.uint8)).shape == (30, 40)


def test_a_decoder_of_another_output_shape_is_refused(store, tmp_path):
    decoder = functools.partial(Small, size=64)
    with pytest.raises(
        dp.DeclipError, match=r"returned shape \(2, 64, 64\) .* expected .* \(2, 256, 256\)"
    ):
        dp.train(store, layer="layer3", decoder=decoder, runs=tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_unreadable_images_are_refused_or_tolerated(tmp_path):
    write_dataset(tmp_path / "DATA")
    broken = next((tmp_path / "DATA" / "images" / "test").iterdir())
    broken.write_bytes(broken.read_bytes()[:-200])
    extract = functools.partial(
        dp.extract, tmp_path / "DATA", "efficientnet-lite0", layers="2", cache=tmp_path / "cache"
    )
    with pytest.raises(
        dp.DeclipError, match=rf"1 of 15 images .* such as .*{broken.name} \(.*`max_failures=1`"
    ):
        extract()
    assert len(extract(max_failures=1).failures) == 1


@pytest.mark.slow
def test_images_without_masks_have_features_and_nothing_to_learn(unlabelled, tmp_path):
    store = dp.extract(unlabelled, "efficientnet-lite0", layers="layer2", cache=tmp_path / "cache")
    assert not store.has_masks and len(store) == 15
    features = dp.StoreDataset(store, "layer2", split="train", targets=None)[0]
    assert features.shape == store.layers["layer2"].array_shape
    with pytest.raises(dp.DeclipError, match="has no masks, its images are unlabelled; expected"):
        dp.StoreDataset(store, "layer2")
    with pytest.raises(dp.DeclipError, match="images without a label"):
        dp.StoreDataset(store, "layer2", targets="labels")
    with pytest.raises(dp.DeclipError, match="has no masks.* training needs fakes with masks"):
        dp.train(store, layer="layer2", runs=tmp_path / "runs")
    with pytest.raises(dp.DeclipError, match="has no masks.* an evaluation needs fakes with masks"):
        dp.evaluate(tmp_path / "runs", store)


@pytest.mark.slow
def test_images_without_masks_are_extracted_by_the_program_and_not_trained_on(
    unlabelled, program, refused, tmp_path
):
    options = ("--arch", "efficientnet-lite0", "--layers", "layer2", "--cache", tmp_path / "cache")
    extracted = program("extract", unlabelled, *options)
    assert extracted.code == 0
    line = refused("train", extracted.last_line, "--layers", "layer2", "-o", tmp_path / "runs")
    assert "has no masks" in line and "needs fakes with masks" in line


def test_nothing_of_the_process_changes(store, tmp_path):
    """Errors are raised, not printed; an interrupted training leaves the handlers as they were."""
    before = [signal.getsignal(number) for number in signal.valid_signals()]
    with pytest.raises(dp.DeclipError, match="unknown device 'tpu'"):
        dp.train(store, layer="layer3", device="tpu", runs=tmp_path)
    assert before == [signal.getsignal(number) for number in signal.valid_signals()]
    assert torch.is_grad_enabled()
