"""Areas under the ROC curve with their intervals, and what else says how well units tell labels apart.

`roc_auc` is the area; `Ranked` with `auc`, `average_precision`, `d_prime` and `mutual_information` serve many units and
labels at once, from activity ranked once: `values` (examples x units), `member` (labels x examples, 1 where the example
carries the label).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng
from patchclamp.base.statistics import (
    draws_interval,
    n_groups,
    permutation_p,
    ranks,
    resamples,
    sign_flip_max_null,
)


@dataclass(frozen=True)
class Ranked:
    """Activity ranked once, for as many label vectors as are wanted.

    Parameters
    ----------
    values
        (examples, units), each unit centred.
    rank
        Rank from 1, rising; equal values share the mean of theirs.
    at_least, at_most
        (units, examples): number of examples whose value is at least (at most) this one's.
    """

    values: Float[Tensor, "examples units"]
    rank: Float[Tensor, "examples units"]
    at_least: Int[Tensor, "units examples"]
    at_most: Int[Tensor, "units examples"]

    @classmethod
    def of(cls, values: Float[Tensor, "examples units"]) -> Ranked:
        """Rank every unit."""
        values = values.double()
        n = len(values)
        rising = values.T.contiguous()
        ordered = rising.sort(1).values
        at_most = torch.searchsorted(ordered, rising, right=True, out_int32=True)
        at_least = n - torch.searchsorted(ordered, rising, right=False, out_int32=True)
        rank = (n + 1 + at_most - at_least).T.double() / 2
        return cls(values - values.mean(0), rank.contiguous(), at_least, at_most)


def auc(ranked: Ranked, member: Float[Tensor, "labels examples"]) -> Float[Tensor, "labels units"]:
    """Area under the ROC curve: P(a positive's value > a negative's) + P(equal) / 2. NaN without both kinds.

    `roc_auc` of every unit and label.
    """
    positives = member.sum(1, keepdim=True)
    area: Tensor = _mann_whitney(member @ ranked.rank - positives / 2, positives, member.shape[1] - positives)
    return area


def d_prime(ranked: Ranked, member: Float[Tensor, "labels examples"]) -> Float[Tensor, "labels units"]:
    """Difference of means over the root of the mean of the two variances (n - 1). Infinite if both are zero.

    NaN for a unit that is constant, and with fewer than two positives or negatives.
    """
    values = ranked.values  # centred: sums of squares lose nothing to a large mean
    positives = member.sum(1, keepdim=True)
    negatives = member.shape[1] - positives
    squares = values.square()
    s1, q1 = member @ values, member @ squares
    s0, q0 = values.sum(0) - s1, squares.sum(0) - q1
    mean1, mean0 = s1 / positives, s0 / negatives
    var1 = (q1 - positives * mean1**2) / (positives - 1)
    var0 = (q0 - negatives * mean0**2) / (negatives - 1)
    pooled = (var1 + var0) / 2
    # What rounding leaves of a zero variance is zero.
    pooled = torch.where(pooled > 1e-14 * squares.mean(0), pooled, 0)
    constant = ranked.at_most.amin(1) == ranked.at_most.shape[1]
    difference = (mean1 - mean0).masked_fill(constant, 0)
    enough = (positives > 1) & (negatives > 1)
    return torch.where(enough, difference / pooled.sqrt(), torch.nan)


def average_precision(
    ranked: Ranked, member: Float[Tensor, "labels examples"], negated: bool = False
) -> Float[Tensor, "labels units"]:
    """Average precision: sum over thresholds of (step of recall) x precision; equal values are one threshold.

    A constant unit has the prevalence, a perfect one has 1. `negated` ranks by -value, for units that fall.
    Computed as the mean over positives of #{positives at least as high} / #{examples at least as high}.
    """
    taken = ranked.at_most if negated else ranked.at_least
    rows = []
    for one in member:
        counts = taken[:, one.nonzero()[:, 0]].sort(1).values
        if bool((counts[:, 1:] == counts[:, :-1]).any()):
            hits = torch.searchsorted(counts, counts, right=True)
        else:
            hits = torch.arange(1, counts.shape[1] + 1).expand_as(counts)
        rows.append((hits / counts.double()).mean(1))
    return torch.stack(rows)


def two_sided_ap(ranked: Ranked, member: Float[Tensor, "labels examples"]) -> Float[Tensor, "labels units"]:
    """The larger of the average precisions of a and -a, as (AP - prevalence) / (1 - prevalence)."""
    both = torch.maximum(average_precision(ranked, member), average_precision(ranked, member, negated=True))
    return normalised(both, member.mean(1, keepdim=True))


def normalised(ap: Tensor, prevalence: Tensor) -> Tensor:
    """Average precision on a scale where chance is 0 and perfect is 1."""
    return (ap - prevalence) / (1 - prevalence)


def mutual_information(
    ranked: Ranked, member: Float[Tensor, "labels examples"], bins: int = 8
) -> Float[Tensor, "labels units"]:
    """Mutual information in bits between the label (yes or no) and activity in `bins` bins of equal counts.

    The plug-in estimate; it is biased upwards by about (bins - 1) / (2 n ln 2), which a null by permutation
    shares. Equal values share a bin, so that a constant unit has none.
    """
    n, units = ranked.rank.shape
    binned = ((ranked.rank - 0.5) * (bins / n)).int().clamp_max_(bins - 1)
    binned += torch.arange(units, dtype=torch.int32) * bins
    inside = torch.bincount(binned.flatten(), minlength=units * bins).double() / n
    joint = (
        torch.stack([torch.bincount(binned[one > 0].flatten(), minlength=units * bins) for one in member])
        .double()
        .div_(n)
    )
    p_label = member.mean(1, keepdim=True)
    total = _term(joint, p_label * inside) + _term(inside - joint, (1 - p_label) * inside)
    return (total.view(len(member), units, bins).sum(2) / torch.log(torch.tensor(2.0).double())).clamp_min(0)


def _term(joint: Tensor, product: Tensor) -> Tensor:
    return torch.where(joint > 0, joint * (joint / product).log(), 0)


Array = NDArray[np.float64]
DIGITS = 6
"""Scores nearer to each other than 1e-6 of the largest count as equal: rounding is no order."""


def _mann_whitney(summed: Any, positives: Any, negatives: Any) -> Any:
    """U / (P N) from the sum of the positives' ranks, counted from 1/2."""
    return (summed - positives**2 / 2) / (positives * negatives)


