"""Intervals hold the truth as often as they say for few groups, unequal and skewed ones too; below eight there are none."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate, Null, require_nonzero
from patchclamp.base.statistics import (
    FEWEST_GROUPS,
    bootstrap_interval,
    bootstrap_statistic,
    contrast_interval,
    draws_interval,
    n_groups,
    ratio_interval,
    resamples,
)

SYSTEMS = 600
DRAW = {
    "normal": lambda rng, size: rng.normal(size=size),
    "exponential": lambda rng, size: rng.exponential(size=size) - 1,
}


def covered(low, high, truth):
    return float(np.mean((np.asarray(low) <= truth) & (truth <= np.asarray(high))))


def crossed_items(rng, kind, names, n):
    """Items on pairs of names: an effect of each name in each role, and one of the item."""
    one, two = (DRAW[kind](rng, names) for _ in range(2))
    pairs = np.array([rng.permutation(names)[:2] for _ in range(n)])
    values = 1 + 0.6 * one[pairs[:, 0]] + 0.6 * two[pairs[:, 1]] + 0.8 * DRAW[kind](rng, n)
    return values, [" × ".join(sorted(map(str, pair))) for pair in pairs]


@pytest.mark.parametrize(("kind", "least", "most"), [("normal", 0.93, 0.97), ("exponential", 0.90, 0.97)])
@pytest.mark.parametrize("count", [8, 20])
def test_means_over_few_groups_are_covered(kind, least, most, count):
    values = 1 + DRAW[kind](np.random.default_rng(count), (count, 4 * SYSTEMS))
    low, high = bootstrap_interval(values, n_boot=600)
    assert least - 0.01 <= covered(low, high, 1.0) <= most + 0.01  # 2,400 systems leave a sd of .0045


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "least", "most"), [("normal", 0.93, 0.97), ("exponential", 0.90, 0.97)])
@pytest.mark.parametrize("share", [False, True])
def test_groups_of_unequal_size_and_shares_are_covered(kind, least, most, share):
    rng = np.random.default_rng(5)
    ends = []
    for seed in range(SYSTEMS):
        sizes = rng.integers(1, 8, size=10)
        own = DRAW[kind](rng, 10)
        items = 1 + np.repeat(own, sizes) + 0.7 * DRAW[kind](rng, sizes.sum())
        whole = (
            2 + 0.3 * np.repeat(own, sizes) + 0.5 * DRAW[kind](rng, sizes.sum())
            if share
            else np.ones(len(items))
        )
        groups = np.repeat([f"g{i}" for i in range(10)], sizes).tolist()
        ends.append(ratio_interval(items, whole, groups, n_boot=600, seed=seed))
    assert least - 0.02 <= covered(*np.transpose(ends), 0.5 if share else 1.0) <= most + 0.015


@pytest.mark.parametrize("kind", ["normal", "exponential"])
def test_names_that_recur_in_other_groups_are_counted_once(kind):
    """As if pairs were independent, the interval covers .69 to .88 of new names."""
    rng = np.random.default_rng(1)
    own, alone = [], []
    for _ in range(250):
        values, groups = crossed_items(rng, kind, 14, 40)
        own.append(bootstrap_interval(values, groups))
        alone.append(bootstrap_interval(values, [group.replace(" × ", "+") for group in groups], n_boot=300))
    assert n_groups(groups, 40) <= 14
    assert 0.91 <= covered(*np.transpose(own), 1.0) <= 0.98
    assert covered(*np.transpose(alone), 1.0) < 0.88


def test_a_name_in_every_item_leaves_no_interval():
    low, high = bootstrap_interval(np.arange(12.0), [f"Ann × {i}" for i in range(12)])
    assert np.isnan(low) and np.isnan(high)


def test_items_that_share_no_name_are_no_more_than_they_are():
    groups = [f"{2 * i} × {2 * i + 1}" for i in range(6)]
    assert n_groups(groups, 6) == 6
    assert np.isnan(bootstrap_interval(np.arange(6.0), groups)).all()


def test_crossed_draws_weigh_an_item_by_both_its_names():
    weights = resamples(12, [f"{i} × {(i + 1) % 12}" for i in range(12)], 6000, 0)
    assert weights.any(1).all() and weights.mean() == pytest.approx(1 - 1 / 12, abs=0.02)
    shared, apart = np.cov(weights.T)[0, [1, 6]]
    assert shared > 0.3 > apart + 0.3


def test_equal_groups_are_students_in_width():
    """A bootstrap-t of normal groups is Student's t on average."""
    values = np.random.default_rng(0).normal(size=(12, 500))
    low, high = bootstrap_interval(values, n_boot=1000)
    theirs = 2 * stats.t.ppf(0.975, 11) * values.std(0, ddof=1) / 12**0.5
    assert np.median((high - low) / theirs) == pytest.approx(1, abs=0.06)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 11), st.floats(-5, 5), st.floats(0.5, 4)), min_size=8, max_size=40),
    st.booleans(),
)
def test_an_estimate_is_in_its_own_interval_and_few_groups_have_none(items, crossed):
    groups = [f"{g} × {(g + 1) % 12}" if crossed else str(g) for g, _, _ in items]
    top, bottom = np.array([x for _, x, _ in items]), np.array([y for _, _, y in items])
    count = n_groups(groups, len(items))
    skewed = bootstrap_statistic(lambda w: float(np.sqrt(w @ top**2)), len(items), groups, n_boot=40)
    for found in (
        Estimate.of_mean(top, groups, n_boot=100),
        Estimate.of_ratio(bottom, bottom + 1, groups, n_boot=100),
    ):
        assert found.groups == count
        if count < FEWEST_GROUPS:
            assert found.low is None and found.high is None and "at least 8 are needed" in str(found)
            assert np.isnan(skewed).all()
        elif found.bounded:
            assert found.low - 1e-9 <= found.value <= found.high + 1e-9
    if count >= FEWEST_GROUPS:
        value = float(np.sqrt(np.mean(top**2)))
        assert skewed[0] - 1e-9 <= value <= skewed[1] + 1e-9


