"""Effects as shares of the behaviour, the currency of claims: 1 is the whole unchanged metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchclamp.base.estimate import Estimate, adjusted
from patchclamp.base.statistics import holm
from patchclamp.draw.cards import shown
from patchclamp.nouns.scores import Effect, flat

__all__ = ["Measured", "corrected", "forest_row", "share_lost", "sum_over_joint"]

Key = TypeVar("Key")


@shown
@dataclass(frozen=True)
class Measured:
    """What a claim states, beside the effect that it was taken from.

    Parameters
    ----------
    share
        The estimate: share lost, share kept, ratio of effects, or a difference in nats.
    effect
        Its baseline and changed metric, and, where the share is their mean, the effect on every item.
    """

    share: Estimate
    effect: Effect

    @classmethod
    def lost(cls, effect: Effect) -> Measured:
        """An effect, and the share of the metric that it takes away."""
        return cls(share_lost(effect), effect)

    @classmethod
    def of(cls, effect: Effect, share: Estimate) -> Measured:
        """Another number that came out of an effect's runs; it is no mean over items."""
        return cls(share, replace(effect, per_item=()))

    @property
    def per_item(self) -> NDArray[np.float64]:
        """The share of every item's effect in the mean unchanged metric."""
        return np.asarray(self.effect.per_item) * (1.0 / self.effect.baseline)

    def to_json(self) -> dict[str, Any]:
        """The share with baseline and changed metric, as ``study.json`` holds it."""
        runs = {"baseline": self.effect.baseline, "changed": self.effect.changed}
        return {**flat(self.share), **runs, "per_item": self.per_item.tolist()}


def share_lost(effect: Effect) -> Estimate:
    """Return an effect as the share of the unchanged metric that it takes away.

    Effect and baseline vary together over groups of items, and the interval is that of their ratio.

    Raises
    ------
    PatchclampError
        Where the unchanged metric is not different from 0.
    """
    whole, null = f"the unchanged {effect.metric} on {effect.task}", effect.estimate.null
    null = null if null is None or not effect.baseline else null.scaled(1.0 / effect.baseline)
    return Estimate.of_ratio(
        effect.per_item, effect.baseline_per_item, effect.groups, what=whole, null=null, seed=effect.seed
    )


def forest_row(name: str, share: Estimate) -> dict[str, Any]:
    """A share as a row of the forest figure."""
    found: dict[str, Any] = {"name": name, "estimate": share.value, "low": share.low, "high": share.high}
    if share.null is not None:
        found |= {"control": share.null.mean, "control_low": share.null.low, "control_high": share.null.high}
    return found


def corrected(measured: Mapping[Key, Measured]) -> dict[Key, Measured]:
    """Return the shares with p-values corrected together by Holm's method; those without p stay as they are."""
    shares = adjusted([m.share for m in measured.values()], holm)
    return {n: replace(m, share=s) for (n, m), s in zip(measured.items(), shares, strict=True)}


def sum_over_joint(
    parts: Sequence[ArrayLike], whole: ArrayLike, groups: Sequence[str] | None = None, seed: int = 0
) -> Estimate:
    """Return the ratio of the summed means of `parts` to the mean of `whole`, with its interval.

    Parameters
    ----------
    parts
        Per-item effects of each unit alone, (units, items).
    whole
        Per-item effects of all together, (items,).
    groups
        The unit of dependence of each item.

    Raises
    ------
    PatchclampError
        Where the joint effect is not different from 0.

    Examples
    --------
    >>> print(sum_over_joint([[1.0] * 8, [1.0] * 8], [4.0] * 8))
    0.500 [0.500, 0.500], n=8
    """
    top = np.sum([np.asarray(one, dtype=float) for one in parts], axis=0)
    return Estimate.of_ratio(top, whole, groups, what="the joint effect of these units", seed=seed)
