"""Partial correlation: what goes together beyond what all the other units explain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np

from patchclamp.base.errors import PatchclampError
from patchclamp.connect.coupling.correlation import as_baseline
from patchclamp.connect.nulls import Array, Correction, graph_with_null
from patchclamp.connect.series import Series, series
from patchclamp.connect.surrogates import Null
from patchclamp.nouns.graph import Graph
from patchclamp.nouns.recording.matrix import MatrixLike, Reading

LIMITS = "direction, causation; units that were not recorded still count as a link between those that were"
LIMITS_PARTS = (
    "direction, causation; a pair without a link has a positive offset of order 1 / (parts - 1), so nothing may be "
    "read off the sign alone; leaving parts out changes the others"
)


def partial_correlation(
    data: MatrixLike,
    groups: Sequence[Any] | None = None,
    *,
    shrinkage: float | None = None,
    null: Null | None = "auto",
    null_samples: int = 200,
    correction: Correction = "max",
    seed: int = 0,
    **reading: Unpack[Reading],
) -> Graph:
    """Correlation of every pair given all other units: -K_ij / sqrt(K_ii K_jj), K the inverse of the covariance.

    The correlation matrix R is shrunk to (1 - s) R + s I before it is inverted, which is what makes it possible with
    about as many units as samples.

    Parameters
    ----------
    data, groups, null, null_samples, correction, seed, reading
        As in `correlation`.
    shrinkage
        s in 0..1. None: Schäfer and Strimmer's s = sum_{i != j} Var(r_ij) / sum_{i != j} r_ij^2, the same in draws of
        the null. It takes samples for independent; in a smooth time series it is too small, and the null, which is just
        as smooth, is what tells.

    Returns
    -------
    Graph
        Undirected; `params` has ``shrinkage``; the baseline is the correlation.

    Notes
    -----
    Schäfer and Strimmer 2005. Two causes of one effect come out negative, though they are independent.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> a = rng.normal(size=2000)
    >>> b = a + rng.normal(size=2000)
    >>> c = b + rng.normal(size=2000)  # a acts on c through b alone
    >>> found = partial_correlation(np.stack([a, b, c], 1), shrinkage=0.0)
    >>> bool(abs(found.weights[2, 0]) < 0.05 < found.baseline.weights[2, 0])
    True
    """
    if shrinkage is not None and not 0 <= shrinkage <= 1:
        raise PatchclampError(f"shrinkage={shrinkage}: between 0 (none) and 1 (no correlation is left)")
    units = series(data, groups, what="partial_correlation", **reading)
    chosen = shrink(units) if shrinkage is None else shrinkage

    def measure(one: Series) -> Array:
        return _partial(_scaled_covariance(one), chosen)

    return graph_with_null(
        measure,
        units,
        "partial_correlation",
        LIMITS,
        (null, null_samples, correction, seed),
        baseline=as_baseline(units),
        shrinkage=chosen,
        samples=len(units.values),
    )


def compositional_partial_correlation(
    data: MatrixLike,
    groups: Sequence[Any] | None = None,
    *,
    shrinkage: float | None = None,
    zeros: float | None = None,
    null: Null | None = "auto",
    null_samples: int = 200,
    correction: Correction = "max",
    seed: int = 0,
    **reading: Unpack[Reading],
) -> Graph:
    """Partial correlation of parts of a whole: shares of firing, rows of attention, band power.

    With B the (shrunken) covariance of the logarithms and G = I - 11'/D, K is the pseudo-inverse of G B G, and the
    weight is -K_ij / sqrt(K_ii K_jj). The same numbers come from ratios to any one part with an ordinary inverse.

    Parameters
    ----------
    data
        Shares, not negative. Each sample is divided by its sum, which changes nothing.
    groups, null, null_samples, correction, seed, reading
        As in `correlation`. Draws move the logarithms, so that the parts' dependence through the whole stays.
    shrinkage
        Of the covariance of the logarithms towards its diagonal; None as in `partial_correlation`.
    zeros
        What a zero share is replaced by (the others are scaled down to make room); None takes half of the smallest
        positive share.

    Returns
    -------
    Graph
        Undirected; the baseline is the correlation of the shares themselves, which is spuriously negative.

    Notes
    -----
    As in R's propr (Erb 2020). Compare with the null, never with zero.
    """
    units = series(data, groups, what="compositional_partial_correlation", **reading)
    if units.n_units < 3:
        raise PatchclampError("compositional_partial_correlation: two shares are one number; from 3 parts on")
    shares, floor = closed_shares(units, zeros)
    logs = units.with_values(np.log(shares))
    chosen = shrink(logs) if shrinkage is None else shrinkage

    def measure(one: Series) -> Array:
        return partial_of_logs(one, chosen)

    return graph_with_null(
        measure,
        logs,
        "compositional_partial_correlation",
        LIMITS_PARTS,
        (null, null_samples, correction, seed),
        baseline=as_baseline(units.with_values(shares)),
        shrinkage=chosen,
        zeros=floor,
    )


def shrink(units: Series) -> float:
    """Schäfer and Strimmer's shrinkage of the correlation matrix to the identity."""
    x = units.centred().values
    x = x / np.maximum(x.std(0), 1e-300)
    n = len(x)
    r = x.T @ x / n
    # Var(r_ij) of w_k = x_ki x_kj: n / (n - 1)^3 sum_k (w_k - mean)^2
    variance = n / (n - 1) ** 3 * ((x**2).T @ (x**2) - n * r**2)
    off = ~np.eye(len(r), dtype=bool)
    return float(np.clip(variance[off].sum() / max((r[off] ** 2).sum(), 1e-300), 0, 1))


