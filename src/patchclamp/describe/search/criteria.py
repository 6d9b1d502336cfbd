"""How well a yes or no predicts whether a unit is active, from counts alone.

With tp, fp tokens of which the predicate holds while the unit is (is not) active, p active and n inactive tokens:

    balanced accuracy = (tp / p + 1 - fp / n) / 2
    average precision = tp / p * tp / (tp + fp) + (1 - tp / p) * p / (p + n)

The second is the average precision of the predicate as a ranking with two ranks. Both are NaN where p or n is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CRITERIA", "Criterion", "average_precision", "balanced_accuracy", "chance"]

Numbers = NDArray[np.float64]
Criterion = Callable[[Any, Any, Any, Any], Numbers]


def balanced_accuracy(tp: Any, fp: Any, p: Any, n: Any) -> Numbers:
    """Mean of the share of active tokens found and the share of inactive tokens left out.

    Examples
    --------
    >>> float(balanced_accuracy(5, 10, 10, 100))
    0.7
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (np.divide(tp, p) + 1 - np.divide(fp, n)) / 2
    return np.where((np.asarray(p) > 0) & (np.asarray(n) > 0), found, np.nan)


def average_precision(tp: Any, fp: Any, p: Any, n: Any) -> Numbers:
    """Average precision of a ranking that has two ranks.

    Examples
    --------
    >>> float(average_precision(10, 0, 10, 90)), float(average_precision(0, 0, 10, 90))
    (1.0, 0.1)
    """
    hits, false = np.asarray(tp, dtype=np.float64), np.asarray(fp, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        recall = hits / p
        precision = np.where(hits + false > 0, hits / np.maximum(hits + false, 1e-12), 0.0)
        found = recall * precision + (1 - recall) * np.divide(p, np.add(p, n))
    return np.where((np.asarray(p) > 0) & (np.asarray(n) > 0), found, np.nan)


def chance(criterion: Criterion, p: float, n: float) -> float:
    """What the criterion gives a predicate that never holds: .5 for balanced accuracy, the share of active tokens for the other."""
    return float(criterion(0, 0, p, n))


CRITERIA: dict[str, Criterion] = {
    "balanced_accuracy": balanced_accuracy,
    "average_precision": average_precision,
}
