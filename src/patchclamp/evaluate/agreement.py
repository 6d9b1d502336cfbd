"""How far an estimate may be believed: its agreement with exact patching, point by point.

Pearson alone is ruled by a few large cells and blind to scale, Spearman by the many near-zero ones, so both are
given, with the slope and the ratio of sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from patchclamp._statistics import bootstrap_statistic
from patchclamp.errors import PatchclampError
from patchclamp.scores import Scores

Array = NDArray[np.float64]
MEASURES = ("pearson", "spearman", "slope", "scale", "sign", "top")


def agreement(
    estimate: Scores, exact: Scores, *, top: float = 0.1, n_boot: int = 200, seed: int = 0
) -> pd.DataFrame:
    """Compare estimated with exact effects over all cells (node, position) of each point.

    Parameters
    ----------
    estimate, exact
        Scores of the same items, positions and direction. Cells that only one of them has are left out.
    top
        Share of the cells that counts as the top, by size.
    n_boot, seed
        Of the bootstrap over items, which gives the intervals; 0 leaves them out.

    Returns
    -------
    DataFrame
        One row a point: `cells`; `pearson` and `spearman` correlation of the means over items; `slope` of the
        regression of the estimate on the exact effect (through the mean; 1 is right); `scale` = sum |estimate| /
        sum |exact|; `sign` agreement and overlap of the `top` cells; each with `_low` and `_high`.

    Raises
    ------
    PatchclampError
        If the two are of different direction, items or positions, or share no cell.
    """
    if estimate.direction != exact.direction:
        raise PatchclampError(
            f"{estimate.method} is {estimate.direction} and {exact.method} {exact.direction}: the two answer different "
            "questions and are never mixed; compute both in one direction"
        )
    if estimate.n != exact.n or estimate.positions != exact.positions:
        raise PatchclampError(
            f"{estimate.method} has {estimate.n} items at {estimate.positions} and {exact.method} {exact.n} at "
            f"{exact.positions}; compute both on the same items and positions"
        )
    rows = []
    for point, guess, true in _points(estimate, exact):
        row: dict[str, Any] = {"point": point, "cells": guess.shape[1]}
        weights = np.full(len(guess), 1 / len(guess))
        for name in MEASURES:

            def statistic(w: Array, name: str = name, guess: Array = guess, true: Array = true) -> float:
                return compare(w @ guess, w @ true, top)[name]

            row[name] = statistic(weights)
            if n_boot:
                ends = bootstrap_statistic(statistic, len(guess), exact.groups, n_boot=n_boot, seed=seed)
                row[f"{name}_low"], row[f"{name}_high"] = ends
        rows.append(row)
    if not rows:
        raise PatchclampError(f"{estimate.method} and {exact.method} share no cell to compare")
    return pd.DataFrame(rows)


def compare(guess: Array, true: Array, top: float = 0.1) -> dict[str, float]:
    """Measures of agreement between two vectors of effects.

    Examples
    --------
    >>> found = compare(np.array([2.0, 4.0, -2.0]), np.array([1.0, 2.0, -1.0]))
    >>> {name: round(value, 6) for name, value in found.items()}
    {'pearson': 1.0, 'spearman': 1.0, 'slope': 2.0, 'scale': 2.0, 'sign': 1.0, 'top': 1.0}
    """
    k = max(1, round(top * len(true)))
    best = [set(np.argsort(-np.abs(v), kind="stable")[:k].tolist()) for v in (guess, true)]
    spread = float(np.var(true))
    covariance = float(np.mean((guess - guess.mean()) * (true - true.mean())))
    moving = true != 0
    return {
        "pearson": _correlation(guess, true),
        "spearman": _correlation(rankdata(guess), rankdata(true)),
        "slope": covariance / spread if spread else float("nan"),
        "scale": float(np.abs(guess).sum() / np.abs(true).sum()) if np.any(true) else float("nan"),
        "sign": float(np.mean(np.sign(guess[moving]) == np.sign(true[moving])))
        if moving.any()
        else float("nan"),
        "top": len(best[0] & best[1]) / k,
    }


def _correlation(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size else float("nan")


def _points(estimate: Scores, exact: Scores) -> Iterator[tuple[str, Array, Array]]:
    """(point, estimate, exact), each (item, cell), with the cells that both have for all items."""
    shared = [site for site in exact.sites if site in estimate.values]
    for point in dict.fromkeys(site.point if site.layer is not None else str(site) for site in shared):
        sites = [s for s in shared if (s.point if s.layer is not None else str(s)) == point]
        guess, true = (
            np.concatenate([_cells(one, other, s) for s in sites], 1)
            for one, other in ((estimate, exact), (exact, estimate))
        )
        seen = np.isfinite(guess).any(0) & np.isfinite(true).any(0)
        if seen.any():
            yield point, np.nan_to_num(guess[:, seen]), np.nan_to_num(true[:, seen])


def _cells(scores: Scores, other: Scores, site: Any) -> Array:
    """(item, cell) of the nodes that both score."""
    both = set(other.index(site))
    nodes = [place for place, index in enumerate(scores.index(site)) if index in both]
    values = scores.values[site][:, nodes].astype(np.float64)
    return values.reshape(len(values), -1)
