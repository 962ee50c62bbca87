"""Sentences of the page."""

import numpy as np
import pytest

from declip_pipeline.prediction.analysis import Finding
from declip_pipeline.training.predictor import PredictedMap
from stages.page import texts


class MadeRun:
    """A run with given entries of its config and shares of real images."""

    problem = None

    def __init__(self, shares=None, problem=None, **config):
        self._config, self._shares, self.problem = config, shares, problem

    def config(self):
        return self._config

    def valid_real_shares(self):
        if self._shares is None:
            return None
        return np.repeat(np.array(self._shares, np.float32)[:, None], 99, axis=1)


def found(run, share, region=None):
    """A finding on 1000 pixels."""
    full = np.zeros((10, 100), np.float32)
    full.flat[: round(1000 * share)] = 0.9
    return Finding(
        run, PredictedMap(full[:1], full, 0.25), region or (1, 1), is_shrunk=region is not None
    )


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "No pixel looks manipulated"),
        (0.0004, "No pixel looks manipulated"),
        (0.03, "3% of the pixels look manipulated"),
        (0.034, "3.4% of the pixels look manipulated"),
        (0.347, "35% of the pixels look manipulated"),
        (1.0, "100% of the pixels look manipulated"),
    ],
)
def test_the_share_is_said_in_plain_words(share, text):
    assert texts.verdict(found(MadeRun(), share), 0.5) == text


def test_small_and_large_shares_are_not_rounded_away():
    assert texts.percent(0.0004) == "less than 0.1%"
    assert texts.percent(0.9999) == "more than 99.9%"


@pytest.mark.parametrize(
    ("shares", "share", "text"),
    [
        (
            [0.0] * 38 + [0.05, 0.2],
            0.03,
            "On real images of the validation split this happens in 1 of 20 (2 of 40).",
        ),
        ([0.0] * 40, 0.03, "On real images of the validation split this happens in none of 40."),
        (
            [0.5] * 3 + [0.0],
            0.03,
            "On real images of the validation split this happens in 3 of 4: it means little.",
        ),
        (
            [0.0] * 38 + [0.05, 0.2],
            0.0,
            "So it is on 38 of 40 real images of the validation split.",
        ),
    ],
)
def test_the_rate_on_real_images_is_said(shares, share, text):
    assert texts.rate(found(MadeRun(shares, with_real=0.2), share), 0.5) == text


def test_what_is_not_known_is_said():
    unknown = "How often this happens on real images is not known: the run keeps no record of any."
    assert texts.rate(found(MadeRun(), 0.03), 0.5) == unknown
    assert texts.rate(found(MadeRun(pooling="mean"), 0.03), 0.5) == unknown


def test_notes_name_what_a_reader_should_know():
    class Image:
        size = (10, 100)

    assert texts.notes(Image(), found(MadeRun(with_real=0.2), 0.1)) == []
    never = "The run never saw a real image in training."
    assert texts.notes(Image(), found(MadeRun(), 0.1)) == [never]
    run = MadeRun(pooling="mean", problem="its best epoch is the first")
    hint, problem, region = texts.notes(Image(), found(run, 0.1, (57, 43)))
    assert "trained on labels of images" in hint and "scores the whole image 0.25" in hint
    assert problem == "The run learned nothing useful: its best epoch is the first."
    assert "regions smaller than 43x57 pixels cannot be found" in region


def test_the_notice_says_what_a_localizer_is_not():
    assert "does not tell whether a whole image is synthetic" in texts.NOTICE
