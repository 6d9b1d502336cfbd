"""Bi-clustering: planted groups of neurons and states of time."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

from patchclamp.base.errors import PatchclampError
from patchclamp.connect import biclustering
from patchclamp.connect.groups.biclustering import fit_states

GROUPS = np.repeat([0, 1, 2], 10)


def planted(seed: int = 0, time: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Card C10's shape: 30 neurons in 3 groups of two latents, two states: contraction, and rotation by pi / 20."""
    rng = np.random.default_rng(seed)
    states = np.repeat([0, 1, 0, 1, 0], time // 5)
    latents = np.zeros((time, 3, 2))
    turn = np.array([[np.cos(np.pi / 20), -np.sin(np.pi / 20)], [np.sin(np.pi / 20), np.cos(np.pi / 20)]])
    for t in range(1, time):
        if states[t] == 1:
            entering = states[t - 1] == 0
            latents[t] = rng.normal(size=(3, 2)) if entering else latents[t - 1] @ turn.T
        else:
            latents[t] = 0.01 * latents[t - 1]
        latents[t] += 0.05 * rng.normal(size=(3, 2))
    load = rng.normal(size=(30, 2))
    rate = np.exp(1.5 + np.einsum("nd,tnd->tn", load, latents[:, GROUPS]))
    return rng.poisson(np.minimum(rate, 200)).astype(float), states


def accuracy(truth: np.ndarray, found: np.ndarray) -> float:
    table = np.array(
        [[((truth == a) & (found == b)).sum() for b in range(found.max() + 1)] for a in range(2)]
    )
    rows, columns = linear_sum_assignment(-table)
    return table[rows, columns].sum() / len(truth)


def correlated(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(600, 3))[:, GROUPS] + 0.7 * rng.normal(size=(600, 30))


@pytest.mark.slow
def test_groups_that_share_a_signal_come_back():
    found = biclustering(correlated(), smooth=0, n_states=1, null_samples=19, runs=8)
    assert found.graph.node_data["cluster"].nunique() == 3
    assert adjusted_rand_score(GROUPS, found.clusters) == 1 and found.p == 0.05
    inside = GROUPS[:, None] == GROUPS
    off = ~np.eye(30, dtype=bool)
    assert found.graph.weights[inside & off].min() > 0.9 and found.graph.weights[~inside].max() < 0.1
    assert found.graph.baseline is not None and found.graph.limits


@pytest.mark.slow
def test_neurons_on_their_own_are_one_cluster_and_one_state():
    """Each is a test at 5 %: of five sets of independent noise, at most one may be split."""
    found = [biclustering(np.random.default_rng(seed).normal(size=(600, 20)), smooth=0) for seed in range(5)]
    assert sum(one.params["n_clusters"] > 1 for one in found) <= 1
    assert sum(one.params["n_states"] > 1 for one in found) <= 1
    assert all(one.params["n_clusters"] == 1 for one in found if one.p > 0.05)


@pytest.mark.slow
def test_groups_with_random_loadings_and_states_of_their_latents_come_back():
    """Neurons of one group need not correlate here: clusters of 1 - |r| had an adjusted Rand index of .1."""
    counts, states = planted()
    found = biclustering(counts, n_clusters=3, n_states=2, runs=4)
    assert adjusted_rand_score(GROUPS, found.clusters) > 0.85
    assert accuracy(states, found.states) > 0.97
    assert found.transition.shape == (2, 2) and np.allclose(found.transition.sum(1), 1)
    assert found.table()["share"].sum() == pytest.approx(1)
    assert found.state_similarity.shape[0] == -(-500 // found.params["similarity_step"])
    again = biclustering(counts, n_clusters=3, n_states=2, runs=4)
    assert np.array_equal(found.clusters, again.clusters) and np.array_equal(found.states, again.states)


def other(seed: int = 0, time: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Groups of 12, 8, 10 and 6, loadings of either sign from .4 to 1.2, negative binomial counts, slow and fast latents."""
    rng = np.random.default_rng([seed, 77])
    group = np.repeat(np.arange(4), (12, 8, 10, 6))
    latents = np.zeros((time, 4, 2))
    for t in range(1, time):
        angle = np.pi / (60 if t < time // 2 else 12)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        latents[t] = 0.98 * latents[t - 1] @ turn.T + 0.2 * rng.normal(size=(4, 2))
    load = rng.uniform(0.4, 1.2, size=(36, 2)) * rng.choice([-1, 1], size=(36, 2))
    rate = np.exp(rng.uniform(0.3, 2, 36) + np.einsum("nd,tnd->tn", load, latents[:, group]))
    return rng.poisson(np.minimum(rate, 200) * rng.gamma(5, 0.2, rate.shape)).astype(float), group


@pytest.mark.slow
def test_other_loadings_and_counts_more_variable_than_poisson():
    counts, group = other()
    found = biclustering(counts, n_clusters=4, n_states=1, runs=4)
    assert adjusted_rand_score(group, found.clusters) > 0.85
    assert found.graph.node_data["shared"].min() > 0


@pytest.mark.slow
def test_neurons_that_share_nothing_and_massive_values_are_told_apart():
    """Noise beside groups says that it belongs to none; one value of a million moves no other neuron."""
    x = np.concatenate([correlated(), np.random.default_rng(9).normal(size=(600, 4))], 1)
    settings = {"n_clusters": 3, "factors": 1, "n_states": 1, "smooth": 0, "runs": 2}
    found = biclustering(x, **settings)
    shared = found.graph.node_data["shared"].to_numpy()
    assert adjusted_rand_score(GROUPS, found.clusters[:30]) == 1
    assert shared[:30].min() > 0.2 and shared[30:].max() < 0.05
    x[100, 5] = 1e6
    massive = biclustering(x, **settings)
    assert adjusted_rand_score(np.delete(GROUPS, 5), np.delete(massive.clusters[:30], 5)) == 1


def test_a_gaussian_hidden_markov_model_recovers_its_states():
    rng = np.random.default_rng(0)
    states = np.repeat([0, 1, 2, 1], 150)
    x = np.array([[-2, 0], [0, 2], [2, 0]])[states] + rng.normal(size=(600, 2)) * 0.7
    fits = [fit_states(x, [slice(0, 300), slice(300, 600)], 3, 0.98, [k]) for k in range(4)]
    likelihood, path, transition = max(fits, key=lambda fit: fit[0])
    assert adjusted_rand_score(states, path) > 0.97 and np.diag(transition).min() > 0.95
    assert np.isfinite(likelihood)


@pytest.mark.slow
def test_same_seed_same_answer():
    one, two = (
        biclustering(correlated(), n_clusters=3, smooth=0, n_states=1, runs=2, seed=5) for _ in range(2)
    )
    assert np.array_equal(one.graph.weights, two.graph.weights) and one.score == two.score


def test_bad_input_is_refused():
    with pytest.raises(PatchclampError, match="stay=2"):
        biclustering(correlated(), stay=2)
    with pytest.raises(PatchclampError, match="group of its own"):
        biclustering(correlated(), list(range(600)))
