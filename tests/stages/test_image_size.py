"""A size of its own goes through every command, and its features meet no others."""

import pytest

from declip_pipeline.store.reader import Store


@pytest.fixture
def stores(program, shared_dataset, tmp_path):
    cache = tmp_path / "cache"

    def made(*options):
        command = ("extract", shared_dataset, "--arch", "efficientnet-lite0", "--layers", "layer3")
        outcome = program(*command, "--cache", cache, *options)
        assert outcome.code == 0, outcome.err
        return outcome.last_line

    return made(), made("--image-size", "288x320")


@pytest.mark.slow
def test_from_extraction_to_prediction(program, refused, stores, shared_dataset, tmp_path):
    own, larger = stores
    shape = Store(larger).layers["layer3"]
    assert (shape.height, shape.width) == (36, 40)
    assert Store(own).layers["layer3"].height == 28
    options = ("--layers", "layer3", "--decoder-type", "linear", "--epochs", 1, "--batch-size", 4)
    trained = program("train", larger, *options, "-o", tmp_path / "runs")
    assert trained.code == 0, trained.err
    run = trained.last_line
    evaluated = program("evaluate", run, "--on", larger)
    assert evaluated.code == 0, evaluated.err
    image = next(path for path in shared_dataset.rglob("*.png"))
    predicted = program("predict", run, "-i", image, "-o", tmp_path / "predictions")
    assert predicted.code == 0, predicted.err
    line = refused("evaluate", run, "--on", own, code=1)
    assert "preprocessing" in line


@pytest.mark.parametrize("text", ["0", "448x", "x448", "big", "-224", "448X448"])
def test_what_is_no_size_is_refused(refused, shared_dataset, tmp_path, text):
    command = ("extract", shared_dataset, "--arch", "efficientnet-lite0", "--image-size", text)
    line = refused(*command, "--cache", tmp_path)
    assert line == f"--image-size {text!r}; expected pixels such as 448 or 448x672"


def test_a_size_that_does_not_fit_is_refused(refused, shared_dataset, tmp_path):
    command = ("extract", shared_dataset, "--arch", "efficientnet-lite0", "--image-size", "230")
    line = refused(*command, "--cache", tmp_path)
    assert line == (
        "images of 230x230 pixels for efficientnet-lite0, which takes multiples of 32; take an "
        "--image-size, or --tiles, such as 224"
    )
    assert not any(tmp_path.iterdir())
