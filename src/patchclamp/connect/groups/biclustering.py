"""Bi-clustering: groups of neurons that share latents, and states of the latents. The model of the Bayesian one, at its mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from patchclamp.base.chains import forward_backward
from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng
from patchclamp.base.statistics import permutation_p
from patchclamp.connect.coupling.correlation import as_baseline
from patchclamp.connect.groups.count_latents import count_groups, count_latents
from patchclamp.connect.groups.factor_groups import by_size, choose, factor_groups, held_out, latent_means
from patchclamp.connect.nulls import bands
from patchclamp.connect.series import Series, series
from patchclamp.connect.surrogates import autocorrelation_widths, circular_shift
from patchclamp.draw.cards import shown
from patchclamp.nouns.graph import Graph
from patchclamp.nouns.recording.matrix import MatrixLike, Reading

Array = NDArray[np.float64]
FAR, MOST = 6.0, 3000  # standard deviations of a value; samples on which counts are fitted
LIMITS = (
    "direction, causation, and posterior uncertainty: groups are the most likely ones that were found, not a posterior; a "
    "neuron about which its group says nothing (node_data['shared'] <= 0) belongs to none; "
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
        is the same on circularly shifted neurons, its baseline the correlation; `node_data["cluster"]` holds groups,
        `node_data["shared"]` what the rest of its group says about a neuron (half the log ratio of its variance to what
        is left, in time on which the group's latents were not fitted, though the groups were found on all of it: of neurons
        that go with nobody about one in four is above 0 all the same; 0 or less: nothing, and its group means nothing).
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
        Mean squared correlation over pairs of neurons, whatever the groups, and the same on each draw.
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
    """Group neurons by the latents that they share, and cut time into states of the latents.

    Neuron i of group k has log-mean d_i + c_i . x_k(t) (counts, negative binomial; other activity: mean, Gaussian) with a few
    latents a group, so two neurons of one group need not correlate. Groups are found by factor analysis in blocks, from
    several starts; for counts these go on under their own likelihood, each neuron moving to the group whose latents, found
    without it, give it the most evidence. The same on half of the time, repeatedly, is the graph. Then a hidden Markov
    model with Gaussian emissions and a sticky transition runs over the latents and their change from sample to sample.

    Parameters
    ----------
    data, groups
        As in `correlation`; samples in time order. No state passes from one group to the next.
    n_clusters
        Of neurons, groups that end empty left out; None: what says most about neurons in time that was not fitted, by the fewest latents; 1 where
        the neurons go together no more than shifted ones. Groups may be pieces of one population: where one group with
        as many latents (``1 x ...`` in `params["held_out"]`) says more, distrust them.
    n_states
        Of time; None: by the Bayesian information criterion (autocorrelated samples counted once), and 1 where that
        gains no more than on shifted neurons.
    max_clusters, max_states
        Limits of the choice.
    smooth
        Width of the latents in samples; neurons are smoothed by half of it before the factor analysis.
    stay
        Initial probability of keeping a state.
    factors
        Latents a group; with `n_clusters=None` the most that are tried.
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
    After the Bayesian bi-clustering of Wei, Stevenson et al., at the mode: no mixture of finite mixtures, no sticky HDP-HMM, no
    Polya-Gamma sampler, which takes hours; states do not act back on the latents. Real-valued activity beyond six
    standard deviations is cut there. Counts are fitted on at most 3,000 samples, in ten stretches.
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
    ready = _standard(units, counts, smooth)
    rng = numpy_rng([seed, 6401])
    draws = [_standard(circular_shift(units, rng), counts, smooth) for _ in range(null_samples)]
    strength, others = _together(ready.values), np.array([_together(one.values) for one in draws])
    alone = permutation_p(strength, others) > 0.05
    halves = _halves(ready.values, numpy_rng([seed, 6406]))
    count, latents = n_clusters or 1, factors
    tried: dict[tuple[int, int], float] = {}
    if n_clusters is None and not alone:
        count, latents, tried = choose(halves, factors, max_clusters, numpy_rng([seed, 6408]))
    keep = float(np.exp(-0.5 / smooth)) if smooth > 0 else 0.0
    clusters = _clusters(units, ready, counts, count, latents, keep, seed)
    shared = np.mean([held_out(*one, clusters, int(clusters.max()) + 1, latents) for one in halves], 0)
    graph = _consensus(units, ready, draws, count, latents, clusters, shared, runs, seed)
    means = np.stack([ready.values[:, clusters == k].mean(1) for k in range(clusters.max() + 1)], 1)
    paths = (
        count_latents(units.values, ready.values, _begins(units), clusters, latents, keep)
        if counts
        else latent_means(ready.values, clusters, latents)
    )
    features = _with_change(np.concatenate(list(paths), 1), ready.segments)
    fakes = [_features(one, clusters, latents) for one in (ready, *draws)]
    width = max(1.0, float(autocorrelation_widths(ready.with_values(features)).mean()))
    states, transition = _states(features, fakes, ready.segments, n_states, max_states, stay, width, seed)
    similarity, step = _state_similarity(features, ready.segments, int(states.max()) + 1, stay, runs, seed)
    settings = {
        "n_clusters": int(clusters.max()) + 1,
        "n_states": int(states.max()) + 1,
        "n_latents": latents,
        "held_out": {f"{k} x {p}": value for (k, p), value in tried.items()},
        "smooth": smooth,
        "seed": seed,
        "group_means": means,
        "similarity_step": step,
        "reading": units.about,
    }
    return BiClusters(graph, clusters, states, similarity, transition, strength, others, LIMITS, settings)


