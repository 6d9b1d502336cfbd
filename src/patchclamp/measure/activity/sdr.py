"""Sparse distributed representations: when is an overlap of active units more than chance?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import xarray as xr
from jaxtyping import Float
from torch import Tensor

from patchclamp.measure.activity.firing import count_above
from patchclamp.nouns.measure import Measure, require

if TYPE_CHECKING:
    from patchclamp.nouns.recording.recording import Samples


def overlap_chance(n: int, a: int, s: int, threshold: int) -> float:
    """Chance that `a` of `n` units drawn at random share `threshold` or more with `s` given ones.

    The upper tail of the hypergeometric distribution: sum over b >= threshold of C(s, b) C(n - s, a - b) / C(n, a). With s
    the synapses of a dendrite it is the chance of a false match; with s and a the sizes of two sets of top units, the
    p-value of "they share this many". Computed in whole numbers, exact to the last digit of the result.

    Parameters
    ----------
    n
        Units.
    a, s
        Sizes of the two sets.
    threshold
        Units shared.

    References
    ----------
    Ahmad, Hawkins (2016), How do neurons operate on sparse distributed representations?

    Examples
    --------
    >>> f"{overlap_chance(2048, 40, 20, 10):.3g}"
    '3.91e-13'
    >>> overlap_chance(10, 2, 1, 1)  # two of ten hit a given one
    0.2
    """
    require(n >= 1 and 0 <= a <= n and 0 <= s <= n, f"overlap: {a} and {s} of n={n} units; 0 to n")
    require(threshold >= 0, f"overlap: threshold={threshold} is negative")
    first = max(threshold, a + s - n, 0)
    if first > min(a, s):
        return 0.0
    term = math.comb(s, first) * math.comb(n - s, a - first)
    total = term
    for b in range(first, min(a, s)):
        term = term * (s - b) * (a - b) // ((b + 1) * (n - s - a + b + 1))
        total += term
    return total / math.comb(n, a)


def union_density(n: int, a: int, patterns: int) -> float:
    """Expected share of units that are active in at least one of `patterns` random patterns: 1 - (1 - a / n)^patterns.

    Examples
    --------
    >>> round(union_density(2048, 40, 20), 3)
    0.326
    """
    require(0 <= a <= n and n > 0 and patterns >= 0, f"union_density: a={a} of n={n}, {patterns} patterns")
    return -math.expm1(patterns * math.log1p(-a / n)) if a < n else float(patterns > 0)


def union_false_match(n: int, a: int, patterns: int, threshold: int | None = None) -> float:
    """Chance that a random pattern has `threshold` or more of its `a` units in a union of `patterns` random patterns.

    Exact, by inclusion and exclusion over which of its units the union leaves out, in whole numbers. Usual are two
    approximations: units hit independently at the union's density d = `union_density` (binomial; all of 40 units:
    d^40), or a union of exactly d n units (hypergeometric). For 20 patterns of 40 of 2,048 units they are a factor of
    2.0 above and 1.1 below for a match of all 40, and 1.3 above and 1.04 below for 30.

    Parameters
    ----------
    threshold
        None = all `a`.

    Examples
    --------
    >>> f"{union_false_match(2048, 40, 20):.3g} {union_false_match(2048, 40, 20, 30):.3g}"
    '1.74e-20 3.71e-08'
    """
    least = a if threshold is None else threshold
    require(0 < a <= n and patterns >= 0, f"union_false_match: a={a} of n={n}, {patterns} patterns")
    require(least >= 0, f"union_false_match: threshold={least} is negative")
    # Ways in which the union leaves out j given units; over ways[0] this is a probability.
    ways: list[int] = [math.comb(n - j, a) ** patterns for j in range(a + 1)]
    total = 0
    for hit in range(least, a + 1):
        total += math.comb(a, hit) * sum(
            (-1) ** k * math.comb(hit, k) * ways[a - hit + k] for k in range(hit + 1)
        )
    return total / ways[0]


def miss_chance(a: int, s: int, moved: int, threshold: int) -> float:
    """Chance that a stored pattern is missed when `moved` of its `a` active units have moved elsewhere.

    `s` synapses sample the pattern's active units; fewer than `threshold` of them survive with the probability that
    more than s - threshold of the moved units were among them. Moved units land outside the pattern.
    """
    require(0 <= moved <= a and s <= a, f"miss_chance: {moved} units moved and {s} stored of a={a}")
    return overlap_chance(a, moved, s, max(s - threshold + 1, 0)) if threshold <= s else 1.0


def best_threshold(n: int, a: int, s: int, moved: int) -> tuple[int, float, float]:
    """The threshold at which the larger of the two errors is smallest: (threshold, false match, miss).

    Examples
    --------
    >>> threshold, false_match, miss = best_threshold(2048, 40, 20, moved=8)
    >>> threshold, false_match < 1e-9, miss < 1e-2
    (12, True, True)
    """
    found = [
        (max(false, miss), threshold, false, miss)
        for threshold in range(1, s + 1)
        for false, miss in [(overlap_chance(n, a, s, threshold), miss_chance(a, s, moved, threshold))]
    ]
    _, threshold, false, miss = min(found)
    return threshold, false, miss


class SparseOverlap(Measure):
    """Samples as sets of active units: their size, how much two of them share, and what chance would share.

    ``active`` = mean number of active units a sample, ``sparsity`` = active / units; ``overlap`` = mean number of units that
    two different samples share, exact over all pairs: sum_i c_i (c_i - 1) / (n (n - 1)), c_i the samples on which unit
    i is active. Two chances to compare it with: ``overlap_uniform`` = active^2 / units, for units that are equally
    likely, and ``overlap_rates`` = sum_i p_i^2, for units that are independent and have the rates they have.
    An overlap above the first and equal to the second says that some units are active often, and no more than that.
    ``false_match`` is the chance that a random sample of the same size shares `share` of a sample's units (`overlap_chance`).

    Parameters
    ----------
    threshold
        Activity above it is active.
    share
        Of a sample's active units that count as a match.

    References
    ----------
    Ahmad, Hawkins (2016), How do neurons operate on sparse distributed representations?
    """

    name = "sdr"
    fields = ("count", "squares", "least", "most")
    lows = ("least",)
    highs = ("most",)

    count: Tensor
    squares: int
    least: int
    most: int

    def __init__(self, *, threshold: float = 0.0, share: float = 0.5) -> None:
        require(0 < share <= 1, f"SparseOverlap: share={share}; above 0 and at most 1")
        self.threshold, self.share = float(threshold), float(share)

    def _update(self, values: Float[Tensor, "n units"], samples: Samples) -> None:
        size = (values > self.threshold).sum(1).cpu()
        self._add(
            count=count_above(values, self.threshold),
            squares=int(size.square().sum()),
            least=int(size.min()),
            most=int(size.max()),
        )

    def result(self) -> xr.Dataset:
        """Dataset: rate (unit); active, active_std, active_min, active_max, sparsity, overlap, overlap_rates,
        overlap_uniform, false_match.
        """
        units = self._need_data()
        n, total = self.n_samples, int(self.count.sum())
        count = self.count.double()
        active = total / n
        size = round(active)
        overlap = float((count * (count - 1)).sum()) / (n * (n - 1)) if n > 1 else math.nan
        false_match = overlap_chance(units, size, size, math.ceil(self.share * size)) if size else math.nan
        return self._dataset(
            {
                "rate": (("unit",), count / n),
                "active": ((), active),
                "active_std": ((), max(self.squares / n - active**2, 0.0) ** 0.5),
                "active_min": ((), self.least),
                "active_max": ((), self.most),
                "sparsity": ((), active / units),
                "overlap": ((), overlap),
                "overlap_rates": ((), float((count / n).square().sum())),
                "overlap_uniform": ((), active**2 / units),
                "false_match": ((), false_match),
            },
            threshold=self.threshold,
            share=self.share,
        )