def _scaled_covariance(units: Series) -> Array:
    x = units.centred().values
    x = x / np.maximum(x.std(0), 1e-300)
    return np.asarray(x.T @ x / len(x))


def _partial(r: Array, shrinkage: float) -> Array:
    shrunk = (1 - shrinkage) * r + shrinkage * np.eye(len(r))
    return _from_precision(np.asarray(np.linalg.pinv(shrunk, hermitian=True), np.float64))


def _from_precision(k: Array) -> Array:
    scale = np.sqrt(np.maximum(np.diag(k), 1e-300))
    out = -k / scale[:, None] / scale
    out = (out + out.T) / 2
    np.fill_diagonal(out, 0)
    return out


def partial_of_logs(logs: Series, shrinkage: float) -> Array:
    """Partial correlations (unit, unit) of the centred log ratios."""
    x = logs.centred().values
    covariance = x.T @ x / len(x)
    covariance = (1 - shrinkage) * covariance + shrinkage * np.diag(np.diag(covariance))
    centre = np.eye(len(covariance)) - 1 / len(covariance)
    k = np.linalg.pinv(centre @ covariance @ centre, hermitian=True, rcond=1e-12)
    return _from_precision(np.asarray(k, np.float64))


def closed_shares(units: Series, zeros: float | None) -> tuple[Array, float]:
    """Shares (sample, unit) that sum to one and hold no zero, and what replaced the zeros."""
    x = units.values
    if (x < 0).any():
        row, unit = (int(i) for i in np.argwhere(x < 0)[0])
        raise PatchclampError(
            f"compositional_partial_correlation: {units.names[unit]} is {x[row, unit]:g} at sample {row}"
        )
    total = x.sum(1, keepdims=True)
    if (total <= 0).any():
        raise PatchclampError(
            f"compositional_partial_correlation: sample {int(np.argmin(total))} is all zero, so it has no shares"
        )
    shares = x / total
    empty = shares == 0
    if not empty.any():
        return shares, 0.0
    floor = float(shares[~empty].min() / 2) if zeros is None else zeros
    if not 0 < floor * units.n_units < 1:
        raise PatchclampError(f"zeros={floor:g}: between 0 and 1 / {units.n_units}")
    return np.where(empty, floor, shares * (1 - floor * empty.sum(1, keepdims=True))), floor