def _standard(units: Series, counts: bool, smooth: float) -> Series:
    """Counts as logarithms; smoothed, centred in each segment, of variance 1, no value beyond `FAR` standard deviations."""
    x = units.values.copy() if counts else units.centred().values
    if smooth > 0:
        for part in units.segments:
            x[part] = gaussian_filter1d(x[part], smooth / 2, axis=0)
    if counts:
        x = np.log(x + 0.3 * units.values.mean(0) + 0.1)
    x = units.with_values(x).centred().values
    for _ in range(5):
        spread = x.std(0)
        x = np.clip(x, -FAR * spread, FAR * spread)
    x = units.with_values(x).centred().values
    spread = x.std(0)
    return units.with_values(x / np.where(spread > 0, spread, 1))


def _begins(units: Series) -> NDArray[np.bool_]:
    """True where a stretch of time begins."""
    out = np.zeros(len(units.values), bool)
    out[[part.start for part in units.segments]] = True
    return out


def _halves(x: Array, rng: np.random.Generator) -> list[tuple[Array, Array]]:
    """Covariances of two halves of the time, blocks of a twentieth drawn at random, four times."""
    pieces, out = np.array_split(np.arange(len(x)), 20), []
    for _ in range(4):
        order = rng.permutation(20)
        rows = [np.concatenate([pieces[k] for k in part]) for part in (order[:10], order[10:])]
        out.append((_covariance(x[rows[0]]), _covariance(x[rows[1]])))
    return out


def _covariance(x: Array) -> Array:
    return np.asarray(x.T @ x / len(x) + 1e-9 * np.eye(x.shape[1]))


def _together(x: Array) -> float:
    """Mean r^2 over pairs: how much neurons go together, whatever the groups."""
    r = x.T @ x / len(x)
    return float(((r**2).sum() - (np.diag(r) ** 2).sum()) / (len(r) * (len(r) - 1)))


