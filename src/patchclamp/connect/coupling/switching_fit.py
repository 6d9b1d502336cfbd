"""Expectation-maximisation for Poisson neurons whose coupling depends on a hidden state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, gammaln

from patchclamp.base.chains import Posterior, forward_backward
from patchclamp.connect.coupling import one_hot
from patchclamp.connect.coupling.one_hot import OneHot

Array = NDArray[np.float64]
Link = Literal["sigmoid", "softplus", "exp"]
Prior = Literal["naive", "gaussian", "one_hot"]
LINKS, PRIORS = ("sigmoid", "softplus", "exp"), ("naive", "gaussian", "one_hot")


@dataclass(frozen=True)
class Settings:
    """What is fitted.

    Parameters
    ----------
    link
        Rate of a neuron as a function of its drive.
    prior
        Of the weights over states.
    sigma
        Of the Gaussian prior around the mean over states.
    shared_bias
        One bias a neuron, or one a neuron and state.
    own
        Whether a neuron's own past is in the model.
    ridge
        On all weights, so that a state with few spikes stays finite.
    """

    link: Link = "sigmoid"
    prior: Prior = "gaussian"
    sigma: float = 0.5
    shared_bias: bool = True
    own: bool = False
    ridge: float = 0.05


@dataclass(frozen=True, eq=False)
class PastRows:
    """Samples with a whole past: `past` (row, source), `counts` (row, target), and where each sequence has them.

    `place` (sequence, time) are rows, `mask` is False past a sequence's end.
    """

    past: Array
    counts: Array
    place: NDArray[np.int64]
    mask: NDArray[np.bool_]

    @classmethod
    def of(cls, past: Array, counts: Array, rows: NDArray[np.int64]) -> PastRows:
        """Cut where a sample does not follow the one before; the start of a segment, without a past, has no row."""
        new = np.concatenate([[True], np.diff(rows) != 1])
        begin = np.flatnonzero(new)
        lengths = np.diff(np.append(begin, len(rows)))
        step = np.arange(lengths.max())
        mask = step < lengths[:, None]
        return cls(past, counts, np.where(mask, begin[:, None] + step, 0), mask)

    def padded(self, values: Array) -> Array:
        """(..., row, state) as (..., sequence, time, state)."""
        return values[..., self.place, :]

    def flat(self, values: Array) -> Array:
        """(..., sequence, time, state) as (..., row, state)."""
        out = np.empty((*values.shape[:-3], len(self.past), values.shape[-1]))
        out[..., self.place[self.mask], :] = values[..., self.mask, :]
        return out


@dataclass(frozen=True, eq=False)
class Model:
    """Parameters: bias (state, target), weights (state, target, source), transition and initial probabilities."""

    bias: Array
    weights: Array
    transition: Array
    initial: Array
    one_hot: OneHot | None = None


def rate(eta: Array, link: Link) -> tuple[Array, Array]:
    """Rate and its derivative by the drive."""
    if link == "sigmoid":
        f = expit(eta)
        return np.maximum(f, 1e-12), f * (1 - f)
    if link == "softplus":
        return np.maximum(np.logaddexp(0, eta), 1e-12), expit(eta)
    f = np.exp(np.minimum(eta, 20.0))
    return np.maximum(f, 1e-12), f


def drive(model: Model, past: Array) -> Array:
    """(state, row, target)."""
    return past @ np.swapaxes(model.weights, 1, 2) + model.bias[:, None]


def emissions(eta: Array, counts: Array, link: Link) -> Array:
    """(row, state) log p(counts | state), factorials included."""
    f = rate(eta, link)[0]
    values = counts * np.log(f) - f
    return np.asarray((values.sum(2) - gammaln(counts + 1).sum(1)).T)


def posterior(models: list[Model], data: PastRows, link: Link) -> tuple[Posterior, list[Array]]:
    """States of all models at once, and the drives they were computed from."""
    etas = [drive(m, data.past) for m in models]
    likely = np.stack([emissions(eta, data.counts, link) for eta in etas])
    found = forward_backward(
        data.padded(likely),
        np.stack([m.transition for m in models]),
        np.stack([m.initial for m in models]),
        data.mask,
    )
    return found, etas


def fit(
    models: list[Model], data: PastRows, how: Settings, *, most: int = 100, tol: float = 1e-5
) -> tuple[list[Model], Array, NDArray[np.bool_]]:
    """Expectation-maximisation from several starts side by side.

    Returns
    -------
    models, log_likelihood, converged
        (start,) log-likelihood a sample; converged where it changed by less than `tol` at the last step.
    """
    before = np.full(len(models), -np.inf)
    change = np.full(len(models), np.inf)
    for _ in range(most):
        found, etas = posterior(models, data, how.link)
        now = found.log_likelihood.sum((-2, -1)) / len(data.past)
        change, before = np.abs(now - before), now
        if (change < tol).all():
            break
        flat = data.flat(found.states)
        models = [
            m if done else _maximise(m, flat[i], found.states[i, :, 0], found.pairs[i], eta, data, how)
            for i, (m, eta, done) in enumerate(zip(models, etas, change < tol / 10, strict=True))
        ]
    return models, before, change < tol


def _maximise(
    model: Model, states: Array, first: Array, pairs: Array, eta: Array, data: PastRows, how: Settings
) -> Model:
    """One Fisher step of the weights under the states' posterior, and the chain's closed-form update."""
    transition = pairs + 1e-2
    transition /= transition.sum(1, keepdims=True)
    initial = first.sum(0) + 1e-2
    theta, hessian, gradient = _quadratic(model, states, eta, data, how)
    prior = model.one_hot
    if prior is None:
        precision = _precision(len(model.bias), model.weights.shape[2], how)
        aim = gradient - theta @ precision
        step = np.asarray(np.linalg.solve(hessian + precision, aim[..., None])[..., 0], np.float64)
        theta = _searched(theta, step, states, precision, model, data, how)
    else:
        aim, prior = _with_kinds(theta, hessian, gradient, prior, how)
        theta = _trusted(theta, aim - theta, hessian, gradient, states, model, data, how)
    bias, weights = _unpacked(theta, len(model.bias), how)
    return replace(
        model,
        bias=bias,
        weights=weights,
        transition=transition,
        initial=initial / initial.sum(),
        one_hot=prior,
    )


def _quadratic(
    model: Model, states: Array, eta: Array, data: PastRows, how: Settings
) -> tuple[Array, Array, Array]:
    """Parameters (target, all), expected Fisher information (target, all, all) and gradient of each target."""
    s, n = model.bias.shape
    x = np.column_stack([np.ones(len(data.past)), data.past])
    f, slope = rate(eta, how.link)
    score = (data.counts / f - 1) * slope * states.T[..., None]  # state, row, target
    weight = slope**2 / f * states.T[..., None]
    g = np.swapaxes(x.T @ score, 1, 2)  # state, target, column
    p = x.shape[1]
    h = np.zeros((p * p, s * n))
    for at in range(0, len(x), 4096):
        part = slice(at, at + 4096)
        squares = (x[part, :, None] * x[part, None]).reshape(-1, p * p)
        h += squares.T @ np.moveaxis(weight[:, part], 0, 1).reshape(-1, s * n)
    blocks = np.moveaxis(h.reshape(p, p, s, n), (2, 3), (0, 1))
    return _packed(model, how), *_joined(blocks, g, how)


def _joined(blocks: Array, g: Array, how: Settings) -> tuple[Array, Array]:
    """From blocks (state, target, 1 + source, 1 + source) to the joint matrix over biases and all states' weights."""
    s, n, p, _ = blocks.shape
    biases = 1 if how.shared_bias else s
    size = biases + s * (p - 1)
    hessian, gradient = np.zeros((n, size, size)), np.zeros((n, size))
    for state in range(s):
        b = 0 if how.shared_bias else state
        w = slice(biases + state * (p - 1), biases + (state + 1) * (p - 1))
        hessian[:, b, b] += blocks[state, :, 0, 0]
        hessian[:, b, w] += blocks[state, :, 0, 1:]
        hessian[:, w, b] += blocks[state, :, 1:, 0]
        hessian[:, w, w] += blocks[state, :, 1:, 1:]
        gradient[:, b] += g[state, :, 0]
        gradient[:, w] += g[state, :, 1:]
    if not how.own:
        target = np.arange(n)
        for state in range(s):
            at = biases + state * (p - 1) + target
            hessian[target, at, :] = 0
            hessian[target, :, at] = 0
            gradient[target, at] = 0
            hessian[target, at, at] = 1
    hessian += 1e-6 * np.eye(size)
    return hessian, gradient


