"""Estimates and their nulls."""

from __future__ import annotations

import pytest

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate, Null, adjusted
from patchclamp.base.statistics import holm


def test_a_negative_factor_turns_the_ends_around_and_keeps_p():
    found = Estimate(2.0, 1.0, 4.0, 8, Null.of([0.5, -1.0, 0.0], "random sets", 2.0)).scaled(-0.5)
    assert (found.value, found.interval, found.n) == (-1.0, (-2.0, -0.5), 8)
    assert found.null.p == 0.25
    assert found.null.low <= found.null.mean <= found.null.high
    assert found.null.draws == (-0.25, 0.5, 0.0)


def test_one_side_counts_what_is_at_least_as_large_and_two_sides_its_size():
    draws = [-3.0, 0.0, 1.0]
    assert Null.of(draws, "shuffles", 2.0).p == 0.5
    assert Null.of(draws, "shuffles", 2.0, sides=1).p == 0.25
    with pytest.raises(PatchclampError, match="without a draw"):
        Null.of([], "shuffles")


def test_beating_the_null_needs_the_interval_and_p():
    null = Null(0.0, -1.0, 1.0, 20, "random sets", p=0.04)
    assert Estimate(2.0, 1.5, 3.0, 8, null).beats_null
    assert not Estimate(2.0, 0.5, 3.0, 8, null).beats_null
    assert not Estimate(2.0, 1.5, 3.0, 8, Null(0.0, -1.0, 1.0, 20, "random sets", p=0.2)).beats_null
    assert not Estimate(2.0, 1.5, 3.0, 8).beats_null


def test_p_values_are_adjusted_together_and_estimates_without_one_stay():
    tested = [Estimate(1.0, null=Null(0.0, 0.0, 0.0, 20, "sets", p=p)) for p in (0.01, 0.04)]
    first, none, second = adjusted([tested[0], Estimate(1.0), tested[1]], holm)
    assert [first.null.p_adjusted, second.null.p_adjusted] == pytest.approx(holm([0.01, 0.04]).tolist())
    assert none == Estimate(1.0)
    assert str(none) == "1.000"
