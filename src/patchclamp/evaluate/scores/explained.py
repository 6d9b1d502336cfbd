"""Explained variance of a reconstruction, pooled, whatever the scale and the offset of the activity."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.arrays import as_array
from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate
from patchclamp.base.folds import group_codes
from patchclamp.base.statistics import draws_interval, n_groups, resamples
from patchclamp.draw.cards import shown

Array = NDArray[np.float64]


@shown
@dataclass(frozen=True)
class Explained(Estimate):
    """How much of the activity a reconstruction explains.

    Attributes
    ----------
    value, low, high : float
        1 - sum |x - y|^2 / sum |x - mean x|^2, sums pooled over samples and units; interval over samples (groups), of
        which there are n.
    offset : float
        Share of the variance lost by the error's mean alone, n |mean (x - y)|^2 / sum |x - mean x|^2: what a bias
        could mend.
    bias : float
        Relative reconstruction bias, sum (y - mean x).(y - mean x) / sum (y - mean x).(x - mean x): below one the
        reconstruction is shrunken. It is about the mean too, so that an offset of the activity does not hide it.
    """

    offset: float = field(kw_only=True)
    bias: float = field(kw_only=True)

    def __str__(self) -> str:
        return f"explained variance {self.value:.3f} {self.span()}, n={self.n:,}"


def explained_variance(
    activity: Any,
    reconstruction: Any = None,
    groups: Sequence[str] = (),
    *,
    n_boot: int = 1000,
    seed: int = 0,
) -> Explained:
    """Measure the explained variance of a reconstruction y of activity x.

    1 - sum |x - y|^2 / sum |x - mean x|^2 with pooled sums in float64 about the mean of x, so that x -> c x + b, y -> c y +
    b changes nothing. It is no mean of ratios of tokens or of units, and subtracts the squared mean vector, not the square
    of the mean of squares (a known error, with which a true .9 reads 1.18 once activity is ten times as large).

    Parameters
    ----------
    activity, reconstruction
        (sample, unit) arrays or tensors; or, `reconstruction` left out, an iterable of such pairs (batches).
    groups
        The unit of dependence of each sample (documents, say); intervals resample these.
    n_boot, seed
        Of the interval; 0 leaves it out.

    Raises
    ------
    PatchclampError
        For unequal shapes, values that are not finite, or activity that does not vary.

    Examples
    --------
    >>> x = np.arange(12.0).reshape(4, 3)
    >>> explained_variance(x, x).value, explained_variance(x, np.tile(x.mean(0), (4, 1))).value
    (1.0, 0.0)
    """
    pairs = [(activity, reconstruction)] if reconstruction is not None else activity
    x, y = _stack(pairs)
    if groups and len(groups) != len(x):
        raise PatchclampError(f"{len(groups)} groups for {len(x)} samples")
    # About the middle of the data first: with a large offset, sums about the origin would lose their digits.
    middle = x.mean(0)
    x, y = x - middle, y - middle
    size, error = (x**2).sum(1), ((x - y) ** 2).sum(1)
    total = float(size.sum())
    if not total > 1e-24 * len(x) * max(float((middle**2).sum()), 1e-300):
        raise PatchclampError("the activity does not vary, so there is nothing to explain")
    value = 1 - float(error.sum()) / total
    low, high = (
        _interval(x, size, error, value, groups, n_boot, seed) if n_boot else (float("nan"), float("nan"))
    )
    lost = len(x) * float(((x - y).mean(0) ** 2).sum()) / total
    along = float((x * y).sum())
    bias = float((y**2).sum()) / along if along else float("nan")
    count = n_groups(groups or None, len(x))
    return Explained(value, low, high, len(x), groups=count, offset=lost, bias=bias)


def _stack(pairs: Any) -> tuple[Array, Array]:
    if not isinstance(pairs, Iterable):
        raise PatchclampError("give reconstruction=, or an iterable of (activity, reconstruction) batches")
    parts = [tuple(map(as_array, pair)) for pair in pairs]
    if not parts:
        raise PatchclampError("there is no batch to measure on")
    for x, y in parts:
        if x.shape != y.shape or x.ndim != 2:
            raise PatchclampError(
                f"activity {x.shape} and reconstruction {y.shape}: both are (sample, unit), equal"
            )
    x, y = (np.concatenate(side) for side in zip(*parts, strict=True))
    if not np.isfinite(x).all() or not np.isfinite(y).all():
        raise PatchclampError("activity or reconstruction holds values that are not finite")
    return x, y


def _interval(
    x: Array, size: Array, error: Array, value: float, groups: Sequence[str], n_boot: int, seed: int
) -> tuple[float, float]:
    """Percentile interval; the mean is taken anew in every draw, by sums of groups.

    sum w |x - m|^2 = sum w |x|^2 - |sum w x|^2 / sum w, where x is about the overall mean already.
    """
    member = group_codes(groups, len(x))
    order = np.argsort(member, kind="stable")
    starts = np.searchsorted(member[order], np.arange(member.max() + 1))
    sums = [np.add.reduceat(part[order], starts, axis=0) for part in (size, error, x, np.ones(len(x)))]
    draws = np.empty(n_boot)
    block = 100
    weights = resamples(len(starts), None, n_boot, seed)
    for first in range(0, n_boot, block):
        w = weights[first : first + block]
        spread = w @ sums[0] - ((w @ sums[2]) ** 2).sum(1) / (w @ sums[3])
        with np.errstate(divide="ignore", invalid="ignore"):
            draws[first : first + block] = np.where(spread > 0, 1 - (w @ sums[1]) / spread, np.nan)
    low, high = draws_interval(draws, len(starts), value)
    return float(low), float(high)