def _packed(model: Model, how: Settings) -> Array:
    n = model.bias.shape[1]
    bias = model.bias[:1] if how.shared_bias else model.bias
    return np.concatenate([bias.T, np.swapaxes(model.weights, 0, 1).reshape(n, -1)], 1)


def _unpacked(theta: Array, s: int, how: Settings) -> tuple[Array, Array]:
    n = len(theta)
    biases = 1 if how.shared_bias else s
    bias = np.broadcast_to(theta[:, :biases].T, (s, n)).copy()
    weights = np.swapaxes(theta[:, biases:].reshape(n, s, -1), 0, 1).copy()
    return bias, weights


def _precision(s: int, sources: int, how: Settings) -> Array:
    """Of the prior on one target's parameters; under the Gaussian prior states are drawn to their mean."""
    biases = 1 if how.shared_bias else s
    size = biases + s * sources
    out = np.zeros((size, size))
    out[:biases, :biases] = 1e-4 * np.eye(biases)
    between = np.zeros((s, s))
    if how.prior == "gaussian":
        between = (np.eye(s) - 1 / s) / how.sigma**2
    out[biases:, biases:] = np.kron(between + how.ridge * np.eye(s), np.eye(sources))
    return out


def _searched(
    theta: Array, step: Array, states: Array, precision: Array, model: Model, data: PastRows, how: Settings
) -> Array:
    """Halve each target's step until its expected log-likelihood less the penalty does not fall."""

    def value(at: Array) -> Array:
        return np.asarray(
            _expected(at, states, model, data, how) - np.einsum("ia,ab,ib->i", at, precision, at) / 2
        )

    old, size = value(theta), np.ones(len(theta))
    for _ in range(12):
        new = theta + size[:, None] * step
        worse = value(new) < old - 1e-9 * np.abs(old)
        if not worse.any():
            return new
        size = np.where(worse, size / 2, size)
    return np.where(worse[:, None], theta, new)