def roc_auc(scores: ArrayLike, positive: ArrayLike, weights: Array | None = None) -> Array:
    """Area under the ROC curve: P(a positive scores above a negative) + P(equal) / 2.

    Parameters
    ----------
    scores
        (..., candidate); a row gives an area.
    positive
        (candidate,) of bool.
    weights
        (candidate,) how many like it a candidate stands for; for one row of scores.

    Returns
    -------
    (...) areas, 0-d for one row; NaN without both kinds.

    Examples
    --------
    >>> float(roc_auc([3.0, 1.0, 1.0], [True, True, False]))
    0.75
    """
    values, own = np.asarray(scores, np.float64), np.asarray(positive, bool)
    share = np.ones(own.size) if weights is None else weights
    p, others = share[own].sum(), share[~own].sum()
    if not p or not others:
        return np.full(values.shape[:-1], np.nan)
    if weights is None:
        return np.asarray(_mann_whitney(ranks(values)[..., own].sum(-1) - p / 2, p, others))
    # Pairs are added up: ranks less p^2 / 2 would leave rounding where the area is 0.
    _, level = np.unique(values, return_inverse=True)
    up, down = (np.bincount(level, share * kind) for kind in (own, ~own))
    return np.asarray(up @ (np.cumsum(down) - down / 2) / (p * others))


