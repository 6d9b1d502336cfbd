"""Area under the ROC curve of scores against a known truth: all thresholds, ties at one half."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.base.areas import roc_auc, roc_auc_interval
from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate
from patchclamp.draw.cards import shown
from patchclamp.evaluate.scores.masked import unit_names
from patchclamp.nouns.scores import Scores

Array = NDArray[np.float64]


@shown
@dataclass(frozen=True)
class Auroc:
    """How well scores tell the units of a mechanism from the others.

    `estimate` is the chance that a unit of it scores above one that is not, ties counting one half, with an interval over
    units (`patchclamp.base.areas.roc_auc_interval`). `curve` has a row a threshold: threshold, false and true
    positive rate. `positives`, `negatives`: units of each class.
    """

    estimate: Estimate
    positives: int
    negatives: int
    curve: pd.DataFrame = field(repr=False)

    @property
    def value(self) -> float:
        """The area."""
        return self.estimate.value

    def __str__(self) -> str:
        return f"AUROC {self.value:.3f} {self.estimate.span()}, {self.positives} of {self.positives + self.negatives}"


def auroc(
    scores: Scores | Mapping[Any, float],
    truth: Mapping[Any, bool],
    *,
    by: Literal["abs", "signed"] = "abs",
) -> Auroc:
    """Measure the AUROC of units (or edges) ranked by score.

    U / (n1 n0), with U = sum over pairs of [positive above negative] + 1/2 [equal], which is the area under the curve of
    all thresholds with (0, 0) and (1, 1) in it. A constant score gives exactly one half.

    Parameters
    ----------
    scores
        `Scores` (mean over items, summed over positions), or a mapping from a unit's address, an edge or any name.
    truth
        Name -> whether it belongs to the mechanism. Every name must have a score: one that is missing would have to
        be called right or wrong by convention. Scores of units that truth does not name are left out.
    by
        Rank by size or as signed.

    Raises
    ------
    PatchclampError
        For a name without a score, a score that is no number, or a truth of one class only.

    Examples
    --------
    >>> auroc({"a": 3.0, "b": 1.0, "c": 1.0}, {"a": True, "b": True, "c": False}).value
    0.75
    >>> auroc({"a": 0.0, "b": 0.0}, {"a": True, "b": False}).value
    0.5
    """
    if by not in ("abs", "signed"):
        raise PatchclampError(f"by={by!r}: rank by 'abs' or 'signed'")
    if isinstance(scores, Scores):
        summed = scores.summed()
        means = np.concatenate([summed.mean(site) for site in summed.sites])
        scores = dict(zip(unit_names(summed), means, strict=True))
    lost = [name for name in truth if name not in scores]
    if lost:
        raise PatchclampError(
            f"{lost[0]}: is in the truth and has no score ({len(lost)} of {len(truth)}); score every unit, 0 where "
            "a method leaves it out"
        )
    values = np.array([float(scores[name]) for name in truth])
    if not np.isfinite(values).all():
        raise PatchclampError(
            f"{list(truth)[int(np.flatnonzero(~np.isfinite(values))[0])]}: its score is no number"
        )
    values = np.abs(values) if by == "abs" else values
    real = np.array([bool(belongs) for belongs in truth.values()])
    n, others = int(real.sum()), int((~real).sum())
    if not n or not others:
        raise PatchclampError(f"truth has {n} units of the mechanism and {others} others; both are needed")
    estimate = Estimate(float(roc_auc(values, real)), *roc_auc_interval(values, real), n + others)
    return Auroc(estimate, n, others, _curve(values, real))


def _curve(values: Array, real: NDArray[np.bool_]) -> pd.DataFrame:
    levels = np.unique(values)[::-1]
    order = np.argsort(-values, kind="stable")
    places = np.searchsorted(-values[order], -levels, side="right")
    true, false = (np.concatenate([[0], np.cumsum(part[order])])[places] for part in (real, ~real))
    table = pd.DataFrame({"threshold": levels, "false": false / (~real).sum(), "true": true / real.sum()})
    start = pd.DataFrame({"threshold": [np.inf], "false": [0.0], "true": [0.0]})
    return pd.concat([start, table], ignore_index=True)
