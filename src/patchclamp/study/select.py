"""Choosing units: ranked on train and validation items, the size of the set by ablation on validation items.

The test items play no part here; what is chosen is verified on them (`experiments`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from patchclamp.base.errors import PatchclampError
from patchclamp.draw.cards import shown
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.units import Unit, Units

__all__ = ["Selection", "choose_size", "ranked", "select_units"]


@shown
@dataclass(frozen=True)
class Selection:
    """The units of one kind that a study chose.

    Parameters
    ----------
    kind
        ``"heads"`` or ``"neurons"``.
    order
        All units of the kind: first those whose effect alone was measured, the largest first; then the others by
        score, the largest positive one first.
    scores
        Their scores, in the same order.
    measured
        Share of the metric that the first of them take alone on the validation items.
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
    measured: tuple[float, ...] = ()

    @property
    def units(self) -> Units:
        """The chosen units."""
        return self.first(self.k)

    def first(self, k: int) -> Units:
        """The first `k` units of the order."""
        return Units.parse(list(self.order[:k]))

    def ranking(self, like: Scores) -> Scores:
        """The order as scores of one item, for whatever ranks units by `Scores`."""
        place = {unit: float(len(self.order) - i) for i, unit in enumerate(self.order)}
        sites = sorted({unit.site for unit in self.order})
        values = {
            site: np.array(
                [[place[Unit(site, i)] for i in like.index(site) if i is not None]], dtype=np.float32
            )
            for site in sites
        }
        level = {site: like.level[site] for site in sites}
        nodes = {site: like.nodes[site] for site in sites if site in like.nodes}
        return Scores("study", "none", like.metric, like.task, values, level, nodes=nodes)

    def to_json(self) -> dict[str, Any]:
        """The choice as plain data; of the order, the first hundred."""
        return {
            "kind": self.kind,
            "k": self.k,
            "universe": len(self.order),
            "units": [str(u) for u in self.order[: self.k]],
            "order": [str(u) for u in self.order[:100]],
            "scores": list(self.scores[:100]),
            "measured": list(self.measured),
            "sizes": list(self.sizes),
            "lost": list(self.lost),
            "rule": self.rule,
        }


def ranked(scores: Scores, point: str) -> tuple[tuple[Unit, ...], tuple[float, ...]]:
    """Order the units of a point by their mean score, largest first; equal scores in the order of the pass.

    The sign matters: a unit with a large negative score works against the behaviour and does not carry it.

    Raises
    ------
    PatchclampError
        When nothing was scored at this point, or a score is not finite.
    """
    order: list[Unit] = []
    for site, index in scores.ranked("signed", [point]):
        if index is None:
            raise PatchclampError(f"{site}: it was scored as a whole, so its units cannot be ranked")
        order.append(Unit(site, index))
    summed = scores.summed()
    values = {
        Unit(site, index): float(value)
        for site in {unit.site: None for unit in order}
        for index, value in zip(scores.index(site), summed.mean(site), strict=True)
        if index is not None
    }
    return tuple(order), tuple(values[unit] for unit in order)


def choose_size(sizes: Sequence[int], lost: Sequence[float], target: float) -> tuple[int, str]:
    """Return the smallest size whose ablation loses at least `target` of the metric, with the rule in words.

    When none does: the smallest that reaches 95 % of the largest loss.

    Examples
    --------
    >>> choose_size([1, 2, 5], [0.3, 0.6, 0.95], 0.9)[0]
    5
    >>> choose_size([1, 2, 5], [0.3, 0.41, 0.4], 0.9)[0]
    2
    >>> choose_size([1, 2], [-0.3, -0.1], 0.9)[0]
    2
    """
    for size, value in zip(sizes, lost, strict=True):
        if value >= target:
            return (
                size,
                f"smallest set tried that loses at least {target:.0%} of the metric on the validation items",
            )
    goal = max(lost) - 0.05 * abs(max(lost))  # below the largest also where every set raises the metric
    size = next(s for s, value in zip(sizes, lost, strict=True) if value >= goal)
    return size, (
        f"no set tried loses {target:.0%} of the metric on the validation items; "
        f"smallest with 95% of the largest loss ({max(lost):.0%})"
    )


def select_units(
    scores: Scores,
    kind: str,
    point: str,
    sizes: Sequence[int],
    target: float,
    lost: Callable[[Sequence[Units]], Sequence[float]],
    refine: int = 0,
) -> Selection:
    """Rank the units of a point and choose how many, by ablating the first k of them on validation items.

    Parameters
    ----------
    scores
        Over train items.
    kind, point
        ``"heads"`` and ``"head"``, or ``"neurons"`` and ``"mlp_act"``.
    sizes
        Sizes to try, ascending; those past the number of units with a positive score, or past a third of all, are
        left out. The search ends at the first size that loses `target`.
    target
        Fraction of the metric.
    lost
        Measures the fraction lost with each of some selections ablated, on validation items.
    refine
        So many of the first by score are put in the order of their effect alone, measured by `lost`.
    """
    order, values = ranked(scores, point)
    positive = sum(v > 0 for v in values)
    order, values, measured = _refined(order, values, min(refine, positive), lost)
    tried: list[int] = []
    shares: list[float] = []
    # At most a third of all units, so that random sets matched to the chosen one can be drawn from the rest.
    most = max(1, min(positive, len(order) // 3))
    for size in [s for s in sizes if s <= most]:
        tried.append(size)
        shares += lost([Units.parse(list(order[:size]))])
        if shares[-1] >= target:
            break
    k, rule = choose_size(tried, shares, target)
    return Selection(kind, order, values, k, tuple(tried), tuple(shares), rule, measured)


def _refined(
    order: tuple[Unit, ...],
    values: tuple[float, ...],
    n: int,
    lost: Callable[[Sequence[Units]], Sequence[float]],
) -> tuple[tuple[Unit, ...], tuple[float, ...], tuple[float, ...]]:
    """Put the first `n` units in the order of their measured effect alone."""
    if n < 2:
        return order, values, ()
    effects = np.asarray(lost([Units.parse(unit) for unit in order[:n]]), dtype=np.float64)
    place = [*np.argsort(-effects, kind="stable").tolist(), *range(n, len(order))]
    return (
        tuple(order[i] for i in place),
        tuple(values[i] for i in place),
        tuple(float(effects[i]) for i in place[:n]),
    )
