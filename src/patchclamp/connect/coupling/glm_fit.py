"""Maximum of a penalised Bernoulli or Poisson likelihood, for many targets on one design."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit, gammaln

from patchclamp.base.errors import PatchclampError

Array = NDArray[np.float64]
Family = Literal["bernoulli", "poisson"]
CEILING = 30.0  # of the log of a Poisson rate, so that a first long step does not overflow


def family_of(counts: Array, family: str = "auto") -> Family:
    """``"bernoulli"`` where all values are 0 or 1, else ``"poisson"``.

    Raises
    ------
    PatchclampError
        For an unknown family, negative or fractional counts, or counts above 1 under ``"bernoulli"``.
    """
    if family not in ("auto", "bernoulli", "poisson"):
        raise PatchclampError(f"family {family!r}: give auto, bernoulli or poisson")
    if (counts < 0).any() or (counts != np.round(counts)).any():
        bad = counts[(counts < 0) | (counts != np.round(counts))][0]
        raise PatchclampError(f"a count of {bad:g}: this model is of spikes; bin them to whole numbers first")
    binary = counts.max() <= 1
    if family == "bernoulli" and not binary:
        raise PatchclampError(
            f"{counts.max():g} spikes in one bin: take finer bins, or family='poisson' for counts"
        )
    return "bernoulli" if family == "bernoulli" or (family == "auto" and binary) else "poisson"


def mean(eta: Array, family: Family) -> Array:
    """Expected count: logistic(eta) or exp(eta)."""
    return expit(eta) if family == "bernoulli" else np.exp(np.minimum(eta, CEILING))


def log_likelihood(eta: Array, y: Array, family: Family) -> Array:
    """Of each entry, in nats; the Poisson one with its factorial."""
    if family == "bernoulli":
        return y * eta - np.logaddexp(0, eta)
    eta = np.minimum(eta, CEILING)
    factorial: Array = gammaln(y + 1)
    return y * eta - np.exp(eta) - factorial


def _curvature(mu: Array, family: Family) -> Array:
    return mu * (1 - mu) if family == "bernoulli" else mu


@dataclass
class Fit:
    """Coefficients (1 + column, target), the intercept first, and whether each target's fit converged."""

    coefficients: Array
    converged: NDArray[np.bool_]


def fit_ridge(
    x: Array,
    y: Array,
    family: Family,
    penalty: Array,
    *,
    tol: float = 1e-7,
    most: int = 100,
) -> Fit:
    """Maximise sum log p(y | b + x beta) - 1/2 sum_c penalty_c beta_c^2 for each column of y.

    Newton steps whose Hessian is kept as long as they converge fast: the first is the Gram matrix times the mean
    curvature, computed once for all targets. Each step is halved until the objective does not fall; the end is a
    predicted gain below `tol` nats.

    Parameters
    ----------
    x, y
        (row, column), (row, target).
    penalty
        (column,) or (column, target), not negative; the intercept has none.
    """
    ones = np.column_stack([np.ones(len(x)), x])
    ridge = np.zeros((ones.shape[1], y.shape[1]))
    ridge[1:] = penalty if penalty.ndim == 2 else penalty[:, None]
    beta = _at_the_rate(ones.shape[1], y, family)
    eta = ones @ beta
    mu = mean(eta, family)
    gram = ones.T @ ones
    factors = [
        _factor(gram * max(_curvature(mu[:, i], family).mean(), 1e-8), ridge[:, i]) for i in range(y.shape[1])
    ]
    value = _objective(eta, beta, y, family, ridge)
    fresh = np.zeros(y.shape[1], bool)
    before = np.full(y.shape[1], np.inf)
    open_ = np.arange(y.shape[1])
    for _ in range(most):
        gradient = ones.T @ (y[:, open_] - mean(eta[:, open_], family)) - ridge[:, open_] * beta[:, open_]
        step = np.column_stack([cho_solve(factors[i], g) for i, g in zip(open_, gradient.T, strict=True)])
        gain = (gradient * step).sum(0) / 2
        still = gain > tol
        # A target that gains less than four times less than at the last step needs the Hessian of where it is.
        stale = still & (gain > before[open_] / 4) & ~fresh[open_]
        for place in np.flatnonzero(stale):
            i = open_[place]
            weight = _curvature(mean(eta[:, i], family), family)
            factors[i] = _factor(ones.T @ (ones * weight[:, None]), ridge[:, i])
            step[:, place] = cho_solve(factors[i], gradient[:, place])
        fresh[open_] = stale
        before[open_] = np.where(stale, np.inf, gain)
        open_, step = open_[still], step[:, still]
        if not len(open_):
            break
        eta[:, open_], beta[:, open_], value[open_] = _searched(
            eta[:, open_], beta[:, open_], value[open_], step, ones, y[:, open_], family, ridge[:, open_]
        )
    converged = np.ones(y.shape[1], bool)
    converged[open_] = False
    return Fit(beta, converged)


def _at_the_rate(n: int, y: Array, family: Family) -> Array:
    beta = np.zeros((n, y.shape[1]))
    rate = np.clip(y.mean(0), 0.5 / len(y), None)
    if family == "bernoulli":
        rate = np.minimum(rate, 1 - 0.5 / len(y))
        beta[0] = np.log(rate / (1 - rate))
    else:
        beta[0] = np.log(rate)
    return beta


def _factor(hessian: Array, ridge: Array) -> tuple[Array, bool]:
    damped = hessian + np.diag(ridge) + 1e-9 * np.trace(hessian) / len(hessian) * np.eye(len(hessian))
    factor: tuple[Array, bool] = cho_factor(damped, check_finite=False)
    return factor


