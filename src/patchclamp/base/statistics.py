"""Intervals, p-values and corrections: the statistics that effects, scores and claims share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.folds import group_codes

Array = NDArray[np.float64]


def n_groups(groups: Sequence[str] | None, n: int) -> int:
    """How many independent groups `n` items are in: what an interval stands on.

    Examples
    --------
    >>> n_groups(["a", "a", "b"], 3), n_groups(None, 3)
    (2, 3)
    """
    return int(group_codes(groups, n).max()) + 1 if n else 0


def resamples(n: int, groups: Sequence[str] | None, n_boot: int, seed: int) -> NDArray[np.float64]:
    """Weights (n_boot, n) of a bootstrap: how often each item is drawn.

    With groups, whole groups are drawn, since items of one group are not independent; an item whose group has no
    name is a group of its own. With fewer than two groups items are drawn.
    """
    if n == 0:
        raise PatchclampError("there is no item to resample; give at least one")
    if n_boot < 1:
        raise PatchclampError(f"n_boot={n_boot}: at least one resample is needed for an interval")
    rng = np.random.default_rng(seed)
    member = group_codes(groups, n, fewest=2)
    count = int(member.max()) + 1
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=n_boot)
    return drawn[:, member].astype(np.float64)


def bootstrap_interval(
    per_item: ArrayLike,
    groups: Sequence[str] | None = None,
    *,
    n_boot: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[Array, Array]:
    """Percentile interval of the mean over items, by resampling items (or whole groups).

    Parameters
    ----------
    per_item
        (item, ...) values; trailing dimensions are kept. A difference of paired conditions per item makes the
        interval a paired one. NaN marks an item that has no such value; it is left out of that mean.
    groups
        The unit of dependence of each item.

    Returns
    -------
    low, high
        Arrays of the trailing shape; NaN where no item has a value.

    Examples
    --------
    >>> low, high = bootstrap_interval([1.0, 2.0, 3.0, 4.0], seed=0)
    >>> bool(low < 2.5 < high)
    True
    """
    values = np.asarray(per_item, dtype=np.float64)
    weights = resamples(len(values), groups, n_boot, seed)
    flat = values.reshape(len(values), -1)
    tail = (1 - level) / 2
    low, high = np.full(flat.shape[1], np.nan), np.full(flat.shape[1], np.nan)
    block = max(1, 2_000_000 // n_boot)
    for first in range(0, flat.shape[1], block):
        part = slice(first, first + block)
        low[part], high[part] = quantiles(weighted_means(weights, flat[:, part]), (tail, 1 - tail))
    return low.reshape(values.shape[1:]), high.reshape(values.shape[1:])


def weighted_means(weights: Array, values: Array) -> Array:
    """Means of (item, k) values under (draw, item) weights; NaN values are left out of theirs."""
    there = ~np.isnan(values)
    total = weights @ np.where(there, values, 0.0)
    count = weights.sum(1, keepdims=True) if there.all() else weights @ there
    with np.errstate(invalid="ignore"):
        return np.where(count > 0, total / np.where(count > 0, count, 1), np.nan)


def quantiles(draws: Array, at: Sequence[float]) -> Array:
    """Quantiles over the first axis; NaN draws are left out, a column of nothing else gives NaN."""
    missing = np.isnan(draws)
    if not missing.any():
        return np.asarray(np.quantile(draws, at, axis=0))
    out = np.full((len(at), *draws.shape[1:]), np.nan)
    some = ~missing.all(0)
    out[:, some] = np.nanquantile(draws[:, some], at, axis=0)
    return out


def bootstrap_statistic(
    statistic: Callable[[Array], float],
    n: int,
    groups: Sequence[str] | None = None,
    *,
    n_boot: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of any statistic of weighted items; `statistic` receives weights that sum to one."""
    weights = resamples(n, groups, n_boot, seed)
    values = [statistic(row / row.sum()) for row in weights]
    tail = (1 - level) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)


