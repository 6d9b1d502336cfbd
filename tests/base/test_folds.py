"""Groups are never cut, gaps are kept, and the widths of an autocorrelation are those of closed form."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import GroupKFold, check_cv

from patchclamp.base.errors import PatchclampError
from patchclamp.base.folds import (
    Blocked,
    autocorrelation,
    autocorrelation_width,
    blocked_folds,
    drawn_groups,
    group_codes,
)


def test_group_codes_take_the_nameless_for_groups_of_their_own():
    assert group_codes(["b", "a", "b"], 3).tolist() == [1, 0, 1]
    assert len(set(group_codes(["", "", "a"], 3))) == 3
    assert group_codes(None, 3).tolist() == [0, 1, 2]
    assert group_codes(["a", "a"], 2).tolist() == [0, 0]
    assert group_codes(["a", "a"], 2, fewest=2).tolist() == [0, 1]


def test_drawn_groups_are_whole_and_the_draw_is_the_seeds():
    groups = np.repeat(np.arange(7), [1, 2, 3, 4, 5, 6, 7])
    for n in range(8):
        drawn = drawn_groups(groups, n, [3, n])
        assert len(np.unique(groups[drawn])) == n
        assert not set(groups[drawn]) & set(groups[~drawn])
    chosen = np.random.default_rng(4).permutation(np.unique(groups))[:3]
    assert (drawn_groups(groups, 3, 4) == np.isin(groups, chosen)).all()


def test_blocks_leave_the_gap_in_rows_that_are_not_all_there():
    rows = np.array([0, 1, 2, 5, 6, 9, 10, 11])
    for train, test in blocked_folds(np.zeros(8), rows, 2, gap=3):
        assert np.abs(rows[train][:, None] - rows[test]).min() > 3
    folds = blocked_folds(np.repeat([4, 2, 9], [2, 3, 3]), rows, 3)
    assert [fold.test.tolist() for fold in folds] == [[0, 1], [2, 3, 4], [5, 6, 7]]
    with pytest.raises(PatchclampError, match="at least two"):
        blocked_folds(np.zeros(8), rows, 1)
    with pytest.raises(PatchclampError, match="too few"):
        blocked_folds(np.zeros(3), np.arange(3), 2)


def test_a_list_of_folds_and_blocked_are_scikit_learns_cv():
    groups = np.repeat(np.arange(4), 5)
    folds = blocked_folds(groups, np.arange(20), 4)
    own, theirs = (
        {tuple(test) for _, test in splitter.split(np.zeros((20, 1)), None, groups)}
        for splitter in (check_cv(folds), GroupKFold(4))
    )
    assert own == theirs == {tuple(test) for _, test in Blocked(4, groups=groups).split(np.zeros((20, 1)))}
    assert Blocked.of(3).get_n_splits() == 3
    splitter = GroupKFold(2)
    assert Blocked.of(splitter) is splitter


def test_the_width_is_that_of_the_process_and_constant_columns_are_left_out():
    rng = np.random.default_rng(0)
    x = np.zeros((20_000, 2))
    for t in range(1, len(x)):
        x[t] = 0.6 * x[t - 1] + rng.normal(size=2)
    at_one, width = autocorrelation(np.column_stack([x, np.full(len(x), 0.1)]))
    assert at_one == pytest.approx(0.6, abs=0.02) and width == 2  # .6 ** 2 < .5 < .6
    assert autocorrelation_width(1e-7 * x) == autocorrelation_width(x[:, 0]) == 2
    with pytest.raises(PatchclampError, match="does not vary"):
        autocorrelation_width(np.ones((9, 2)))
