"""CD-NOD: the planted chain with two changing mechanisms, which way arrows point, and what a linear test misses."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from patchclamp.base.errors import PatchclampError
from patchclamp.connect import cd_nod
from patchclamp.connect.coupling.cd_nod import edge_kinds, edge_weights, shifted_where_alike
from patchclamp.connect.series import series

CHAIN = {("unit[0]", "unit[1]"), ("unit[1]", "unit[2]"), ("unit[2]", "unit[3]")}
CHANGES = {("context", "unit[1]"), ("context", "unit[3]")}


def planted(seed: int = 10, n: int = 400) -> np.ndarray:
    """x1 -> x2 -> x3 -> x4, with slow drifts in the mechanisms of x2 and x4."""
    t, e = np.arange(n), np.random.default_rng(seed).normal(size=(4, n))
    x1 = e[0]
    x2 = 0.8 * x1 + 1.5 * np.sin(t / 50) + 0.5 * e[1]
    x3 = 0.8 * x2 + 0.5 * e[2]
    x4 = 0.8 * x3 + np.sin(t / 50) + np.sin(t / 20) + 0.5 * e[3]
    return np.stack([x1, x2, x3, x4], 1)


def arrows(graph) -> set[tuple[str, str]]:
    return {(e.source, e.target) for e in graph.params["kinds"].itertuples() if e.kind == "directed"}


@pytest.fixture(autouse=True)
def needs_the_package(request: pytest.FixtureRequest) -> None:
    if "without" not in request.node.name:
        pytest.importorskip("causallearn")


@pytest.mark.slow
def test_the_planted_chain_comes_back_where_a_linear_test_fails() -> None:
    graph = cd_nod(planted(), null=None)
    assert arrows(graph) == CHAIN | CHANGES and len(graph.params["kinds"]) == 5
    assert graph.node_data["changing"].tolist() == [False, True, False, True, False]
    linear = graph.baseline
    assert linear.method == "cd_nod (fisherz)"
    pairs = {frozenset((e.source, e.target)) for e in linear.params["kinds"].itertuples()}
    assert frozenset(("unit[0]", "unit[3]")) in pairs and frozenset(("unit[1]", "unit[3]")) in pairs
    assert frozenset(("context", "unit[1]")) not in pairs, "it is not linear in time"


def test_arrows_leave_the_context() -> None:
    """The package's variant for missing values draws them the other way round; ours refuses missing values."""
    rng = np.random.default_rng(1)
    a = rng.normal(size=300)
    b = a + np.linspace(-3, 3, 300) + 0.5 * rng.normal(size=300)
    x = np.stack([a, b], 1)
    graph = cd_nod(x, test="fisherz", null=None)
    assert arrows(graph) == {("unit[0]", "unit[1]"), ("context", "unit[1]")}
    assert np.isnan(graph.weights[-1, :-1]).all() and graph.baseline is None
    x[3, 0] = np.nan
    with pytest.raises(PatchclampError, match="not a finite number"):
        cd_nod(x, test="fisherz", null=None)


def test_the_packages_missing_value_variant_points_into_the_context() -> None:
    """Why it is not offered; when this fails, it has been repaired."""
    from causallearn.search.ConstraintBased.CDNOD import cdnod

    rng = np.random.default_rng(1)
    a = rng.normal(size=300)
    x = np.stack([a, a + np.linspace(-3, 3, 300) + 0.5 * rng.normal(size=300)], 1)
    x[::40, 0] = np.nan
    found = cdnod(x, np.arange(300.0)[:, None] / 300, 0.05, "mv_fisherz", mvcdnod=True, show_progress=False)
    assert found.G.graph[2, 1] == 1 and found.G.graph[1, 2] == -1


def test_null_of_both_kinds_of_edges_and_seed() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(500, 3))
    a[:, 1] += a[:, 0]
    a[:, 2] += np.linspace(-4, 4, 500)
    one, two = (cd_nod(a, test="fisherz", null_samples=20, seed=4) for _ in range(2))
    assert one.null["name"] == "circular_shift; context permuted"
    assert np.array_equal(one.null["p"], two.null["p"], equal_nan=True)
    assert one.null["p"][2, 3] < 0.05, "the drift goes when the context is permuted"
    assert one.null["p"][1, 0] < 0.05, "the edge goes when units are rolled"
    assert np.isnan(one.null["p"][3]).all()
    assert "common cause" in one.limits


def test_context_of_groups_and_thinning() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(4), 600)
    x = rng.normal(size=(2400, 2))
    x[:, 1] += 2.0 * groups
    graph = cd_nod(x, groups, context="group", test="fisherz", null=None, max_samples=1000)
    assert graph.params["step"] == 3 and graph.params["samples"] == 800
    assert arrows(graph) == {("context", "unit[1]")} or graph.node_data["changing"].tolist() == [
        False,
        True,
        False,
    ]
    given = cd_nod(x, groups, context=groups, test="fisherz", null=None, max_samples=1000)
    assert np.array_equal(graph.weights, given.weights, equal_nan=True)


def test_marks_are_read_as_the_package_writes_them() -> None:
    """[j, i] = 1 and [i, j] = -1: i -> j; both -1: open; both 1: both."""
    marks = np.zeros((4, 4), np.int64)
    marks[1, 0], marks[0, 1] = 1, -1
    marks[1, 2] = marks[2, 1] = -1
    marks[0, 2] = marks[2, 0] = 1
    weights = edge_weights(marks)
    assert weights[1, 0] == 1 and weights[0, 1] == 0
    assert weights[1, 2] == weights[2, 1] == weights[0, 2] == weights[2, 0] == 0.5
    assert edge_kinds(marks, "abcd").values.tolist() == [
        ["a", "c", "bidirected"],
        ["a", "b", "directed"],
        ["b", "c", "undirected"],
    ]


def test_what_is_refused() -> None:
    x = planted(n=60)
    for wrong, match in (
        ({"test": "chisq"}, "kci or fisherz"),
        ({"alpha": 2.0}, "level"),
        ({"context": "group"}, "one group"),
        ({"context": np.ones(60)}, "not all the same"),
        ({"null": "permutation"}, "circular_shift"),
    ):
        with pytest.raises(PatchclampError, match=match):
            cd_nod(x, **wrong)


def test_without_the_package_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "causallearn.search.ConstraintBased.CDNOD", None)
    with pytest.raises(PatchclampError, match=r"pip install patchclamp\[brain\]"):
        cd_nod(planted(n=60), test="fisherz", null=None)


def test_units_that_drift_are_not_joined_by_the_null() -> None:
    """Rolled over all of the recording, two drifts were joined in every draw, and no edge was beyond that."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 4))
    x[:, 1] = 0.7 * x[:, 0] + 0.7 * x[:, 1]
    x[:, 1::2] += np.linspace(-1.5, 1.5, 600)[:, None]
    graph = cd_nod(x, test="fisherz", alpha=0.01, null_samples=19)
    assert graph.significant()[1, 0]
    assert not graph.significant()[:4, :4][[2, 3]].any()
    rolled = shifted_where_alike(series(x, None, what="a test", time=True), np.arange(600.0), rng)
    drift = np.corrcoef(rolled[:, 3], np.arange(600))[0, 1]
    assert drift == pytest.approx(np.corrcoef(x[:, 3], np.arange(600))[0, 1], abs=0.03)
    assert abs(np.corrcoef(rolled[:, 0], rolled[:, 1])[0, 1]) < 0.15
    assert np.array_equal(np.sort(rolled, 0), np.sort(x, 0))
