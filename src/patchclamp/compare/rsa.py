"""Representational similarity: do two populations find the same conditions alike?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from patchclamp.base.errors import PatchclampError
from patchclamp.compare.dissimilarity import average_ranks, dissimilarities, square
from patchclamp.compare.inputs import Matrix
from patchclamp.compare.resampled import draw_counts, resampled
from patchclamp.compare.result import Result

Comparator = Literal["cosine", "pearson", "spearman", "rho_a", "whitened_cosine"]


def rsa(
    a: Any,
    b: Any,
    comparator: Comparator = "spearman",
    *,
    kind: str = "correlation",
    n_boot: int = 0,
    seed: int = 0,
    level: float = 0.95,
) -> Result:
    """Compare the dissimilarities of two populations over the same conditions.

    Parameters
    ----------
    a
        Vector of dissimilarities (pair,), or patterns (condition, unit).
    b
        The same, or the vectors of several subjects (subject, pair): the result is then the mean over subjects, with
        the noise ceiling of the subjects beside it.
    comparator
        ``"cosine"`` (zero is meaningful: with crossnobis), ``"pearson"``, ``"spearman"``, ``"rho_a"`` (the expected
        Spearman when ties are broken at random) or ``"whitened_cosine"`` (pairs that share a condition are
        correlated; with squared Euclidean distances it equals linear CKA).
    kind
        Dissimilarity of patterns.
    n_boot, seed, level
        Bootstrap over conditions and, where there are several, subjects together; pairs of a condition with itself
        are left out.

    Returns
    -------
    Result

    Raises
    ------
    PatchclampError
        For another number of conditions, or a vector whose length is no n(n-1)/2.

    Notes
    -----
    Kriegeskorte et al. 2008; Nili et al. 2014 for ceilings; Schütt et al. 2023 for rho_a, whitening and bootstrap.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(6, 20))
    >>> rsa(x, 2 * x).value
    1.0
    """
    mine, theirs = _vector(a, kind), _vectors(b, kind)
    if mine.shape[-1] != theirs.shape[-1]:
        raise PatchclampError(
            f"{conditions_of(mine.shape[-1])} and {conditions_of(theirs.shape[-1])} conditions: they must be the same"
        )
    score = _COMPARATORS.get(comparator)
    if score is None:
        raise PatchclampError(f"comparator {comparator!r}: give one of {', '.join(_COMPARATORS)}")
    value = float(np.mean([score(mine, one) for one in theirs]))
    n = conditions_of(mine.shape[-1])
    low = high = None
    if n_boot:
        draws = _bootstrap(mine, theirs, n, comparator, n_boot, seed)
        tail = (1 - level) / 2
        low, high = (float(q) for q in np.nanquantile(draws, [tail, 1 - tail]))
    ceiling = ceilings(theirs, comparator) if len(theirs) > 1 else None
    facts = {"subjects": len(theirs)}
    method = f"rsa ({comparator})"
    return Result(value, low, high, n, method=method, scale="similarity", ceiling=ceiling, meta=facts)


def ceilings(subjects: Any, comparator: Comparator = "spearman") -> tuple[float, float]:
    """Lower and upper bound of what any model reaches on these subjects.

    Lower: each subject against the mean of the others; upper: against the mean of all. Dissimilarities are brought
    to ranks (or norm 1, or mean 0 and norm 1, as the comparator sees them) before they are averaged.
    """
    vectors = np.asarray(subjects, np.float64)
    if vectors.ndim != 2 or len(vectors) < 2:
        raise PatchclampError("a ceiling needs the dissimilarities of at least two subjects (subject, pair)")
    score, seen = _COMPARATORS[comparator], _as_seen(vectors, comparator)
    upper = np.mean([score(seen.mean(0), one) for one in seen])
    lower = np.mean([score(np.delete(seen, i, 0).mean(0), one) for i, one in enumerate(seen)])
    return float(lower), float(upper)


def rho_a(x: Matrix, y: Matrix) -> float:
    """Spearman's correlation averaged over random orders of tied values: 12 x'y / (n^3 - n), centred mean ranks.

    Examples
    --------
    >>> round(rho_a(np.array([1, 1, 2, 2, 3, 4.0]), np.array([1, 2, 2, 3, 3, 5.0])), 6)
    0.842857
    """
    n = len(x)
    centre = (n + 1) / 2
    return float(12 * (average_ranks(x) - centre) @ (average_ranks(y) - centre) / (n**3 - n))


def whitened_cosine(x: Matrix, y: Matrix) -> float:
    """Cosine under the covariance that pairs sharing a condition have: x'V^-1 y / sqrt(x'V^-1 x y'V^-1 y).

    V = (C C')^2 elementwise, with C the contrasts of pairs, for uncorrelated equal noise in the conditions. Computed
    through V^-1 x in closed form: 1/4 of the double-centred matrix, so that no (pair, pair) matrix is built.
    """
    gx, gy = _centred(x), _centred(y)
    return float(np.sum(gx * gy) / np.linalg.norm(gx) / np.linalg.norm(gy))


def _centred(x: Matrix) -> Matrix:
    full = square(x)
    return np.asarray(full - full.mean(0) - full.mean(1, keepdims=True) + full.mean())


def _cosine(x: Matrix, y: Matrix) -> float:
    return float(np.clip(x @ y / np.linalg.norm(x) / np.linalg.norm(y), -1, 1))


def _pearson(x: Matrix, y: Matrix) -> float:
    return _cosine(x - x.mean(), y - y.mean())


def _spearman(x: Matrix, y: Matrix) -> float:
    return _pearson(average_ranks(x), average_ranks(y))


_COMPARATORS: dict[str, Callable[[Matrix, Matrix], float]] = {
    "cosine": _cosine,
    "pearson": _pearson,
    "spearman": _spearman,
    "rho_a": rho_a,
    "whitened_cosine": whitened_cosine,
}


def _as_seen(vectors: Matrix, comparator: str) -> Matrix:
    if comparator in ("spearman", "rho_a"):
        return average_ranks(vectors)
    if comparator == "pearson":
        vectors = vectors - vectors.mean(1, keepdims=True)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _bootstrap(mine: Matrix, theirs: Matrix, n: int, comparator: str, n_boot: int, seed: int) -> Matrix:
    """Scores of resampled conditions and subjects."""
    counts, people = draw_counts(n, n_boot, len(theirs), seed)
    found = resampled(mine[None], theirs, counts, comparator)[:, 0]
    return np.asarray((found * people).sum(1) / people.sum(1))


def _vector(population: Any, kind: str) -> Matrix:
    values = np.asarray(population, np.float64) if not hasattr(population, "sites") else None
    if values is not None and values.ndim == 1:
        conditions_of(len(values))
        if not np.isfinite(values).all():
            raise PatchclampError("the dissimilarities hold NaN or Inf; leave these conditions out")
        return values
    return dissimilarities(population, kind)  # type: ignore[arg-type]


def _vectors(population: Any, kind: str) -> Matrix:
    """One row a subject. A matrix whose width is a number of pairs and whose height is not the conditions' is subjects."""
    if isinstance(population, (list, tuple)) and len(population) and np.ndim(population[0]) >= 1:
        parts = [_vector(one, kind) for one in population]
        if len({len(part) for part in parts}) != 1:
            raise PatchclampError("the subjects do not have the same conditions")
        return np.stack(parts)
    return np.atleast_2d(_vector(population, kind))


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
