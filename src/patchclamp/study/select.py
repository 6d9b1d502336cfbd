"""Choosing units: ranked on train and validation items, the size of the set by ablation on validation items.

The test items play no part here; what is chosen is verified on them (`experiments`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from patchclamp.errors import PatchclampError
from patchclamp.units import Unit, Units

__all__ = ["Selection", "choose_size", "ranked", "select_units"]


@dataclass(frozen=True)
class Selection:
    """The units of one kind that a study chose.

    Parameters
    ----------
    kind
        ``"heads"`` or ``"neurons"``.
    order
        All units of the kind, the one with the largest positive score first.
    scores
        Their scores, in the same order.
    k
        How many are chosen.
    sizes, lost
        The sets tried on the validation items, and the fraction of the metric that ablating them took.
    rule
        How `k` was chosen, in words.
    """

    kind: str
    order: tuple[Unit, ...]
    scores: tuple[float, ...]
    k: int
    sizes: tuple[int, ...]
    lost: tuple[float, ...]
    rule: str

    @property
    def units(self) -> Units:
        """The chosen units."""
        return self.first(self.k)

    def first(self, k: int) -> Units:
        """The first `k` units of the order."""
        return Units.parse(list(self.order[:k]))

    def to_json(self) -> dict[str, Any]:
        """The choice as plain data; of the order, the first hundred."""
        return {
            "kind": self.kind,
            "k": self.k,
            "universe": len(self.order),
            "units": [str(u) for u in self.order[: self.k]],
            "order": [str(u) for u in self.order[:100]],
            "sizes": list(self.sizes),
            "lost": list(self.lost),
            "rule": self.rule,
        }


def ranked(scores: Any, point: str) -> tuple[tuple[Unit, ...], tuple[float, ...]]:
    """Order the units of a point by their mean score, largest first; equal scores in the order of the pass.

    The sign matters: a unit with a large negative score works against the behaviour and does not carry it.

    Raises
    ------
    PatchclampError
        When nothing was scored at this point, or a score is not finite.
    """
    summed = scores.summed()
    units: list[Unit] = []
    values: list[np.ndarray] = []
    for site in [s for s in summed.sites if s.point == point]:
        indices = summed.index(site)
        if None in indices:
            raise PatchclampError(f"{site}: it was scored as a whole, so its units cannot be ranked")
        values.append(np.asarray(summed.mean(site), dtype=np.float64))
        units.extend(Unit(site, i) for i in indices)
    if not units:
        raise PatchclampError(f"{point}: the scores hold no unit of this point, so none can be chosen")
    flat = np.concatenate(values)
    if not np.isfinite(flat).all():
        bad = units[int(np.flatnonzero(~np.isfinite(flat))[0])]
        raise PatchclampError(
            f"{bad}: its score is {flat[~np.isfinite(flat)][0]}; the ranking would be arbitrary"
        )
    order = np.argsort(-flat, kind="stable")
    return tuple(units[i] for i in order), tuple(float(flat[i]) for i in order)


def choose_size(sizes: Sequence[int], lost: Sequence[float], target: float) -> tuple[int, str]:
    """Return the smallest size whose ablation loses at least `target` of the metric, with the rule in words.

    When none does: the smallest that reaches 95 % of the largest loss.

    Examples
    --------
    >>> choose_size([1, 2, 5], [0.3, 0.6, 0.95], 0.9)[0]
    5
    >>> choose_size([1, 2, 5], [0.3, 0.41, 0.4], 0.9)[0]
    2
    """
    for size, value in zip(sizes, lost, strict=True):
        if value >= target:
            return (
                size,
                f"smallest set tried that loses at least {target:.0%} of the metric on the validation items",
            )
    goal = 0.95 * max(lost)
    size = next(s for s, value in zip(sizes, lost, strict=True) if value >= goal)
    return size, (
        f"no set tried loses {target:.0%} of the metric on the validation items; "
        f"smallest with 95% of the largest loss ({max(lost):.0%})"
    )


def select_units(
    scores: Any,
    kind: str,
    point: str,
    sizes: Sequence[int],
    target: float,
    lost_by_ablating: Callable[[Units], float],
) -> Selection:
    """Rank the units of a point and choose how many, by ablating the first k of them on validation items.

    Parameters
    ----------
    scores
        `Scores` over train and validation items.
    kind, point
        ``"heads"`` and ``"head"``, or ``"neurons"`` and ``"mlp_act"``.
    sizes
        Sizes to try, ascending; those past the number of units with a positive score, or past a third of all, are
        left out. The search ends at the first size that loses `target`.
    target
        Fraction of the metric.
    lost_by_ablating
        Measures the fraction lost, on validation items.
    """
    order, values = ranked(scores, point)
    positive = sum(v > 0 for v in values)
    tried: list[int] = []
    lost: list[float] = []
    # At most a third of all units, so that random sets matched to the chosen one can be drawn from the rest.
    most = max(1, min(positive, len(order) // 3))
    for size in [s for s in sizes if s <= most]:
        tried.append(size)
        lost.append(lost_by_ablating(Units.parse(list(order[:size]))))
        if lost[-1] >= target:
            break
    k, rule = choose_size(tried, lost, target)
    return Selection(kind, order, values, k, tuple(tried), tuple(lost), rule)
