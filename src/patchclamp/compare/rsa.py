"""Representational similarity: do two populations find the same conditions alike?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Unpack

import numpy as np

from patchclamp.base.arrays import as_array
from patchclamp.base.errors import PatchclampError
from patchclamp.base.statistics import draws_interval, pearson, ranks, spearman
from patchclamp.compare.dissimilarity import as_vectors, conditions_of, dissimilarities, is_distances, square
from patchclamp.compare.inputs import Matrix
from patchclamp.compare.inputs import read as read_population
from patchclamp.compare.resampled import draw_counts, resampled
from patchclamp.compare.result import Result
from patchclamp.nouns.recording.matrix import ActivityMatrix, MatrixLike, Reading
from patchclamp.nouns.recording.recording import Recording

Comparator = Literal["cosine", "pearson", "spearman", "rho_a", "whitened_cosine"]


def rsa(
    a: MatrixLike,
    b: MatrixLike,
    comparator: Comparator = "spearman",
    *,
    kind: str = "correlation",
    n_boot: int = 0,
    seed: int = 0,
    level: float = 0.95,
    **reading: Unpack[Reading],
) -> Result:
    """Compare the dissimilarities of two populations over the same conditions.

    Parameters
    ----------
    a
        Dissimilarities, as a vector (pair,) or a square matrix (symmetric, zeros on the diagonal), or patterns
        (condition, unit), or a recording of them.
    b
        The same, or several subjects, as an array (subject, pair) or (subject, condition, condition) or a list: the
        result is then the mean over subjects, with the noise ceiling of the subjects beside it.
    comparator
        ``"cosine"`` (zero is meaningful: with crossnobis), ``"pearson"``, ``"spearman"``, ``"rho_a"`` (the expected
        Spearman when ties are broken at random) or ``"whitened_cosine"`` (pairs that share a condition are
        correlated; with squared Euclidean distances it equals linear CKA).
    kind
        Dissimilarity of patterns.
    n_boot, seed, level
        Bootstrap over conditions and, where there are several, subjects together; pairs of a condition with itself
        are left out.
    reading
        Of patterns that come as a recording, as in `cka`.

    Returns
    -------
    Result

    Raises
    ------
    PatchclampError
        For another number of conditions, a vector whose length is no n(n-1)/2, or an array that may be patterns as well
        as subjects: n rows of n(n-1)/2 numbers, for n conditions.

    Notes
    -----
    Kriegeskorte et al. 2008; Nili et al. 2014 for ceilings; Schütt et al. 2023 for rho_a, whitening and bootstrap.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(6, 20))
    >>> rsa(x, 2 * x).value
    1.0
    """
    mine, theirs, about = read_both(a, b, kind, reading)
    score = COMPARATORS.get(comparator)
    if score is None:
        raise PatchclampError(f"comparator {comparator!r}: give one of {', '.join(COMPARATORS)}")
    value = float(np.mean([score(mine, one) for one in theirs]))
    n = conditions_of(mine.shape[-1])
    low = high = None
    if n_boot:
        draws = _bootstrap(mine, theirs, n, comparator, n_boot, seed)
        low, high = map(float, draws_interval(draws, n, value, level=level))
    ceiling = ceilings(theirs, comparator) if len(theirs) > 1 else None
    meta = {"subjects": len(theirs), "reading": about}
    method = f"rsa ({comparator})"
    return Result(value, low, high, n, method=method, scale="similarity", ceiling=ceiling, meta=meta)


def ceilings(subjects: Any, comparator: Comparator = "spearman") -> tuple[float, float]:
    """Lower and upper bound of what any model reaches on these subjects.

    Lower: each subject against the mean of the others; upper: against the mean of all. Dissimilarities are brought
    to ranks (or norm 1, or mean 0 and norm 1, as the comparator sees them) before they are averaged.
    """
    vectors = as_array(subjects, "dissimilarities")
    if vectors.ndim != 2 or len(vectors) < 2:
        raise PatchclampError("a ceiling needs the dissimilarities of at least two subjects (subject, pair)")
    score, seen = COMPARATORS[comparator], _as_seen(vectors, comparator)
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
    return float(12 * (ranks(x) - centre) @ (ranks(y) - centre) / (n**3 - n))


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


COMPARATORS: dict[str, Callable[[Matrix, Matrix], float]] = {
    "cosine": _cosine,
    "pearson": lambda x, y: float(pearson(x, y)),
    "spearman": spearman,
    "rho_a": rho_a,
    "whitened_cosine": whitened_cosine,
}


def _as_seen(vectors: Matrix, comparator: str) -> Matrix:
    if comparator in ("spearman", "rho_a"):
        return ranks(vectors)
    if comparator == "pearson":
        vectors = vectors - vectors.mean(1, keepdims=True)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _bootstrap(mine: Matrix, theirs: Matrix, n: int, comparator: str, n_boot: int, seed: int) -> Matrix:
    """Scores of resampled conditions and subjects."""
    counts, people = draw_counts(n, n_boot, len(theirs), seed)
    found = resampled(mine[None], theirs, counts, comparator)[:, 0]
    return np.asarray((found * people).sum(1) / people.sum(1))


def read_both(
    a: MatrixLike, b: MatrixLike, kind: str, reading: Reading
) -> tuple[Matrix, Matrix, list[dict[str, Any]]]:
    """Dissimilarities (pair,) of a model and (subject, pair) of what it is compared with, and how each was read."""
    mine, one = _vectors(a, kind, None, "the first population", reading)
    if len(mine) != 1:
        raise PatchclampError(
            f"the first population: {len(mine)} subjects; give one, and the subjects second"
        )
    n = conditions_of(mine.shape[1])
    if isinstance(b, (list, tuple)) and len(b) and np.ndim(b[0]) >= 1:
        found = [_vectors(part, kind, None, f"subject {i}", reading) for i, part in enumerate(b)]
        if len({part.shape[1] for part, _ in found}) != 1:
            raise PatchclampError("the subjects do not have the same conditions")
        theirs = np.concatenate([part for part, _ in found])
        other = {**found[0][1], "subjects": len(theirs)}
    else:
        theirs, other = _vectors(b, kind, n, "the second population", reading)
    if mine.shape[1] != theirs.shape[1]:
        raise PatchclampError(f"{n} and {conditions_of(theirs.shape[1])} conditions: they must be the same")
    return mine[0], theirs, [one, other]


def _vectors(
    population: MatrixLike, kind: str, n: int | None, what: str, reading: Reading
) -> tuple[Matrix, dict[str, Any]]:
    """(subject, pair), and how it was read; n: the conditions, where rows may be subjects as well."""
    if not isinstance(population, (Recording, ActivityMatrix)):
        x = as_array(population, what)
        if x.ndim == 1 or (x.ndim == 2 and len(x) == 1 and n is None):
            n = conditions_of(x.size)
        elif x.ndim > 1 and x.shape[-1] == x.shape[-2] and is_distances(x):
            n = x.shape[-1]
        found = None if n is None else as_vectors(x, n, what)
        if found is not None:
            return found, {"subjects": len(found), "pairs": found.shape[1]}
    read = read_population(population, what, **reading)
    return dissimilarities(read, kind)[None], read.about  # type: ignore[arg-type]
