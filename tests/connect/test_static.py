"""Static measures against closed forms, planted couplings and their nulls."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patchclamp.base.errors import PatchclampError
from patchclamp.connect import (
    METHODS,
    TOOLS,
    correlation,
    lagged_correlation,
    partial_correlation,
    transfer_entropy,
)
from patchclamp.connect.coupling import compositional_partial_correlation
from patchclamp.connect.coupling.partial import closed_shares, partial_of_logs
from patchclamp.connect.series import series
from patchclamp.connect.surrogates import circular_shift, phase_randomised
from patchclamp.nouns.recording.recording import Recording, Samples
from patchclamp.truth.populations_wired import EDGES, coupled

CIRCUIT = coupled(0)


def chain(n: int = 3000, seed: int = 0) -> np.ndarray:
    """x0 -> x1 -> x2, one sample later each; x3 alone."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    x[1:, 1] += 0.8 * x[:-1, 0]
    x[1:, 2] += 0.8 * x[:-1, 1]
    return x


def smooth(n: int = 400, units: int = 6, seed: int = 0) -> np.ndarray:
    from scipy.ndimage import gaussian_filter1d

    return gaussian_filter1d(np.random.default_rng(seed).normal(size=(n, units)), 6, axis=0)


# ---- the circuit of twelve neurons


def test_lags_find_the_circuit_and_its_direction():
    truth = CIRCUIT.coupling.T
    for graph in (
        lagged_correlation(CIRCUIT.recording, null_samples=19),
        transfer_entropy(CIRCUIT.recording, estimator="binned", null=None),
    ):
        assert graph.auroc(truth) == 1.0 and graph.direction(truth) == 1.0, graph
        assert graph.directed and graph.baseline is not None and graph.limits


def test_zero_lag_correlation_fails_on_the_direction_of_the_circuit():
    graph = correlation(CIRCUIT.recording, null=None)
    truth = CIRCUIT.coupling.T
    assert graph.direction(truth) == 0.5, "a symmetric measure has no direction"
    one_way = np.array([truth[j, i] for i, j in EDGES])
    assert (one_way != 0).all() and graph.auroc(truth) < 0.9


@pytest.mark.slow
def test_significant_edges_of_the_circuit_and_none_in_its_shuffled_twin():
    graph = lagged_correlation(CIRCUIT.recording, lags=(1, 2), null_samples=99)
    found = {tuple(int(i) for i in pair) for pair in np.argwhere(graph.significant().T)}
    assert set(EDGES) <= found and len(found) <= 12  # indirect edges such as 0 -> 9 may be among them
    twin = lagged_correlation(coupled(0, shuffled=True).recording, lags=(1, 2), null_samples=99)
    assert len(twin.edges(significant=0.05)) == 0


# ---- closed forms


def test_correlation_is_numpys_and_spearman_is_that_of_ranks():
    x = chain()
    ours = correlation(x, null=None).weights
    wanted = np.corrcoef(x.T) - np.eye(4)
    assert np.abs(ours - wanted).max() < 1e-12
    bent = correlation(np.exp(x), kind="spearman", null=None).weights
    assert np.abs(bent - correlation(x, kind="spearman", null=None).weights).max() < 1e-12


def test_groups_are_centred_and_never_crossed():
    x = chain(200)
    label = np.repeat([0, 1], 100)
    moved = x + 100 * label[:, None]
    assert (
        np.abs(correlation(moved, label, null=None).weights - correlation(x, label, null=None).weights).max()
        < 1e-9
    )
    first, second = lagged_correlation(x[:100], null=None), series(moved, label)
    earlier, later = second.lagged(3)
    assert (label[earlier] == label[later]).all() and len(earlier) == 2 * 97
    # a second group that is one sample long adds no lag
    longer = np.concatenate([x[:100], x[150:151]])
    both = lagged_correlation(longer, np.r_[np.zeros(100), 1], null=None)
    assert np.abs(both.weights - first.weights).max() < 1e-12


def test_partial_correlation_is_that_of_residuals_and_cuts_the_chain():
    rng = np.random.default_rng(1)
    a = rng.normal(size=4000)
    b = a + rng.normal(size=4000)
    c = b + rng.normal(size=4000)
    x = np.stack([a, b, c], 1)
    ours = partial_correlation(x, shrinkage=0.0, null=None).weights
    centred = x - x.mean(0)
    left = centred[:, [0, 2]]
    left = left - np.outer(centred[:, 1], centred[:, 1] @ left / (centred[:, 1] @ centred[:, 1]))
    assert ours[2, 0] == pytest.approx(np.corrcoef(left.T)[0, 1], abs=1e-10)
    assert abs(ours[2, 0]) < 0.05 and ours[1, 0] > 0.4
    assert np.abs(partial_correlation(x, shrinkage=1.0, null=None).weights).max() == 0


