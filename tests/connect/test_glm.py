"""Coupling by regression: exact fits, the directed circuit, what correlation cannot do, and what a stimulus explains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, PoissonRegressor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.folds import blocked_folds
from patchclamp.connect import glm_coupling, stimulus_filter
from patchclamp.connect.coupling.glm_basis import design, history_basis
from patchclamp.connect.coupling.glm_fit import (
    family_of,
    fit_group_lasso,
    fit_ridge,
    log_likelihood,
    mean,
    strongest,
)
from patchclamp.connect.nulls import bands
from patchclamp.connect.series import series
from patchclamp.nouns.recording.recording import Recording
from patchclamp.truth import load_truth
from patchclamp.truth.populations_wired import FireSettings, coupled, integrate_and_fire


def toy(family: str, seed: int = 0, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    rate = mean(x @ np.array([0.8, 0.0, -0.5, 0.0]) - 0.5, family)
    y = rng.binomial(1, rate) if family == "bernoulli" else rng.poisson(rate)
    return x, np.stack([y, y[::-1]], 1).astype(float)


# ---- the solver


@pytest.mark.parametrize("family", ["bernoulli", "poisson"])
@pytest.mark.parametrize("strength", [0.5, 20.0])
def test_ridge_agrees_with_scikit_learn(family: str, strength: float) -> None:
    x, y = toy(family)
    fit = fit_ridge(x, y, family, np.full(4, strength))
    assert fit.converged.all()
    for i in range(2):
        if family == "bernoulli":
            peer = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=1000).fit(x, y[:, i])
        else:  # its objective is the mean deviance / 2 plus alpha / 2 times the squares
            peer = PoissonRegressor(alpha=strength / len(x), tol=1e-10, max_iter=1000).fit(x, y[:, i])
        found = np.concatenate([np.ravel(peer.intercept_), np.ravel(peer.coef_)])
        np.testing.assert_allclose(fit.coefficients[:, i], found, atol=2e-4)


@pytest.mark.parametrize("family", ["bernoulli", "poisson"])
def test_group_lasso_meets_the_conditions_of_its_optimum(family: str) -> None:
    x, y = toy(family)
    groups = np.array([0, 0, 1, 1])
    most = strongest(x, y, family, groups)
    none = fit_group_lasso(x, y, family, groups, most * 1.001).coefficients[1:]
    assert (none == 0).all(), "at the largest strength nothing is in the model"
    assert (fit_group_lasso(x, y, family, groups, most * 0.98).coefficients[1:] != 0).any(0).all()
    strength = most / 4
    beta = fit_group_lasso(x, y, family, groups, strength, tol=1e-10).coefficients
    gradient = x.T @ (y - mean(np.column_stack([np.ones(len(x)), x]) @ beta, family))
    for i in range(2):
        for g in (0, 1):
            part, slope = beta[1:][groups == g, i], gradient[groups == g, i]
            limit = strength[i] * np.sqrt(2)
            if np.linalg.norm(part) == 0:
                assert np.linalg.norm(slope) <= limit * 1.001
            else:
                np.testing.assert_allclose(slope, limit * part / np.linalg.norm(part), atol=limit * 2e-3)


def test_likelihoods_are_those_of_scipy() -> None:
    from scipy.stats import bernoulli, poisson

    eta, y = np.linspace(-3, 3, 7), np.array([0, 1, 0, 1, 1, 0, 1.0])
    np.testing.assert_allclose(
        log_likelihood(eta, y, "bernoulli"), bernoulli.logpmf(y, mean(eta, "bernoulli"))
    )
    np.testing.assert_allclose(log_likelihood(eta, 3 * y, "poisson"), poisson.logpmf(3 * y, np.exp(eta)))


def test_bases_sum_to_one_and_design_is_the_plain_sum() -> None:
    for kind in ("cosine", "bins", "exponential"):
        np.testing.assert_allclose(history_basis(kind, 3, 7).sum(0), 1)
    x = np.random.default_rng(0).poisson(1.0, (30, 2)).astype(float)
    basis = history_basis("cosine", 2, 4)
    columns, rows = design(series(x, [0] * 12 + [1] * 18), basis)
    assert rows.tolist() == [*range(4, 12), *range(16, 30)]
    for row, t in ((0, 4), (9, 17), (21, 29)):
        for j in range(2):
            for k in range(2):
                expected = sum(basis[lag, k] * x[t - 1 - lag, j] for lag in range(4))
                assert columns[row, 2 * j + k] == pytest.approx(expected)


# ---- the circuit


@pytest.mark.slow
def test_all_eight_directions_of_the_circuit_where_zero_lag_fails() -> None:
    system = load_truth("coupled", 0)
    graph = glm_coupling(system.recording, window=3, basis="bins", null_samples=19)
    truth = system.coupling.T
    assert graph.auroc(truth) == 1.0 and graph.direction(truth) == 1.0
    assert np.array_equal(graph.significant(), truth > 0)
    plain = graph.baseline.baseline
    assert plain.method == "correlation" and plain.auroc(truth) < 0.7 and plain.direction(truth) == 0.5
    # 2.5 (s(t-1) + s(t-2) / 2) adds 3.75 for one spike, less what the ridge takes.
    assert graph.weights[truth > 0].mean() == pytest.approx(3.75, abs=0.6)
    fed = truth.any(1)
    table = graph.node_data
    assert (table["gain_low"][fed] > 0.002).all() and (table["gain"][~fed] < 0.001).all()
    assert table["converged"].all()


def test_nothing_is_found_in_shuffled_spikes() -> None:
    graph = glm_coupling(coupled(1, trials=12, shuffled=True).recording, window=5, null_samples=19)
    assert not graph.significant().any()
    assert (graph.node_data["gain"] < 0.001).all()


@pytest.mark.slow
def test_group_lasso_leaves_most_pairs_out_and_keeps_the_edges() -> None:
    system = coupled(0, trials=6)
    graph = glm_coupling(
        system.recording, window=3, n_basis=2, penalty="group_lasso", strength=(0.2, 0.4), folds=2, null=None
    )
    truth = system.coupling.T > 0
    assert (graph.weights[truth] > 0.5).all()
    assert np.mean(graph.weights[~truth & ~np.eye(12, dtype=bool)] == 0) > 0.8
    assert graph.params["strength"] in (0.2, 0.4)


def test_poisson_weights_come_back() -> None:
    rng = np.random.default_rng(0)
    x = np.zeros((6000, 2))
    for t in range(1, len(x)):
        x[t] = rng.poisson(np.exp([-0.7, -0.7 + 0.4 * x[t - 1, 0] - 0.3 * x[t - 1, 1]]))
    graph = glm_coupling(x, window=1, basis="bins", null=None, strength=0.01)
    assert graph.params["family"] == "poisson"
    assert graph.weights[1, 0] == pytest.approx(0.4, abs=0.05) and abs(graph.weights[0, 1]) < 0.06
    assert graph.node_data["own"][1] == pytest.approx(-0.3, abs=0.07)


def test_no_past_crosses_a_group() -> None:
    """a fires in the last sample of each trial, b in the first of the next: only without trials is that a coupling."""
    rng = np.random.default_rng(0)
    trials = rng.random((60, 20, 2)) < 0.03
    trials[:, -1, 0] = trials[:, 0, 1] = rng.random(60) < 0.5
    trials[1:, 0, 1] = trials[:-1, -1, 0]
    flat = trials.reshape(-1, 2).astype(np.float32)
    groups = np.repeat(np.arange(60), 20)
    across = glm_coupling(flat, window=1, n_basis=1, null=None).weights[1, 0]
    within = glm_coupling(flat, groups, window=1, n_basis=1, null=None).weights[1, 0]
    recorded = Recording.from_arrays({"x": trials.astype(np.float32)})
    assert across > 2.0 and abs(within) < 0.8
    assert glm_coupling(recorded, window=1, n_basis=1, null=None).weights[1, 0] == within


def test_order_of_trials_does_not_matter_and_seeds_hold() -> None:
    x = coupled(0, trials=6, time=200).recording["neurons"][:].reshape(6, 200, 12).numpy()
    one, two = (
        glm_coupling(Recording.from_arrays({"n": part}), window=3, null_samples=19, folds=2)
        for part in (x, x[::-1].copy())
    )
    np.testing.assert_allclose(one.weights, two.weights, atol=1e-3)
    again = glm_coupling(Recording.from_arrays({"n": x}), window=3, null_samples=19, folds=2)
    assert np.array_equal(one.weights, again.weights)
    assert np.array_equal(one.null["high"], again.null["high"], equal_nan=True)


def test_a_covariate_explains_common_drive_away() -> None:
    rng = np.random.default_rng(0)
    drive = np.convolve(rng.normal(size=5000), np.ones(5) / 5**0.5, "same")
    x = rng.random((5000, 2)) < 1 / (1 + np.exp(2 - 1.5 * np.stack([drive, np.roll(drive, 2)], 1)))
    without = glm_coupling(x, window=4, null=None).weights[1, 0]
    lags = np.stack([np.roll(drive, k) for k in range(4)], 1)
    with_ = glm_coupling(x, window=4, covariates=lags, null=None).weights[1, 0]
    assert without > 1.0 and abs(with_) < 0.3 * without


def test_folds_never_cut_a_group_and_keep_a_gap() -> None:
    group = np.repeat(np.arange(7), 10)
    for train, test in blocked_folds(group, np.arange(70), 5, gap=3):
        assert not set(group[train]) & set(group[test])
    for train, test in blocked_folds(np.zeros(70, int), np.arange(70), 5, gap=3):
        assert min(abs(train[:, None] - test).min(1)) > 3


def test_bands_compare_sizes_as_they_are() -> None:
    drawn = np.zeros((19, 2, 2))
    drawn[3, 0, 1] = -0.5
    observed = np.array([[0.0, 0.4], [2.0, 0.0]])
    assert (
        bands(drawn, observed, "max")["q"][1, 0] == 0.05 and bands(drawn, observed, "max")["q"][0, 1] == 0.1
    )
    assert bands(drawn, observed, "pooled")["p"][1, 0] == pytest.approx(1 / 39)
    assert np.isnan(bands(drawn, np.array([[0, np.nan], [2.0, 0]]), "max")["p"][0, 1])


def test_what_is_refused() -> None:
    x = np.random.default_rng(0).random((50, 2))
    with pytest.raises(PatchclampError, match="whole numbers"):
        glm_coupling(x)
    with pytest.raises(PatchclampError, match="finer bins"):
        family_of(np.array([0.0, 3.0]), "bernoulli")
    spikes = (x > 0.5).astype(float)
    with pytest.raises(PatchclampError, match="longest group has 10"):
        glm_coupling(spikes, np.repeat(np.arange(5), 10), window=10)
    with pytest.raises(PatchclampError, match="covariates of shape"):
        glm_coupling(spikes, window=2, n_basis=2, covariates=np.zeros(10))
    with pytest.raises(PatchclampError, match="ridge or group_lasso"):
        glm_coupling(spikes, penalty="lasso")


# ---- neurons that can be stimulated


@pytest.mark.slow
def test_functional_connectivity_against_stimulation() -> None:
    """Each method's area for 'stimulating j changes i', beside the same area on shifted spikes.

    In bins of 1 ms; spikes act one millisecond later.
    """
    how = FireSettings(trials=8, time=1000, bin=1)
    system, shifted = integrate_and_fire(1, how), integrate_and_fire(1, how, shuffled=True)
    effect = np.abs(np.stack([system.stimulate(i) for i in range(20)], 1))
    np.fill_diagonal(effect, 0)
    changed = (effect > 4.0).astype(float)

    graph, control = (
        glm_coupling(one.recording, window=3, n_basis=1, null=None, folds=2) for one in (system, shifted)
    )
    plain, flat = graph.baseline.baseline, control.baseline.baseline
    assert graph.auroc(changed) > 0.9 and plain.auroc(changed) < 0.65
    assert abs(control.auroc(changed) - 0.5) < 0.12 and abs(flat.auroc(changed) - 0.5) < 0.12
    assert graph.auroc(system.coupling.T) > 0.97
    first, second = system.data["common_input"]
    unwired = (system.coupling.T == 0) & ~np.eye(20, dtype=bool)
    hidden = np.abs(graph.weights[[first, second], [second, first]]).min()
    assert effect[second, first] < 1.0, "the pair with a common input has no effect on each other"
    assert hidden > np.quantile(np.abs(graph.weights[unwired]), 0.9), "and yet looks coupled: see limits"


def test_coarse_bins_hide_direction_and_the_page_says_so() -> None:
    """In bins of 5 ms an effect after 1 ms is in the same bin: a model of the past cannot see most of it."""
    system = integrate_and_fire(1, FireSettings(trials=12, time=1000, bin=5))
    graph = glm_coupling(system.recording, window=4, n_basis=2, null=None, folds=2)
    truth = system.coupling.T
    assert graph.auroc(truth) < graph.baseline.baseline.auroc(truth)
    assert "faster than one sample" in graph.limits


# ---- a stimulus


def test_filter_recovers_what_the_average_smears() -> None:
    rng = np.random.default_rng(0)
    smooth = np.convolve(rng.normal(size=20_000), np.exp(-np.arange(12) / 4), "same")
    kernel = np.zeros(12)
    kernel[5], kernel[8] = 1.0, -0.7
    eta = -2 + np.convolve(smooth / smooth.std(), kernel)[: len(smooth)]
    spikes = rng.random(len(smooth)) < 1 / (1 + np.exp(-eta))
    found = stimulus_filter(spikes, smooth, lags=12, null_samples=39)
    scaled = found.filter * smooth.std()
    assert np.abs(scaled - kernel).max() < 0.25 and np.corrcoef(found.average, kernel)[0, 1] < 0.8
    assert found.filter_p == found.average_p == 0.025 and found.gain_interval[0] > 0


def test_filter_of_noise_stays_in_its_band() -> None:
    rng = np.random.default_rng(1)
    found = stimulus_filter(rng.random(3000) < 0.1, rng.normal(size=3000), lags=10, null_samples=39)
    assert found.average_p > 0.05 and found.filter_p > 0.05 and found.gain < 0.002


def test_lags_of_a_stimulus_do_not_cross_a_group() -> None:
    rng = np.random.default_rng(0)
    s, spikes = rng.normal(size=1000), rng.random(1000) < 0.2
    groups = np.repeat(np.arange(2), 500)
    one = stimulus_filter(spikes, s, groups, lags=5, history=0, null_samples=1, strength=1.0, folds=2)
    rows = np.r_[4:500, 504:1000]  # the first sample with all lags in its own group
    spikes_there = rows[spikes[rows]]
    expected = [s[spikes_there - k].mean() - s[rows - k].mean() for k in range(5)]
    np.testing.assert_allclose(one.average, expected, atol=1e-12)


def test_grasshopper_receptor_peaks_six_milliseconds_before_the_spike() -> None:
    nitime = pytest.importorskip("nitime")
    folder = Path(nitime.__file__).parent / "data"
    spikes = np.loadtxt(folder / "grasshopper_spike_times1.txt")
    stimulus = np.loadtxt(folder / "grasshopper_stimulus1.txt")[:, 1].reshape(-1, 20).mean(1)
    counts = np.histogram(spikes, np.arange(0, 10_000_001, 1000))[0]
    found = stimulus_filter(counts, stimulus, lags=25, null_samples=39, strength=100.0)
    assert found.params["n_spikes"] == 929
    assert found.average_peak == found.filter_peak == 6
    assert found.average[6] > 10 * found.average_band[1, 6] and found.filter[6] > 8 * found.filter_band[1, 6]
    assert found.agreement > 0.8 and found.gain_interval[0] > 0.05


def test_the_graph_says_what_it_is_not() -> None:
    graph = glm_coupling(coupled(0, trials=4, time=200).recording, window=3, null=None, folds=2)
    assert "causation" in graph.limits and graph.baseline is not None
    assert replace(graph, weights=np.abs(graph.weights)).nodes[0] == "neurons[0]"
