"""Comprehensiveness and sufficiency of rationales: what is lost without the best features, and with nothing but them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
BINS = (0.01, 0.05, 0.1, 0.2, 0.5)


@shown
@dataclass(frozen=True)
class Comprehensiveness:
    """Drops of the metric by share of features.

    Attributes
    ----------
    table : DataFrame
        Columns measure (``"comprehensiveness"``, ``"sufficiency"``), order (``"scores"``, ``"random"``), share, value.
    aopc : DataFrame
        Mean over shares: measure, order, value, low, high, normalised = value / drop with no feature left. High
        comprehensiveness and low sufficiency are good.
    drop : float
        m(x) - m(nothing).
    """

    table: pd.DataFrame
    aopc: pd.DataFrame
    drop: float

    def value(self, measure: str, order: str = "scores") -> float:
        """One mean over shares."""
        rows = self.aopc[(self.aopc["measure"] == measure) & (self.aopc["order"] == order)]
        if rows.empty:
            raise PatchclampError(
                f"{measure} of the order {order}: measures are comprehensiveness and sufficiency"
            )
        return float(rows["value"].iloc[0])


def comprehensiveness(
    subject: Subject,
    task: TaskLike,
    scores: Scores,
    shares: Sequence[float] = BINS,
    baseline: Literal["corrupted", "zero", "mean"] = "corrupted",
    *,
    by: Literal["signed", "abs"] = "signed",
    n_random: int = 5,
    reference: TaskLike | Reference | None = None,
    batch_size: int = 64,
    n_boot: int = 1000,
    seed: int = 0,
) -> Comprehensiveness:
    """Measure ERASER's comprehensiveness m(x) - m(x without r) and sufficiency m(x) - m(r alone) of rationales r.

    r is the best share of an item's features, at least one (shares are rounded upwards). The area over the perturbation
    curve (AOPC) is the mean over shares and items. Every share counts, also where two give the same rationale on short
    inputs. m is the task's metric (take a probability for ERASER's own).

    Parameters
    ----------
    subject, task, scores, baseline, by, n_random, reference
        As for `insertion_deletion`.
    shares
        Shares of the features.

    Raises
    ------
    PatchclampError
        For shares outside 0..1, and as `insertion_deletion`.

    Notes
    -----
    DeYoung et al. 2020. What is taken out is replaced by a baseline, not deleted, so positions do not move. Verified in
    closed form on linear networks.
    """
    if not shares or not all(0 < share <= 1 for share in shares):
        raise PatchclampError(f"shares {list(shares)}: each is above 0 and at most 1")
    features = MaskedFeatures(subject, task, scores, baseline, reference, batch_size)
    orders = features.orders(by, n_random, seed)
    rationales = [
        features.first(order, share, up=True)
        for many in orders.values()
        for order in many
        for share in shares
    ]
    found = features.metric(
        [features.there, ~features.there, *(~r for r in rationales), *(r for r in rationales)]
    )
    full, empty = found[:2]
    drops = (full - found[2:]).reshape(2, 1 + n_random, len(shares), scores.n)
    span = float((full - empty).mean())
    rows, means = [], []
    for number, measure in enumerate(("comprehensiveness", "sufficiency")):
        for name, part in (("scores", drops[number, :1]), ("random", drops[number, 1:])):
            if not len(part):
                continue
            rows += [(measure, name, q, v) for q, v in zip(shares, part.mean((0, 2)), strict=True)]
            values = part.mean((0, 1))
            low, high = mean_interval(values, features.groups, n_boot, seed)
            mean = float(values.mean())
            means.append((measure, name, mean, float(low), float(high), mean / span if span else np.nan))
    return Comprehensiveness(
        pd.DataFrame(rows, columns=["measure", "order", "share", "value"]),
        pd.DataFrame(means, columns=["measure", "order", "value", "low", "high", "normalised"]),
        span,
    )