def roc_auc_interval(scores: ArrayLike, positive: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Score interval of `roc_auc`: the areas a from which the one that was found is no further than z sqrt(V(a)).

    V(a) = a (1 - a) [1 + (N - 1) ((1 - a) / (2 - a) + a / (1 + a))] / (P Q), N = (P + Q) / 2, for P positives and Q
    negatives (Hanley and McNeil's variance; Newcombe 2006, method 5). How much the few of a class scatter does not enter, so
    there is an interval for three of them, and one of more than no width where both classes are apart: draws of candidates
    covered .59 to .93 for 3 to 20 positives, this .91 to .98. Candidates count as independent: pairs that share a unit are
    not, and their interval is then too narrow.

    Examples
    --------
    >>> low, high = roc_auc_interval([2.0, 3.0, 0.0, 1.0], [True, True, False, False])
    >>> round(low, 2), high
    (0.3, 1.0)
    """
    from scipy.stats import norm  # half a second

    own = np.asarray(positive, bool)
    found, p, q = float(roc_auc(scores, own)), int(own.sum()), int((~own).sum())
    if np.isnan(found):
        raise PatchclampError(f"an area of {p} positives and {q} negatives; both are needed")
    z, half = float(norm.ppf((1 + level) / 2)), (p + q) / 2 - 1

    def beyond(a: float) -> bool:
        spread = a * (1 - a) * (1 + half * ((1 - a) / (2 - a) + a / (1 + a))) / (p * q)
        return bool(abs(a - found) > z * spread**0.5)

    ends = []
    for outer in (0.0, 1.0):
        inner = found
        for _ in range(50):  # between an area that is too far off and one that is not
            middle = (outer + inner) / 2
            inner, outer = (inner, middle) if beyond(middle) else (middle, outer)
        ends.append(inner)
    return ends[0], ends[1]


def rounded(scores: Array) -> Array:
    """Sizes of scores relative to the largest of their row, to `DIGITS` digits."""
    size = np.abs(scores)
    top = size.max(-1, keepdims=True)
    return np.asarray(np.round(np.divide(size, top, out=np.zeros_like(size), where=top > 0), DIGITS))


def area_over_items(
    values: Array, real: NDArray[np.bool_], groups: Sequence[str] = (), n_boot: int = 400, seed: int = 0
) -> tuple[float, float, float]:
    """AUROC of |mean over items| with an interval by resampling items (or groups of them).

    Parameters
    ----------
    values
        (item, candidate) scores.
    real
        (candidate,) whether it belongs to the mechanism; both classes occur.

    Examples
    --------
    >>> area_over_items(np.array([[3.0, 0.0], [2.0, 0.0]]), np.array([True, False]))
    (1.0, 1.0, 1.0)
    """
    value = float(roc_auc(rounded(values.mean(0)), real))
    weights = resamples(len(values), groups or None, n_boot, seed)
    draws = roc_auc(rounded(weights @ values / weights.sum(1, keepdims=True)), real)
    low, high = draws_interval(draws, n_groups(groups or None, len(values)), value)
    return value, float(low), float(high)


def area_over_pairs(scores: Array, real: NDArray[np.bool_]) -> tuple[float, float, float]:
    """AUROC of |score| with the interval of `roc_auc_interval`."""
    size = rounded(scores)
    return float(roc_auc(size, real)), *roc_auc_interval(size, real)


def permuted_area(values: Array, real: NDArray[np.bool_], seed: int = 0, n_perm: int = 999) -> float:
    """p of the AUROC of |mean over items| when the candidates that belong to the mechanism are drawn at random."""
    placed = ranks(rounded(values.mean(0)))
    rng = numpy_rng(seed)
    drawn = [placed[rng.permutation(len(real))[: int(real.sum())]].sum() for _ in range(n_perm)]
    return permutation_p(float(placed[real].sum()), drawn)


def chance_of_largest(values: Array, seed: int = 0) -> float:
    """p of the largest |mean over items| against the maximum over candidates with signs of items flipped.

    One item, or items that are all alike, cannot speak about it: 1 where all scores are 0, else 1 / (n_perm + 1)
    is out of reach and the smallest p that signs allow comes out.
    """
    observed = float(np.abs(values.mean(0)).max())
    if observed == 0.0:
        return 1.0
    return permutation_p(observed, sign_flip_max_null(values, n_perm=999, seed=seed))
