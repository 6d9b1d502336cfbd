"""Coupling that switches: exact chains, a prior that is a divergence, and planted states that come back."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import entropy, norm

from patchclamp.base.chains import forward_backward, match_states, state_accuracy, viterbi
from patchclamp.base.errors import PatchclampError
from patchclamp.connect import state_graphs, switching_glm
from patchclamp.connect.coupling import switching_fit as em
from patchclamp.connect.coupling.one_hot import OneHot, kl, learn, log_evidence, update_weight
from patchclamp.nouns.graph import Graph
from patchclamp.nouns.recording.recording import Recording
from patchclamp.truth.populations_wired import switching

SYSTEM = switching(1)


@cache
def fitted(prior: em.Prior) -> Graph:
    restarts = 4 if prior == "naive" else 2
    return switching_glm(SYSTEM.recording, prior=prior, restarts=restarts, null=None, seed=5)


def chain(seed: int = 0, length: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return np.log(rng.random((2, length, 3))), rng.dirichlet(np.ones(3), 3), rng.dirichlet(np.ones(3))


# ---- the chain


def test_posterior_is_that_of_all_paths() -> None:
    """Also a test of what is multiplied: adding the transition where log A belongs gives another sum."""
    likely, transition, initial = chain()
    found = forward_backward(likely, transition, initial)
    for s in range(2):
        states, pairs, total = np.zeros((5, 3)), np.zeros((3, 3)), 0.0
        for path in itertools.product(range(3), repeat=5):
            p = initial[path[0]] * np.exp(sum(likely[s, t, z] for t, z in enumerate(path)))
            p *= np.prod([transition[a, b] for a, b in itertools.pairwise(path)])
            total += p
            for t, z in enumerate(path):
                states[t, z] += p
            for a, b in itertools.pairwise(path):
                pairs[a, b] += p
        np.testing.assert_allclose(found.states[s], states / total, atol=1e-12)
        assert found.log_likelihood[s].sum() == pytest.approx(np.log(total), abs=1e-10)
        one = forward_backward(likely[s : s + 1], transition, initial)
        np.testing.assert_allclose(one.pairs, pairs / total, atol=1e-12)


def test_padding_and_models_side_by_side_change_nothing() -> None:
    likely, transition, initial = chain(1, 8)
    mask = np.array([[True] * 8, [True] * 5 + [False] * 3])
    both = forward_backward(
        np.stack([likely, likely + 1]), np.stack([transition] * 2), np.stack([initial] * 2), mask
    )
    short = forward_backward(likely[1:, :5], transition, initial)
    np.testing.assert_allclose(both.states[0, 1, :5], short.states[0], atol=1e-12)
    assert (both.log_likelihood[0, 1, 5:] == 0).all()
    whole = forward_backward(likely[:1], transition, initial)
    np.testing.assert_allclose(both.pairs[0], short.pairs + whole.pairs, atol=1e-12)
    assert both.log_likelihood[1, 0].sum() == pytest.approx(both.log_likelihood[0, 0].sum() + 8)


def test_a_long_unlikely_sequence_stays_finite() -> None:
    likely = np.full((1, 3000, 2), -800.0)
    found = forward_backward(likely, np.full((2, 2), 0.5), np.full(2, 0.5))
    assert found.log_likelihood.sum() == pytest.approx(-800.0 * 3000)


def test_best_path_is_the_best_of_all() -> None:
    likely, transition, initial = chain(2)
    score = {
        path: np.log(initial[path[0]])
        + sum(likely[0, t, z] for t, z in enumerate(path))
        + sum(np.log(transition[a, b]) for a, b in itertools.pairwise(path))
        for path in itertools.product(range(3), repeat=5)
    }
    assert tuple(viterbi(likely[0], transition, initial)) == max(score, key=score.get)


def test_states_are_matched_before_they_are_compared() -> None:
    true = np.random.default_rng(0).integers(0, 4, 500)
    renamed = np.array([2, 0, 3, 1])[true]
    assert match_states(renamed, true).tolist() == [2, 0, 3, 1]
    assert state_accuracy(renamed, true) == 1.0
    assert state_accuracy(np.random.default_rng(1).permutation(true), true) < 0.4
    with pytest.raises(PatchclampError, match="same samples"):
        match_states([0, 1], [0, 1, 1])


# ---- the prior


@pytest.mark.parametrize(("linear", "curvature"), [(3.0, 2.0), (-4.0, 5.0), (0.0, 0.0), (-30.0, 10.0)])
def test_evidence_is_the_integral(linear: float, curvature: float) -> None:
    def density(w: float) -> float:
        return 2 * norm.pdf(w, scale=1.5) * np.exp(linear * w - curvature * w**2 / 2)

    total, mean = quad(density, 0, 15)[0], quad(lambda w: w * density(w), 0, 15)[0]
    evidence, found = log_evidence(np.array(linear), np.array(curvature), 1.5)
    assert evidence == pytest.approx(np.log(total), abs=1e-6)
    assert found == pytest.approx(mean / total, rel=1e-5)


def test_divergence_has_the_right_signs() -> None:
    """A published objective adds the entropy of a, which rewards a one-hot a even against the prior."""
    rng = np.random.default_rng(0)
    a, p = rng.dirichlet(np.ones(3), 50), rng.dirichlet(np.ones(3), 50)
    np.testing.assert_allclose(kl(a, p), [entropy(x, y) for x, y in zip(a, p, strict=True)])
    assert (kl(a, p) >= 0).all() and np.allclose(kl(p, p), 0)
    prior, vertex = np.array([0.05, 0.9, 0.05]), np.array([1.0, 0.0, 0.0])
    assert kl(vertex, prior) > kl(prior, prior) == 0

    def published(one: np.ndarray) -> float:
        return float(-(one * np.log(prior)).sum() + entropy(one))

    best = np.array([0.0, 1.0, 0.0])
    assert published(best) < published(prior), "its optimum is a vertex, not the prior"


def test_kinds_maximise_what_they_should() -> None:
    linear, curvature = np.array([4.0, -4.0, 0.0]), np.full(3, 3.0)
    prior = np.full((3, 3), 1 / 3)
    kind, mean, second = update_weight(linear, curvature, prior, 2.0)
    gain = np.stack(
        [log_evidence(-linear, curvature, 2.0)[0], np.zeros(3), log_evidence(linear, curvature, 2.0)[0]], 1
    )

    def bound(a: np.ndarray) -> np.ndarray:
        return (a * gain).sum(1) - kl(a, prior)

    rng = np.random.default_rng(0)
    for _ in range(50):
        assert (bound(rng.dirichlet(np.ones(3), 3)) <= bound(kind) + 1e-12).all()
    assert kind.argmax(1).tolist() == [2, 0, 1] and mean[0] == -mean[1] > 1 and mean[2] == 0
    assert (second >= mean**2).all()


def test_the_shared_prior_is_never_certain() -> None:
    kind = np.zeros((3, 2, 2, 3))
    kind[..., 2] = 1.0
    state = learn(OneHot(kind, np.full((2, 2, 3), 1 / 3), 2.0, np.full((3, 2, 2), 9.0)))
    assert (state.prior > 0).all() and (state.prior[..., 2] > 0.9).all()
    np.testing.assert_allclose(state.prior.sum(-1), 1)
    assert state.scale == pytest.approx(3.0, abs=1e-3)


# ---- the fit


@pytest.mark.parametrize("link", ["sigmoid", "softplus", "exp"])
def test_rates_have_their_derivative(link: em.Link) -> None:
    eta = np.linspace(-6, 4, 50)
    up, down = em.rate(eta + 1e-5, link)[0], em.rate(eta - 1e-5, link)[0]
    np.testing.assert_allclose(em.rate(eta, link)[1], (up - down) / 2e-5, rtol=1e-5, atol=1e-9)


def test_likelihood_never_falls_and_one_state_has_zero_gradient() -> None:
    rng = np.random.default_rng(0)
    past, counts = rng.random((400, 3)), rng.poisson(0.4, (400, 3)).astype(float)
    data = em.PastRows.of(past, counts, np.arange(400))
    how = em.Settings(prior="naive", ridge=1e-8)
    transition = np.array([[0.9, 0.1], [0.1, 0.9]])
    model = em.Model(np.full((2, 3), -0.5), rng.normal(size=(2, 3, 3)), transition, np.full(2, 0.5))
    trace = []
    models = [model]
    for _ in range(12):
        models, before, _ = em.fit(models, data, how, most=1, tol=0.0)
        trace.append(float(before[0]))
    assert (np.diff(trace) > -1e-5).all() and trace[-1] > trace[0] + 0.01
    start = em.Model(np.full((1, 3), -0.5), np.zeros((1, 3, 3)), np.eye(1), np.ones(1))
    (one,), _, converged = em.fit([start], data, how, tol=1e-12)
    f, slope = em.rate(em.drive(one, past), "sigmoid")
    score = (counts / f[0] - 1) * slope[0]
    gradient = past.T @ score
    assert converged.all() and np.abs(score.sum(0)).max() < 0.05
    assert np.abs(gradient[~np.eye(3, dtype=bool)]).max() < 0.05 and (np.diagonal(one.weights[0]) == 0).all()


@pytest.mark.parametrize(
    "prior",
    [
        pytest.param("naive", marks=pytest.mark.slow),
        "gaussian",
        pytest.param("one_hot", marks=pytest.mark.slow),
    ],
)
def test_planted_states_and_weights_come_back(prior: em.Prior) -> None:
    graph = fitted(prior)
    states, true = graph.params["states"], SYSTEM.data["states"].ravel()
    known = states >= 0
    assert known.sum() == 6 * 995 and state_accuracy(states[known], true[known]) > 0.9
    order = match_states(states[known], true[known])
    off = ~np.eye(8, dtype=bool)
    found, planted = graph.params["state_weights"][order], np.swapaxes(SYSTEM.data["weights"], 1, 2)
    assert np.corrcoef(found[:, off].ravel(), planted[:, off].ravel())[0, 1] > 0.95
    assert np.mean(np.sign(found[planted != 0]) == np.sign(planted[planted != 0])) >= 0.98
    assert graph.auroc(SYSTEM.coupling.T) > 0.99
    scores = graph.params["held_out"]
    assert scores["gain_low"] > 0.05 and scores["samples"] == 2 * 995
    table = graph.params["restarts"]
    assert table["agreement"][0] == 1.0 and (np.diff(table["log_likelihood"]) <= 1e-12).all()
    if prior == "naive":
        assert table["agreement"].min() < 0.9, (
            "one of the starts ends elsewhere: restarts are part of the method"
        )
    if prior == "one_hot":
        sign = SYSTEM.data["sign"].T
        assert np.mean((graph.params["kind_prior"].argmax(-1) - 1)[off] == sign[off]) > 0.95
        absent = np.abs(found[:, off & (sign == 0)]).mean()
        assert absent < 0.05 and np.abs(found[planted != 0]).mean() > 2.0
        for one, kind in zip(state_graphs(graph), graph.params["kind"], strict=True):
            assert one.auroc(planted[order.tolist().index(one.params["state"])]) > 0.97
            np.testing.assert_allclose(kind.sum(-1), 1)


@pytest.mark.slow
def test_the_one_hot_prior_predicts_best_what_was_not_fitted() -> None:
    held = {prior: fitted(prior).params["held_out"]["switching"] for prior in em.PRIORS}
    assert max(held, key=held.get) == "one_hot"


@pytest.mark.slow
def test_one_state_is_not_split() -> None:
    still = switching(0, n_states=1, trials=3, time=800)
    graph = switching_glm(still.recording, restarts=2, n_states=2, null=None)
    assert graph.params["held_out"]["gain_low"] < 0 and graph.params["held_out"]["gain"] < 0.003


def small(seed: int = 0) -> np.ndarray:
    return switching(seed, n_states=2, units=4, trials=4, time=100).recording["neurons"][:].numpy()


@pytest.mark.slow
def test_null_seed_and_baselines() -> None:
    x, groups = small(), np.repeat(np.arange(4), 100)
    one, two = (
        switching_glm(x, groups, n_states=2, restarts=2, null_restarts=1, most=6, seed=3) for _ in range(2)
    )
    assert np.array_equal(one.weights, two.weights) and np.array_equal(
        one.null["high"], two.null["high"], equal_nan=True
    )
    assert one.null["samples"] == 19 and len(one.params["held_out"]["null_gain"]) == 19
    assert 0.05 <= one.params["held_out"]["gain_p"] <= 1
    assert one.baseline.null["samples"] == 19 and one.baseline.baseline.method == "lagged_correlation"
    assert "common input" in one.limits


def test_no_chain_and_no_past_crosses_a_group() -> None:
    x = small(1)
    rows = em.PastRows.of(np.zeros((12, 1)), np.zeros((12, 1)), np.r_[5:10, 15:22])
    assert rows.mask.sum(1).tolist() == [5, 7]
    values = np.arange(12.0)[:, None]
    np.testing.assert_array_equal(rows.flat(rows.padded(values)), values)
    trials = Recording.from_arrays({"n": x.reshape(4, 100, 4).astype(np.float32)})
    graph = switching_glm(trials, n_states=2, restarts=1, null=None, most=10)
    states = graph.params["states"].reshape(4, 100)
    assert (states[:, :5] == -1).all() and (states[:, 5:] >= 0).all()


def test_what_is_refused() -> None:
    x = small()
    with pytest.raises(PatchclampError, match="priors are naive"):
        switching_glm(x, prior="flat")
    with pytest.raises(PatchclampError, match="at least one of each"):
        switching_glm(x, restarts=0)
    with pytest.raises(PatchclampError, match="whole numbers"):
        switching_glm(x + 0.5)
    with pytest.raises(PatchclampError, match="too few to hold out"):
        switching_glm(x[:20], held_out=0.3)
