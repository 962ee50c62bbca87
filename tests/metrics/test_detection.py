import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    roc_auc_score,
)

from declip_pipeline.errors import InputError
from declip_pipeline.metrics.detection import (
    accuracy_at,
    area_under_roc,
    average_precision,
    balanced_threshold,
    detection_metrics,
    f1_at,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "metrics.json").read_text())


def test_equals_the_reference():
    reference = GOLDEN["detection"]
    measured = detection_metrics(
        torch.tensor(reference["scores"]), torch.tensor(reference["labels"])
    )
    ours = measured.pop("threshold_between")
    assert measured == pytest.approx({name: reference[name] for name in measured}, abs=1e-9, rel=0)
    assert set(measured) == set(reference) - {"scores", "labels"}
    lower = [score for score in reference["scores"] if score < measured["best_threshold"]]
    assert ours == pytest.approx((max(lower) + measured["best_threshold"]) / 2)


@pytest.mark.parametrize("seed", range(5))
def test_equals_scikit_learn_and_a_plain_search_with_ties(seed):
    random = np.random.default_rng(seed)
    labels = random.random(60) < 0.5
    scores = (0.3 * labels + 0.7 * random.random(60)).round(1)
    measured = detection_metrics(torch.from_numpy(scores), torch.from_numpy(labels))
    assert measured["average_precision"] == pytest.approx(average_precision_score(labels, scores))
    accuracies = {t: ((scores >= t) == labels).mean() * 100 for t in scores}
    assert measured["accuracy_at_best"] == pytest.approx(max(accuracies.values()))
    assert area_under_roc(torch.from_numpy(scores), torch.from_numpy(labels)) == pytest.approx(
        roc_auc_score(labels, scores)
    )
    for threshold in (0.3, 0.5, 0.9):
        accuracy = accuracy_at(torch.from_numpy(scores), torch.from_numpy(labels), threshold)
        assert accuracy == pytest.approx(((scores >= threshold) == labels).mean() * 100)
    best = max(t for t, a in accuracies.items() if a == max(accuracies.values()))
    assert measured["best_threshold"] == best


def test_a_threshold_for_other_pictures_lies_between_both_kinds():
    """Scores of a decoder that tells all apart, in a narrow range: on the edge, the fakes of other
    images, a little lower, would all be called real."""
    valid = torch.tensor([0.49501, 0.49495, 0.49472, 0.49460], dtype=torch.float64)
    labels = torch.tensor([1, 1, 0, 0])
    measured = detection_metrics(valid, labels)
    assert measured["best_threshold"] == pytest.approx(0.49495)
    assert measured["threshold_between"] == pytest.approx(0.494835)
    test = torch.tensor([0.49494, 0.49486, 0.49472, 0.49465], dtype=torch.float64)
    assert accuracy_at(test, labels, measured["best_threshold"]) == 50
    assert accuracy_at(test, labels, measured["threshold_between"]) == 100


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        ([0.9, 0.2, 0.1], [0, 0, 0]),  # nothing is called fake
        ([0.9, 0.2, 0.1], [1, 1, 1]),  # everything is
        ([0.5, np.nextafter(0.5, 0)], [1, 0]),  # nothing lies between
    ],
)
def test_where_nothing_lies_between_the_best_threshold_stays(scores, labels):
    scores = torch.tensor(scores, dtype=torch.float64)
    measured = detection_metrics(scores, torch.tensor(labels))
    assert measured["threshold_between"] == measured["best_threshold"]
    assert accuracy_at(scores, torch.tensor(labels), measured["threshold_between"]) == 100


def test_calling_nothing_fake_is_a_choice_where_it_alone_is_best():
    scores, labels = torch.tensor([0.9, 0.2, 0.1]), torch.tensor([0, 0, 0])
    measured = detection_metrics(scores, labels)
    assert measured["accuracy_at_best"] == 100
    assert measured["best_threshold"] > scores[0].item()
    assert measured["average_precision"] == 0
    assert measured["accuracy_at_0_5"] == pytest.approx(200 / 3)


def test_without_both_labels_there_is_no_curve():
    for labels in (torch.zeros(3), torch.ones(3)):
        assert np.isnan(area_under_roc(torch.tensor([0.9, 0.2, 0.1]), labels))


