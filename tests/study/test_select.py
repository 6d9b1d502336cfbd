"""Selection on scores whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.units import Site, Units
from patchclamp.study.report.tables import score_interval, strongest_role
from patchclamp.study.select import choose_size, ranked, select_units
from patchclamp.study.share import sum_over_joint

A, B = Site("head", 0), Site("head", 1)


def scores(first, second, positions=None) -> Scores:
    """Two items whose mean is what is given, per head (and role)."""
    values = {}
    for site, mean in ((A, first), (B, second)):
        mean = np.asarray(mean, dtype=np.float32)
        values[site] = np.stack([mean - 0.1, mean + 0.1] * 4)
    return Scores(
        "test", "denoising", "logit_diff", "toy", values, {A: "unit", B: "unit"}, positions, tuple("abcdefgh")
    )


def test_the_order_is_by_signed_score_and_ties_follow_the_pass():
    order, values = ranked(scores([0.5, -2.0, 0.1], [0.5, 1.0, 0.0]), "head")
    assert [str(u) for u in order] == [
        "head.1[1]",
        "head.0[0]",
        "head.1[0]",
        "head.0[2]",
        "head.1[2]",
        "head.0[1]",
    ]
    assert values == pytest.approx((1.0, 0.5, 0.5, 0.1, 0.0, -2.0))


def test_scores_by_role_are_summed_and_absent_roles_count_nothing():
    by_role = scores([[0.5, np.nan], [1.0, -0.9]], [[0.0, 0.3], [0.0, 0.0]], ("subject", "end"))
    order, values = ranked(by_role, "head")
    assert str(order[0]) == "head.0[0]"
    assert values[:2] == pytest.approx((0.5, 0.3))
    assert strongest_role(by_role, B[0]) == "end"
    assert strongest_role(by_role, A[1]) == "subject"
    mean, low, high = score_interval(by_role, A[0], 0)
    assert low <= mean <= high
    assert mean == pytest.approx(0.5)


def test_scores_that_are_not_finite_and_points_without_scores_are_refused():
    with pytest.raises(PatchclampError, match=r"head\.0\[1\]"):
        ranked(scores([0.5, np.inf], [0.0, 0.0]), "head")
    with pytest.raises(PatchclampError, match="mlp_act"):
        ranked(scores([0.5], [0.0]), "mlp_act")


@pytest.mark.parametrize(
    ("lost", "target", "k"),
    [
        ([0.2, 0.95, 1.0], 0.9, 2),
        ([0.2, 0.5, 0.51], 0.9, 2),
        ([0.2, 0.3, 0.5], 0.9, 5),
        ([0.9, 0.1, 0.1], 0.9, 1),
    ],
)
def test_the_smallest_size_that_suffices_is_chosen(lost, target, k):
    assert choose_size([1, 2, 5], lost, target)[0] == k


def test_the_search_stops_at_the_target_and_never_takes_units_that_work_against():
    tried: list[int] = []

    def lost(sets: list[Units]) -> list[float]:
        tried.extend(units.count for units in sets)
        return [{1: 0.4, 2: 0.7, 3: 0.8}[units.count] for units in sets]

    many = [0.5, -2.0, 0.1, *[-0.1] * 6]
    found = select_units(scores(many, [-1, 1.0, *[0.0] * 7]), "heads", "head", (1, 2, 3, 4, 6, 18), 0.9, lost)
    assert tried == [1, 2, 3]
    assert found.k == 3
    assert str(found.units) == "head.0[0,2], head.1[1]"
    assert found.to_json()["universe"] == 18


def test_a_set_never_takes_more_than_a_third_of_all_units():
    given = scores([1.0, 1.0, 1.0], [1.0, 1.0, 1.0])
    assert select_units(given, "heads", "head", (1, 2, 3), 0.9, lambda sets: [0.1] * len(sets)).sizes == (
        1,
        2,
    )


def test_the_first_by_score_are_put_in_the_order_of_their_measured_effect():
    effects = {"head.1[1]": 0.2, "head.0[0]": 0.6, "head.0[2]": 0.3}
    given = scores([0.5, -2.0, 0.1], [0.0, 1.0, 0.05])
    found = select_units(
        given, "heads", "head", (1, 2), 0.9, lambda sets: [effects.get(str(u), 0.5) for u in sets], 3
    )
    assert [str(u) for u in found.order[:4]] == ["head.0[0]", "head.0[2]", "head.1[1]", "head.1[2]"]
    assert found.scores[:3] == pytest.approx((0.5, 0.1, 1.0))
    assert found.measured == (0.6, 0.3, 0.2)
    ranking = found.ranking(given)
    assert [str(u) for u in ranking.top(4, by="signed")] == [
        "head.0[0]",
        "head.0[2]",
        "head.1[1]",
        "head.1[2]",
    ]


def test_single_effects_that_add_up_have_ratio_one_and_redundant_ones_less():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 50))
    same = sum_over_joint([a, b], a + b)
    assert (same.value, same.low, same.high) == pytest.approx((1, 1, 1))
    found = sum_over_joint([0.1 * a, 0.1 * b], a + b)
    value, low, high = found.value, found.low, found.high
    assert (value, low, high) == pytest.approx((0.1, 0.1, 0.1))
