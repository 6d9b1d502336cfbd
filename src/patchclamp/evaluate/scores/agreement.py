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

from patchclamp.base.errors import PatchclampError
from patchclamp.base.statistics import draws_interval, n_groups, pearson, ranks, resamples, weighted_means
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.units import Site

Array = NDArray[np.float64]
MEASURES = ("pearson", "spearman", "slope", "scale", "sign", "top")
SMALL = 0.01
_BLOCK = 4_000_000  # numbers held at a time while resampling


def agreement(
    estimate: Scores, exact: Scores, *, top: float = 0.1, n_boot: int = 200, seed: int = 0
) -> pd.DataFrame:
    """Compare estimated with exact effects over all cells (node, position) of each point.

    Parameters
    ----------
    estimate, exact
        Scores of the same items, positions, metric and direction (``"none"`` goes with either). Nodes that only one
        of them has are left out.
    top
        Share of the cells that counts as the top, by size; from 1 on, their number.
    n_boot, seed
        Of the bootstrap over items (groups), which gives the intervals; 0 leaves them out.

    Returns
    -------
    DataFrame
        One row a point (a module, where sites are modules), each measure on the means over items, with `_low` and
        `_high`:

        - `cells`: how many; `k`: how many of them are the top
        - `pearson`, `spearman`: correlations
        - `slope`: of the regression of the estimate on the exact effect, with intercept; 1 is right
        - `scale`: sum |estimate| / sum |exact|
        - `sign`: share of equal signs among cells whose exact effect is above 1 % of the largest
        - `top`: share of the k largest exact cells that are among the k largest estimates (k / cells by chance)

    Raises
    ------
    PatchclampError
        If the two answer different questions, or share no cell.
    """
    _check(estimate, exact)
    weights = resamples(exact.n, exact.groups or None, n_boot, seed) if n_boot else np.empty((0, exact.n))
    rows = []
    for point, guess, true in _points(estimate, exact):
        even = np.ones((1, exact.n))
        means = weighted_means(even, guess)[0], weighted_means(even, true)[0]
        row: dict[str, Any] = {"point": point, "cells": guess.shape[1], "k": _top(top, guess.shape[1])}
        row |= compare(*means, top)
        if n_boot:
            count = n_groups(exact.groups or None, exact.n)
            low, high = draws_interval(
                _resampled(guess, true, weights, top), count, [row[name] for name in MEASURES]
            )
            for place, name in enumerate(MEASURES):
                row[f"{name}_low"], row[f"{name}_high"] = float(low[place]), float(high[place])
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
    (row,) = _compare_rows(np.atleast_2d(guess), np.atleast_2d(true), top)
    return dict(zip(MEASURES, row.tolist(), strict=True))


def _compare_rows(guess: Array, true: Array, top: float) -> Array:
    """(row, measure) of each row of `guess`, (row, cell), with the same row of `true`."""
    k = _top(top, true.shape[1])
    best = np.zeros((2, *true.shape), dtype=bool)
    for mask, values in zip(best, (guess, true), strict=True):
        np.put_along_axis(mask, np.argsort(-np.abs(values), axis=1, kind="stable")[:, :k], True, axis=1)
    clear = np.abs(true) > SMALL * np.abs(true).max(1, keepdims=True)
    same = (np.sign(guess) == np.sign(true)) & clear
    centred = true - true.mean(1, keepdims=True)
    covariance = ((guess - guess.mean(1, keepdims=True)) * centred).mean(1)
    measures = {
        "pearson": pearson(guess.T, true.T),
        "spearman": pearson(ranks(guess).T, ranks(true).T),
        "slope": _ratio(covariance, (centred**2).mean(1)),
        "scale": _ratio(np.abs(guess).sum(1), np.abs(true).sum(1)),
        "sign": _ratio(same.sum(1), clear.sum(1)),
        "top": best.all(0).sum(1) / k,
    }
    return np.stack([measures[name] for name in MEASURES], 1)


def _ratio(a: Array, b: Array) -> Array:
    return np.asarray(np.divide(a, b, out=np.full(len(b), np.nan), where=b != 0))


def _check(estimate: Scores, exact: Scores) -> None:
    a, b = estimate, exact
    if a.direction != b.direction and "none" not in (a.direction, b.direction):
        raise PatchclampError(
            f"{a.method} is {a.direction} and {b.method} {b.direction}: the two answer different questions and are "
            "never mixed; compute both in one direction"
        )
    if a.n != b.n or a.positions != b.positions:
        raise PatchclampError(
            f"{a.method} has {a.n} items at {a.positions} and {b.method} {b.n} at {b.positions}; compute both on the "
            "same items and positions"
        )
    if (a.metric, a.task) != (b.metric, b.task):
        raise PatchclampError(
            f"{a.method} measures {a.metric} of {a.task} and {b.method} {b.metric} of {b.task}; compute both on the "
            "same task and metric"
        )


def _top(top: float, cells: int) -> int:
    return min(cells, max(1, round(top * cells) if top < 1 else round(top)))


def _resampled(guess: Array, true: Array, weights: Array, top: float) -> Array:
    """(draw, measure) over bootstrap draws."""
    block = max(1, _BLOCK // guess.shape[1])
    found = []
    for first in range(0, len(weights), block):
        part = weights[first : first + block]
        one, other = weighted_means(part, guess), weighted_means(part, true)
        there = np.isfinite(one) & np.isfinite(other)
        if there.all():
            found.append(_compare_rows(one, other, top))
            continue
        # A draw may lack all items of a cell; what it has differs from draw to draw.
        for row, kept in enumerate(there):
            found.append(_compare_rows(one[row : row + 1, kept], other[row : row + 1, kept], top))
    return np.concatenate(found)


def _points(estimate: Scores, exact: Scores) -> Iterator[tuple[str, Array, Array]]:
    """(point, estimate, exact), each (item, cell), with the cells that both have in some item."""
    shared = [site for site in exact.sites if site in estimate.values]
    for point in dict.fromkeys(_name(site) for site in shared):
        sites = [s for s in shared if _name(s) == point]
        guess, true = (
            np.concatenate([_cells(one, other, s) for s in sites], 1)
            for one, other in ((estimate, exact), (exact, estimate))
        )
        seen = np.isfinite(guess).any(0) & np.isfinite(true).any(0)
        if seen.any():
            yield point, guess[:, seen], true[:, seen]


def _name(site: Site) -> str:
    return str(site) if site.is_module else site.point


def _cells(scores: Scores, other: Scores, site: Site) -> Array:
    """(item, cell) of the nodes that both score."""
    both = set(other.index(site))
    places = {index: place for place, index in enumerate(scores.index(site))}
    nodes = [places[index] for index in sorted(both & set(places), key=lambda index: index or 0)]
    values = scores.values[site][:, nodes].astype(np.float64)
    return values.reshape(len(values), -1)
