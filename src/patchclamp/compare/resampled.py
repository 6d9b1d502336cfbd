"""Scores under resampling, for all draws, models and targets at once: no sorting and no pair is drawn in the loop.

A bootstrap draw of conditions is a count c_i of each. The pair (i, j) then occurs w = c_i c_j times (a
condition with itself is left out), and a mid-rank among the drawn pairs is the weight of all smaller ones plus
(own weight + 1) / 2: one cumulative sum along an order that is found once. The result is that of ranking each
draw anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.seeds import numpy_rng
from patchclamp.compare.inputs import Matrix

_DRAWS = 64  # rows of pairs are this long, so that taking them in another order copies whole cache lines
_EXACT = 2**22  # pairs up to which ranks, which are halves, are exact in float32


def draw_counts(n: int, n_boot: int, subjects: int = 1, seed: int = 0) -> tuple[Matrix, Matrix]:
    """How often each condition (draw, condition) and each subject (draw, subject) is drawn."""
    rng = numpy_rng(seed)
    conditions, people = np.zeros((n_boot, n)), np.ones((n_boot, subjects))
    for b in range(n_boot):
        conditions[b] = np.bincount(rng.integers(n, size=n), minlength=n)
        if subjects > 1:
            people[b] = np.bincount(rng.integers(subjects, size=subjects), minlength=subjects)
    return conditions, people


def resampled(models: Matrix, targets: Matrix, counts: Matrix, comparator: str) -> NDArray[np.float64]:
    """Scores (draw, model, target) of dissimilarities (model or target, pair) under counts (draw, condition)."""
    if comparator == "whitened_cosine":
        return _whitened(models, targets, counts)
    i, j = np.triu_indices(counts.shape[1], 1)
    ranked = comparator in ("spearman", "rho_a")
    dtype = np.float32 if ranked and len(i) < _EXACT else np.float64
    ranks = [_Ranks.of(one) for one in (*models, *targets)] if ranked else []
    parts = []
    for start in range(0, len(counts), _DRAWS):
        drawn = np.ascontiguousarray(counts[start : start + _DRAWS].T.astype(dtype))
        weights = drawn[i]
        weights *= drawn[j]
        found = _scores(ranks, weights, len(models), comparator) if ranked else None
        parts.append(_moments(models, targets, weights, comparator) if found is None else found)
    return np.concatenate(parts)


def _moments(models: Matrix, targets: Matrix, weights: Matrix, comparator: str) -> Matrix:
    """Cosine or Pearson (draw, model, target) from weighted sums, which are matrix products."""
    total = weights.sum(0)
    if comparator == "pearson":
        # The correlation does not depend on the mean; a small one loses no digits.
        models, targets = (part - part.mean(1, keepdims=True) for part in (models, targets))
    size_x, size_y = (models**2 @ weights).T, (targets**2 @ weights).T
    inner = np.stack([(models * target) @ weights for target in targets], 2).transpose(1, 0, 2)
    if comparator == "pearson":
        safe = np.where(total > 0, total, 1)[:, None]
        x, y = (models @ weights).T, (targets @ weights).T
        size_x, size_y = size_x - x**2 / safe, size_y - y**2 / safe
        inner = inner - x[:, :, None] * y[:, None] / safe[..., None]
    with np.errstate(invalid="ignore", divide="ignore"):
        found = inner / np.sqrt(size_x[:, :, None] * size_y[:, None])
    found[total <= 2] = np.nan
    return np.asarray(np.clip(found, -1, 1))


def _scores(sources: list[_Ranks], weights: Any, n_models: int, comparator: str) -> Matrix:
    """Spearman or rho-a (draw, model, target) under weights (pair, draw)."""
    total = weights.sum(0, dtype=np.float64)
    root = np.sqrt(weights)
    held = np.empty((weights.shape[1], len(sources), weights.shape[0]), weights.dtype)
    work = np.empty((2, *weights.shape), weights.dtype)
    for place, source in enumerate(sources):
        seen = source.under(weights, total, work)
        seen *= root
        held[:, place] = seen.T
    inner = (held[:, :n_models] @ held[:, n_models:].transpose(0, 2, 1)).astype(np.float64)
    size = np.stack([np.einsum("bp,bp->b", one, one) for one in held.transpose(1, 0, 2)], 1).astype(
        np.float64
    )
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

    def under(self, weights: Any, total: Matrix, work: Any) -> Any:
        """Centred mid-ranks (pair, draw) where entries occur `weights` (pair, draw) times; `work` is written over."""
        ordered, ranks = work
        np.take(weights, self.order, axis=0, out=ordered, mode="clip")
        if self.runs is None:
            np.cumsum(ordered, axis=0, out=ranks)
            ordered -= 1
            ordered /= 2
            ranks -= ordered
        else:
            reached = np.zeros((len(weights) + 1, weights.shape[1]), weights.dtype)
            np.cumsum(ordered, axis=0, out=reached[1:])
            np.add(reached[self.runs[0]], reached[self.runs[1]] + 1, out=ranks)
            ranks /= 2
        ranks -= ((total + 1) / 2).astype(weights.dtype)
        np.take(ranks, self.back, axis=0, out=ordered, mode="clip")
        return ordered


def _whitened(models: Matrix, targets: Matrix, counts: Matrix) -> Matrix:
    """Cosine of double-centred matrices over the distinct conditions of each draw.

    With u the indicator of those conditions and m their number, <H X H, H Y H> = u'(X o Y)u - 2/m sum_i u_i
    (Xu)_i (Yu)_i + (u'Xu)(u'Yu) / m^2.
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
