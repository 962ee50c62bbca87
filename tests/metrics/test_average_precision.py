import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from declip_pipeline.metrics.average_precision import average_precision


def test_by_hand():
    # Fake, real, fake: precision 1 at recall 1/2, 2/3 at recall 1.
    found = torch.tensor([[1, 1, 2], [0, 0, 0]])
    values = average_precision(found, torch.ones(2, 3, dtype=torch.bool))
    assert values.tolist() == pytest.approx([(1 + 2 / 3) / 2, 0])


@pytest.mark.parametrize("n_values", [2, 5, 1000])
def test_ties_count_together_as_in_scikit_learn(n_values):
    random = np.random.default_rng(n_values)
    scores = -np.sort(-random.integers(0, n_values, 300))
    labels = random.random(300) < 0.3
    ends = np.append(scores[1:] != scores[:-1], True)
    ours = average_precision(torch.from_numpy(labels.cumsum())[None], torch.from_numpy(ends)[None])
    assert ours.item() == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
