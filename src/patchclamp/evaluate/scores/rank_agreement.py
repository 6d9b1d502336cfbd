"""Agreement of two explanations item by item: Kendall's tau-b, overlap of the top, and what chance would give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import kendalltau

from patchclamp.base.errors import PatchclampError
from patchclamp.base.statistics import bootstrap_interval
from patchclamp.evaluate.scores.masked import flat_scores
from patchclamp.nouns.scores import Scores

Array = NDArray[np.float64]


def rank_agreement(
    one: Scores, other: Scores, *, top: float = 0.1, n_boot: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Compare how two methods order the features of each item.

    Parameters
    ----------
    one, other
        Scores of the same items, sites and positions.
    top
        Share of an item's features that counts as the top, by size.

    Returns
    -------
    DataFrame
        One row a measure: ``"tau"`` (tau-b of signed scores), ``"tau_abs"`` (of sizes), ``"top"``. Columns: mean over
        items, low, high (bootstrap over items), spread = standard deviation over items, chance = its mean for unrelated
        scores, noise = half width within which 95 % of single unrelated items lie (for tau
        1.96 sqrt(2 (2n + 5) / (9 n (n - 1))), n features), items.

    Raises
    ------
    PatchclampError
        For scores of other features.

    Notes
    -----
    Low agreement of two explanations says that they differ, not which one is wrong (Neely et al. 2022): judge against
    exact effects by `agreement` or `calibration`. Items where a score is constant have no tau and are left out.
    """
    if one.n != other.n or one.sites != other.sites or one.positions != other.positions:
        raise PatchclampError(f"{one.method} and {other.method} score other items, sites or positions")
    a, b = flat_scores(one), flat_scores(other)
    if a.shape != b.shape:
        raise PatchclampError(f"{one.method} and {other.method} score other units of the same sites")
    there = np.isfinite(a) & np.isfinite(b)
    rows = [_item(x[here], y[here], top) for x, y, here in zip(a, b, there, strict=True)]
    if not rows or there.sum(1).max() < 2:
        raise PatchclampError("there is no item with two features to order")
    values = np.array(rows)
    out: list[dict[str, Any]] = []
    n = float(np.median(there.sum(1)))
    noise = 1.96 * np.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1)))
    for place, name in enumerate(("tau", "tau_abs", "top")):
        column = values[:, place]
        low, high = bootstrap_interval(column, one.groups or None, n_boot=n_boot, seed=seed)
        count = int(np.isfinite(column).sum())
        out.append(
            {
                "measure": name,
                "mean": float(np.nanmean(column)) if count else np.nan,
                "low": float(low),
                "high": float(high),
                "spread": float(np.nanstd(column)) if count else np.nan,
                "chance": float(values[:, 3].mean()) if name == "top" else 0.0,
                "noise": np.nan if name == "top" else float(noise),
                "items": count,
            }
        )
    return pd.DataFrame(out)


def _item(a: Array, b: Array, top: float) -> list[float]:
    if len(a) < 2:
        return [np.nan, np.nan, np.nan, np.nan]
    k = max(1, round(top * len(a)))
    best = [set(np.argsort(-np.abs(v), kind="stable")[:k]) for v in (a, b)]
    taus = [float(kendalltau(x, y).statistic) for x, y in ((a, b), (np.abs(a), np.abs(b)))]
    return [*taus, len(best[0] & best[1]) / k, k / len(a)]
