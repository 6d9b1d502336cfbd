"""Insertion and deletion: features put in, or taken out, in the order of their scores, and what the metric does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.draw.cards import shown
from patchclamp.evaluate.scores.masked import MaskedFeatures
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.bench import mean_interval
from patchclamp.subjects.clamp.reference import Reference

Array = NDArray[np.float64]


@shown
@dataclass(frozen=True)
class InsertionDeletion:
    """Curves of the metric over the share of features put in or taken out.

    Attributes
    ----------
    table : DataFrame
        Columns curve (``"insertion"``, ``"deletion"``), order, fraction, value, low, high; value is the mean over items.
        Orders: ``"scores"``; ``"random"`` (its mean over draws); ``"equal"``, the order in which features stand, which
        is what a score that says nothing gives; ``"oracle"``, where one was given.
    auc : DataFrame
        Columns curve, order, auc, low, high, above = difference from random (paired over items) with above_low and
        above_high, normalised = (auc - random) / (oracle - random), NaN without an oracle. Deletion is good where it
        is low.
    per_item : dict
        (curve, order) -> (item,) areas.
    """

    table: pd.DataFrame
    auc: pd.DataFrame
    per_item: dict[tuple[str, str], Array] = field(repr=False)

    def area(self, curve: str, order: str = "scores") -> float:
        """One area."""
        rows = self.auc[(self.auc["curve"] == curve) & (self.auc["order"] == order)]
        if rows.empty:
            raise PatchclampError(f"there is no {curve} curve of the order {order}")
        return float(rows["auc"].iloc[0])


def insertion_deletion(
    subject: Subject,
    task: TaskLike,
    scores: Scores,
    steps: int = 10,
    baseline: Literal["corrupted", "zero", "mean"] = "corrupted",
    *,
    oracle: Scores | None = None,
    by: Literal["signed", "abs"] = "signed",
    n_random: int = 5,
    reference: TaskLike | Reference | None = None,
    batch_size: int = 64,
    n_boot: int = 1000,
    seed: int = 0,
) -> InsertionDeletion:
    """Measure how fast the metric rises (insertion) and falls (deletion) along each item's own ranking.

    At steps j = 0..S the best j/S of an item's features keep their activity and the rest has the baseline (insertion), or
    the other way round (deletion). AUC = mean over steps of (f_j + f_(j+1)) / 2, f_j the metric; averaging over items
    before or after is the same. Ties are broken at random by item, so that the order in which features stand is worth
    nothing.

    Parameters
    ----------
    subject, task
        The items that were scored, in order.
    scores
        Per item; a feature is a node at a position, or at all positions where they are summed.
    steps
        S.
    baseline
        ``"corrupted"`` (the item's corrupted input), ``"zero"``, or ``"mean"`` over `reference` (by default
        other items of the task).
    oracle
        Scores known to be right, which set the scale of `normalised`.
    by
        ``"signed"`` takes features that raise the metric first, ``"abs"`` the largest.
    n_random
        Random orders.

    Raises
    ------
    PatchclampError
        For scores of other items, or of positions that are roles.

    Notes
    -----
    Petsiuk et al. 2018 (RISE). Verified in closed form on linear networks. Inputs with a part replaced are unlike any
    the model has seen: read it beside `random`, never alone.
    """
    if steps < 1:
        raise PatchclampError(f"steps={steps}: at least one step is needed")
    features = MaskedFeatures(subject, task, scores, baseline, reference, batch_size)
    orders = features.orders(by, n_random, seed)
    orders["equal"] = [features.order(by, np.zeros_like(features.values))]
    if oracle is not None:
        best = MaskedFeatures(subject, task, oracle, baseline, reference, batch_size)
        if best.values.shape != features.values.shape or best.sites != features.sites:
            raise PatchclampError("the oracle scores other features than the scores; give the same sites")
        orders["oracle"] = [best.order(by, seed=seed)]
    shares = np.arange(steps + 1) / steps
    keys = [(curve, name) for name, many in orders.items() if many for curve in ("insertion", "deletion")]
    masks = [
        mask if curve == "insertion" else ~mask
        for curve, name in keys
        for order in orders[name]
        for mask in (features.first(order, share) for share in shares)
    ]
    found = features.metric(masks)
    curves, first = {}, 0
    for curve, name in keys:
        size = len(orders[name]) * len(shares)
        curves[curve, name] = found[first : first + size].reshape(-1, len(shares), scores.n).mean(0)
        first += size
    return _result(curves, shares, features.groups, n_boot, seed)


def _result(
    curves: dict[tuple[str, str], Array], shares: Array, groups: tuple[str, ...], n_boot: int, seed: int
) -> InsertionDeletion:
    rows, areas = [], {}
    for (curve, name), values in curves.items():
        low, high = mean_interval(values, groups, n_boot, seed)
        rows += [
            (curve, name, share, value, lo, hi)
            for share, value, lo, hi in zip(shares, values.mean(1), low, high, strict=True)
        ]
        areas[curve, name] = (values[1:] + values[:-1]).mean(0) / 2
    table = pd.DataFrame(rows, columns=["curve", "order", "fraction", "value", "low", "high"])
    out = []
    for (curve, name), values in areas.items():
        random = areas.get((curve, "random"), np.full_like(values, np.nan))
        (low, up_low), (high, up_high) = mean_interval(
            np.stack([values, values - random]), groups, n_boot, seed
        )
        gap = float((areas[curve, "oracle"] - random).mean()) if (curve, "oracle") in areas else float("nan")
        above = float((values - random).mean())
        out.append(
            (
                curve,
                name,
                values.mean(),
                low,
                high,
                above,
                up_low,
                up_high,
                above / gap if gap else float("nan"),
            )
        )
    columns = ["curve", "order", "auc", "low", "high", "above", "above_low", "above_high", "normalised"]
    return InsertionDeletion(table, pd.DataFrame(out, columns=columns), areas)
