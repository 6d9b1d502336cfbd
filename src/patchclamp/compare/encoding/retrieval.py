"""Is the right item found among candidates? Top-k and two-way identification of predicted embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import hypergeom

from patchclamp.base.arrays import as_array
from patchclamp.base.errors import PatchclampError
from patchclamp.base.statistics import bootstrap_interval
from patchclamp.compare.inputs import Matrix, pair


def retrieval(
    predicted: Any,
    targets: Any,
    *,
    centre: Any = None,
    k: Sequence[int] = (1, 5),
    candidates: int | None = None,
    groups: Sequence[str] | None = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Score predictions by how often their own target is the most similar of several.

    With c_ij the correlation of prediction i and target j (after both are centred by `centre`):

    * two-way: mean over j != i of [c_ii > c_ij], a tie counting one half; chance .5
    * top-k: probability that fewer than k of M - 1 other candidates, drawn from the items, have c_ij > c_ii;
      chance k/M. It is computed exactly (hypergeometric), not by drawing candidate sets.

    Parameters
    ----------
    predicted, targets
        (item, dimension).
    centre
        (dimension,) mean of the *training* targets; None leaves both as they are. Features that are large in
        every item otherwise make all correlations high. Means of the test items would use the answers.
    k, candidates
        Candidate set size M, the item itself included; all items by default. It is a column of the result,
        because an accuracy without it says nothing.
    groups, n_boot, seed
        Unit of dependence of each item, for the intervals.

    Returns
    -------
    DataFrame
        index measure (``two-way``, ``top-1`` ...), columns value, low, high, chance, candidates, items.

    Raises
    ------
    PatchclampError
        For unequal numbers of items, fewer than two, or a set size that the items do not fill.

    Notes
    -----
    Ozcelik and VanRullen 2023 (two-way), Scotti et al. 2023 (top-1 of 300). Duplicate targets are ties: they
    halve, not raise, the score.

    Examples
    --------
    >>> y = np.random.default_rng(0).normal(size=(20, 8))
    >>> float(retrieval(y, y, n_boot=10).loc["top-1", "value"])
    1.0
    """
    p, y, _ = pair(predicted, targets)
    if p.shape[1] != y.shape[1]:
        raise PatchclampError(f"predictions have {p.shape[1]} dimensions, targets {y.shape[1]}")
    size = candidates or len(y)
    if not 2 <= size <= len(y):
        raise PatchclampError(f"candidates={size}: 2 to {len(y)}, the number of items")
    if centre is not None:
        mean = as_array(centre, "centre")
        p, y = p - mean, y - mean
    similarity = _correlations(p, y)
    own = np.diag(similarity)[:, None]
    others = ~np.eye(len(y), dtype=bool)
    better = ((similarity > own) & others).sum(1)
    equal = ((similarity == own) & others).sum(1)
    scores = {"two-way": 1 - (better + equal / 2) / (len(y) - 1)}
    chance = {"two-way": 0.5}
    for one in k:
        if not 1 <= one <= size:
            raise PatchclampError(f"k={one}: 1 to the {size} candidates")
        scores[f"top-{one}"] = _top(better, equal, one, size, len(y))
        chance[f"top-{one}"] = one / size
    rows = []
    for name, values in scores.items():
        low, high = bootstrap_interval(values, groups, n_boot=n_boot, seed=seed)
        row = {"measure": name, "value": float(values.mean()), "low": float(low), "high": float(high)}
        rows.append(
            row | {"chance": chance[name], "candidates": 2 if name == "two-way" else size, "items": len(y)}
        )
    return pd.DataFrame(rows).set_index("measure")


def _top(better: Any, equal: Any, k: int, size: int, items: int) -> Matrix:
    """Chance that at most k - 1 of size - 1 others rank before the own target; ties are in random order."""
    out = np.zeros(len(better))
    for tie in range(int(equal.max(initial=0)) + 1):
        mine = equal >= tie
        found = hypergeom.cdf(k - 1, items - 1, np.minimum(better + tie, items - 1), size - 1)
        out += np.where(mine, found / (equal + 1), 0)
    return out


def _correlations(p: Matrix, y: Matrix) -> Matrix:
    """Pearson's r of every row of p with every row of y; 0 for a row that does not vary, which knows nothing."""
    rows = []
    for part in (p, y):
        part = part - part.mean(1, keepdims=True)
        size = np.linalg.norm(part, axis=1, keepdims=True)
        rows.append(np.where(size > 1e-12, part / np.where(size > 1e-12, size, 1), 0))
    # Rounded, so that equal targets are ties.
    return np.asarray(np.round(rows[0] @ rows[1].T, 12))
