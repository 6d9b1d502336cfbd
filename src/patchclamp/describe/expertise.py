"""Which units are experts for a concept, and which concepts have none: average precision against the null of the maximum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from patchclamp.base.errors import PatchclampError
from patchclamp.base.statistics import benjamini_hochberg
from patchclamp.draw.cards import shown

__all__ = ["Expertise", "expertise", "prevalence_free_precision"]


@shown
@dataclass(frozen=True)
class Expertise:
    """Experts and concepts.

    Parameters
    ----------
    experts
        One row an expert and concept, best first: concept, unit, ap (of activity, or of minus activity where `sign` is
        -1), ap_normalised ((AP - prevalence) / (1 - prevalence)), p (against the null of the maximum over units).
    concepts
        One row a concept: positives, prevalence, best unit and its ap, p of the best, q (Benjamini and Hochberg over
        concepts), experts (their number), null_ap_normalised (95th percentile of the best of as many units when labels
        are shuffled).
    """

    experts: pd.DataFrame
    concepts: pd.DataFrame

    @property
    def without(self) -> list[str]:
        """Concepts that no unit is an expert for."""
        return [str(c) for c in self.concepts.loc[self.concepts.experts == 0, "concept"]]


def expertise(selectivity: Any, *, alpha: float = 0.05, site: str = "unit") -> Expertise:
    """Read experts off the result of the measure `Selectivity` with statistic ``"ap"``.

    A unit's p for a concept compares its average precision with the largest that any unit of the site reaches when
    labels are shuffled (between or within groups, as the measure chose), so it holds over all units. Over concepts
    the false-discovery rate is held: a concept has experts where the q of its best unit is at most `alpha`; its
    experts are the units whose p is at most the largest p so accepted.

    Parameters
    ----------
    selectivity
        Dataset over (unit, label) with ap, ap_negated, p_ap, null_max_ap, prevalence, positives.
    alpha
        False-discovery rate over concepts.
    site
        Address of the site, to name units by.

    Raises
    ------
    PatchclampError
        Without average precision or its null, and where the shuffles are too few for any concept to pass.

    References
    ----------
    Suau et al. (2020), Finding experts in transformer models. Liu et al. (2025), Relation-specific neurons.
    """
    missing = [name for name in ("ap", "ap_negated", "p_ap", "null_max_ap") if name not in selectivity]
    if missing:
        raise PatchclampError(
            f"expertise: the measure has no {missing[0]}; take Selectivity(statistics=['ap'], n_permutations=200)"
        )
    labels = [str(name) for name in selectivity["label"].values]
    p = selectivity["p_ap"].transpose("label", "unit").values
    null = selectivity["null_max_ap"].transpose("label", "permutation").values
    least = 1 / (null.shape[1] + 1)
    if least > alpha:
        raise PatchclampError(
            f"expertise: {null.shape[1]} shuffles give no p below {least:.3f}; alpha={alpha} needs more of them"
        )
    best = np.nanmin(np.where(np.isnan(p), 1.0, p), axis=1)
    q = benjamini_hochberg(best)
    level = float(best[q <= alpha].max()) if (q <= alpha).any() else 0.0
    up = selectivity["ap"].transpose("label", "unit").values
    down = selectivity["ap_negated"].transpose("label", "unit").values
    ap, sign = np.maximum(up, down), np.where(up >= down, 1, -1)
    units = selectivity["unit"].values.astype(int)
    names = np.array([f"{site}[{u}]" for u in units], dtype=object)
    prevalence = selectivity["prevalence"].values
    order = np.argsort(-np.nan_to_num(ap, nan=-1), axis=1, kind="stable")
    accepted = np.take_along_axis(p, order, 1) <= level
    rows, columns = np.repeat(np.arange(len(labels)), accepted.sum(1)), order[accepted]
    own, share = ap[rows, columns], prevalence[rows]
    experts = {
        "concept": np.array(labels, dtype=object)[rows],
        "unit": names[columns],
        "index": units[columns],
        "sign": sign[rows, columns],
        "ap": own,
        "ap_normalised": (own - share) / (1 - share),
        "p": p[rows, columns],
    }
    first = order[:, 0]
    concepts = {
        "concept": labels,
        "positives": selectivity["positives"].values.astype(int),
        "prevalence": prevalence,
        "unit": names[first],
        "ap": ap[np.arange(len(labels)), first],
        "p": best,
        "q": q,
        "experts": (p <= level).sum(1),
        "null_ap_normalised": np.quantile(null, 0.95, axis=1),
    }
    return Expertise(pd.DataFrame(experts), pd.DataFrame(concepts))


def prevalence_free_precision(scores: ArrayLike, labels: ArrayLike, positives: float) -> float:
    """Average precision as if the label had `positives` members, so that rare and frequent concepts compare.

    The sum over thresholds of (step of recall) x R N / (R N + FP), with N fixed to `positives` instead of the number
    that the data have. Nearly the same at any prevalence, not exactly: the number of negatives still varies.

    Parameters
    ----------
    scores, labels
        (n,) scores and whether each example carries the label.
    positives
        N; the same for all labels that are compared, such as the size of one class.

    Raises
    ------
    PatchclampError
        Without an example of each kind, and for values that are not finite.

    References
    ----------
    Hoiem et al. (2012), Diagnosing error in object detectors; Ramaswamy et al. (2023), Overlooked factors in
    concept-based explanations.

    Examples
    --------
    >>> prevalence_free_precision([3.0, 2.0, 1.0], [1, 0, 1], positives=2)
    0.8333333333333333
    """
    value, member = np.asarray(scores, np.float64), np.asarray(labels).astype(bool)
    if value.shape != member.shape or not np.isfinite(value).all() or member.all() or not member.any():
        raise PatchclampError(
            f"prevalence_free_precision: {int(member.sum())} of {member.size} labels are positive, {value.size} scores; "
            "wanted finite scores and at least one example of each kind"
        )
    order = np.argsort(-value, kind="stable")
    last = np.r_[np.diff(value[order]) != 0, True]  # equal scores are one threshold
    tp, fp = np.cumsum(member[order])[last], np.cumsum(~member[order])[last]
    recall = tp / member.sum()
    return float(np.sum(np.diff(recall, prepend=0.0) * recall * positives / (recall * positives + fp)))
