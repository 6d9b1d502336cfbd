"""Groups of neurons that share latents, by the counts themselves: negative binomial, log-mean d_i + c_i . x_t of its group.

x of a group are p independent autoregressive paths of variance 1, c_i ~ N(0, I). Latents are at their posterior mode (Newton steps
on a banded system), loadings too; a neuron goes to the group whose latents, found without it, give its counts the largest
evidence (Laplace). As r_i grows the counts become Poisson's; it comes from the squares of what is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky_banded, solveh_banded
from scipy.special import gammaln

from patchclamp.base.seeds import numpy_rng
from patchclamp.connect.groups.factor_groups import by_size, factor_analysis, posterior
from patchclamp.draw.cards import shown

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
EVEN = 1e3  # dispersion that is as good as Poisson's


class Counts:
    """(sample, neuron) counts, their dispersion, and where a stretch of time begins."""

    def __init__(self, values: Array, begins: NDArray[np.bool_], keep: float) -> None:
        self.y, self.begins, self.keep = values, begins, keep
        self.r = np.full(values.shape[1], EVEN)
        self.most = np.log(values.max(0) + 1) + 2  # a mean far above every count is a step too far
        self.base = np.log(values.mean(0) + 0.05)

    def slopes(self, linear: Array, who: Labels) -> tuple[Array, Array]:
        """Derivative of the log-likelihood by the log-mean, and its expected curvature."""
        mean = np.exp(np.minimum(linear, self.most[who]))
        scale = 1 + mean / self.r[who]
        return (self.y[:, who] - mean) / scale, mean / scale

    def likelihood(self, linear: Array, who: Labels) -> Array:
        """(neuron,) log-likelihood."""
        mean, r, y = np.exp(np.minimum(linear, self.most[who])), self.r[who], self.y[:, who]
        ratio = mean / r
        out = y * (np.log(ratio) - np.log1p(ratio)) - r * np.log1p(ratio)
        return np.asarray((out + gammaln(y + r) - gammaln(r) - gammaln(y + 1)).sum(0))

    def disperse(self, linear: Array, who: Labels) -> None:
        """Dispersion by moments: the variance is mean + mean^2 / r."""
        mean = np.exp(np.minimum(linear, self.most[who]))
        extra = ((self.y[:, who] - mean) ** 2 - mean).sum(0)
        self.r[who] = np.clip((mean**2).sum(0) / np.maximum(extra, 1e-9), 0.5, EVEN)

    def prior(self) -> tuple[Array, Array]:
        """Diagonal and next diagonal (0 where a stretch begins) of the precision of one latent."""
        scale = 1 / (1 - self.keep**2)
        follows = ~self.begins  # sample t depends on t - 1
        ahead = np.r_[follows[1:], False]
        diagonal = np.where(follows, scale, 1.0) + np.where(ahead, scale * self.keep**2, 0.0)
        return diagonal, np.where(follows, -self.keep * scale, 0.0)


@shown
@dataclass
class Shared:
    """Latents of every group (group, sample, factor), and intercepts and loadings (neuron, 1 + factor)."""

    x: Array
    b: Array


def mode(counts: Counts, b: Array, who: Labels, x: Array, steps: int = 6) -> tuple[Array, float]:
    """Latents (sample, factor) at the posterior mode from the neurons `who`, and the log-evidence at it (Laplace)."""
    t, p = x.shape
    diagonal, step_back = counts.prior()
    load, base = b[who, 1:], b[who, 0]
    constant = 0.5 * p * np.where(counts.begins, 0.0, -np.log(1 - counts.keep**2)).sum()

    def times(path: Array) -> Array:
        out = diagonal[:, None] * path
        out[1:] += step_back[1:, None] * path[:-1]
        out[:-1] += step_back[1:, None] * path[1:]
        return np.asarray(out)

    def value(path: Array) -> float:
        return float(counts.likelihood(base + path @ load.T, who).sum() - 0.5 * (path * times(path)).sum())

    now = value(x)
    bands = np.zeros((p + 1, t * p))
    for _ in range(steps):
        slope, curvature = counts.slopes(base + x @ load.T, who)
        hessian = np.einsum("ti,ia,ib->tab", curvature, load, load, optimize=True)
        bands = np.zeros((p + 1, t * p))
        bands[p] = (diagonal[:, None] + np.einsum("taa->ta", hessian)).ravel()
        for k in range(1, p):
            for column in range(k, p):
                bands[p - k, column::p] = hessian[:, column - k, column]
        bands[0] += np.repeat(step_back, p)
        bands[0, :p] = 0
        change = solveh_banded(bands, (slope @ load - times(x)).ravel()).reshape(t, p)
        size, reached = 1.0, value(x + change)
        while reached <= now and size > 0.05:
            size /= 2
            reached = value(x + size * change)
        if reached <= now:
            break
        x, gained, now = x + size * change, reached - now, reached
        if gained < 1e-5 * abs(now):
            break
    factor = cholesky_banded(bands) if steps else bands
    return x, now + constant - float(np.log(factor[p]).sum())


def regress(
    counts: Counts, x: Array, who: Labels, b: Array | None = None, steps: int = 8
) -> tuple[Array, Array]:
    """Intercepts and loadings of neurons on latents (sample, factor) or (neuron, sample, factor), and their log-evidence."""
    n, (t, p) = len(who), x.shape[-2:]
    design = np.broadcast_to(np.concatenate([np.ones((*x.shape[:-1], 1)), x], -1), (n, t, p + 1))
    precision = np.diag(np.r_[1e-3, np.ones(p)])
    if b is None:
        b = np.zeros((n, p + 1))
        b[:, 0] = counts.base[who]

    def linear(b: Array) -> Array:
        return np.asarray(np.einsum("ntp,np->tn", design, b))

    def value(b: Array) -> Array:
        return np.asarray(counts.likelihood(linear(b), who) - 0.5 * ((b @ precision) * b).sum(1))

    now = value(b)
    curved = np.broadcast_to(precision, (n, p + 1, p + 1))
    for _ in range(steps):
        slope, curvature = counts.slopes(linear(b), who)
        curved = np.einsum("ntp,tn,ntq->npq", design, curvature, design, optimize=True) + precision
        change = np.linalg.solve(curved, (np.einsum("ntp,tn->np", design, slope) - b @ precision)[..., None])
        size = np.ones((n, 1))
        for _ in range(6):
            reached = value(b + size * change[..., 0])
            worse = reached < now
            if not worse.any():
                break
            size[worse] /= 2
        better = reached >= now
        b = np.where(better[:, None], b + size * change[..., 0], b)
        gained = np.where(better, reached - now, 0.0)
        now = np.where(better, reached, now)
        if gained.max() < 1e-3:
            break
    evidence = now + 0.5 * np.linalg.slogdet(precision)[1] - 0.5 * np.linalg.slogdet(curved)[1]
    return b, np.asarray(evidence)


def settle(
    counts: Counts, labels: Labels, count: int, shared: Shared, rounds: int, least: float = 1e-6
) -> float:
    """Latents, loadings and dispersions in turn, groups as they are; in place. The log-evidence."""
    last = -np.inf
    for _ in range(rounds):
        total = 0.0
        for k in range(count):
            who = np.flatnonzero(labels == k)
            if not len(who):
                shared.x[k] = 0
                continue
            shared.x[k], value = mode(counts, shared.b, who, shared.x[k])
            shared.b[who], _ = regress(counts, shared.x[k], who, shared.b[who], 3)
            counts.disperse(shared.b[who, 0] + shared.x[k] @ shared.b[who, 1:].T, who)
            total += value - 0.5 * float((shared.b[who, 1:] ** 2).sum())
        if abs(total - last) < least * abs(total):
            break
        last = total
    return total


def begin(counts: Counts, ready: Array, labels: Labels, count: int, factors: int) -> Shared:
    """Latents from a factor analysis of `ready`, counts made roughly Gaussian, and loadings on them."""
    t, n = ready.shape
    shared = Shared(np.zeros((count, t, factors)), np.zeros((n, factors + 1)))
    for k in range(count):
        who = np.flatnonzero(labels == k)
        if not len(who):
            continue
        part = ready[:, who]
        load, own, _ = factor_analysis(part.T @ part / t, factors)
        path = part @ posterior(load, own)[1].T
        shared.x[k, :, : path.shape[1]] = path / np.maximum(path.std(0), 1e-6)
        shared.b[who], _ = regress(counts, shared.x[k], who)
    return shared


def regroup(
    counts: Counts, labels: Labels, count: int, shared: Shared, rng: np.random.Generator, rounds: int = 12
) -> tuple[float, Labels]:
    """Neurons to the group that says most about them, and latents anew, until none moves. Log-evidence and groups."""
    seen: set[bytes] = set()
    for _ in range(rounds):
        settle(counts, labels, count, shared, 2)
        n = np.arange(len(labels))
        evidence, b = np.full((len(n), count), -np.inf), np.zeros((len(n), count, shared.b.shape[1]))
        for k in range(count):
            inside, outside = np.flatnonzero(labels == k), np.flatnonzero(labels != k)
            if len(outside):
                b[outside, k], evidence[outside, k] = regress(counts, shared.x[k], outside)
            if len(inside):
                without = [
                    mode(counts, shared.b, inside[inside != i], shared.x[k], 2)[0]
                    if len(inside) > 1
                    else np.zeros_like(shared.x[k])
                    for i in inside
                ]
                b[inside, k], evidence[inside, k] = regress(
                    counts, np.stack(without), inside, shared.b[inside]
                )
        to = evidence.argmax(1)
        if (to == labels).all() or labels.tobytes() in seen:
            break
        seen.add(labels.tobytes())
        move = (rng.random(len(n)) < 0.8) & (to != labels)
        labels = np.where(move, to, labels)
        shared.b[move] = b[move, labels[move]]
    return settle(counts, labels, count, shared, 12), labels


def count_groups(
    values: Array,
    ready: Array,
    begins: NDArray[np.bool_],
    starts: list[Labels],
    factors: int,
    keep: float,
    seed: int,
) -> Labels:
    """The partition with the largest evidence that is reached from these."""
    best = -np.inf, starts[0]
    for k, labels in enumerate(starts):
        counts, many = Counts(values, begins, keep), int(labels.max()) + 1
        shared = begin(counts, ready, labels, many, factors)
        found = regroup(counts, labels, many, shared, numpy_rng([seed, 6407, k]))
        best = max(best, found, key=lambda one: one[0])
    return by_size(best[1])


def count_latents(
    values: Array, ready: Array, begins: NDArray[np.bool_], labels: Labels, factors: int, keep: float
) -> Array:
    """(group, sample, factor) latents of these groups."""
    counts, many = Counts(values, begins, keep), int(labels.max()) + 1
    shared = begin(counts, ready, labels, many, factors)
    settle(counts, labels, many, shared, 10)
    return shared.x
