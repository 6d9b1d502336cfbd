"""`Estimate`: a measured number with its interval, how many items it stands on, and what chance gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.folds import group_codes
from patchclamp.base.statistics import (
    FEWEST_GROUPS,
    bootstrap_interval,
    n_groups,
    permutation_p,
    ratio_interval,
)


@dataclass(frozen=True)
class Null:
    """The same number where there is nothing to find: random sets of units, shuffles, surrogates.

    Parameters
    ----------
    mean, low, high
        Of the draws: mean, 2.5 and 97.5 percentile.
    n
        Number of draws.
    kind
        How they were drawn, and what was held equal.
    p
        (1 + #{draws as extreme as the estimate}) / (n + 1).
    p_adjusted
        After correction over what was measured together.
    draws
        The draws themselves, where they are kept.
    """

    mean: float
    low: float
    high: float
    n: int
    kind: str
    p: float | None = None
    p_adjusted: float | None = None
    draws: tuple[float, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, draws: ArrayLike, kind: str, value: float | None = None, *, sides: int = 2) -> Null:
        """The null of some draws; with `value`, its p on the size (2 sides) or on the value itself (1).

        Examples
        --------
        >>> Null.of([0.0, 1.0, 2.0], "shuffled labels", 5.0).p
        0.25
        """
        values = np.asarray(draws, dtype=np.float64)
        if not values.size:
            raise PatchclampError(f"a null of {kind} without a draw")
        low, high = np.quantile(values, [0.025, 0.975])
        p = None
        if value is not None:
            size = abs if sides == 2 else float
            p = permutation_p(size(value), np.abs(values) if sides == 2 else values)
        return cls(
            float(values.mean()),
            float(low),
            float(high),
            values.size,
            kind,
            p,
            None,
            tuple(map(float, values)),
        )

    def scaled(self, factor: float) -> Null:
        """All numbers times a factor; p stays."""
        ends = sorted((self.low * factor, self.high * factor))
        draws = tuple(draw * factor for draw in self.draws)
        return replace(self, mean=self.mean * factor, low=ends[0], high=ends[1], draws=draws)


@dataclass(frozen=True)
class Estimate:
    """A measured number.

    Parameters
    ----------
    value
        The number.
    low, high
        Its 95 % interval; None where none can be had.
    n
        Items (texts, trials, units) that it stands on; 0 where they are not known.
    null
        What chance gives, on the same scale.
    groups
        Independent groups that the items are in; 0 where they are not known. Below 8 there is no interval.

    Examples
    --------
    >>> print(Estimate(0.5, 0.4, 0.6, 20).scaled(2))
    1.000 [0.800, 1.200], n=20
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int = 0
    null: Null | None = None
    groups: int = 0

    @property
    def size(self) -> str:
        """Items and groups in words.

        Examples
        --------
        >>> Estimate(0.5, n=40, groups=11).size
        'n = 40 items, 11 groups'
        """
        return f"n = {self.n} items" + (f", {self.groups} groups" if 0 < self.groups < self.n else "")

    def __post_init__(self) -> None:
        for end in ("low", "high"):
            value = getattr(self, end)
            if value is not None and math.isnan(value):  # no interval
                object.__setattr__(self, end, None)

    @classmethod
    def of_mean(
        cls, per_item: ArrayLike, groups: Sequence[str] | None = None, null: Null | None = None, **draws: Any
    ) -> Estimate:
        """The mean over items with its interval; `draws` are n_boot and seed of `bootstrap_interval`.

        Examples
        --------
        >>> print(Estimate.of_mean([1.0, 2.0, 3.0], ["a", "b", "c"]))
        2.000 (no interval: 3 independent groups, at least 8 are needed), n=3
        """
        values = np.asarray(per_item, dtype=np.float64)
        low, high = bootstrap_interval(values, groups, **draws)
        return cls(
            float(values.mean()), float(low), float(high), len(values), null, n_groups(groups, len(values))
        )

    @classmethod
    def of_ratio(
        cls, top: ArrayLike, bottom: ArrayLike, groups: Sequence[str] | None = None, *, what: str = "the baseline",
        null: Null | None = None, **draws: Any,
    ) -> Estimate:  # fmt: skip
        """The ratio of two means over the same items, such as an effect as a share of the baseline.

        Raises
        ------
        PatchclampError
            Where the mean of `bottom` is not different from 0: then no share of it means anything.
        """
        above, below = np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64)
        require_nonzero(below, groups, what)
        low, high = ratio_interval(above, below, groups, **draws)
        return cls(
            float(above.mean() / below.mean()), low, high, len(below), null, n_groups(groups, len(below))
        )

    @property
    def draws(self) -> tuple[float, ...]:
        """The null's draws; none where there is no null."""
        return () if self.null is None else self.null.draws

    @property
    def bounded(self) -> bool:
        """Whether there is an interval."""
        return self.low is not None and self.high is not None

    @property
    def clear(self) -> bool:
        """Whether there is an interval, and 0 is not in it."""
        low, high = self.interval
        return low > 0 or high < 0

    def span(self, form: str = ".3f") -> str:
        """The interval in brackets, or why there is none."""
        if self.low is not None and self.high is not None:
            return f"[{self.low:{form}}, {self.high:{form}}]"
        if 0 < self.groups < FEWEST_GROUPS:
            return f"(no interval: {self.groups} independent groups, at least {FEWEST_GROUPS} are needed)"
        return "(no interval)"

    @property
    def interval(self) -> tuple[float, float]:
        """Both ends, NaN where there are none: for arithmetic."""
        nan = float("nan")
        return nan if self.low is None else self.low, nan if self.high is None else self.high

    @property
    def beats_null(self) -> bool:
        """Whether the interval lies above the null's 97.5 percentile, and p is at most .05 where there is one.

        The p that counts is the one after correction, where several were measured together. The estimate alone does not
        do: what was chosen for its score tends to vary more over items than what was drawn at random.
        """
        if self.null is None or self.low is None or not self.low > self.null.high:
            return False
        p = self.null.p if self.null.p_adjusted is None else self.null.p_adjusted
        return p is None or p <= 0.05

    def scaled(self, factor: float) -> Estimate:
        """The number, its interval and its null times a factor."""
        low, high = (None if end is None else end * factor for end in (self.low, self.high))
        if factor < 0:
            low, high = high, low
        null = None if self.null is None else self.null.scaled(factor)
        return replace(self, value=self.value * factor, low=low, high=high, null=null)

    def adjusted(self, p: float) -> Estimate:
        """The same with an adjusted p."""
        return self if self.null is None else replace(self, null=replace(self.null, p_adjusted=float(p)))

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        text = f"{self.value:.3f}"
        if self.bounded or self.groups:
            text += f" {self.span()}"
        text += f", n={self.n}" if self.n else ""
        return f"{text} in {self.groups} groups" if 0 < self.groups < self.n else text


