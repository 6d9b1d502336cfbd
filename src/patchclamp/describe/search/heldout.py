"""Scores of many executable descriptions on documents that did not make them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.base.seeds import numpy_rng
from patchclamp.base.statistics import draws_interval, resamples
from patchclamp.describe.description import Description
from patchclamp.describe.search.criteria import Criterion
from patchclamp.describe.search.splitting import refuse_overlap
from patchclamp.describe.search.targets import TokenActivity, active
from patchclamp.describe.tokens import Ints, Mask, Tokens

__all__ = ["held_out_rows"]


def held_out_rows(
    descriptions: Sequence[Description],
    source: TokenActivity,
    units: Sequence[int],
    thresholds: Sequence[float],
    held: Tokens,
    rows: Ints,
    criterion: Criterion,
    n_boot: int,
    seed: int,
) -> pd.DataFrame:
    """One row a description: its score on `held` with an interval, and that of other units' descriptions.

    Raises
    ------
    PatchclampError
        Where a document of `held` made one of the descriptions.
    """
    for one in {d.made_on: d for d in descriptions}.values():
        refuse_overlap(one.made_on, held.fingerprints, one.unit)
    _, group = np.unique(np.asarray(held.groups)[held.doc], return_inverse=True)
    weights = resamples(int(group.max()) + 1, None, n_boot, seed) if n_boot else None
    bits = [np.packbits(_said(d, held)) for d in descriptions]
    other = _others(descriptions, seed)
    out = []
    for i, (unit, one) in enumerate(zip(units, descriptions, strict=True)):
        target = active(source, [unit], rows, [thresholds[i]])[:, 0]
        said = _unpacked(bits[i], len(held))
        counts = _by_group(said, target, group)
        tp, fp, p, n = counts.sum(0)
        score = float(criterion(tp, fp, p, n)) if one.predicate is not None else np.nan
        low, high = _interval(counts, weights, criterion, score) if np.isfinite(score) else (np.nan, np.nan)
        shuffled = [
            float(criterion(*_by_group(_unpacked(bits[j], len(held)), target, group).sum(0)))
            for j in other[i]
        ]
        out.append(
            {
                "unit": one.unit,
                "index": unit,
                "description": one.text,
                "length": one.facts.get("length", np.nan),
                "made": one.facts.get("made", np.nan),
                "score": score,
                "low": low,
                "high": high,
                "shuffled": float(np.mean(shuffled)) if shuffled and np.isfinite(score) else np.nan,
                "precision": tp / (tp + fp) if tp + fp else np.nan,
                "recall": tp / p if p else np.nan,
                "active": int(p),
            }
        )
    return pd.DataFrame(out)


def _said(description: Description, held: Tokens) -> Mask:
    if description.predicate is None:
        return np.zeros(len(held), bool)
    return description.predicate.evaluate(held)


def _unpacked(bits: NDArray[np.uint8], n: int) -> Mask:
    return np.unpackbits(bits, count=n).view(bool)


def _by_group(said: Mask, target: Mask, group: Ints) -> NDArray[np.float64]:
    """(groups, 4): tp, fp, active and inactive tokens of each."""
    number = group * 4 + said * 2 + target
    table = np.bincount(number, minlength=4 * (int(group.max()) + 1)).reshape(-1, 2, 2)  # said, active
    return np.stack([table[:, 1, 1], table[:, 1, 0], table[:, :, 1].sum(1), table[:, :, 0].sum(1)], 1).astype(
        float
    )


def _interval(
    counts: NDArray[np.float64], weights: Any, criterion: Criterion, value: float
) -> tuple[float, float]:
    """Interval over resampled groups."""
    if weights is None:
        return np.nan, np.nan
    drawn = criterion(*(weights @ counts).T)
    low, high = draws_interval(drawn, len(counts), value)
    return float(low), float(high)


def _others(descriptions: Sequence[Description], seed: int, most: int = 10) -> list[list[int]]:
    """For each description up to ten others, at random, whose predicates differ from its own."""
    rng = numpy_rng([seed, 2])
    usable = [i for i, d in enumerate(descriptions) if d.predicate is not None]
    out = []
    for i, one in enumerate(descriptions):
        drawn = rng.permutation(len(usable))[: most + 1]
        picked = [usable[j] for j in drawn]
        out.append([j for j in picked if j != i and descriptions[j].predicate != one.predicate][:most])
    return out