def ranks(values: Array, weights: Array | None = None) -> Array:
    """Ranks from 1 along the last axis, ties sharing their mean; with `weights` an entry stands for so many like it.

    A weighted rank is the middle of the places that the entry's ties take, so that it starts at half their weight
    (weights of one give ranks from 1/2). Weights are for one vector.

    Examples
    --------
    >>> ranks(np.array([3.0, 1.0, 1.0])).tolist(), ranks(np.array([3.0, 1.0]), np.array([1.0, 4.0])).tolist()
    ([3.0, 1.5, 1.5], [4.5, 2.0])
    """
    if weights is None:
        from scipy.stats import rankdata  # half a second

        return np.asarray(rankdata(values, axis=-1), np.float64)
    levels, level = np.unique(values, return_inverse=True)
    mass = np.bincount(level, weights, minlength=len(levels))
    return np.asarray((np.cumsum(mass) - mass / 2)[level])


def pearson(a: ArrayLike, b: ArrayLike) -> Array:
    """Pearson's r of each column of `a` with the same column of `b`, (sample, ...); of two vectors a 0-d array.

    NaN where a column is constant up to rounding, or holds NaN.

    Examples
    --------
    >>> pearson([[1.0, 1.0], [2.0, 1.0], [4.0, 1.0]], [[2.0, 0.0], [4.0, 1.0], [8.0, 0.0]]).tolist()
    [1.0, nan]
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    spread = []
    for values in (x, y):
        square = ((values - values.mean(0)) ** 2).sum(0)
        spread.append(np.where(square > 1e-28 * (values**2).sum(0), square, np.nan))
    with np.errstate(invalid="ignore"):
        r = ((x - x.mean(0)) * (y - y.mean(0))).sum(0) / np.sqrt(spread[0] * spread[1])
    return np.asarray(np.clip(r, -1, 1))


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Pearson's r of the ranks of two vectors, ties sharing their mean.

    Examples
    --------
    >>> spearman([1.0, 5.0, 9.0], [1.0, 2.0, 100.0])
    1.0
    """
    return float(pearson(ranks(np.asarray(a, np.float64)), ranks(np.asarray(b, np.float64))))


@overload
def permutation_p(observed: float, null: ArrayLike) -> float: ...
@overload
def permutation_p(observed: Array, null: ArrayLike) -> Array: ...
def permutation_p(observed: float | Array, null: ArrayLike) -> float | Array:
    """One-sided p = (1 + #{null >= observed}) / (R + 1), which is never zero.

    Parameters
    ----------
    observed
        A number, or (unit,).
    null
        (draw,), or (draw, unit) with draws of each unit's own.

    Examples
    --------
    >>> permutation_p(3.0, [0.0, 1.0, 4.0])
    0.5
    """
    values, seen = np.asarray(null, dtype=np.float64), np.asarray(observed, dtype=np.float64)
    values = values[:, None] if values.ndim == seen.ndim == 1 else values
    p = (1 + (values >= seen).sum(0)) / (len(values) + 1)
    return float(p) if seen.ndim == 0 else np.asarray(p)


def holm(p: ArrayLike) -> Array:
    """Holm's step-down adjusted p-values, which bound the family-wise error under any dependence.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate((len(values) - np.arange(len(values))) * values[order])
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def benjamini_hochberg(p: ArrayLike) -> Array:
    """Benjamini and Hochberg's adjusted p-values (q-values), which bound the false-discovery rate.

    Examples
    --------
    >>> benjamini_hochberg([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.04, 0.04]
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")[::-1]
    ranks = np.arange(len(values), 0, -1)
    stepped = np.minimum.accumulate(values[order] * len(values) / ranks)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def sign_flip_max_null(per_item: ArrayLike, *, n_perm: int = 1000, seed: int = 0) -> Array:
    """Null of the maximum of |mean| over units: each item's sign is flipped at random, for all units alike.

    Comparing every unit with this one distribution controls the family-wise error, dependence included. Valid where
    an item's effect is symmetric about zero under the null.

    Parameters
    ----------
    per_item
        (item, unit) effects.

    Returns
    -------
    (n_perm,) maxima.
    """
    values = np.asarray(per_item, dtype=np.float64)
    flat = values.reshape(len(values), -1)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(n_perm, len(values)))
    return np.concatenate(
        [np.abs(chunk @ flat / len(values)).max(1) for chunk in np.array_split(signs, max(1, n_perm // 50))]
    )
