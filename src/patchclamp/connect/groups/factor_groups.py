"""Groups of neurons, each of which shares a few latents: factor analysis in blocks, from the correlations alone.

Neuron i of group k is y_i = c_i . x_k + noise of variance psi_i, x_k ~ N(0, I) in p dimensions. The covariance of all neurons is
then a block a group, of rank p plus a diagonal, and log p(Y) = sum over groups of T log N(0, C_k C_k' + Psi_k). Two neurons of one
group need not correlate (their loadings may be at right angles), so a distance between pairs cannot find it; what the others
of a group say about a neuron can. A neuron is never told by itself: its own part is left out of the latents.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
FLOOR = 0.02  # smallest share of a neuron's variance that is its own
RIDGES = (0.1, 0.3, 1.0, 0.03, 3.0)


def factor_analysis(covariance: Array, factors: int, steps: int = 15) -> tuple[Array, Array, float]:
    """Loadings (neuron, factor), own variances (neuron,) and log-likelihood a sample, by expectation-maximisation."""
    n, p = len(covariance), min(factors, len(covariance))
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.maximum(values[-p:], 1e-9), vectors[:, -p:]
    scale = np.diag(covariance)
    own = np.maximum(scale - 0.9 * (vectors**2 * values).sum(1), 0.05 * scale)
    load = vectors * np.sqrt(np.maximum(values - own.mean(), 0.01 * scale.mean()))
    for _ in range(steps):
        spread, weights = posterior(load, own)
        cross = weights @ covariance
        load = np.linalg.solve(spread + cross @ weights.T + 1e-9 * np.eye(p), cross).T
        own = np.maximum(scale - (load * cross.T).sum(1), FLOOR * scale)
    whole = load @ load.T + np.diag(own)
    value = np.linalg.slogdet(whole)[1] + np.trace(np.linalg.solve(whole, covariance))
    return load, own, float(-0.5 * (value + n * np.log(2 * np.pi)))


def posterior(load: Array, own: Array) -> tuple[Array, Array]:
    """Covariance of the latents given the neurons, and the weights (factor, neuron) of their mean."""
    part = load / own[:, None]
    spread: Array = np.asarray(np.linalg.inv(np.eye(load.shape[1]) + load.T @ part), np.float64)
    return spread, spread @ part.T


def predictions(
    covariance: Array, labels: Labels, count: int, factors: int, only: NDArray[np.bool_] | None = None
) -> tuple[Array, float]:
    """(group, neuron, neuron) weights with which each group's others predict a neuron, and the log-likelihood a sample.

    ``weights[k, i] @ y`` is the best guess of neuron i from the latents of group k, to which i itself does not contribute.
    """
    n = len(covariance)
    out, total = np.zeros((count, n, n)), 0.0
    for k in range(count):
        inside = np.flatnonzero(labels == k)
        if not len(inside):
            continue
        block = covariance[np.ix_(inside, inside)]
        load, own, value = factor_analysis(block, factors)
        total += value
        weights = posterior(load, own)[1]
        out[k][:, inside] = _regressed(weights, block, covariance[inside]).T
        for a, i in enumerate(inside):
            rest = np.arange(len(inside)) != a
            out[k, i] = 0
            if rest.any():
                weights = posterior(load[rest], own[rest])[1]
                to = covariance[inside[rest], i : i + 1]
                out[k, i, inside[rest]] = _regressed(weights, block[np.ix_(rest, rest)], to)[:, 0]
    return out, total


def _regressed(weights: Array, block: Array, cross: Array) -> Array:
    """(member, neuron) weights of the regression of neurons on the latents' means."""
    spread = weights @ block @ weights.T
    spread = spread + 1e-6 * (np.trace(spread) + 1e-9) * np.eye(len(spread))
    return np.asarray(weights.T @ np.linalg.solve(spread, weights @ cross))


def left_over(weights: Array, covariance: Array) -> Array:
    """(neuron, group) variance that is left of each neuron after the guess of each group."""
    out = []
    for part in weights:
        explained = 2 * (part * covariance).sum(1) - ((part @ covariance) * part).sum(1)
        out.append(np.diag(covariance) - explained)
    return np.asarray(np.maximum(np.stack(out, 1), FLOOR * np.diag(covariance)[:, None]))