def test_statistics_of_few_groups_have_wider_percentiles():
    draws = np.random.default_rng(0).normal(size=20_000)
    for count, reach in ((8, stats.t.ppf(0.975, 7) * (8 / 7) ** 0.5), (200, 1.98)):
        low, high = draws_interval(draws, count)
        assert (-float(low), float(high)) == pytest.approx((reach, reach), abs=0.12)
    low, high = draws_interval(draws, 50, 9.0)
    assert float(high) == 9.0


def test_a_contrast_of_independent_samples_is_covered_and_needs_eight_groups_a_side():
    rng = np.random.default_rng(2)
    ends = []
    for seed in range(300):
        parts = [
            (1.0, 1 + rng.normal(size=9), None),
            (-0.5, rng.normal(size=12), None),
            (-0.5, rng.normal(size=5), None),
        ]
        ends.append(contrast_interval(parts, n_boot=300, seed=seed)[1:])
    assert 0.92 <= covered(*np.transpose(ends), 1.0) <= 0.985
    value, low, high = contrast_interval([(1.0, [1.0, 2.0], None), (-1.0, [0.0] * 9, None)])
    assert value == 1.5 and np.isnan(low) and np.isnan(high)


def test_a_share_of_nothing_is_refused_with_the_way_out():
    noise = np.random.default_rng(3).normal(size=12)
    with pytest.raises(
        PatchclampError, match=r"the logit difference is not different from 0: .*\[-.*n=12.*more items"
    ):
        Estimate.of_ratio(np.ones(12), noise - noise.mean() + 0.02, what="the logit difference")
    with pytest.raises(PatchclampError, match="not different from 0"):
        require_nonzero([1.0, -0.9, 0.5, -0.5], None, "four items, no interval")
    with pytest.raises(PatchclampError, match="not different from 0"):
        require_nonzero([0.0] * 10, None, "nothing")
    require_nonzero([1.0, 1.1, 0.9, 1.2], None, "four items that agree")


def test_a_corrected_p_is_what_counts_against_the_null():
    found = Estimate(1.0, 0.9, 1.1, 20, Null(0.0, -0.1, 0.1, 20, "", p=1 / 21))
    assert found.beats_null and not found.adjusted(5 / 21).beats_null


def test_the_page_states_the_coverage_that_was_counted():
    from benchmarks.common import RESULTS
    from benchmarks.coverage import COUNTS, PAGE, filled

    assert filled(PAGE.read_text()) == PAGE.read_text(), "python -m benchmarks.coverage makes it anew"
    for row in json.loads((RESULTS / "coverage.json").read_text())["rows"]:
        held = [row[str(count)] for count in COUNTS]
        if not row["interval of"].startswith("statistic"):  # two standard errors of 1,000 systems
            assert (
                min(held) >= (0.93 if row["groups are"] == "normal" else 0.90) - 0.014 and max(held) <= 0.984
            )
        assert row["percentile 8"] < min(0.91, row["8"])