def _objective(eta: Array, beta: Array, y: Array, family: Family, ridge: Array) -> Array:
    objective: Array = log_likelihood(eta, y, family).sum(0) - (ridge * beta**2).sum(0) / 2
    return objective


def _searched(
    eta: Array, beta: Array, value: Array, step: Array, ones: Array, y: Array, family: Family, ridge: Array
) -> tuple[Array, Array, Array]:
    """Take the step of each target, halved until its objective does not fall."""
    move = ones @ step
    size = np.ones(step.shape[1])
    for _ in range(30):
        new_eta, new_beta = eta + size * move, beta + size * step
        new = _objective(new_eta, new_beta, y, family, ridge)
        worse = new < value - 1e-9 * np.abs(value)
        if not worse.any():
            break
        size = np.where(worse, size / 2, size)
    return new_eta, new_beta, new


def strongest(x: Array, y: Array, family: Family, groups: NDArray[np.int64]) -> Array:
    """(target,) smallest group-lasso strength at which every penalised group is zero.

    max over groups g of |X_g' (y - mu_0)| / sqrt(|g|), with mu_0 the fit of the unpenalised columns (group -1).
    """
    free = x[:, groups < 0]
    fit = fit_ridge(free, y, family, np.full(free.shape[1], 1e-6))
    mu = mean(np.column_stack([np.ones(len(x)), free]) @ fit.coefficients, family)
    gradient = x.T @ (y - mu)
    ids = np.unique(groups[groups >= 0])
    norms = [np.linalg.norm(gradient[groups == g], axis=0) / np.sqrt((groups == g).sum()) for g in ids]
    return np.asarray(np.max(norms, axis=0))


def fit_group_lasso(
    x: Array,
    y: Array,
    family: Family,
    groups: NDArray[np.int64],
    strength: Array,
    *,
    tol: float = 1e-6,
    most: int = 50,
) -> Fit:
    """Maximise sum log p(y | b + x beta) - strength_i sum_g sqrt(|g|) ||beta_g|| for each target i.

    Proximal Newton: the quadratic model at each point is maximised by accelerated proximal gradient on the Hessian alone,
    so that the samples are read once a step. Columns with group -1 are not penalised.
    """
    ones = np.column_stack([np.ones(len(x)), x])
    groups = np.concatenate([[-1], groups])
    beta = _at_the_rate(ones.shape[1], y, family)
    converged = np.zeros(y.shape[1], bool)
    for i in range(y.shape[1]):
        beta[:, i], converged[i] = _one_lasso(
            ones, y[:, i], family, groups, strength[i], beta[:, i], tol, most
        )
    return Fit(beta, converged)


def _one_lasso(
    ones: Array,
    y: Array,
    family: Family,
    groups: NDArray[np.int64],
    strength: float,
    beta: Array,
    tol: float,
    most: int,
) -> tuple[Array, bool]:
    def objective(eta: Array, b: Array) -> float:
        return float(log_likelihood(eta, y, family).sum() - strength * group_norm(b, groups))

    eta = ones @ beta
    value = objective(eta, beta)
    for _ in range(most):
        mu = mean(eta, family)
        gradient = ones.T @ (y - mu)
        hessian = ones.T @ (ones * np.maximum(_curvature(mu, family), 1e-10)[:, None])
        hessian += 1e-9 * np.trace(hessian) / len(hessian) * np.eye(len(hessian))
        wanted = _quadratic(hessian, gradient + hessian @ beta, beta, groups, strength)
        step = wanted - beta
        move, size = ones @ step, 1.0
        gained = objective(eta + move, wanted) - value
        while gained < -1e-9 * abs(value) and size > 1e-8:
            size /= 2
            gained = objective(eta + size * move, beta + size * step) - value
        # At a full step the proximal point itself is taken, whose zeros are exact.
        beta = wanted if size == 1 else beta + size * step
        eta = ones @ beta
        value = objective(eta, beta)
        if abs(gained) < tol:
            return beta, True
    return beta, False


def _quadratic(
    hessian: Array, linear: Array, start: Array, groups: NDArray[np.int64], strength: float
) -> Array:
    """Maximum of linear'b - b'Hb / 2 - strength * group norm, by accelerated proximal gradient with restarts."""
    scale: Array = 1 / np.sqrt(np.diag(hessian).clip(1e-12))
    # One scale a group: within a group the norm must stay a norm of the same vector.
    ids = np.unique(groups[groups >= 0])
    for g in ids:
        scale[groups == g] = scale[groups == g].min()
    h, c = hessian * scale[:, None] * scale, linear * scale
    rate = 1 / np.linalg.eigvalsh(h)[-1]
    member = [groups == g for g in ids]
    threshold = [strength * np.sqrt(m.sum()) * scale[m][0] * rate for m in member]
    b: Array = start / scale
    z = b
    t = 1.0
    for _ in range(5000):
        new = z + rate * (c - h @ z)
        for m, limit in zip(member, threshold, strict=True):
            size = np.linalg.norm(new[m])
            new[m] *= max(0.0, 1 - limit / size) if size > 0 else 0.0
        change = new - b
        if (z - new) @ change > 0:
            t = 1.0
        faster = (1 + np.sqrt(1 + 4 * t * t)) / 2
        z = new + (t - 1) / faster * change
        b, t = new, faster
        if np.abs(change).max() < 1e-10 * max(1.0, np.abs(b).max()):
            break
    return b * scale


def group_norm(beta: Array, groups: NDArray[np.int64]) -> float:
    """sum over groups of sqrt(size) times the Euclidean norm; group -1 is left out."""
    ids = np.unique(groups[groups >= 0])
    return float(sum(np.sqrt((groups == g).sum()) * np.linalg.norm(beta[groups == g]) for g in ids))