def test_shrinkage_makes_fewer_samples_than_units_possible():
    x = np.random.default_rng(0).normal(size=(20, 40))
    graph = partial_correlation(x, null=None)
    assert graph.params["shrinkage"] > 0.8 and np.abs(graph.weights).max() < 0.5


def compositional_truth() -> np.ndarray:
    """Six parts whose logarithms have partial correlations +.6 (0, 1) and -.5 (2, 3)."""
    precision = np.eye(6)
    precision[0, 1] = precision[1, 0] = -0.6
    precision[2, 3] = precision[3, 2] = 0.5
    basis = np.random.default_rng(0).multivariate_normal(np.zeros(6), np.linalg.inv(precision), 20_000)
    parts = np.exp(0.3 * basis)
    return parts / parts.sum(1, keepdims=True)


def test_compositional_partial_correlation_centred_and_additive_ratios_agree():
    x = compositional_truth()
    graph = compositional_partial_correlation(x, shrinkage=0.0, null=None)
    logs = np.log(x) - np.log(x).mean(0)
    for reference in (0, 5):
        ratio = np.delete(logs - logs[:, [reference]], reference, axis=1)
        k = np.linalg.inv(ratio.T @ ratio)
        additive = -k / np.sqrt(np.outer(np.diag(k), np.diag(k)))
        kept = np.delete(np.delete(graph.weights, reference, 0), reference, 1)
        off = ~np.eye(5, dtype=bool)
        assert np.abs(additive - kept)[off].max() < 1e-8
    assert graph.weights[1, 0] == pytest.approx(0.65, abs=0.05)
    assert graph.weights[3, 2] == pytest.approx(-0.17, abs=0.06)
    assert graph.baseline.weights[4, 5] < -0.1, "shares are spuriously anticorrelated"


def test_zero_shares_are_replaced_and_rows_still_sum_to_one():
    x = compositional_truth()[:50]
    x[3, 2] = 0
    shares, floor = closed_shares(series(x), None)
    assert shares.min() > 0 and np.allclose(shares.sum(1), 1) and floor > 0
    assert np.isfinite(partial_of_logs(series(np.log(shares)), 0.1)).all()


def test_gaussian_transfer_entropy_is_half_the_log_ratio_of_residual_variances():
    x = chain(500)
    graph = transfer_entropy(x, history=2, null=None)
    target, others = x[2:, 1], [np.ones(498), x[1:-1, 1], x[:-2, 1]]

    def left(columns):
        a = np.stack(columns, 1)
        return ((target - a @ np.linalg.lstsq(a, target, rcond=None)[0]) ** 2).sum()

    centred = x - x.mean(0)
    wanted = 0.5 * np.log2(left(others) / left([*others, centred[1:-1, 0]]))
    assert graph.weights[1, 0] == pytest.approx(wanted, rel=1e-9)
    assert graph.weights[1, 0] > 50 * graph.weights[0, 1]


def test_binned_transfer_entropy_of_a_copied_coin_is_one_bit():
    rng = np.random.default_rng(0)
    coin = rng.integers(0, 2, 4001)
    x = np.stack([coin[1:], coin[:-1]], 1).astype(float)  # unit 1 repeats unit 0
    graph = transfer_entropy(x, estimator="binned", null=None)
    assert graph.weights[1, 0] == pytest.approx(1, abs=0.01) and graph.weights[0, 1] < 0.01


def test_binned_transfer_entropy_sees_what_the_gaussian_one_cannot():
    rng = np.random.default_rng(0)
    a = rng.normal(size=4000)
    x = np.stack([a, np.roll(np.abs(a), 1) + 0.1 * rng.normal(size=4000)], 1)
    blind = transfer_entropy(x, null_samples=19)
    sees = transfer_entropy(x, estimator="binned", bins=4, null_samples=19)
    assert not blind.significant()[1, 0] and sees.significant()[1, 0]


# ---- nulls


def test_surrogates_keep_what_they_promise():
    units = series(smooth(), np.repeat([0, 1], 200))
    rng = np.random.default_rng(0)
    rolled = circular_shift(units, rng).values
    for part in units.segments:
        assert np.allclose(np.sort(rolled[part], 0), np.sort(units.values[part], 0))
    turned = phase_randomised(units, rng).values
    for part in units.segments:
        ours, theirs = (np.abs(np.fft.rfft(v[part], axis=0)) for v in (turned, units.values))
        assert np.allclose(ours, theirs, atol=1e-9)


