"""Intervals, p-values and corrections: the statistics that effects, scores and claims share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.folds import CROSSED, group_codes
from patchclamp.base.seeds import numpy_rng

Array = NDArray[np.float64]


FEWEST_GROUPS = 8
"""No interval is given below this many independent groups: how much they scatter is then itself a guess, and no method
that was tried covers as often as it says where groups are skewed (``benchmarks/coverage.py``)."""

_JOINED = 2_000_000  # numbers of one block of draws


def labels_of(groups: Sequence[str] | None, n: int) -> list[tuple[str, ...]] | None:
    """The labels of each item where groups are crossed (``"Ann × Tom"`` shares Tom with ``"Tom × Zoe"``); None elsewhere."""
    if not groups or not any(CROSSED in group for group in groups):
        return None
    return [tuple(dict.fromkeys((group or f"\0{i}").split(CROSSED))) for i, group in enumerate(groups)]


def n_groups(groups: Sequence[str] | None, n: int) -> int:
    """How many independent groups `n` items are in: what an interval stands on.

    Of crossed groups it is the labels, or the groups where these are fewer: six items of twelve names are six.

    Examples
    --------
    >>> n_groups(["a", "a", "b"], 3), n_groups(None, 3), n_groups(["Ann × Tom", "Tom × Zoe"], 2)
    (2, 3, 2)
    """
    count = int(group_codes(groups, n).max()) + 1 if n else 0
    crossed = labels_of(groups, n)
    return count if crossed is None else min(count, len({label for labels in crossed for label in labels}))


def resamples(n: int, groups: Sequence[str] | None, n_boot: int, seed: int) -> NDArray[np.float64]:
    """Weights (n_boot, n) of a bootstrap: how often each item is drawn.

    With groups, whole groups are drawn, since items of one group are not independent; an item whose group has no
    name is a group of its own. With fewer than two groups items are drawn. Of crossed groups the labels are drawn,
    and an item as often as the product of its labels' counts (the pigeonhole bootstrap of Owen 2007).
    """
    if n == 0:
        raise PatchclampError("there is no item to resample; give at least one")
    if n_boot < 1:
        raise PatchclampError(f"n_boot={n_boot}: at least one resample is needed for an interval")
    rng = numpy_rng(seed)
    crossed = labels_of(groups, n)
    if crossed is not None:
        return _pigeonhole(_membership(crossed), n_boot, rng)
    member = group_codes(groups, n, fewest=2)
    count = int(member.max()) + 1
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=n_boot)
    return drawn[:, member].astype(np.float64)


def _membership(crossed: Sequence[tuple[str, ...]]) -> Array:
    """(label, item) 1 where the item has the label."""
    names = {label: i for i, label in enumerate(sorted({label for labels in crossed for label in labels}))}
    member = np.zeros((len(names), len(crossed)))
    for item, labels in enumerate(crossed):
        member[[names[label] for label in labels], item] = 1
    return member


def _pigeonhole(member: Array, n_boot: int, rng: np.random.Generator) -> Array:
    """Products of the counts of each item's labels; draws in which no item is left are drawn anew."""
    count = len(member)
    weights = np.zeros((n_boot, member.shape[1]))
    empty: NDArray[np.bool_] = np.ones(n_boot, dtype=bool)
    while empty.any():
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=int(empty.sum()))
        weights[empty] = np.stack([drawn[:, labels > 0].prod(1) for labels in member.T], axis=1)
        empty = np.asarray(~weights.any(1))
    return weights


