"""One area under the curve: scikit-learn's, with ties, weights and rows; and the interval covers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from patchclamp import PatchclampError
from patchclamp.base.areas import Ranked, auc, roc_auc, roc_auc_interval


@pytest.mark.parametrize("seed", range(5))
def test_the_area_is_scikit_learns_with_ties_weights_rows_and_labels(seed: int):
    rng = np.random.default_rng(seed)
    scores, positive = np.round(rng.normal(size=(3, 40)), 1), rng.random(40) < 0.3
    weights = rng.random(40)
    expected = [roc_auc_score(positive, row) for row in scores]
    assert roc_auc(scores, positive) == pytest.approx(expected, abs=1e-12)
    assert float(roc_auc(scores[0], positive, weights)) == pytest.approx(
        roc_auc_score(positive, scores[0], sample_weight=weights), abs=1e-12
    )
    assert float(roc_auc(scores[0], positive, np.full(40, 2.0))) == pytest.approx(expected[0], abs=1e-12)
    many = auc(Ranked.of(torch.from_numpy(scores.T)), torch.from_numpy(positive[None].astype(float)))
    assert many[0].numpy() == pytest.approx(expected, abs=1e-12)


def test_without_both_kinds_there_is_no_area_and_ties_count_half():
    assert np.isnan(roc_auc([1.0, 2.0], [True, True]))
    assert np.isnan(roc_auc(np.ones((2, 3)), [False] * 3)).all()
    assert np.isnan(roc_auc([1.0, 2.0], [True, False], np.array([1.0, 0.0])))
    assert roc_auc(np.zeros(5), [True, False, True, False, False]) == 0.5


@pytest.mark.parametrize(
    ("apart", "positives", "negatives"),
    [(1.0, 40, 40), (1.0, 3, 20), (2.5, 3, 20), (2.5, 8, 8), (2.5, 20, 20)],
)
def test_the_interval_covers_the_area_of_two_normals(apart, positives, negatives):
    """Draws of candidates held the area of 3 and 20 that are 2.5 apart 59 times in 100, of 20 and 20 83 times."""
    rng = np.random.default_rng(1)
    real = np.arange(positives + negatives) < positives
    true, hits = norm.cdf(apart / np.sqrt(2)), 0  # P(N(d, 1) > N(0, 1))
    for _ in range(300):
        low, high = roc_auc_interval(rng.normal(apart * real, 1), real)
        hits += low <= true <= high
    assert hits >= 0.93 * 300


def test_the_interval_is_that_of_the_equation_and_never_empty():
    low, high = roc_auc_interval([5.0, 4.0, 3.0, 1.0, 2.0, 0.0], [True, True, False, True, False, False])
    found, n = 7 / 9, 2
    for end in (low, high):
        spread = end * (1 - end) * (1 + n * ((1 - end) / (2 - end) + end / (1 + end))) / 9
        assert abs(found - end) == pytest.approx(norm.ppf(0.975) * np.sqrt(spread), abs=1e-9)
    for scores in ([2.0, 1.0], [1.0, 2.0], [1.0, 1.0]):
        low, high = roc_auc_interval(scores, [True, False])
        assert 0 <= low <= roc_auc(scores, [True, False]) <= high <= 1
        assert high - low > 0.5
    with pytest.raises(PatchclampError, match="2 positives and 0 negatives"):
        roc_auc_interval([1.0, 2.0], [True, True])
