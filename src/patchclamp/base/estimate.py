"""`Estimate`: a measured number with its interval, how many items it stands on, and what chance gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from patchclamp.base.errors import PatchclampError
from patchclamp.base.statistics import permutation_p


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
    draws: tuple[float, ...] = ()

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
        Independent groups that the items are in; 0 where they are not known, or are the items.

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
        return f"n = {self.n} items" + (f", {self.groups} groups" if self.groups else "")

    @property
    def interval(self) -> tuple[float, float]:
        """Both ends, NaN where there are none: for arithmetic."""
        nan = float("nan")
        return nan if self.low is None else self.low, nan if self.high is None else self.high

    @property
    def beats_null(self) -> bool:
        """Whether the interval lies above the null's 97.5 percentile, and p is at most .05 where there is one.

        The estimate alone does not do: what was chosen for its score tends to vary more over items than what was
        drawn at random.
        """
        if self.null is None or self.low is None or not self.low > self.null.high:
            return False
        return self.null.p is None or self.null.p <= 0.05

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
        if self.low is not None and self.high is not None:
            text += f" [{self.low:.3f}, {self.high:.3f}]"
        text += f", n={self.n}" if self.n else ""
        return f"{text} in {self.groups} groups" if self.groups else text


def adjusted(estimates: Sequence[Estimate], method: Any) -> list[Estimate]:
    """The estimates with the p-values of their nulls corrected together by `method` (such as `holm`).

    Those without p stay as they are.
    """
    p = [e.null.p for e in estimates if e.null is not None and e.null.p is not None]
    found = iter(method(p)) if p else iter(())
    return [e if e.null is None or e.null.p is None else e.adjusted(next(found)) for e in estimates]
