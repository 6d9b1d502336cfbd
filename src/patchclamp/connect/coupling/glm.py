"""Coupling by regression: each neuron's spikes on the past of all neurons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Unpack

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.folds import blocked_folds
from patchclamp.connect.coupling.glm_basis import Basis, design, history_basis
from patchclamp.connect.coupling.glm_fit import (
    Family,
    Fit,
    family_of,
    fit_group_lasso,
    fit_ridge,
    log_likelihood,
    strongest,
)
from patchclamp.connect.coupling.lagged import lagged_correlation
from patchclamp.connect.nulls import Correction, make_null, shared_scale_null
from patchclamp.connect.series import Series, series
from patchclamp.connect.surrogates import Null
from patchclamp.nouns.graph import Graph
from patchclamp.nouns.recording.matrix import MatrixLike, Reading

Array = NDArray[np.float64]
Penalty = Literal["ridge", "group_lasso"]
FREE = 1e-3  # ridge on what is not coupling: keeps a column that never changes from making the fit singular
LIMITS = (
    "synapses or causation: a neuron that was not recorded and drives both shows as coupling, as does a stimulus that "
    "is not among the covariates; nothing faster than one sample is seen"
)


def glm_coupling(
    data: MatrixLike,
    groups: Sequence[Any] | None = None,
    *,
    family: str = "auto",
    window: int = 10,
    basis: Basis = "cosine",
    n_basis: int = 3,
    penalty: Penalty = "ridge",
    strength: float | Sequence[float] = 1.0,
    covariates: ArrayLike | None = None,
    folds: int = 5,
    null: Null | None = "auto",
    null_samples: int = 100,
    correction: Correction = "max",
    seed: int = 0,
    **reading: Unpack[Reading],
) -> Graph:
    """How the past of each neuron changes the rate of each other, all others given.

    eta_i(t) = b_i + sum_j sum_k beta_ijk sum_l phi_k(l) x_j(t - l) + c(t)' gamma_i, with x_i(t) Bernoulli(logistic(eta)) or
    Poisson(exp(eta)). The weight of j -> i is sum_k beta_ijk: what one spike of j adds to i's log-odds (log-rate), summed
    over lags. The neuron's own past is in the model and off the graph (column `own` of `node_data`).

    Parameters
    ----------
    data
        A `Recording` of spikes in bins, or an array (samples, units).
    groups
        One entry a sample: trials, runs, animals. By default those of the recording; no past crosses from one to the next.
    family
        ``"bernoulli"``, ``"poisson"``, or ``"auto"``: Bernoulli where no bin has two spikes.
    window, basis, n_basis
        Lags 1 .. window, in samples, and the functions they are weighed by (`history_basis`).
    penalty
        ``"ridge"``: strength / 2 times the sum of squares; ``"group_lasso"``: all functions of one source are in or out
        together, and `strength` is the share of the value at which no target has a source.
    strength
        Of the penalty on coupling; several: the one of the best held-out likelihood. Own past and covariates have a ridge
        of 1e-3 under ridge and no penalty under the group lasso.
    covariates
        (sample, column) of what else drives the neurons, such as a stimulus at several lags; put on one scale.
    folds
        Of the held-out likelihood: whole groups; with fewer groups than folds stretches of time with a gap.
    null, null_samples, correction, seed, reading
        As in `correlation`. All is fitted anew on every surrogate, at the same strength. Under the group lasso q is against
        the largest weight of each surrogate, whatever `correction` says.

    Returns
    -------
    Graph
        Directed. `node_data`: rate, bias, own, converged, and `gain`: held-out nats per sample over the model without
        coupling, `gain_low` and `gain_high` its 95 % interval over folds. `params["filters"]` (target, source, lag)
        of coupling and own past; `params["covariates"]` (column, target). The baseline is `lagged_correlation`, whose baseline is the
        correlation at lag 0.

    Raises
    ------
    PatchclampError
        For what is not counts, no group longer than the window, covariates of another length.

    Notes
    -----
    Pillow et al. 2008, Truccolo et al. 2005. With several strengths, `gain` is that of the chosen one on the folds that
    chose it, and slightly too high.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> a = rng.random(2000) < 0.2
    >>> b = rng.random(2000) < np.where(np.roll(a, 1), 0.6, 0.05)
    >>> found = glm_coupling(np.stack([a, b], 1), window=3, null_samples=19)
    >>> found.edges(significant=0.05)[["source", "target"]].values.tolist()
    [['unit[0]', 'unit[1]']]
    """
    units = series(data, groups, what="glm_coupling", time=True, **reading)
    problem = _Problem(
        family_of(units.values, family),
        history_basis(basis, window if basis == "bins" else n_basis, window),
        penalty,
        _columns(covariates, len(units.values)),
    )
    if penalty == "group_lasso":
        problem = replace(problem, largest=problem.largest_penalty(units))
    strengths = tuple(float(s) for s in np.atleast_1d(np.asarray(strength, np.float64)))
    _check(penalty, strengths)
    group = units.group
    gains = np.stack([problem.gain(units, s, group, folds) for s in strengths])
    chosen = strengths[int(gains.sum((1, 2)).argmax())]
    fit = problem.fit(units, chosen)
    weights = problem.weights(fit.coefficients, units.n_units)

    def surrogate(values: Series) -> Array:
        return problem.weights(problem.fit(values, chosen, rough=True).coefficients, values.n_units)

    found: dict[str, Any] | None
    if penalty == "group_lasso":  # most draws of a pair are exactly 0
        found = shared_scale_null(
            surrogate, units, weights, null=null, samples=null_samples, seed=seed, reach=window
        )
    else:
        found = make_null(
            surrogate,
            units,
            weights,
            null=null,
            samples=null_samples,
            seed=seed,
            correction=correction,
            directed=True,
            reach=window,
        )
    lags = tuple(range(1, window + 1))
    baseline = lagged_correlation(
        data,
        groups,
        lags=lags,
        null=null,
        null_samples=null_samples,
        correction=correction,
        seed=seed,
        **reading,
    )
    table = problem.table(units, fit, gains[strengths.index(chosen)])
    settings = {
        "family": problem.family,
        "window": window,
        "basis": basis,
        "penalty": penalty,
        "strength": chosen,
        "filters": problem.filters(fit.coefficients, units.n_units),
        "covariates": fit.coefficients[1 + units.n_units * problem.basis.shape[1] :],
        "seed": seed,
        "reading": units.about,
    }
    return Graph(units.names, weights, True, "glm_coupling", found, baseline, LIMITS, table, settings)


def _check(penalty: str, strengths: tuple[float, ...]) -> None:
    if penalty not in ("ridge", "group_lasso"):
        raise PatchclampError(f"penalty {penalty!r}: give ridge or group_lasso")
    if not strengths or min(strengths) < 0 or (penalty == "group_lasso" and max(strengths) > 1):
        raise PatchclampError(
            f"strength={strengths}: not below 0; under group_lasso a share of the largest, 0 to 1"
        )


def _columns(covariates: ArrayLike | None, n: int) -> Array:
    if covariates is None:
        return np.empty((n, 0))
    out = np.asarray(covariates, np.float64)
    out = out[:, None] if out.ndim == 1 else out
    if out.ndim != 2 or len(out) != n or not np.isfinite(out).all():
        raise PatchclampError(f"covariates of shape {out.shape}: wanted ({n}, columns), all finite")
    return out


@dataclass(frozen=True)
class _Problem:
    """What is fitted: family, functions of the past (lag, function), penalty, and covariates (sample, column).

    `largest` is the group-lasso strength a sample at which no target has a source.
    """

    family: Family
    basis: Array
    penalty: Penalty
    covariates: Array
    largest: float = 0.0

    def design(self, units: Series) -> tuple[Array, NDArray[np.int64]]:
        past, rows = design(units, self.basis)
        return np.column_stack([past, self.covariates[rows]]), rows

    def fit(self, units: Series, strength: float, *, rough: bool = False) -> Fit:
        """All targets on all samples; `rough` ends at a predicted gain of 1e-3 nats, which a null can bear."""
        x, rows = self.design(units)
        return self.solve(x, units.values[rows], strength, units.n_units, 1e-3 if rough else 1e-7)

    def solve(self, x: Array, y: Array, strength: float, n: int, tol: float = 1e-7) -> Fit:
        source = self.source(n)
        if self.penalty == "ridge":
            coupling = (source[:, None] >= 0) & (source[:, None] != np.arange(n))
            return fit_ridge(x, y, self.family, np.where(coupling, strength, FREE), tol=tol)
        limit = np.array([strength * self.largest * len(x)])
        parts = [
            fit_group_lasso(
                x, y[:, [i]], self.family, np.where(source == i, -1, source), limit, tol=max(tol, 1e-6)
            )
            for i in range(n)
        ]
        return Fit(
            np.concatenate([p.coefficients for p in parts], 1), np.concatenate([p.converged for p in parts])
        )

    def source(self, n: int) -> NDArray[np.int64]:
        """(column,) whose past it is; -1 for a covariate."""
        k = self.basis.shape[1]
        return np.concatenate([np.repeat(np.arange(n), k), np.full(self.covariates.shape[1], -1)])

    def largest_penalty(self, units: Series) -> float:
        x, rows = self.design(units)
        y, source = units.values[rows], self.source(units.n_units)
        each = [
            strongest(x, y[:, [i]], self.family, np.where(source == i, -1, source))
            for i in range(units.n_units)
        ]
        return float(np.max(each)) / len(x)

    def gain(self, units: Series, strength: float, group: NDArray[np.int64], n_folds: int) -> Array:
        """(fold, target) held-out nats per sample over the model without coupling."""
        x, rows = self.design(units)
        y, n, k = units.values[rows], units.n_units, self.basis.shape[1]
        out = []
        for train, test in blocked_folds(group[rows], rows, n_folds, len(self.basis)):
            full = self.solve(x[train], y[train], strength, n, 1e-4).coefficients
            alone = np.zeros_like(full)
            for i in range(n):
                own = np.r_[i * k : (i + 1) * k, n * k : x.shape[1]]
                part = fit_ridge(
                    x[train][:, own], y[train][:, i : i + 1], self.family, np.full(len(own), FREE), tol=1e-4
                )
                alone[np.r_[0, 1 + own], i] = part.coefficients[:, 0]
            ones = np.column_stack([np.ones(len(test)), x[test]])
            with_, without = (log_likelihood(ones @ c, y[test], self.family) for c in (full, alone))
            out.append((with_ - without).mean(0))
        return np.stack(out)

    def filters(self, coefficients: Array, n: int) -> Array:
        k = self.basis.shape[1]
        beta = coefficients[1 : 1 + n * k].T.reshape(n, n, k)
        return np.asarray(np.einsum("ijk,lk->ijl", beta, self.basis))

    def weights(self, coefficients: Array, n: int) -> Array:
        out: Array = self.filters(coefficients, n).sum(2)
        np.fill_diagonal(out, 0)
        return out

    def table(self, units: Series, fit: Fit, gain: Array) -> pd.DataFrame:
        own = np.diagonal(self.filters(fit.coefficients, units.n_units).sum(2))
        error = gain.std(0, ddof=1) / np.sqrt(len(gain))
        table = pd.DataFrame({"unit": units.names}) if units.table is None else units.table.copy()
        return table.assign(
            rate=units.values.mean(0),
            bias=fit.coefficients[0],
            own=own,
            gain=gain.mean(0),
            gain_low=gain.mean(0) - 1.96 * error,
            gain_high=gain.mean(0) + 1.96 * error,
            converged=fit.converged,
        )
