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

_DRAWS = 64  # rows of pairs are this long, so that taking them in another order copies whole cache lines


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
    parts = []
    for start in range(0, len(counts), _DRAWS):
        drawn = np.ascontiguousarray(counts[start : start + _DRAWS].T)
        parts.append(_scores(sources, drawn[i] * drawn[j], len(models), comparator))
    return np.concatenate(parts)


def _scores(sources: list[Matrix | _Ranks], weights: Matrix, n_models: int, comparator: str) -> Matrix:
    """Scores (draw, model, target) under weights (pair, draw)."""
    total = weights.sum(0)
    root = np.sqrt(weights)
    held = np.empty((weights.shape[1], len(sources), weights.shape[0]))
    for place, source in enumerate(sources):
        if isinstance(source, _Ranks):
            seen = source.under(weights, root, total)
        elif comparator == "cosine":
            seen = source[:, None] * root
        else:
            centre = source @ weights / np.where(total > 0, total, 1)
            seen = (source[:, None] - centre) * root
        held[:, place] = seen.T
    inner = held[:, :n_models] @ held[:, n_models:].transpose(0, 2, 1)
    size = np.einsum("bkp,bkp->bk", held, held)
    with np.errstate(invalid="ignore", divide="ignore"):
        if comparator == "rho_a":
            found = 12 * inner / (total**3 - total)[:, None, None]
        else:
            found = inner / np.sqrt(size[:, :n_models, None] * size[:, None, n_models:])
    found[total <= 2] = np.nan
    return np.asarray(np.clip(found, -1, 1))


@dataclass(frozen=True)
class _Ranks:
    """A vector sorted once; where values are equal, the first and last place of their run."""

    order: NDArray[np.int64]
    back: NDArray[np.int64]
    runs: tuple[NDArray[np.int64], NDArray[np.int64]] | None

    @classmethod
    def of(cls, vector: Matrix) -> _Ranks:
        order = np.argsort(vector, kind="stable")
        ordered = vector[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        if len(starts) == len(vector):
            return cls(order, back, None)
        sizes = np.diff(np.r_[starts, len(vector)])
        return cls(order, back, (np.repeat(starts, sizes), np.repeat(starts + sizes, sizes)))

    def under(self, weights: Matrix, root: Matrix, total: Matrix) -> Matrix:
        """Centred mid-ranks (pair, draw) where entries occur `weights` (pair, draw) times, times `root`."""
        ordered = weights[self.order]
        if self.runs is None:
            ranks = np.cumsum(ordered, axis=0)
            ranks -= (ordered - 1) / 2
        else:
            reached = np.zeros((len(weights) + 1, weights.shape[1]))
            np.cumsum(ordered, axis=0, out=reached[1:])
            ranks = (reached[self.runs[0]] + reached[self.runs[1]] + 1) / 2
        ranks -= (total + 1) / 2
        ranks *= root[self.order]
        return np.asarray(ranks[self.back])


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
