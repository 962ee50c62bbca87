"""Order, bounds and endings of the pipeline; what it computes is tested with `predict`."""

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from declip_pipeline.errors import ImageError
from declip_pipeline.images.tiles import Tiling, Window
from declip_pipeline.prediction import pipeline as module
from declip_pipeline.prediction.pipeline import Pipeline
from declip_pipeline.training.image_maps import WindowMaps
from declip_pipeline.training.predictor import PreparedImage


class MeanPredictor:
    """The map of a window is its mean grey; remembers what was computed together."""

    def __init__(self, tiling: Tiling | None = None) -> None:
        self.tiling = tiling
        self.batches: list[list[tuple[int, Window]]] = []

    def windows(self, height: int, width: int) -> list[Window]:
        if self.tiling is None:
            return [Window(0, 0, height, width)]
        return self.tiling.windows(height, width)

    def prepare(self, image: Image.Image) -> PreparedImage:
        pixels = np.asarray(image)
        return PreparedImage(pixels.shape[:2], {}, pixels)

    def compute(self, parts):
        self.batches.append([(int(image.pixels[0, 0, 0]), window) for image, window in parts])
        means = [window.of(image.pixels).mean() / 255 for image, window in parts]
        small = np.asarray(means, np.float32)[:, None, None]
        return WindowMaps(small, small[None], None)


def photos(folder: Path, count: int, size=(20, 30)) -> dict[str, Path]:
    """Images of one grey each: 0, 1, 2, ..."""
    folder.mkdir(exist_ok=True)
    paths = {}
    for number in range(count):
        name = f"p{number:03d}"
        paths[name] = folder / f"{name}.png"
        Image.new("RGB", size, (number, number, number)).save(paths[name])
    return paths


def score(found) -> float:
    for _ in found.maps.strips():
        pass
    return found.maps.score


def test_results_and_failures_come_in_the_order_of_the_names(tmp_path):
    images = photos(tmp_path, 40)
    images["p003"].write_bytes(b"no image")
    images["p025"].unlink()
    found = list(Pipeline(MeanPredictor(), images, score, batch_size=4).run())
    assert [name for name, _ in found] == list(images)
    for number, (_, result) in enumerate(found):
        if number in (3, 25):
            assert isinstance(result, ImageError)
        else:
            assert result == pytest.approx(number / 255)


@pytest.mark.parametrize("tiling", [None, Tiling(16, 0)])
def test_batches_do_not_depend_on_what_is_done(tmp_path, tiling):
    images = photos(tmp_path, 20, (40, 16))
    whole, rest = MeanPredictor(tiling), MeanPredictor(tiling)
    list(Pipeline(whole, images, score, batch_size=5).run())
    done = {f"p{number:03d}": (16, 40) for number in (0, 1, 2, 3, 4, 7, 10, 11, 12, 13, 14)}
    found = dict(Pipeline(rest, images, score, done=done, batch_size=5).run())
    assert found.keys() == images.keys() - done.keys()
    assert all(batch in whole.batches for batch in rest.batches)
    assert len(rest.batches) < len(whole.batches)
    # As few batches of the same length as there can be.
    assert {len(batch) for batch in whole.batches} == ({5} if tiling is None else {3})


def test_large_images_in_flight_are_bounded_by_their_bytes(tmp_path, monkeypatch):
    size = 20 * 30 * module.BYTES_A_PIXEL
    monkeypatch.setattr(module, "BYTES_IN_FLIGHT", 4 * size)
    monkeypatch.setattr(module, "GROUP_BYTES", size)
    in_flight, most, lock = set(), [], threading.Lock()
    read = Pipeline._read

    def counted(self, image):
        with lock:
            in_flight.add(image.name)
            most.append(len(in_flight))
        return read(self, image)

    monkeypatch.setattr(Pipeline, "_read", counted)
    predictor = MeanPredictor()
    for name, _ in Pipeline(predictor, photos(tmp_path, 30), score, batch_size=8).run():
        with lock:
            in_flight.remove(name)
    # One more: its result is on its way to the caller.
    assert max(most) <= 5
    assert {len(batch) for batch in predictor.batches} == {1}


def test_windows_of_an_image_reach_its_finisher_while_others_are_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAPS_AHEAD", 1)
    images = photos(tmp_path, 3, (200, 100))
    predictor = MeanPredictor(Tiling(20, 0.5))
    found = dict(Pipeline(predictor, images, score, batch_size=2).run())
    windows = len(Tiling(20, 0.5).windows(100, 200))
    assert len(predictor.batches) == 3 * -(-windows // 2)
    for number, result in enumerate(found.values()):
        assert result == pytest.approx(number / 255)


@pytest.mark.parametrize("tiling", [None, Tiling(16, 0)])
def test_another_error_of_a_finisher_ends_the_pipeline(tmp_path, tiling):
    def broken(found):
        if found.name == "p005":
            raise OSError("pulled")
        return score(found)

    images = photos(tmp_path, 60, (200, 40))
    with pytest.raises(OSError, match="pulled"):
        list(Pipeline(MeanPredictor(tiling), images, broken, batch_size=4).run())


def test_an_error_while_computing_lets_go_of_finishers_that_wait(tmp_path):
    class Broken(MeanPredictor):
        def compute(self, parts):
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().compute(parts)

    with pytest.raises(KeyboardInterrupt):
        images = photos(tmp_path, 2, (200, 100))
        list(Pipeline(Broken(Tiling(20, 0.5)), images, score, batch_size=2).run())


def test_a_closed_pipeline_stops(tmp_path):
    finished = []

    def finish(found):
        finished.append(found.name)
        return score(found)

    running = Pipeline(MeanPredictor(), photos(tmp_path, 100), finish, batch_size=2).run()
    assert next(running)[0] == "p000"
    running.close()
    assert len(finished) < 20


def test_images_are_claimed_in_their_order_and_a_refused_one_is_not_finished(tmp_path):
    claimed, finished = [], []

    def claim(name):
        claimed.append(name)
        if name == "p004":
            raise ImageError("taken")

    def finish(found):
        finished.append(found.name)
        return score(found)

    images = photos(tmp_path, 12)
    found = dict(Pipeline(MeanPredictor(), images, finish, claim=claim, batch_size=4).run())
    assert claimed == list(images)
    assert str(found["p004"]) == "taken"
    assert set(finished) == images.keys() - {"p004"}
