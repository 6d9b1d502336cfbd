"""Hypothesis tests, their stated rates, random circuits of edges, AUROC."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from evaluate_toys import UNITS, gate, linear, scores, toy, untouched
from patchclamp.base.errors import PatchclampError
from patchclamp.evaluate import Bench, auroc, equivalence, matched_null, redundancy, sufficiency
from patchclamp.evaluate.circuits import on_paths, path_connected, path_sufficiency, sign_equivalence
from patchclamp.nouns.units import Site, Units

ALL = "units.out"


def uniform(p, sets):
    """Whether p-values of R random sets, which take the values 1 / (R + 1), ... 1, are uniform (1 in 200)."""
    steps = np.random.default_rng(7).uniform(size=len(p)) / (sets + 1)
    return stats.kstest(np.array(p) - steps, "uniform").pvalue > 0.005


def unit(*index):
    return f"units.out[{','.join(map(str, index))}]"


def rate_is_at_most(hits, n, rate):
    """Whether `hits` of `n` are in keeping with a rate of at most `rate` (binomial, 1 in 1,000)."""
    return stats.binom.sf(hits - 1, n, rate) > 0.001


# ---- equivalence


def test_the_null_of_equivalence_is_kept_and_the_null_of_difference_too():
    """At the margin, where both nulls are as hard as they get, each is rejected at most at its rate."""
    rng = np.random.default_rng(0)
    n, runs, alpha = 200, 2000, 0.05
    for share in (0.6, 0.4):
        wins = rng.binomial(n, share, runs)
        found = [sign_equivalence(np.repeat([1.0, -1.0], [k, n - k]), alpha=alpha) for k in np.unique(wins)]
        known = dict(zip(np.unique(wins), found, strict=True))
        equal = sum(known[k].p_equivalent <= alpha for k in wins)
        other = sum(known[k].p_different <= alpha for k in wins)
        assert rate_is_at_most(equal, runs, alpha)
        assert rate_is_at_most(other, runs, alpha)
        assert equal > 0.01 * runs  # exact tests, not empty ones
        assert other > 0.01 * runs


def test_equivalence_and_difference_are_found_with_enough_items():
    rng = np.random.default_rng(1)
    verdicts = Counter(sign_equivalence(rng.normal(size=1000)).verdict for _ in range(50))
    assert verdicts["equivalent"] >= 45
    assert sign_equivalence(rng.normal(1.0, 1.0, 100)).verdict == "different"
    assert sign_equivalence(rng.normal(size=20)).verdict == "undecided"


def test_p_values_are_those_of_the_binomial():
    found = sign_equivalence(np.repeat([1.0, -1.0], [130, 70]))
    assert found.p_different == pytest.approx(stats.binom.sf(129, 200, 0.6) + stats.binom.cdf(70, 200, 0.6))
    assert found.p_equivalent == pytest.approx(stats.binom.cdf(130, 200, 0.6))
    ends = stats.binomtest(130, 200).proportion_ci(method="exact")
    assert found.share.interval == pytest.approx(ends)
    mirror = sign_equivalence(np.repeat([-1.0, 1.0], [130, 70]))
    assert mirror.p_different == pytest.approx(found.p_different)
    assert mirror.p_equivalent == pytest.approx(found.p_equivalent)


def test_ties_count_half_and_groups_count_once():
    tied = sign_equivalence(np.zeros(300))
    assert (tied.share.value, tied.ties, tied.verdict) == (0.5, 300, "equivalent")
    values = np.repeat([1.0, -1.0], 50)
    grouped = sign_equivalence(values, [str(i // 10) for i in range(100)])
    assert grouped.share.n == 10
    assert grouped.verdict == "undecided"


def test_a_circuit_that_is_the_model_is_equivalent_and_half_of_it_is_not():
    subject, task, _ = linear([3.0, 1.0, 0.0], n=400)
    with untouched(subject):
        assert equivalence(Bench(subject, task, "zero"), unit(0, 1), ALL).verdict == "equivalent"
    found = equivalence(Bench(subject, task, "zero"), unit(0), ALL)
    assert found.verdict == "different"
    assert found.difference == pytest.approx(1.0, abs=0.05)
    with pytest.raises(PatchclampError, match="between 0 and 0.5"):
        sign_equivalence([1.0], margin=0.6)


# ---- sufficiency


def test_a_planted_circuit_beats_chance():
    subject, task, _ = linear([5.0, 4.0, *[0.1] * 78])
    with untouched(subject):
        found = sufficiency(Bench(subject, task, "zero"), unit(0, 1), ALL)
    assert found.distance.null.p == pytest.approx(1 / 200)
    assert found.beats == 1.0
    assert found.p_quantile == pytest.approx(0.9**199)
    needed = sufficiency(Bench(subject, task, "zero"), unit(0, 1), ALL, complement=True)
    assert needed.distance.null.p == pytest.approx(1 / 200)
    assert "better than 100% of 199 matched circuits of 2" in str(found)


@pytest.mark.parametrize("control", ["random", "matched"])
def test_random_circuits_lie_inside_the_null_band(control):
    """p-values of circuits drawn at random are uniform, and few beat nine tenths of the others."""
    rng = np.random.default_rng(1)
    subject, task, _ = linear(rng.normal(size=30).tolist(), n=4)
    p, strict = [], 0
    for run in range(60):
        drawn = unit(*rng.choice(30, 6, replace=False))
        found = sufficiency(
            Bench(subject, task, "zero", seed=run, batch_size=4), drawn, ALL, control=control, n_random=39
        )
        p.append(found.distance.null.p)
        strict += found.p_quantile <= 0.05
    assert uniform(p, 39)
    assert rate_is_at_most(strict, 60, 0.05)


def test_matched_circuits_have_as_many_units_of_each_site():
    subject, task, _ = linear([1.0] * 12)
    found = sufficiency(Bench(subject, task, "zero"), unit(0, 1), ALL, n_random=19)
    assert set(found.sizes) == {2}
    with pytest.raises(PatchclampError, match="did you mean matched"):
        sufficiency(Bench(subject, task, "zero"), unit(0), ALL, control="matching")


# ---- circuits of edges


def layered(widths):
    layers = [[f"{depth}.{i}" for i in range(width)] for depth, width in enumerate(widths)]
    return [edge for a, b in itertools.pairwise(layers) for edge in itertools.product(a, b)]


def is_union_of_paths(drawn, edges):
    entered, left = {b for _, b in edges}, {a for a, _ in edges}
    heads, tails = {b for _, b in drawn}, {a for a, _ in drawn}
    return all((a in heads or a not in entered) and (b in tails or b not in left) for a, b in drawn)


def test_random_circuits_are_unions_of_paths_of_the_size_wanted():
    edges = layered([2, 4, 4, 3, 1])
    rng = np.random.default_rng(0)
    for n in (4, 5, 7, 12, 20, len(edges)):
        for _ in range(10):
            drawn = path_connected(edges, n, rng)
            assert len(drawn) == n
            assert is_union_of_paths(drawn, edges)
    assert drawn == edges
    one, two = (path_connected(edges, 7, np.random.default_rng(3)) for _ in range(2))
    assert one == two


def test_edges_that_dangle_are_on_no_path():
    edges = [("in", "a"), ("a", "b"), ("b", "out"), ("a", "dead"), ("orphan", "b"), ("x", "y")]
    assert on_paths(edges, ["in"], ["out"]) == edges[:3]
    assert on_paths(edges, ["in", "orphan"], ["out", "dead"]) == edges[:5]
    assert on_paths(edges, ["in"], ["nowhere"]) == []
    assert on_paths(edges) == edges  # ends by default: what nothing enters, and what nothing leaves


def test_paths_are_drawn_uniformly():
    """Three paths of unequal length, one through a node that is an output too."""
    edges = [("in", "out"), ("in", "a"), ("a", "b"), ("b", "out")]
    rng = np.random.default_rng(0)
    from patchclamp.evaluate.circuits.paths import Paths

    ways = Paths(edges, outputs=["out", "a"])
    assert ways.total == 3
    seen = Counter(len(ways.draw(rng)) for _ in range(3000))
    assert stats.chisquare([seen[1], seen[3]], [2000, 1000]).pvalue > 1e-4


def test_a_skip_cannot_be_joined_to_any_size():
    edges = [("in", "out"), ("in", "a"), ("a", "out")]
    rng = np.random.default_rng(0)
    assert len(path_connected(edges, 3, rng)) == 3
    assert path_connected(edges, 1, rng) == [("in", "out")]
    chains = [("in", "a"), ("a", "out"), ("in", "b"), ("b", "out")]
    assert len(path_connected(chains, 3, rng)) == 2  # no union of paths has three edges
    for given, n, message in (
        ([("a", "b"), ("b", "a")], 1, "circle"),
        (chains, 1, "no path from input to output is as short"),
        (chains, 9, "has 4 edges"),
    ):
        with pytest.raises(PatchclampError, match=message):
            path_connected(given, n, rng)
    with pytest.raises(PatchclampError, match="no edge has this node"):
        path_connected(chains, 2, rng, inputs=["x"])


@pytest.mark.slow
def test_path_sufficiency_finds_the_planted_path_and_random_ones_are_uniform():
    edges = layered([1, 3, 3, 3, 1])
    rng = np.random.default_rng(0)
    worth = dict(zip(edges, rng.exponential(size=len(edges)), strict=True))

    def metric(kept):
        return np.array([sum(worth[edge] for edge in kept)])

    p = [
        path_sufficiency(metric, path_connected(edges, 8, rng), edges, n_random=59, seed=run).distance.null.p
        for run in range(100)
    ]
    assert uniform(p, 59)
    planted = [("0.0", "1.1"), ("1.1", "2.1"), ("2.1", "3.1"), ("3.1", "4.0")]
    only = path_sufficiency(lambda kept: float(set(planted) <= set(kept)), planted, edges)
    assert only.distance.value == 0.0
    assert only.distance.null.p < 0.05
    with pytest.raises(PatchclampError, match="not among the edges"):
        path_sufficiency(metric, [("x", "y")], edges)


# ---- AUROC


def test_auroc_counts_pairs_with_ties_at_one_half():
    rng = np.random.default_rng(0)
    for _ in range(20):
        values = rng.integers(0, 5, 30).astype(float)
        real = rng.random(30) < 0.4
        real[:2] = True, False
        names = [f"u{i}" for i in range(30)]
        found = auroc(dict(zip(names, values, strict=True)), dict(zip(names, real, strict=True)), by="signed")
        pairs = [(a > b) + 0.5 * (a == b) for a in values[real] for b in values[~real]]
        assert found.value == pytest.approx(np.mean(pairs), abs=1e-12)
        area = np.trapezoid(found.curve["true"], found.curve["false"])
        assert area == pytest.approx(found.value, abs=1e-12)
        assert found.curve.iloc[[0, -1]][["false", "true"]].to_numpy().tolist() == [[0, 0], [1, 1]]


def test_a_constant_score_is_exactly_one_half():
    names = [f"u{i}" for i in range(101)]
    truth = {name: i < 7 for i, name in enumerate(names)}
    found = auroc(dict.fromkeys(names, 0.3), truth)
    assert found.value == 0.5
    assert found.estimate.low < 0.5 < found.estimate.high


def test_auroc_of_scores_by_unit_and_sign():
    found = auroc(scores([[3.0, -4.0, 1.0]]), {unit(0): True, unit(1): True, unit(2): False})
    assert found.value == 1.0
    signed = auroc(scores([[3.0, -4.0, 1.0]]), {unit(0): True, unit(1): True, unit(2): False}, by="signed")
    assert signed.value == 0.5
    for truth, message in (
        ({unit(0): True, unit(7): False}, r"\[7\]: is in the truth and has no score"),
        ({unit(0): True, unit(1): True}, "both are needed"),
    ):
        with pytest.raises(PatchclampError, match=message):
            auroc(scores([[3.0, -4.0, 1.0]]), truth)
    with pytest.raises(PatchclampError, match="no number"):
        auroc({"a": np.nan, "b": 1.0}, {"a": True, "b": False})


def test_the_interval_of_auroc_covers_at_its_rate():
    """Normal scores a distance d apart have the AUROC Phi(d / sqrt 2)."""
    rng = np.random.default_rng(0)
    true = stats.norm.cdf(1 / np.sqrt(2))
    names = [f"u{i}" for i in range(120)]
    truth = {name: i < 40 for i, name in enumerate(names)}
    hits = 0
    for _ in range(150):
        values = rng.normal(size=120) + np.array([truth[name] for name in names])
        found = auroc(dict(zip(names, values, strict=True)), truth, by="signed")
        hits += found.estimate.low <= true <= found.estimate.high
    assert 0.88 <= hits / 150 <= 0.99


def test_exact_noising_cannot_see_an_or():
    """Single patches score both units of an OR as idle ones: chance, and not below it."""
    subject, task = gate("OR", idle=2)
    found = redundancy(Bench(subject, task, "patch"), ALL + "[0,1,2,3]")
    single = found.table["effect"].iloc[1:].tolist()
    assert single == [0.0] * 4
    assert auroc(scores(single), {unit(0): True, unit(1): True, unit(2): False, unit(3): False}).value == 0.5


# ---- matched null


def test_p_of_random_sets_is_uniform_and_matching_takes_the_covariate_out():
    rng = np.random.default_rng(0)
    activity = np.sort(rng.exponential(size=100))
    site = Site("units", io="out")
    covariate = {site: activity}

    def total(units: Units) -> float:
        return float(activity[list(units[site] or ())].sum())

    p = []
    for run in range(200):
        drawn = unit(*rng.choice(100, 5, replace=False))
        p.append(matched_null(total, drawn, unit(*range(100)), n_sets=39, seed=run).null.p)
    assert uniform(p, 39)
    active = unit(91, 93, 94, 96)  # among the most active, where all is activity
    assert matched_null(total, active, unit(*range(100))).null.p == pytest.approx(0.005)
    assert matched_null(total, active, unit(*range(100)), covariate).null.p > 0.1


def test_matched_null_refuses_what_it_cannot_do():
    for call, message in (
        (lambda: matched_null(lambda u: 0.0, unit(9), unit(0, 1)), "not in the pool"),
        (lambda: matched_null(lambda u: 0.0, unit(0), unit(0, 1), n_sets=5), "fewer than 19"),
        (lambda: matched_null(lambda u: 0.0, unit(0), unit(0, 1), {}), "no covariate"),
    ):
        with pytest.raises(PatchclampError, match=message):
            call()
    assert matched_null(lambda u: 1.0, unit(0), unit(0, 1)).null.p == 1.0  # nothing to tell apart


def test_results_follow_from_the_seed_whatever_the_batch_size():
    subject, task = toy(lambda h: h.sum(1), np.random.default_rng(0).normal(size=(9, 12)))
    one, two = (
        sufficiency(Bench(subject, task, "resample", batch_size=size, seed=2), unit(0, 1), ALL, n_random=19)
        for size in (2, 9)
    )
    np.testing.assert_allclose(one.distance.null.draws, two.distance.null.draws, atol=1e-5)
    assert UNITS in Units.parse(ALL)
