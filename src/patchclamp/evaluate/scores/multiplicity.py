"""Which of many units have an effect? Maximum-statistic permutation and false-discovery control over items."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from patchclamp.base.errors import PatchclampError
from patchclamp.base.folds import group_codes
from patchclamp.base.seeds import numpy_rng
from patchclamp.base.statistics import benjamini_hochberg
from patchclamp.evaluate.scores.masked import flat_scores, unit_names
from patchclamp.nouns.scores import Scores

Array = NDArray[np.float64]
_BLOCK = 8_000_000


def max_statistic(scores: Scores, *, alpha: float = 0.05, n_perm: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Test every unit against the largest statistic of all units under sign flips, which bounds the family-wise error.

    t = mean / standard error over items (groups, where there are some: whole groups are flipped); each draw flips the
    signs of items for all units alike, so that their dependence is used, and p = (1 + #{max |t*| >= |t|}) / (R + 1).

    Parameters
    ----------
    scores
        Per item. Under the null an item's score is symmetric about zero.
    alpha
        Family-wise error that `found` marks.
    n_perm, seed
        Draws.

    Returns
    -------
    DataFrame
        unit, score, t, p (adjusted), found; smallest p first.

    Notes
    -----
    Westfall and Young 1993. With G groups there are 2^G flips only, so p is at least 2^(1 - G): below six groups nothing
    can be found at .05. Its rate under the null is measured in the tests.
    """
    names, values = _grouped(scores)
    observed = _t(values.sum(0), (values**2).sum(0), len(values))
    rng = numpy_rng(seed)
    squares = (values**2).sum(0)
    null = np.empty(n_perm)
    block = max(1, _BLOCK // values.shape[1])
    for first in range(0, n_perm, block):
        signs = rng.choice([-1.0, 1.0], size=(min(block, n_perm - first), len(values)))
        null[first : first + block] = np.abs(_t(signs @ values, squares, len(values))).max(1)
    # A draw that flips all or nothing gives the observed statistic up to rounding, and counts.
    order = np.sort(null)
    above = n_perm - np.searchsorted(order, np.abs(observed) * (1 - 1e-12), side="left")
    return _table(names, values, observed, (1 + above) / (n_perm + 1), alpha)


def false_discovery(
    scores: Scores, *, method: Literal["bh", "by"] = "bh", alpha: float = 0.05
) -> pd.DataFrame:
    """Test every unit by Student's t over items (groups) and adjust for the share of false discoveries.

    Parameters
    ----------
    scores
        Per item.
    method
        ``"bh"`` (Benjamini and Hochberg; holds under independence and positive dependence) or ``"by"`` (Benjamini and
        Yekutieli; under any dependence, at the price of a factor of sum 1 / i).
    alpha
        Share of false discoveries among what `found` marks.

    Returns
    -------
    DataFrame
        unit, score, t, p (adjusted), found; smallest p first.

    Notes
    -----
    Items that share a prompt, words or a seed are not independent: give groups. A correction knows nothing of
    confounds.
    """
    if method not in ("bh", "by"):
        raise PatchclampError(f"method={method!r}: give 'bh' or 'by'")
    names, values = _grouped(scores)
    observed = _t(values.sum(0), (values**2).sum(0), len(values))
    p = 2 * student.sf(np.abs(observed), len(values) - 1)
    adjusted = benjamini_hochberg(p) if method == "bh" else benjamini_yekutieli(p)
    return _table(names, values, observed, adjusted, alpha)


def benjamini_yekutieli(p: ArrayLike) -> Array:
    """Benjamini and Yekutieli's adjusted p-values, which bound the false-discovery rate under any dependence.

    Examples
    --------
    >>> benjamini_yekutieli([0.01, 0.04, 0.03]).round(4).tolist()
    [0.055, 0.0733, 0.0733]
    """
    values = np.asarray(p, dtype=np.float64)
    factor = float(np.sum(1 / np.arange(1, len(values) + 1)))
    return np.minimum(benjamini_hochberg(values) * factor, 1) if len(values) else values


def _grouped(scores: Scores) -> tuple[list[str], Array]:
    """Names of units, and (group, unit) sums over the items of a group."""
    summed = scores.summed()
    names = unit_names(summed)
    values = flat_scores(summed)
    if not np.isfinite(values).all():
        raise PatchclampError(f"{scores.method}: a score is not finite, so units cannot be tested")
    if scores.groups and len(set(scores.groups)) > 1:
        member = group_codes(scores.groups, len(values))
        sums = np.zeros((member.max() + 1, values.shape[1]))
        np.add.at(sums, member, values)
        values = sums * len(sums) / len(member)  # so that the mean over groups is the mean over items
    if len(values) < 2:
        raise PatchclampError(f"{scores.method}: {len(values)} item; at least two are needed to test")
    return names, values


def _t(total: Array, squares: Array, n: int) -> Array:
    """Student's t of n values from their sum and sum of squares; 0 where all are zero, infinite where all are equal."""
    mean = total / n
    spread = np.maximum(squares / n - mean**2, 0) * n / (n - 1)
    spread = np.where(spread > 1e-14 * squares / n, spread, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(mean == 0, 0.0, mean / np.sqrt(spread / n))


def _table(names: list[str], values: Array, t: Array, p: Array, alpha: float) -> pd.DataFrame:
    table = pd.DataFrame({"unit": names, "score": values.mean(0), "t": t, "p": p, "found": p <= alpha})
    order = np.lexsort((-np.abs(t), p))
    return table.iloc[order].reset_index(drop=True)
