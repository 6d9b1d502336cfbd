"""Intervals cover, p-values are uniform under the null, corrections are those of the books."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from patchclamp.base.errors import PatchclampError
from patchclamp.base.statistics import (
    benjamini_hochberg,
    bootstrap_interval,
    bootstrap_statistic,
    holm,
    pearson,
    permutation_p,
    ranks,
    resamples,
    sign_flip_max_null,
    spearman,
)


def test_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(0).normal(2.0, 3.0, size=60)
    low, high = bootstrap_interval(values, n_boot=20_000, seed=1)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval  # at 60 items the studentised interval is that of percentiles, a little wider
    assert (float(low), float(high)) == pytest.approx((theirs.low, theirs.high), abs=0.05)


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    samples = rng.normal(1.0, 2.0, size=(40, 600))
    low, high = bootstrap_interval(samples, n_boot=400, seed=3)
    covered = np.mean((low <= 1.0) & (high >= 1.0))
    # 95 % nominal; 600 samples leave a sd of .009.
    assert 0.925 <= covered <= 0.975


def test_groups_are_resampled_whole():
    """Items that are copies of each other carry no more evidence than one of them."""
    rng = np.random.default_rng(1)
    samples = rng.normal(0.0, 1.0, size=(30, 400))
    copies = np.repeat(samples, 5, axis=0)
    names = [f"g{i}" for i in range(30) for _ in range(5)]
    low, high = bootstrap_interval(copies, names, n_boot=300, seed=0)
    assert 0.90 <= np.mean((low <= 0) & (high >= 0)) <= 0.98
    alone = bootstrap_interval(copies, n_boot=300, seed=0)
    assert np.mean((alone[0] <= 0) & (alone[1] >= 0)) < 0.75


def test_weights_of_a_group_are_equal_and_unnamed_items_are_their_own_group():
    weights = resamples(4, ["a", "a", "", ""], 200, 0)
    assert np.array_equal(weights[:, 0], weights[:, 1])
    assert not np.array_equal(weights[:, 2], weights[:, 3])
    assert np.array_equal(resamples(3, ["x"] * 3, 50, 7), resamples(3, None, 50, 7))


def test_missing_values_are_left_out_of_their_means():
    values = np.tile(
        [[1.0, np.nan, np.nan, np.nan], [3.0, 5.0, 5.0, np.nan], [2.0, 5.0, np.nan, np.nan]], (5, 1)
    )
    low, high = bootstrap_interval(values, n_boot=200, seed=0)
    assert low[1] == high[1] == 5.0
    # Five items have a value in the third column, none in the last.
    assert np.isnan(low[2:]).all() and np.isnan(high[2:]).all()
    assert 1.0 <= low[0] <= 2.0 <= high[0] <= 3.0


def test_paired_interval_is_narrower_than_the_parts_it_is_made_of():
    rng = np.random.default_rng(4)
    base = rng.normal(0, 10, size=80)
    changed = base - 1 + rng.normal(0, 0.1, size=80)
    low, high = bootstrap_interval(base - changed, seed=0)
    assert 0.9 < low < 1.0 < high < 1.1


def test_statistic_of_weights_is_near_the_mean():
    values = np.random.default_rng(5).normal(size=25)
    low, high = bootstrap_interval(values, n_boot=2000, seed=9)
    ends = bootstrap_statistic(lambda w: float(w @ values), 25, n_boot=2000, seed=9)
    assert ends == pytest.approx((float(low), float(high)), abs=0.06 * float(high - low))


def test_permutation_p_is_uniform_under_the_null():
    rng = np.random.default_rng(0)
    p = [permutation_p(x[0], x[1:]) for x in rng.normal(size=(2000, 21))]
    for alpha in (1 / 21, 5 / 21, 10 / 21, 1.0):
        assert np.mean(np.array(p) <= alpha + 1e-12) == pytest.approx(alpha, abs=0.03)
    assert min(p) == pytest.approx(1 / 21)


def test_holm_by_hand():
    # sorted .005 .01 .03 .04 times 4 3 2 1 = .02 .03 .06 .04, made monotone: .02 .03 .06 .06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_benjamini_hochberg_by_hand_and_by_scipy():
    # sorted .01 .02 .03 .5 times 4/1 4/2 4/3 4/4 = .04 .04 .04 .5
    assert benjamini_hochberg([0.5, 0.01, 0.03, 0.02]) == pytest.approx([0.5, 0.04, 0.04, 0.04])
    p = np.random.default_rng(0).uniform(size=50) ** 2
    assert benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p))


def test_holm_bounds_the_family_wise_error_and_bh_the_false_discoveries():
    rng = np.random.default_rng(3)
    wrong, rate = [], []
    for _ in range(400):
        z = rng.normal(size=20)
        z[:5] += 3.0
        p = 2 * stats.norm.sf(np.abs(z))
        wrong.append(bool((holm(p)[5:] <= 0.05).any()))
        found = benjamini_hochberg(p) <= 0.1
        rate.append(found[5:].sum() / max(found.sum(), 1))
    assert np.mean(wrong) <= 0.05 + 0.025
    assert np.mean(rate) <= 0.1 + 0.02


def test_max_null_controls_the_family_wise_error_under_dependence():
    """40 correlated units, none with an effect: the largest exceeds the null's 95 % point in one search of twenty."""
    rng = np.random.default_rng(6)
    false = 0
    for number in range(300):
        shared = rng.normal(size=(24, 1))
        units = 0.7 * shared + rng.normal(size=(24, 40))
        null = sign_flip_max_null(units, n_perm=200, seed=number)
        false += permutation_p(np.abs(units.mean(0)).max(), null) <= 0.05
    assert false / 300 <= 0.05 + 0.035
    planted = units.copy()
    planted[:, 3] += 2.0
    assert permutation_p(abs(planted.mean(0)[3]), sign_flip_max_null(planted, n_perm=500)) < 0.01


def test_nothing_to_resample_is_refused():
    with pytest.raises(PatchclampError, match="no item"):
        bootstrap_interval(np.zeros((0, 3)))


def test_correlations_are_scipys_and_nan_where_a_column_is_constant_up_to_rounding():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(30, 4)), np.round(rng.normal(size=(30, 4)), 1)
    for column in range(4):
        assert pearson(a, b)[column] == pytest.approx(
            stats.pearsonr(a[:, column], b[:, column])[0], abs=1e-12
        )
        rho = stats.spearmanr(a[:, column], b[:, column])[0]
        assert spearman(a[:, column], b[:, column]) == pytest.approx(rho, abs=1e-12)
    assert pearson(1e9 + a, b)[0] == pytest.approx(pearson(a, b)[0], abs=1e-6)
    assert pearson(a[:, 0], 3 * a[:, 0]) <= 1
    constant, holes = np.full(30, 0.1), np.where(np.arange(30) == 3, np.nan, 1.0)
    assert np.isnan([pearson(constant, a[:, 0]), pearson(a[:, 0], holes), spearman(constant, constant)]).all()


def test_weighted_ranks_are_those_of_the_entries_written_out():
    values, count = np.array([2.0, 5.0, 2.0, 1.0]), np.array([3, 1, 2, 4])
    written = ranks(np.repeat(values, count))
    first = np.cumsum(count) - count
    assert ranks(values, count.astype(float)) + 0.5 == pytest.approx(written[first])
    assert ranks(np.array([[3.0, 1.0, 1.0], [0.0, 0.0, 0.0]])).tolist() == [[3.0, 1.5, 1.5], [2.0, 2.0, 2.0]]