def require_nonzero(per_item: ArrayLike, groups: Sequence[str] | None, what: str) -> None:
    """Refuse a mean of which no share can be stated, because it is not different from 0.

    Judged by its interval; where there are too few groups for one, by Student's t of the groups' sums, so that what
    is lost in noise is refused there too.

    Raises
    ------
    PatchclampError
        With the mean and its interval.

    Examples
    --------
    >>> require_nonzero([0.5, 0.4] * 5, None, "the logit difference")
    """
    mean = Estimate.of_mean(per_item, groups)
    if mean.bounded:
        lost = not mean.clear
    else:
        lost = abs(mean.value) <= student_reach(np.asarray(per_item, dtype=np.float64), groups)
    if lost or mean.value == 0:
        raise PatchclampError(
            f"{what} is not different from 0: {mean}. A share of it would say nothing: give more items, or items on which "
            "the model shows the behaviour, or state the effect itself"
        )


def student_reach(values: NDArray[np.float64], groups: Sequence[str] | None = None) -> float:
    """Half the width of Student's interval of a mean, from the groups' deviations; 0 for a single group.

    No interval is stated below 8 groups; where a yes or no is needed there all the same, this decides.

    Examples
    --------
    >>> round(student_reach(np.array([1.0, 2.0, 3.0])), 2)
    2.48
    """
    from scipy.stats import t  # half a second

    codes = group_codes(groups, len(values))
    count = int(codes.max()) + 1
    if count < 2:
        return 0.0
    left = np.bincount(codes, values - values.mean())
    error = np.sqrt(count / (count - 1) * (left**2).sum()) / len(values)
    return float(t.ppf(0.975, count - 1) * error)


def adjusted(estimates: Sequence[Estimate], method: Any) -> list[Estimate]:
    """The estimates with the p-values of their nulls corrected together by `method` (such as `holm`).

    Those without p stay as they are.
    """
    p = [e.null.p for e in estimates if e.null is not None and e.null.p is not None]
    found = iter(method(p)) if p else iter(())
    return [e if e.null is None or e.null.p is None else e.adjusted(next(found)) for e in estimates]
