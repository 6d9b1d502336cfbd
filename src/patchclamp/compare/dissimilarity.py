"""Dissimilarities of conditions: the pairs of a population's responses, as a vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from scipy.spatial.distance import pdist

from patchclamp.base.errors import PatchclampError
from patchclamp.compare.inputs import Matrix, matrix

Kind = Literal["correlation", "euclidean2", "crossnobis", "poisson_kl"]


def dissimilarities(
    patterns: Any,
    kind: Kind = "correlation",
    *,
    noise: Any = None,
    prior: float = 1.0,
) -> Matrix:
    """Dissimilarity of every pair of conditions, in the order (0,1), (0,2), ..., (n-2,n-1).

    * correlation: 1 - Pearson r of the two patterns
    * euclidean2: squared distance divided by the number of units, after whitening by `noise`
    * crossnobis: mean over ordered pairs of folds m, n of (b_i^m - b_j^m)' S^-1 (b_i^n - b_j^n) / units: unbiased, so
      that equal conditions have the expectation 0, and single values may be negative. They are not clipped.
    * poisson_kl: (l_i - l_j) (log l_i - log l_j) averaged over units, for spike counts, with a prior rate added

    Parameters
    ----------
    patterns
        (condition, unit); for crossnobis (fold, condition, unit), folds being independent runs.
    noise
        (unit, unit) noise covariance, already regularised (`noise_covariance`); identity by default.
    prior
        Added to rates.

    Notes
    -----
    Walther et al. 2016. Division by the number of units is rsatoolbox's convention.

    Examples
    --------
    >>> dissimilarities([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]], "euclidean2").tolist()
    [2.0, 2.0, 4.0]
    """
    if kind == "crossnobis":
        return _crossnobis(np.asarray(patterns, np.float64), noise)
    x = matrix(patterns, "patterns")
    if len(x) < 2:
        raise PatchclampError(f"{len(x)} condition: a dissimilarity needs two")
    if kind == "correlation":
        flat = np.flatnonzero(np.ptp(x, axis=1) == 0)
        if len(flat):
            raise PatchclampError(
                f"condition {flat[0]} has the same activity in all units, so it has no correlation; take euclidean2"
            )
        return np.asarray(pdist(x, "correlation"))
    if kind == "euclidean2":
        return np.asarray(pdist(_whitened(x, noise), "sqeuclidean") / x.shape[1])
    if kind == "poisson_kl":
        rate = (x + prior) / (1 + prior)
        if (rate <= 0).any():
            raise PatchclampError("poisson_kl: counts must not be negative")
        i, j = np.triu_indices(len(x), 1)
        logs = np.log(rate)
        return np.asarray(((rate[i] - rate[j]) * (logs[i] - logs[j])).mean(1))
    raise PatchclampError(f"kind {kind!r}: give correlation, euclidean2, crossnobis or poisson_kl")


def noise_covariance(residuals: Any) -> Matrix:
    """Covariance of residuals, shrunk towards a scaled identity by Ledoit and Wolf's amount.

    Take residuals of other trials than those of the patterns: shared ones bias small samples.
    """
    from sklearn.covariance import ledoit_wolf

    return np.asarray(ledoit_wolf(matrix(residuals, "residuals"))[0])


def _whitened(x: Matrix, noise: Any) -> Matrix:
    if noise is None:
        return x
    values, vectors = np.linalg.eigh(np.asarray(noise, np.float64))
    if values.min() <= 0:
        raise PatchclampError(
            "the noise covariance is not positive definite; use noise_covariance(residuals)"
        )
    return np.asarray(x @ (vectors / np.sqrt(values)) @ vectors.T)


def _crossnobis(folds: Matrix, noise: Any) -> Matrix:
    if folds.ndim != 3 or len(folds) < 2:
        raise PatchclampError(
            f"crossnobis: wanted folds x conditions x units with at least 2 folds, got shape {folds.shape}"
        )
    if not np.isfinite(folds).all():
        raise PatchclampError("crossnobis: the patterns hold NaN or Inf")
    m, conditions, units = folds.shape
    white = _whitened(folds.reshape(-1, units), noise).reshape(folds.shape)
    i, j = np.triu_indices(conditions, 1)
    difference = white[:, i] - white[:, j]
    total = difference.sum(0)
    across = (total**2).sum(1) - (difference**2).sum((0, 2))
    return np.asarray(across / (m * (m - 1)) / units)


def square(vector: Sequence[float] | Matrix) -> Matrix:
    """The symmetric matrix of a vector of pairs, zeros on the diagonal."""
    from scipy.spatial.distance import squareform

    return np.asarray(squareform(np.asarray(vector, np.float64), checks=False))
