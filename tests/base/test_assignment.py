"""The best one-to-one matching, against all permutations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from patchclamp.base.assignment import cosines, match


@pytest.mark.parametrize("seed", range(4))
def test_no_permutation_is_better(seed: int):
    table = np.random.default_rng(seed).normal(size=(5, 5))
    found = match(table)
    best = max(sum(table[i, j] for i, j in enumerate(order)) for order in itertools.permutations(range(5)))
    assert found.values.sum() == pytest.approx(best)
    assert sorted(found.columns) == found.rows.tolist() == list(range(5))
    assert (table[found.rows, found.columns] == found.values).all()


def test_the_smaller_side_is_matched_in_full_and_zero_rows_have_no_cosine():
    assert len(match(np.eye(3)[:2]).rows) == len(match(np.eye(3)[:, :2]).rows) == 2
    assert cosines([[2.0, 0.0], [1.0, 1.0], [0.0, 0.0]], [[0.0, 5.0]]) == pytest.approx(
        np.array([[0.0], [np.sqrt(0.5)], [0.0]])
    )
