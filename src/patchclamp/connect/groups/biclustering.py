"""Bi-clustering: groups of neurons and states of the population, found together. A fast stand-in for the Bayesian model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.distance import squareform

from patchclamp.base.chains import forward_backward
from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng
from patchclamp.base.statistics import permutation_p
from patchclamp.connect.coupling.correlation import as_baseline
from patchclamp.connect.nulls import bands
from patchclamp.connect.series import Series, series
from patchclamp.connect.surrogates import circular_shift
from patchclamp.draw.cards import shown
from patchclamp.nouns.graph import Graph
from patchclamp.nouns.recording.matrix import MatrixLike, Reading

Array = NDArray[np.float64]
LIMITS = (
    "direction, causation, and posterior uncertainty: clusters are those of co-variation over restarts, not a posterior; "
    "states are states of the groups' activity and need not be discrete in truth"
)


@shown
@dataclass(frozen=True, eq=False)
class BiClusters:
    """Groups of neurons, states of time.

    Parameters
    ----------
    graph
        Neuron x neuron: share of runs (on resampled stretches of time) in which two neurons were in one group. Its null
        is the same on circularly shifted neurons, its baseline the correlation; `node_data["cluster"]` holds groups.
    clusters
        (neuron,) group of each, the largest first.
    states
        (sample,) state of each, the most frequent first.
    state_similarity
        (bin, bin) share of runs in which two stretches of time were in one state; `params["similarity_step"]` samples a
        bin.
    transition
        (state, state).
    score, null_scores
        Share of variance of the neurons that their groups' factors explain, and the same on each draw.
    limits, params
        As in `Graph`.
    """

    graph: Graph
    clusters: NDArray[np.int64]
    states: NDArray[np.int64]
    state_similarity: Array
    transition: Array
    score: float
    null_scores: Array
    limits: str
    params: Mapping[str, Any]

    @property
    def p(self) -> float:
        """Share of draws whose neurons go together as much."""
        return permutation_p(self.score, self.null_scores)

    def table(self) -> pd.DataFrame:
        """One row a state: samples, share, and mean activity of each group (in standard deviations) in it."""
        rows = []
        for state in range(int(self.states.max()) + 1):
            here = self.states == state
            means = self.params["group_means"][here].mean(0)
            groups = {f"group {k}": float(mean) for k, mean in enumerate(means)}
            rows.append({"state": state, "samples": int(here.sum()), "share": float(here.mean()), **groups})
        return pd.DataFrame(rows)


def biclustering(
    data: MatrixLike,
    groups: Sequence[Any] | None = None,
    *,
    n_clusters: int | None = None,
    n_states: int | None = None,
    max_clusters: int = 8,
    max_states: int = 5,
    smooth: float = 5.0,
    stay: float = 0.98,
    factors: int = 2,
    runs: int = 20,
    null_samples: int = 19,
    seed: int = 0,
    **reading: Unpack[Reading],
) -> BiClusters:
    """Cluster neurons by what they share, and cut time into states of the clusters.

    Neurons (square roots of counts where all are counts, then smoothed and standardised) are clustered by average linkage
    on 1 - |r|, repeatedly on half of the blocks of time; the consensus is the graph. Then a hidden Markov model with
    Gaussian emissions and a sticky transition runs over the leading `factors` principal components of each cluster and
    their change from sample to sample.

    Parameters
    ----------
    data, groups
        As in `correlation`; samples in time order. No state passes from one group to the next.
    n_clusters
        Of neurons; None: the largest mean silhouette, and 1 where the neurons go together no more than shifted ones.
    n_states
        Of time; None: by the Bayesian information criterion, and 1 where that gains no more than on shifted neurons.
    max_clusters, max_states
        Limits of the choice.
    smooth
        Width in samples.
    stay
        Initial probability of keeping a state.
    factors
        Components a cluster.
    runs
        Resampled runs for the similarity matrices.
    null_samples, seed
        Circularly shifted draws, from 19 on; seed of everything.
    reading
        As in `correlation`.

    Returns
    -------
    BiClusters

    Notes
    -----
    Of the questions of the Bayesian bi-clustering of Wei, Stevenson et al. (card C10), not its model: no mixture of
    finite mixtures, no sticky HDP-HMM, no Polya-Gamma sampler, which takes hours.
    """
    if smooth < 0 or not 0 < stay < 1 or min(factors, runs, max_clusters, max_states) < 1:
        raise PatchclampError(
            f"smooth={smooth}, stay={stay}, factors={factors}, runs={runs}: "
            "smooth from 0, stay between 0 and 1, the others from 1 on"
        )
    if null_samples < 19:
        raise PatchclampError(
            f"null_samples={null_samples}: no p could be .05, so there would always be one cluster; from 19 draws on"
        )
    units = series(data, groups, what="biclustering", time=True, **reading)
    counts = bool((units.values >= 0).all() and (units.values == np.round(units.values)).all())
    base = units.with_values(np.sqrt(units.values)) if counts else units
    ready = _standard(base, smooth)
    rng = numpy_rng([seed, 6401])
    draws = [_standard(circular_shift(base, rng), smooth) for _ in range(null_samples)]
    strength, others = _together(ready.values), np.array([_together(one.values) for one in draws])
    alone = (1 + (others >= strength).sum()) / (null_samples + 1) > 0.05
    count = n_clusters or (1 if alone else _silhouette_choice(ready.values, max_clusters))
    clusters = _clusters(ready.values, count)
    graph = _consensus(units, ready, draws, count, clusters, runs, seed)
    means = np.stack([ready.values[:, clusters == k].mean(1) for k in range(clusters.max() + 1)], 1)
    features = _features(ready, clusters, factors)
    fakes = [_features(one, clusters, factors) for one in draws]
    states, transition = _states(features, fakes, ready.segments, n_states, max_states, stay, seed)
    similarity, step = _state_similarity(features, ready.segments, int(states.max()) + 1, stay, runs, seed)
    settings = {
        "n_clusters": int(clusters.max()) + 1,
        "n_states": int(states.max()) + 1,
        "smooth": smooth,
        "seed": seed,
        "group_means": means,
        "similarity_step": step,
        "reading": units.about,
    }
    return BiClusters(graph, clusters, states, similarity, transition, strength, others, LIMITS, settings)


def _standard(units: Series, smooth: float) -> Series:
    x = units.centred().values
    if smooth > 0:
        for part in units.segments:
            x[part] = gaussian_filter1d(x[part], smooth, axis=0)
    spread = x.std(0)
    return units.with_values(x / np.where(spread > 0, spread, 1))


def _together(x: Array) -> float:
    """Mean r^2 over pairs: how much neurons go together, whatever the groups."""
    r = x.T @ x / len(x)
    return float(((r**2).sum() - (np.diag(r) ** 2).sum()) / (len(r) * (len(r) - 1)))


def _distance(x: Array) -> Array:
    r = x.T @ x / len(x)
    scale = np.sqrt(np.maximum(np.diag(r), 1e-12))
    out = 1 - np.abs(r / scale[:, None] / scale)
    np.fill_diagonal(out, 0)
    return np.asarray(np.maximum((out + out.T) / 2, 0))


def _clusters(x: Array, count: int) -> NDArray[np.int64]:
    if count == 1:
        return np.zeros(x.shape[1], np.int64)
    tree = linkage(squareform(_distance(x), checks=False), "average")
    labels = fcluster(tree, count, "maxclust") - 1
    order = np.argsort(-np.bincount(labels), kind="stable")
    return np.asarray(np.argsort(order)[labels].astype(np.int64))


def _silhouette_choice(x: Array, most: int) -> int:
    from sklearn.metrics import silhouette_score

    distance = _distance(x)
    found = {}
    for count in range(2, min(most, x.shape[1] - 1) + 1):
        labels = _clusters(x, count)
        if 1 < labels.max() + 1 < x.shape[1]:
            found[count] = silhouette_score(distance, labels, metric="precomputed")
    return max(found, key=lambda count: found[count]) if found else 1


def _consensus(
    units: Series,
    ready: Series,
    draws: Sequence[Series],
    count: int,
    clusters: NDArray[np.int64],
    runs: int,
    seed: int,
) -> Graph:
    rng = numpy_rng([seed, 6402])
    weights = _similarity(ready, count, runs, rng)
    null_draws = np.stack([_similarity(one, count, max(4, runs // 4), rng) for one in draws])
    # shares of a few runs tie: all pairs of a draw serve as the null of every pair
    own, pooled = (bands(null_draws, weights, how, "circular_shift") for how in ("max", "pooled"))
    null = {**own, "p": pooled["p"]}
    table = units.table.copy() if units.table is not None else pd.DataFrame(index=range(units.n_units))
    table["cluster"] = clusters
    settings = {"n_clusters": count, "runs": runs, "seed": seed, "reading": units.about}
    return Graph(
        units.names, weights, False, "biclustering", null, as_baseline(units), LIMITS, table, settings
    )


def _similarity(ready: Series, count: int, runs: int, rng: np.random.Generator) -> Array:
    """(neuron, neuron) share of runs in one cluster, each run on half of ten stretches of time."""
    if count == 1:
        return np.ones((ready.n_units, ready.n_units)) - np.eye(ready.n_units)
    pieces = np.array_split(np.arange(len(ready.values)), 10)
    total = np.zeros((ready.n_units, ready.n_units))
    for _ in range(runs):
        rows = np.concatenate([pieces[k] for k in np.sort(rng.choice(10, 5, replace=False))])
        labels = _clusters(ready.values[rows], count)
        total += labels[:, None] == labels
    np.fill_diagonal(total, 0)
    return total / runs


# ---- states of time


def _features(ready: Series, clusters: NDArray[np.int64], factors: int) -> Array:
    """(sample, feature) leading components of each cluster and their change from one sample to the next."""
    columns = []
    for k in range(clusters.max() + 1):
        block = ready.values[:, clusters == k]
        u, s, _ = np.linalg.svd(block, full_matrices=False)
        columns.append(u[:, :factors] * s[:factors])
    x = np.concatenate(columns, 1)
    change = np.zeros_like(x)
    for part in ready.segments:
        if part.stop - part.start > 1:
            change[part] = np.gradient(x[part], axis=0)
    both = np.concatenate([x, change], 1)
    spread = both.std(0)
    return both / np.where(spread > 0, spread, 1)


def _states(
    x: Array,
    fakes: Sequence[Array],
    segments: Sequence[slice],
    count: int | None,
    most: int,
    stay: float,
    seed: int,
) -> tuple[NDArray[np.int64], Array]:
    """Path and transition; where `count` is None, the number of states that beats one state by more than on `fakes`."""
    tried = {}
    for n in [count] if count else range(1, most + 1):
        fits = [fit_states(x, segments, n, stay, [seed, 6403, n, k]) for k in range(1 if n == 1 else 3)]
        likelihood, path, transition = max(fits, key=lambda fit: fit[0])
        tried[n] = _criterion(likelihood, n, x), path, transition
    chosen = min(tried, key=lambda n: tried[n][0])
    if count is None and chosen > 1:
        gains = [_gain(one, segments, chosen, stay, seed) for one in [x, *fakes]]
        chosen = chosen if gains[0] > max(gains[1:]) else 1
    best = tried[chosen]
    order = np.argsort(-np.bincount(best[1], minlength=len(best[2])), kind="stable")
    used = order[np.bincount(best[1], minlength=len(best[2]))[order] > 0]
    relabel = np.full(len(best[2]), -1)
    relabel[used] = np.arange(len(used))
    return relabel[best[1]].astype(np.int64), best[2][np.ix_(used, used)]


def _gain(x: Array, segments: Sequence[slice], n: int, stay: float, seed: int) -> float:
    """By how much `n` states beat one, by one short fit each."""
    one, more = (fit_states(x, segments, k, stay, [seed, 6405, k], 25)[0] for k in (1, n))
    return _criterion(one, 1, x) - _criterion(more, n, x)


def _criterion(likelihood: float, n: int, x: Array) -> float:
    """Bayesian information criterion; smaller is better."""
    free = n * (2 * x.shape[1]) + n * (n - 1)
    return float(-2 * likelihood + free * np.log(len(x)))


def fit_states(
    x: Array, segments: Sequence[slice], n: int, stay: float, seed: Sequence[int], steps: int = 50
) -> tuple[float, NDArray[np.int64], Array]:
    """Expectation-maximisation of a Gaussian hidden Markov model with diagonal variances."""
    rng = numpy_rng(seed)
    chunk = max(1, len(x) // (10 * n))
    owner = np.repeat(rng.integers(0, n, -(-len(x) // chunk)), chunk)[: len(x)]
    weight = 0.6 * np.eye(n)[owner] + 0.4 / n
    transition = np.full((n, n), (1 - stay) / max(n - 1, 1))
    np.fill_diagonal(transition, stay if n > 1 else 1.0)
    last = -np.inf
    for _ in range(steps):
        mass = weight.sum(0) + 1e-9
        mean = weight.T @ x / mass[:, None]
        variance = np.maximum(weight.T @ x**2 / mass[:, None] - mean**2, 1e-3)
        emission = _log_gaussian(x, mean, variance)
        found = [forward_backward(emission[None, part], transition, np.full(n, 1 / n)) for part in segments]
        weight = np.concatenate([one.states[0] for one in found])
        pairs = np.sum([one.pairs for one in found], axis=0)
        likelihood = float(sum(one.log_likelihood.sum() for one in found))
        transition = (pairs + 1e-3) / (pairs + 1e-3).sum(1, keepdims=True)
        if likelihood - last < 1e-5 * abs(likelihood):
            break
        last = likelihood
    return likelihood, weight.argmax(1), transition


def _log_gaussian(x: Array, mean: Array, variance: Array) -> Array:
    inverse = 1 / variance
    square = x**2 @ inverse.T - 2 * x @ (mean * inverse).T + (mean**2 * inverse).sum(1)
    return np.asarray(-0.5 * (square + np.log(2 * np.pi * variance).sum(1)))


def _state_similarity(
    x: Array, segments: Sequence[slice], n: int, stay: float, runs: int, seed: int
) -> tuple[Array, int]:
    """(bin, bin) share of restarts in which two of at most 200 samples, evenly spaced, were in one state."""
    step = -(-len(x) // 200)
    total = np.zeros((len(x[::step]), len(x[::step])))
    count = 1 if n == 1 else min(runs, 8)
    for k in range(count):
        path = fit_states(x, segments, n, stay, [seed, 6404, k])[1][::step]
        total += path[:, None] == path
    return total / count, step