def _expected(at: Array, states: Array, model: Model, data: PastRows, how: Settings) -> Array:
    """(target,) expected log-likelihood under the states' posterior, without factorials."""
    bias, weights = _unpacked(at, len(model.bias), how)
    f = rate(drive(replace(model, bias=bias, weights=weights), data.past), how.link)[0]
    return np.asarray(((data.counts * np.log(f) - f) * states.T[..., None]).sum((0, 1)))


def _trusted(
    theta: Array,
    step: Array,
    hessian: Array,
    gradient: Array,
    states: Array,
    model: Model,
    data: PastRows,
    how: Settings,
) -> Array:
    """Halve each target's step until the likelihood does what the quadratic said, within half of it."""
    old, size = _expected(theta, states, model, data, how), np.ones(len(theta))
    rise, bend = (gradient * step).sum(1), np.einsum("ia,iab,ib->i", step, hessian, step) / 2
    for _ in range(12):
        new = theta + size[:, None] * step
        said = size * rise - size**2 * bend
        slack = np.maximum(np.abs(size * rise), size**2 * bend) / 2 + 1e-2
        lower = _expected(new, states, model, data, how) - old < said - slack
        if not lower.any():
            break
        size = np.where(lower, size / 2, size)
    return new


def _with_kinds(
    theta: Array, hessian: Array, gradient: Array, prior: OneHot, how: Settings, sweeps: int = 3
) -> tuple[Array, OneHot]:
    """Coordinate ascent on the quadratic: each weight's kind and strength given the means of all others."""
    n, size = theta.shape
    s = len(prior.kind)
    biases = size - s * prior.kind.shape[2]
    linear = gradient + np.einsum("iab,ib->ia", hessian, theta)
    mean, target = theta.copy(), np.arange(n)
    kind, second = prior.kind.copy(), prior.second.copy()
    own = np.zeros((n, prior.kind.shape[2]), bool)
    if not how.own:
        own[target, target] = True
    for _ in range(sweeps):
        for a in range(size):
            curvature = hessian[:, a, a]
            rest = linear[:, a] - np.einsum("ib,ib->i", hessian[:, a], mean) + curvature * mean[:, a]
            if a < biases:
                mean[:, a] = rest / curvature
                continue
            state, source = divmod(a - biases, prior.kind.shape[2])
            new, value, square = one_hot.update_weight(rest, curvature, prior.prior[:, source], prior.scale)
            here = ~own[:, source]
            kind[state, here, source] = new[here]
            second[state, here, source] = square[here]
            mean[:, a] = np.where(here, value, 0.0)
    kind[:, own] = [0.0, 1.0, 0.0]
    second[:, own] = 0.0
    return mean, one_hot.learn(OneHot(kind, prior.prior, prior.scale, second), fixed=own)
