"""Would other items have chosen the same units? Overlap of the selected set over resamples, corrected for chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate
from patchclamp.base.statistics import resamples, weighted_means
from patchclamp.draw.cards import shown
from patchclamp.evaluate.scores.masked import flat_scores, unit_names
from patchclamp.nouns.scores import Scores

Array = NDArray[np.float64]


@shown
@dataclass(frozen=True)
class Stability:
    """How much selected sets have in common.

    Attributes
    ----------
    jaccard : float
        Mean over pairs of sets of |A and B| / |A or B|.
    chance : float
        What random sets of the same sizes have, q / (2 - q) for density q.
    corrected : float
        (jaccard - chance) / (1 - chance): 0 by chance, 1 where all sets are equal.
    nogueira : Estimate
        Nogueira, Sechidis and Brown's estimator, 0 by chance whatever the sizes, with its asymptotic interval over the n
        sets (of the Monte-Carlo error where sets are resamples).
    frequency : DataFrame
        unit, share of the sets that it is in, chosen (in the set of all items); most frequent first.
    k, candidates : int
        Mean size of the sets, units to choose from.
    """

    jaccard: float
    chance: float
    corrected: float
    nogueira: Estimate
    frequency: pd.DataFrame = field(repr=False)
    k: float
    candidates: int

    def __str__(self) -> str:
        s = self.nogueira
        return (
            f"{self.k:g} of {self.candidates:,} units over {s.n} resamples: Jaccard {self.jaccard:.2f} (chance "
            f"{self.chance:.2f}), stability {s.value:.2f} [{s.low:.2f}, {s.high:.2f}]"
        )


def stability(
    scores: Scores,
    k: int,
    *,
    by: Literal["abs", "signed"] = "abs",
    points: Sequence[str] | None = None,
    n_boot: int = 200,
    seed: int = 0,
) -> Stability:
    """Choose the best `k` units on each of many bootstrap resamples of the items, and compare the choices.

    Parameters
    ----------
    scores
        Per item; whole groups are drawn.
    k
        Units to choose.
    by, points
        As for `Scores.top`.
    n_boot, seed
        Resamples (at least two), and seed.

    Notes
    -----
    A bootstrap resample shares 63 % of the items with any other, so this flatters; sets from other seeds or data can be
    given to `stability_of_sets`. Nogueira, Sechidis and Brown 2018.
    """
    summed = scores.summed()
    if points is not None:
        summed = summed.select([site for site in summed.sites if site.point in points])
    names = unit_names(summed)
    if not 0 < k < len(names):
        raise PatchclampError(f"k={k}: choose 1..{len(names) - 1} of the {len(names)} units scored")
    if by not in ("abs", "signed"):
        raise PatchclampError(f"by={by!r}: rank by 'abs' or 'signed'")
    weights = resamples(scores.n, scores.groups or None, n_boot, seed)
    weights = np.concatenate([np.ones((1, scores.n)), weights])
    means = weighted_means(weights, flat_scores(summed))
    means = np.abs(means) if by == "abs" else means
    order = np.argsort(-np.nan_to_num(means, nan=-np.inf), axis=1, kind="stable")[:, :k]
    sets = np.zeros(means.shape, dtype=bool)
    np.put_along_axis(sets, order, True, axis=1)
    return stability_of_sets(sets[1:], names, sets[0])


def stability_of_sets(sets: ArrayLike, names: Sequence[str] = (), chosen: Any = None) -> Stability:
    """Stability of given sets.

    Parameters
    ----------
    sets
        (set, unit) whether each set holds each unit; of other seeds, folds or data sets.
    names
        Of the units.
    chosen
        (unit,) the set that is reported; marked in `frequency`.

    Examples
    --------
    >>> found = stability_of_sets([[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]])
    >>> found.nogueira, found.jaccard, round(found.chance, 3)
    (1.0, 1.0, 0.333)
    """
    z = np.asarray(sets, dtype=np.float64)
    if z.ndim != 2 or len(z) < 2:
        raise PatchclampError(f"sets of shape {z.shape}: at least two sets, one a row, are needed")
    m, d = z.shape
    sizes, density = z.sum(1), float(z.mean())
    if not 0 < density < 1:
        raise PatchclampError(
            "the sets hold nothing, or everything; there is no choice whose stability could be stated"
        )
    frequency = z.mean(0)
    together = z @ z.T
    union = sizes[:, None] + sizes[None, :] - together
    pairs = np.triu_indices(m, 1)
    jaccard = float(np.mean(together[pairs] / np.maximum(union[pairs], 1)))
    chance = density / (2 - density)
    spread = density * (1 - density)
    value = 1 - float(np.mean(m / (m - 1) * frequency * (1 - frequency))) / spread
    part = (
        (z @ frequency) / d
        - sizes * density / d
        + value / 2 * (2 * density * sizes / d - sizes / d - density + 1)
    ) / spread
    error = 1.96 * np.sqrt(4 / m**2 * float(np.sum((part - part.mean()) ** 2)))
    table = pd.DataFrame(
        {
            "unit": list(names) or [str(i) for i in range(d)],
            "share": frequency,
            "chosen": np.zeros(d, dtype=bool) if chosen is None else np.asarray(chosen, dtype=bool),
        }
    ).sort_values("share", ascending=False, kind="stable", ignore_index=True)
    corrected = (jaccard - chance) / (1 - chance)
    nogueira = Estimate(value, value - error, value + error, m)
    return Stability(jaccard, chance, corrected, nogueira, table, float(sizes.mean()), d)