def bootstrap_interval(
    per_item: ArrayLike,
    groups: Sequence[str] | None = None,
    *,
    n_boot: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[Array, Array]:
    """Interval of the mean over items, by a symmetric bootstrap-t over items (or whole groups); see `ratio_interval`.

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
        Arrays of the trailing shape; NaN where fewer than 8 groups have a value.

    Examples
    --------
    >>> low, high = bootstrap_interval([1.0, 2.0, 3.0, 4.0] * 3, seed=0)
    >>> bool(low < 2.5 < high)
    True
    >>> [bool(np.isnan(end)) for end in bootstrap_interval([1.0, 2.0, 3.0, 4.0])]
    [True, True]
    """
    values = np.asarray(per_item, dtype=np.float64)
    flat = values.reshape(len(values), int(np.prod(values.shape[1:])))
    there = ~np.isnan(flat)
    counts = there.astype(np.float64) if not there.all() else np.ones((len(flat), 1))
    low, high = _studentised(np.where(there, flat, 0.0), counts, groups, n_boot, seed, level)
    return low.reshape(values.shape[1:]), high.reshape(values.shape[1:])


def ratio_interval(
    top: ArrayLike,
    bottom: ArrayLike,
    groups: Sequence[str] | None = None,
    *,
    n_boot: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Interval of sum(top) / sum(bottom) over items, such as an effect as a share of the baseline on the same items.

    With the ratio r, group g has the residual u_g = top_g - r bottom_g, and r the standard error
    s = sqrt(G / (G - 1) sum u_g^2) / |sum bottom_g|: groups of unequal size count as much as they hold. The interval is
    r +- q s, where q is the 95 % point of |r* - r| / s* over draws of groups (the symmetric bootstrap-t of Hall 1988),
    so that r lies in its middle. A mean over items is such a ratio, of sums to counts.

    Crossed groups have the standard error of Cameron, Gelbach and Miller (2011), by jackknife: what leaving out
    each label changes, squared and summed, less what leaving out each group changes (at least the latter); q is then
    Student's with one degree of freedom less than there are labels.

    Returns
    -------
    low, high
        NaN with fewer than 8 groups (labels, where they are crossed), or where one label is in all items.

    Examples
    --------
    >>> ratio_interval([1.0] * 8, [2.0] * 8)
    (0.5, 0.5)
    """
    above, below = (np.asarray(part, dtype=np.float64)[:, None] for part in (top, bottom))
    low, high = _studentised(above, below, groups, n_boot, seed, level)
    return float(low[0]), float(high[0])


def _studentised(
    top: Array, bottom: Array, groups: Sequence[str] | None, n_boot: int, seed: int, level: float
) -> tuple[Array, Array]:
    """Ends of the interval of sum(top) / sum(bottom) for each column, (item, k) and (item, k or 1)."""
    n, columns = top.shape
    if n == 0:
        raise PatchclampError("there is no item to resample; give at least one")
    if n_boot < 1:
        raise PatchclampError(f"n_boot={n_boot}: at least one resample is needed for an interval")
    low, high = np.full(columns, np.nan), np.full(columns, np.nan)
    if n_groups(groups, n) < FEWEST_GROUPS:
        return low, high
    crossed = labels_of(groups, n)
    codes = group_codes(groups, n)
    weights = None if crossed is not None else resamples(int(codes.max()) + 1, None, n_boot, seed)
    block = max(1, _JOINED // n_boot)
    for first in range(0, columns, block):
        part = slice(first, first + block)
        above, below = top[:, part], bottom if bottom.shape[1] == 1 else bottom[:, part]
        if crossed is not None:
            low[part], high[part] = _crossed_ends(above, below, crossed, codes, level)
        else:
            assert weights is not None
            low[part], high[part] = _drawn_ends(summed(above, codes), summed(below, codes), weights, level)
    return low, high


def summed(values: Array, codes: NDArray[np.int64]) -> Array:
    """(group, k) sums over the items of each group."""
    if np.array_equal(codes, np.arange(len(codes))):
        return values
    order = np.argsort(codes, kind="stable")
    return np.asarray(
        np.add.reduceat(values[order], np.searchsorted(codes[order], np.arange(codes.max() + 1)), 0)
    )


def _drawn_ends(top: Array, bottom: Array, weights: Array, level: float) -> tuple[Array, Array]:
    """r +- q s from (group, k) sums and (draw, group) counts."""
    ratio, error, moved, spread = _draws(top, bottom, weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        reach = quantiles(np.abs(moved) / spread, (level,))[0] * error
    reach = np.where(error > 1e-12 * np.abs(ratio), reach, 0.0)
    count = (bottom != 0).sum(0) if bottom.shape[1] > 1 else len(top)
    known = np.broadcast_to(count >= FEWEST_GROUPS, ratio.shape)
    return np.where(known, ratio - reach, np.nan), np.where(known, ratio + reach, np.nan)


def _draws(top: Array, bottom: Array, weights: Array) -> tuple[Array, Array, Array, Array]:
    """sum(top) / sum(bottom) of groups and its standard error, and of each draw how far it moved, and its error."""
    count = (bottom != 0).sum(0) if bottom.shape[1] > 1 else len(top)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = top.sum(0) / bottom.sum(0)
        left = top - ratio * bottom
        inner = np.sqrt(count / np.maximum(count - 1, 1))
        error = inner * np.sqrt((left**2).sum(0)) / np.abs(bottom.sum(0))
        total = weights @ bottom
        moved = (weights @ left) / total
        squares = (
            weights @ left**2 - 2 * moved * (weights @ (left * bottom)) + moved**2 * (weights @ bottom**2)
        )
        # A draw of one group over and over, or of equal groups, has no spread: rounding is not one.
        squares = np.where(squares > 1e-12 * (left**2).sum(0), squares, np.nan)
        return ratio, error, moved, inner * np.sqrt(squares) / np.abs(total)


def contrast_interval(
    parts: Sequence[tuple[float, ArrayLike, Sequence[str] | None]],
    *,
    n_boot: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Sum of weighted means of independent samples, with its interval: the bootstrap-t of `ratio_interval` for all together.

    Parameters
    ----------
    parts
        Of each sample its weight, such as 1 and -1 for a difference, its values per item and the items' groups.

    Returns
    -------
    value, low, high
        Ends are NaN where the samples of either sign hold fewer than 8 groups together.

    Examples
    --------
    >>> value, low, high = contrast_interval([(1.0, [2.0, 3.0] * 5, None), (-1.0, [0.0, 1.0] * 5, None)])
    >>> value, bool(0 < low < 2 < high)
    (2.0, True)
    """
    value = error = 0.0
    moved, spread = np.zeros(n_boot), np.zeros(n_boot)
    counts = {True: 0, False: 0}
    for place, (weight, per_item, groups) in enumerate(parts):
        values = np.asarray(per_item, dtype=np.float64)[:, None]
        codes = group_codes(groups, len(values))
        count = int(codes.max()) + 1
        counts[weight > 0] += count
        drawn = resamples(count, None, n_boot, seed + 7919 * place)
        one, own, far, wide = _draws(summed(values, codes), summed(np.ones_like(values), codes), drawn)
        value += weight * float(one[0])
        error += weight**2 * float(own[0]) ** 2
        moved += weight * far[:, 0]
        spread += weight**2 * np.nan_to_num(wide[:, 0]) ** 2
    if min(count for count in counts.values() if count) < FEWEST_GROUPS:
        return value, float("nan"), float("nan")
    with np.errstate(invalid="ignore", divide="ignore"):
        reach = quantiles(np.where(spread > 0, np.abs(moved) / np.sqrt(spread), np.nan), (level,))[
            0
        ] * np.sqrt(error)
    reach = float(reach) if error > 0 else 0.0
    return value, value - reach, value + reach


def _crossed_ends(
    top: Array, bottom: Array, crossed: Sequence[tuple[str, ...]], codes: NDArray[np.int64], level: float
) -> tuple[Array, Array]:
    from scipy.stats import t as student  # half a second

    member = _membership(crossed)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = top.sum(0) / bottom.sum(0)

        def changes(above: Array, below: Array) -> Array:
            return np.asarray((((top.sum(0) - above) / (bottom.sum(0) - below) - ratio) ** 2).sum(0))

        own = changes(summed(top, codes), summed(bottom, codes))
        times = max(map(len, crossed)) - 1  # an item counts itself once for each of its labels
        error = np.sqrt(np.maximum(changes(member @ top, member @ bottom) - times * own, own))
    held = np.minimum((member @ (bottom != 0) > 0).sum(0), (summed((bottom != 0) * 1.0, codes) > 0).sum(0))
    reach = student.ppf((1 + level) / 2, np.maximum(held - 1, 1)) * error
    reach = np.where(np.isfinite(reach) & (held >= FEWEST_GROUPS), reach, np.nan)
    return ratio - reach, ratio + reach


def draws_interval(
    draws: ArrayLike, count: int, value: ArrayLike | None = None, *, level: float = 0.95
) -> tuple[Array, Array]:
    """Interval from bootstrap draws (draw, ...) of any statistic of `count` independent groups.

    Percentiles that lie as far out as Student's t and the factor sqrt(n / (n - 1)) ask for (Hesterberg 2015), since
    plain ones are too narrow for few groups. The estimate itself, where it is given, is always within. NaN below 8
    groups, and where every draw is NaN.

    Examples
    --------
    >>> low, high = draws_interval(np.arange(1000.0), 7)
    >>> bool(np.isnan(low))
    True
    """
    values = np.asarray(draws, dtype=np.float64)
    if count < FEWEST_GROUPS:
        return np.full(values.shape[1:], np.nan), np.full(values.shape[1:], np.nan)
    tail = expanded_tail(count, level)
    low, high = quantiles(values, (tail, 1 - tail))
    if value is not None:
        low, high = (
            np.where(np.isnan(end), end, clip(end, value)) for end, clip in ((low, np.fmin), (high, np.fmax))
        )
    return np.asarray(low), np.asarray(high)


def expanded_tail(count: int, level: float = 0.95) -> float:
    """The share of draws beyond each end of an interval over `count` groups; half of 1 - level where there are many.

    Examples
    --------
    >>> round(expanded_tail(8), 4), round(expanded_tail(1000), 4)
    (0.0057, 0.0248)
    """
    from scipy.stats import norm, t

    return float(norm.cdf(-np.sqrt(count / (count - 1)) * t.ppf((1 + level) / 2, count - 1)))


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
    """`draws_interval` of any statistic of weighted items; `statistic` receives weights that sum to one."""
    weights = resamples(n, groups, n_boot, seed)
    if n_groups(groups, n) < FEWEST_GROUPS:
        return float("nan"), float("nan")
    draws = [statistic(row / row.sum()) for row in weights]
    low, high = draws_interval(draws, n_groups(groups, n), statistic(np.full(n, 1 / n)), level=level)
    return float(low), float(high)


def expected_jaccard(pool: int, a: int, b: int) -> float:
    """Expected overlap |A & B| / |A | B| of two random sets of `a` and `b` out of `pool`; what they share is hypergeometric.

    Examples
    --------
    >>> round(expected_jaccard(3, 1, 1), 3), round(expected_jaccard(200, 100, 100), 3)
    (0.333, 0.334)
    """
    from scipy.stats import hypergeom  # half a second

    shared = np.arange(min(a, b) + 1)
    return float((hypergeom.pmf(shared, pool, a, b) * shared / np.maximum(a + b - shared, 1)).sum())


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


def enough_sets(tests: int, level: float = 0.05) -> int:
    """Random sets that let a p corrected by Holm over so many tests reach the level: tests / (R + 1) <= level.

    Examples
    --------
    >>> enough_sets(1), enough_sets(5)
    (19, 99)
    """
    return math.ceil(tests / level - 1e-9) - 1


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
    signs = numpy_rng(seed).choice([-1.0, 1.0], size=(n_perm, len(values)))
    return np.concatenate(
        [np.abs(chunk @ flat / len(values)).max(1) for chunk in np.array_split(signs, max(1, n_perm // 50))]
    )