def test_one_picture():
    measured = detection_metrics(torch.tensor([0.5]), torch.tensor([True]))
    assert measured == {
        "average_precision": 1.0,
        "accuracy_at_0_5": 100.0,
        "best_threshold": 0.5,
        "threshold_between": 0.5,
        "accuracy_at_best": 100.0,
    }


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (torch.zeros(3), torch.zeros(2), r"scores have shape \(3,\) and labels \(2,\)"),
        (torch.zeros(0), torch.zeros(0), "at least one image"),
        (torch.zeros(2, 2), torch.zeros(2, 2), r"shape \(2, 2\)"),
        (torch.tensor([0.1, float("nan")]), torch.zeros(2), "must be finite floating point"),
        (torch.tensor([1, 2]), torch.zeros(2), r"scores \(torch.int64\)"),
        (
            torch.zeros(2),
            torch.tensor([0, 255]),
            r"labels have the values \[0, 255\]; expected 0 \(real\) and 1 \(fake\)",
        ),
        (torch.zeros(2), torch.zeros(2, device="meta"), "scores are on cpu and labels on meta"),
    ],
)
def test_wrong_input_is_refused_in_words(scores, labels, message):
    for measure in (detection_metrics, area_under_roc, lambda *these: accuracy_at(*these, 0.5)):
        with pytest.raises(InputError, match=message):
            measure(scores, labels)


def test_average_precision_by_hand():
    # Fake, real, fake: precision 1 at recall 1/2, 2/3 at recall 1.
    found = torch.tensor([[1, 1, 2], [0, 0, 0]])
    values = average_precision(found, torch.ones(2, 3, dtype=torch.bool))
    assert values.tolist() == pytest.approx([(1 + 2 / 3) / 2, 0])


@pytest.mark.parametrize("n_values", [2, 5, 1000])
def test_average_precision_counts_ties_together_as_in_scikit_learn(n_values):
    random = np.random.default_rng(n_values)
    scores = -np.sort(-random.integers(0, n_values, 300))
    labels = random.random(300) < 0.3
    ends = np.append(scores[1:] != scores[:-1], True)
    ours = average_precision(torch.from_numpy(labels.cumsum())[None], torch.from_numpy(ends)[None])
    assert ours.item() == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


def test_the_balanced_threshold_is_that_of_a_search():
    generator = torch.Generator().manual_seed(0)
    for number in range(50):
        labels = torch.arange(30) < 5 + number % 20
        scores = (0.2 * labels + torch.rand(30, generator=generator)).mul(10).round() / 10
        threshold, balanced = balanced_threshold(scores, labels)
        candidates = [*scores.unique().tolist(), 9.0]
        found = [
            100 * balanced_accuracy_score(labels.numpy(), scores.numpy() >= np.float32(one))
            for one in candidates
        ]
        assert balanced == pytest.approx(max(found))
        called = scores.double().numpy() >= threshold
        assert 100 * balanced_accuracy_score(labels.numpy(), called) == pytest.approx(balanced)


def test_the_balanced_threshold_does_not_follow_the_number_of_fakes():
    scores = torch.tensor([0.9, 0.8, 0.3, 0.2, 0.2, 0.6, 0.1])
    labels = torch.tensor([1, 1, 1, 1, 1, 0, 0])
    # Calling all fake is right for five of seven; balanced it is for half.
    assert balanced_threshold(scores, labels)[0] == pytest.approx(0.15)
    assert balanced_threshold(scores, labels)[1] == pytest.approx(75)
    worse = balanced_threshold(1 - scores, labels)
    assert worse[1] >= 50


def test_a_score_that_tells_nothing_calls_nothing_fake():
    threshold, balanced = balanced_threshold(torch.full((4,), 0.5), torch.tensor([1, 1, 0, 0]))
    assert threshold > 0.5 and balanced == 50
    with pytest.raises(InputError, match="labels are all the same; expected fake and real images"):
        balanced_threshold(torch.rand(3), torch.ones(3))


def test_f1_of_images_is_that_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    for threshold in (0.0, 0.3, 0.5, 2.0):
        scores, labels = torch.rand(40, generator=generator), torch.arange(40) % 3 == 0
        expected = f1_score(labels.numpy(), scores.numpy() >= threshold, zero_division=0.0)
        assert f1_at(scores, labels, threshold) == pytest.approx(expected)
    assert f1_at(torch.tensor([0.1]), torch.tensor([0]), 0.5) == 0