def _clusters(
    units: Series, ready: Series, counts: bool, count: int, latents: int, keep: float, seed: int
) -> NDArray[np.int64]:
    if count == 1:
        return np.zeros(units.n_units, np.int64)
    rng = numpy_rng([seed, 6409])
    found = [one[1] for one in factor_groups(_covariance(ready.values), count, latents, rng)]
    if not counts:
        return by_size(found[0])
    begins, rows = _begins(units), np.arange(len(units.values))
    if len(rows) > MOST:
        starts = np.linspace(0, len(rows) - MOST // 10, 10).astype(np.int64)
        rows = np.unique(starts[:, None] + np.arange(MOST // 10))
        begins = begins[rows] | np.r_[True, np.diff(rows) > 1]
    return count_groups(units.values[rows], ready.values[rows], begins, found[:3], latents, keep, seed)


def _consensus(
    units: Series,
    ready: Series,
    draws: Sequence[Series],
    count: int,
    latents: int,
    clusters: NDArray[np.int64],
    shared: Array,
    runs: int,
    seed: int,
) -> Graph:
    rng = numpy_rng([seed, 6402])
    weights = _similarity(ready, count, latents, runs, rng)
    null_draws = np.stack([_similarity(one, count, latents, max(4, runs // 5), rng) for one in draws])
    # shares of a few runs tie: all pairs of a draw serve as the null of every pair
    own, pooled = (bands(null_draws, weights, how, "circular_shift") for how in ("max", "pooled"))
    null = {**own, "p": pooled["p"]}
    table = units.table.copy() if units.table is not None else pd.DataFrame(index=range(units.n_units))
    table["cluster"], table["shared"] = clusters, shared
    settings = {"n_clusters": count, "runs": runs, "seed": seed, "reading": units.about}
    return Graph(
        units.names, weights, False, "biclustering", null, as_baseline(units), LIMITS, table, settings
    )


def _similarity(ready: Series, count: int, latents: int, runs: int, rng: np.random.Generator) -> Array:
    """(neuron, neuron) share of runs in one cluster, each run on half of ten stretches of time."""
    if count == 1:
        return np.ones((ready.n_units, ready.n_units)) - np.eye(ready.n_units)
    pieces = np.array_split(np.arange(len(ready.values)), 10)
    total = np.zeros((ready.n_units, ready.n_units))
    for _ in range(runs):
        rows = np.concatenate([pieces[k] for k in np.sort(rng.choice(10, 5, replace=False))])
        labels = factor_groups(_covariance(ready.values[rows]), count, latents, rng, 2, 6)[0][1]
        total += labels[:, None] == labels
    np.fill_diagonal(total, 0)
    return total / runs


# ---- states of time


def _features(ready: Series, clusters: NDArray[np.int64], factors: int) -> Array:
    """(sample, feature) leading components of each cluster and their change: as quick on draws of the null as on the data."""
    columns = []
    for k in range(clusters.max() + 1):
        u, s, _ = np.linalg.svd(ready.values[:, clusters == k], full_matrices=False)
        columns.append(u[:, :factors] * s[:factors])
    return _with_change(np.concatenate(columns, 1), ready.segments)


def _with_change(x: Array, segments: Sequence[slice]) -> Array:
    """Beside each column its change from one sample to the next, all of variance 1."""
    change = np.zeros_like(x)
    for part in segments:
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
    width: float,
    seed: int,
) -> tuple[NDArray[np.int64], Array]:
    """Path and transition; where `count` is None, that number of states which gains more on the first of `fakes` (the data,
    as quickly made as the draws) than on any draw, over one state; samples count once every `width`."""
    tried = {}
    for n in [count] if count else range(1, most + 1):
        fits = [fit_states(x, segments, n, stay, [seed, 6403, n, k]) for k in range(1 if n == 1 else 3)]
        likelihood, path, transition = max(fits, key=lambda fit: fit[0])
        tried[n] = _criterion(likelihood, n, x, width), path, transition
    chosen = min(tried, key=lambda n: tried[n][0])
    if count is None and chosen > 1:
        gains = [_gain(one, segments, chosen, stay, width, seed) for one in fakes]
        chosen = chosen if gains[0] > max(gains[1:]) else 1
    best = tried[chosen]
    order = np.argsort(-np.bincount(best[1], minlength=len(best[2])), kind="stable")
    used = order[np.bincount(best[1], minlength=len(best[2]))[order] > 0]
    relabel = np.full(len(best[2]), -1)
    relabel[used] = np.arange(len(used))
    return relabel[best[1]].astype(np.int64), best[2][np.ix_(used, used)]


def _gain(x: Array, segments: Sequence[slice], n: int, stay: float, width: float, seed: int) -> float:
    """By how much `n` states beat one, by one short fit each."""
    one, more = (fit_states(x, segments, k, stay, [seed, 6405, k], 25)[0] for k in (1, n))
    return _criterion(one, 1, x, width) - _criterion(more, n, x, width)


def _criterion(likelihood: float, n: int, x: Array, width: float) -> float:
    """Bayesian information criterion; smaller is better."""
    free = n * (2 * x.shape[1]) + n * (n - 1)
    return float(-2 * likelihood / width + free * np.log(max(len(x) / width, 2.0)))


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
