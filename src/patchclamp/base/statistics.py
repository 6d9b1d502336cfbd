"""Intervals, p-values and corrections: the statistics that effects, scores and claims share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchclamp.base.errors import PatchclampError

Array = NDArray[np.float64]


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
    own = [group or f"\0{i}" for i, group in enumerate(groups)] if groups else np.arange(n)
    names, member = np.unique(own, return_inverse=True)
    if len(names) < 2:
        names, member = np.arange(n), np.arange(n)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=n_boot)
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


def permutation_p(observed: float, null: ArrayLike) -> float:
    """One-sided p = (1 + #{null >= observed}) / (R + 1), which is never zero.

    Examples
    --------
    >>> permutation_p(3.0, [0.0, 1.0, 4.0])
    0.5
    """
    values = np.asarray(null, dtype=np.float64)
    return float((1 + np.sum(values >= observed)) / (len(values) + 1))


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