def factor_groups(
    covariance: Array, count: int, factors: int, rng: np.random.Generator, starts: int = 10, steps: int = 20
) -> list[tuple[float, Labels]]:
    """Partitions into `count` groups from several starts, the most likely first, each one once."""
    n = len(covariance)
    if count < 2 or n <= count:
        labels = np.zeros(n, np.int64) if count < 2 else np.arange(n)
        return [(predictions(covariance, labels, count, factors)[1], labels)]
    found: dict[bytes, tuple[float, Labels]] = {}
    for start in range(starts):
        labels = (
            _spectral(covariance, count, RIDGES[start % len(RIDGES)], rng)
            if start < 2 * len(RIDGES)
            else rng.integers(0, count, n)
        )
        best, stale = (-np.inf, labels), 0
        for _ in range(steps):
            weights, value = predictions(covariance, labels, count, factors)
            best, stale = ((value, labels), 0) if value > best[0] + 1e-6 else (best, stale + 1)
            to = left_over(weights, covariance).argmin(1)
            if (to == labels).all() or stale > 4:
                break
            labels = np.where(rng.random(n) < 0.7, to, labels)
        ordered = by_size(best[1])
        found.setdefault(ordered.tobytes(), (best[0], ordered))
    return sorted(found.values(), key=lambda one: -one[0])


def latent_means(values: Array, labels: Labels, factors: int) -> Array:
    """(group, sample, factor) posterior means of the latents of each group."""
    out = np.zeros((int(labels.max()) + 1, len(values), factors))
    for k in range(len(out)):
        part = values[:, labels == k]
        load, own, _ = factor_analysis(part.T @ part / len(part) + 1e-9 * np.eye(part.shape[1]), factors)
        out[k, :, : load.shape[1]] = part @ posterior(load, own)[1].T
    return out


def _spectral(covariance: Array, count: int, ridge: float, rng: np.random.Generator) -> Labels:
    """Clusters of the graph of partial correlations, which is one block a group where latents are independent."""
    scale = 1 / np.sqrt(np.diag(covariance))
    inverse = np.linalg.inv(covariance * np.outer(scale, scale) + ridge * np.eye(len(covariance)))
    near = np.abs(inverse / np.sqrt(np.outer(np.diag(inverse), np.diag(inverse))))
    np.fill_diagonal(near, 0)
    root = 1 / np.sqrt(near.sum(1) + 1e-12)
    vectors = np.linalg.eigh(near * np.outer(root, root))[1][:, -count:]
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return np.asarray(kmeans2(vectors, count, minit="++", rng=rng)[1].astype(np.int64))


def by_size(labels: Labels) -> Labels:
    """The same numbered without gaps, the largest group first, the one with the earliest neuron before its equals."""
    _, first, labels, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    return np.asarray(np.argsort(np.lexsort((first, -sizes)))[labels].astype(np.int64))


def held_out(train: Array, test: Array, labels: Labels, count: int, factors: int) -> Array:
    """(neuron,) half the log ratio of its variance to what is left after the guess of its group's others, in other samples.

    Weights are those of `train`. 0 or less: the others say nothing about it.
    """
    weights = predictions(train, labels, count, factors)[0]
    own = weights[labels, np.arange(len(train))]
    error = np.diag(test) - 2 * (own * test).sum(1) + ((own @ test) * own).sum(1)
    alone = np.diag(test)
    return np.asarray(0.5 * np.log(alone / np.maximum(error, FLOOR * alone)))


def choose(
    halves: list[tuple[Array, Array]], factors: int, most: int, rng: np.random.Generator
) -> tuple[int, int, dict[tuple[int, int], float]]:
    """Number of groups and of latents of each, and the held-out score of all (groups, latents) that were tried.

    Of those that are within a standard error of the best over `halves` (covariances of two halves of the time), the one with
    the fewest latents in all, and of these the one with most groups. One group with as many latents as the chosen ones have
    together is scored for comparison and not chosen.
    """
    n = len(halves[0][0])
    tried: dict[tuple[int, int], Array] = {}
    for latents in range(1, min(factors, n - 1) + 1):
        best, worse = -np.inf, 0
        for count in range(1, min(most, n // 2) + 1):
            tried[count, latents] = _scores(halves, count, latents, rng)
            worse = worse + 1 if tried[count, latents].mean() < best else 0
            best = max(best, float(tried[count, latents].mean()))
            if worse > 1:
                break
    top = max(tried.values(), key=lambda one: float(one.mean()))
    root = np.sqrt(len(halves))
    near = [key for key, one in tried.items() if (top - one).mean() <= (top - one).std(ddof=1) / root]
    count, latents = min(near, key=lambda key: (key[0] * key[1], -key[0]))
    if (whole := min(count * latents, n - 1)) > latents:
        tried[1, whole] = _scores(halves, 1, whole, rng)
    return count, latents, {key: float(one.mean()) for key, one in tried.items()}


def _scores(halves: list[tuple[Array, Array]], count: int, factors: int, rng: np.random.Generator) -> Array:
    """(half,) mean held-out score."""
    out = []
    for train, test in halves:
        labels = factor_groups(train, count, factors, rng, 2, 8)[0][1]
        out.append(held_out(train, test, labels, count, factors).mean())
    return np.array(out)
