"""Scores under resampling, for all draws, models and targets at once: no sorting and no pair is drawn in the loop.

A bootstrap draw of conditions is a count c_i of each. The pair (i, j) then occurs w = c_i c_j times (a condition with
itself is left out), and a mid-rank among the drawn pairs is the weight of all smaller ones plus (own weight + 1) / 2:
one cumulative sum along an order that is found once. The result is that of ranking each draw anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchclamp.compare._inputs import Matrix

_CELLS = 20_000_000  # float64 entries held at once


def draw_counts(n: int, n_boot: int, subjects: int = 1, seed: int = 0) -> tuple[Matrix, Matrix]:
    """How often each condition (draw, condition) and each subject (draw, subject) is drawn."""
    rng = np.random.default_rng(seed)
    conditions, people = np.zeros((n_boot, n)), np.ones((n_boot, subjects))
    for b in range(n_boot):
        conditions[b] = np.bincount(rng.integers(n, size=n), minlength=n)
        if subjects > 1:
            people[b] = np.bincount(rng.integers(subjects, size=subjects), minlength=subjects)
    return conditions, people


def resampled(models: Matrix, targets: Matrix, counts: Matrix, comparator: str) -> NDArray[np.float64]:
    """Scores (draw, model, target) of dissimilarities (model, pair) and (target, pair) under counts (draw, condition)."""
    if comparator == "whitened_cosine":
        return _whitened(models, targets, counts)
    i, j = np.triu_indices(counts.shape[1], 1)
    ranked = comparator in ("spearman", "rho_a")
    sources = [_Ranks.of(one) if ranked else one for one in (*models, *targets)]
    block = max(1, _CELLS // (len(sources) * len(i)))
    parts = []
    for start in range(0, len(counts), block):
        drawn = counts[start : start + block]
        weights = drawn[:, i] * drawn[:, j]
        parts.append(_scores(sources, weights, len(models), comparator))
    return np.concatenate(parts)


def _scores(sources: list[Matrix | _Ranks], weights: Matrix, n_models: int, comparator: str) -> Matrix:
    total = weights.sum(1)
    root = np.sqrt(weights)
    held = np.empty((len(weights), len(sources), weights.shape[1]))
    for place, source in enumerate(sources):
        values = source.under(weights) if isinstance(source, _Ranks) else np.broadcast_to(source, weights.shape)
        if comparator != "cosine":
            with np.errstate(invalid="ignore"):
                centre = (values * weights).sum(1, keepdims=True) / total[:, None]
            values = values - centre
        held[:, place] = values * root
    inner = held[:, :n_models] @ held[:, n_models:].transpose(0, 2, 1)
    size = (held**2).sum(2)
    with np.errstate(invalid="ignore", divide="ignore"):
        if comparator == "rho_a":
            found = 12 * inner / (total**3 - total)[:, None, None]
        else:
            found = inner / np.sqrt(size[:, :n_models, None] * size[:, None, n_models:])
    found[total <= 2] = np.nan
    return np.asarray(np.clip(found, -1, 1))


@dataclass(frozen=True)
class _Ranks:
    """A vector sorted once, with the first and last place of every run of equal values."""

    order: NDArray[np.int64]
    back: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]

    @classmethod
    def of(cls, vector: Matrix) -> _Ranks:
        order = np.argsort(vector, kind="stable")
        ordered = vector[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        sizes = np.diff(np.r_[starts, len(vector)])
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return cls(order, back, np.repeat(starts, sizes), np.repeat(starts + sizes, sizes))

    def under(self, weights: Matrix) -> Matrix:
        """Mid-ranks (draw, pair) of a vector whose entries occur `weights` (draw, pair) times."""
        reached = np.zeros((len(weights), weights.shape[1] + 1))
        np.cumsum(weights[:, self.order], axis=1, out=reached[:, 1:])
        ranks = (reached[:, self.first] + reached[:, self.last] + 1) / 2
        return ranks[:, self.back]


def _whitened(models: Matrix, targets: Matrix, counts: Matrix) -> Matrix:
    """Cosine of double-centred matrices over the distinct conditions of each draw.

    With u the indicator of those conditions and m their number, <H X H, H Y H> = u'(X o Y)u - 2/m sum_i u_i (Xu)_i
    (Yu)_i + (u'Xu)(u'Yu) / m^2.
    """
    from patchclamp.compare.dissimilarity import square

    u = (counts > 0).astype(np.float64)
    m = u.sum(1)
    full = np.stack([square(one) for one in (*models, *targets)])
    sums = np.einsum("bi,kij->kbj", u, full) * u
    whole = sums.sum(2)

    def inner(a: int, b: int) -> Matrix:
        own = ((u @ (full[a] * full[b])) * u).sum(1)
        return np.asarray(own - 2 / m * (sums[a] * sums[b]).sum(1) + whole[a] * whole[b] / m**2)

    size = [inner(k, k) for k in range(len(full))]
    out = np.empty((len(u), len(models), len(targets)))
    for a in range(len(models)):
        for t in range(len(targets)):
            b = len(models) + t
            with np.errstate(invalid="ignore", divide="ignore"):
                out[:, a, t] = np.where(m > 2, inner(a, b) / np.sqrt(size[a] * size[b]), np.nan)
    return out
