"""Dissimilarities of conditions: the pairs of a population's responses, as a vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Unpack

import numpy as np
from scipy.spatial.distance import pdist, squareform

from patchclamp.base.arrays import as_array
from patchclamp.base.errors import PatchclampError
from patchclamp.compare.inputs import Matrix, matrix
from patchclamp.nouns.recording.matrix import Reading

Kind = Literal["correlation", "euclidean2", "crossnobis", "poisson_kl"]


def dissimilarities(
    patterns: Any,
    kind: Kind = "correlation",
    *,
    noise: Any = None,
    prior: float = 1.0,
    **reading: Unpack[Reading],
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
    reading
        Of a recording of the conditions, as in `cka`.

    Notes
    -----
    Walther et al. 2016. Division by the number of units is rsatoolbox's convention.

    Examples
    --------
    >>> dissimilarities([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]], "euclidean2").tolist()
    [2.0, 2.0, 4.0]
    """
    if kind == "crossnobis":
        return _crossnobis(as_array(patterns, "patterns"), noise)
    x = matrix(patterns, "patterns", **reading)
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


def as_vectors(values: Any, n: int, what: str) -> Matrix | None:
    """(subject, pair) of an array that holds dissimilarities of n conditions; None where it holds patterns.

    Dissimilarities are a vector (pair,), vectors of subjects (subject, pair), or matrices ([subject,] n, n): symmetric, with
    zeros on the diagonal.

    Raises
    ------
    PatchclampError
        For n rows of as many numbers as n conditions have pairs, which may be either; for NaN or Inf.
    """
    x, pairs = as_array(values, what), n * (n - 1) // 2
    i, j = np.triu_indices(n, 1)
    if x.ndim in (2, 3) and x.shape[-2:] == (n, n) and is_distances(x):
        found = np.atleast_2d(x[..., i, j])
    elif x.shape == (pairs,) or (x.ndim == 2 and x.shape[1] == pairs and len(x) != n):
        found = np.atleast_2d(x)
    elif x.shape == (n, pairs):
        raise PatchclampError(
            f"{what}: shape {x.shape} is either {n} conditions x {pairs} units or the {pairs} dissimilarities of {n} "
            "subjects; for subjects pass list(array), for patterns dissimilarities(array)"
        )
    else:
        return None
    if not np.isfinite(found).all():
        raise PatchclampError(f"{what}: the dissimilarities hold NaN or Inf; leave these conditions out")
    return found


def is_distances(x: Matrix) -> bool:
    """Whether square matrices are symmetric with zeros on the diagonal."""
    scale = np.abs(x).max(initial=0)
    flat = np.abs(np.diagonal(x, axis1=-2, axis2=-1)).max(initial=0)
    return bool(scale > 0 and flat <= 1e-8 * scale and np.allclose(x, np.swapaxes(x, -1, -2)))


def conditions_of(pairs: int) -> int:
    """Number of conditions of a vector of pairs.

    Raises
    ------
    PatchclampError
        If no number of conditions has as many pairs.
    """
    n = round((1 + np.sqrt(1 + 8 * pairs)) / 2)
    if n * (n - 1) // 2 != pairs or n < 2:
        raise PatchclampError(f"{pairs} dissimilarities: no number of conditions has as many pairs")
    return int(n)


def noise_covariance(residuals: Any) -> Matrix:
    """Covariance of residuals, shrunk towards a scaled identity by Ledoit and Wolf's amount.

    Take residuals of other trials than those of the patterns: shared ones bias small samples.
    """
    from sklearn.covariance import ledoit_wolf

    return np.asarray(ledoit_wolf(matrix(residuals, "residuals"))[0])


def _whitened(x: Matrix, noise: Any) -> Matrix:
    if noise is None:
        return x
    values, vectors = np.linalg.eigh(as_array(noise, "noise covariance"))
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
    return np.asarray(squareform(as_array(vector, "dissimilarities"), checks=False))
