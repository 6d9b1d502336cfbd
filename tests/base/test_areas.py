"""One area under the curve: scikit-learn's, with ties, weights and rows; and the interval covers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

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


def test_the_interval_covers_the_area_of_two_normals():
    rng = np.random.default_rng(1)
    true, hits = 0.7602, 0  # P(N(1, 1) > N(0, 1))
    for k in range(100):
        scores = np.r_[rng.normal(1, 1, 40), rng.normal(0, 1, 40)]
        low, high = roc_auc_interval(scores, np.arange(80) < 40, 200, k)
        hits += low <= true <= high
    assert 88 <= hits <= 100
    assert np.isnan(roc_auc_interval(scores, np.arange(80) < 40, 0)).all()