@pytest.mark.parametrize("null", ["circular_shift", "phase_randomised"])
def test_smooth_independent_signals_are_not_connected_and_a_naive_test_says_they_are(null):
    """Family-wise error over 40 data sets of 15 pairs: at most 6 false alarms have p < .05 of happening at rate .05."""
    from scipy.stats import pearsonr

    alarms, naive = 0, 0
    for seed in range(40):
        x = smooth(1600, seed=seed)
        alarms += len(correlation(x, null=null, null_samples=39, seed=seed).edges(significant=0.05)) > 0
        naive += pearsonr(x[:, 0], x[:, 1]).pvalue < 0.05
    assert alarms <= 6 and naive >= 15


def test_benjamini_hochberg_finds_the_planted_pair():
    x = smooth()
    x[:, 1] = x[:, 0] + 0.1 * x[:, 1]
    graph = correlation(x, null="phase_randomised", null_samples=400, correction="bh")
    assert graph.edges(significant=0.05)[["source", "target"]].values.tolist()[0] == ["unit[0]", "unit[1]"]
    assert graph.null["correction"] == "bh" and graph.weights[1, 0] > graph.null["high"][1, 0]


def test_same_seed_same_null_and_another_seed_another_one():
    one, two = (correlation(smooth(), null_samples=19, seed=3).null for _ in range(2))
    other = correlation(smooth(), null_samples=19, seed=4).null
    assert np.array_equal(one["high"], two["high"], equal_nan=True)
    assert not np.array_equal(one["high"], other["high"], equal_nan=True)


# ---- recordings


def test_recordings_leave_out_missing_units_and_samples_without_content():
    x = chain(60).astype(np.float32)
    x[:, 2] = np.nan
    place = torch.arange(60)
    content = place > 0
    samples = Samples.of(torch.zeros_like(place), place, content=content)
    marks = {"v1": {"present": [True, True, False, True], "region": ["a", "a", "b", "b"]}}
    rec = Recording.from_arrays({"v1": x}, samples, labels=marks)
    graph = correlation(rec, null=None, missing="drop")
    assert graph.nodes == ("v1[0]", "v1[1]", "v1[3]") and graph.node_data["region"].tolist() == [
        "a",
        "a",
        "b",
    ]
    assert np.abs(graph.weights[1, 0] - np.corrcoef(x[1:, 0], x[1:, 1])[0, 1]) < 1e-6


def test_a_gap_in_position_ends_a_segment():
    place = torch.tensor([0, 1, 2, 7, 8, 9])
    rec = Recording.from_arrays(
        {"v1": np.random.rand(6, 2).astype("float32")}, Samples.of(torch.zeros(6), place)
    )
    assert series(rec).segments == (slice(0, 3), slice(3, 6))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: correlation(np.zeros((9, 2))), "never changes"),
        (lambda: correlation(np.full((9, 2), np.nan)), r"unit\[0\]: nan at sample 0 is not a finite number"),
        (lambda: correlation(np.zeros((2, 3, 4))), "Recording or samples x units"),
        (lambda: correlation(chain(9), [0, 1]), "2 groups for 9 samples"),
        (lambda: correlation(chain(9), null="roll"), "null='roll'"),
        (lambda: correlation(chain(9), null_samples=5), "at least 19"),
        (lambda: correlation(chain(9), kind="kendall"), "kind='kendall'"),
        (lambda: lagged_correlation(chain(9), lags=(0,)), "lag 0 is `correlation`"),
        (lambda: lagged_correlation(chain(9), lags=(8,)), "the longest group has 9"),
        (lambda: lagged_correlation(chain(9), list(range(9))), "every sample is a group of its own"),
        (lambda: partial_correlation(chain(9), shrinkage=2), "shrinkage=2"),
        (lambda: compositional_partial_correlation(chain(9)), r"unit\[\d\] is -"),
        (lambda: transfer_entropy(chain(9), lag=0), "lag=0"),
        (lambda: transfer_entropy(chain(9), estimator="binned", bins=9), "729 cells"),
    ],
)
def test_bad_input_is_refused(call, says):
    with pytest.raises(PatchclampError, match=says):
        call()


def test_every_method_says_what_it_is_not_evidence_for():
    import inspect

    for name, method in (METHODS | TOOLS).items():
        assert "Parameters" in inspect.getdoc(method), name
    graph = correlation(chain(), null=None)
    assert "causation" in graph.limits and "Not evidence for" in str(graph)
