"""Effects as shares of the behaviour, the currency of claims: 1 is the whole unchanged metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from patchclamp.base.statistics import bootstrap_statistic, holm
from patchclamp.nouns.scores import Effect

__all__ = ["Share", "corrected", "ratio_interval", "share_lost"]

K = TypeVar("K")


@dataclass(frozen=True)
class Share:
    """A measured share of the metric.

    Parameters
    ----------
    estimate, low, high
        The share and its 95 % bootstrap interval over items.
    baseline, changed
        The metric unchanged and under the intervention.
    control
        mean, low, high, n_sets, matched_by of the same share for random sets; None without a control.
    p, p_adjusted
        Against the random sets, as measured and after Holm's correction.
    n
        Items.
    per_item
        The share of every item's effect in the mean unchanged metric; their mean is `estimate`.
    """

    estimate: float
    low: float
    high: float
    baseline: float
    changed: float
    n: int
    control: Mapping[str, Any] | None = None
    p: float | None = None
    p_adjusted: float | None = None
    per_item: tuple[float, ...] = ()

    @property
    def beats_control(self) -> bool:
        """Whether the interval lies above the random sets (their 97.5 percentile), and p is at most .05 where there is one.

        The estimate alone does not do: a set that was chosen for its score tends to be one whose effect varies more
        over items than that of random sets. Where all units are alike, one study in eight would claim that some matter
        more than others (`patchclamp.study.null`).
        """
        if self.control is None or not self.low > self.control["high"]:
            return False
        return self.p is None or self.p <= 0.05

    def scaled(self, factor: float) -> Share:
        """The share, its interval and its control times a positive factor."""
        control = self.control
        if control is not None:
            control = {**control, **{key: control[key] * factor for key in ("mean", "low", "high")}}
        ends = {key: getattr(self, key) * factor for key in ("estimate", "low", "high")}
        return replace(self, control=control, **ends)

    def row(self, name: str) -> dict[str, Any]:
        """The share as a row of the forest figure."""
        found: dict[str, Any] = {"name": name, "estimate": self.estimate, "low": self.low, "high": self.high}
        if self.control is not None:
            found |= {"control": self.control["mean"]}
            found |= {f"control_{end}": self.control[end] for end in ("low", "high")}
        return found


def share_lost(effect: Effect) -> Share:
    """Return an effect as the share of the unchanged metric that it takes away.

    The interval is the effect's, divided by the mean baseline on the same items, which is taken as given.
    """
    scale = 1.0 / effect.baseline
    control = effect.control
    return Share(
        estimate=effect.estimate * scale,
        low=effect.low * scale,
        high=effect.high * scale,
        baseline=effect.baseline,
        changed=effect.changed,
        n=effect.n,
        control=None
        if control is None
        else {
            "mean": control.mean * scale,
            "low": control.low * scale,
            "high": control.high * scale,
            "n_sets": control.n_sets,
            "matched_by": control.matched_by,
        },
        p=effect.p,
        per_item=tuple(float(v) * scale for v in np.asarray(effect.per_item)),
    )


def corrected(shares: Mapping[K, Share]) -> dict[K, Share]:
    """Return the shares with p-values corrected together by Holm's method; those without p stay as they are."""
    tested = [name for name, share in shares.items() if share.p is not None]
    p_values = [share.p for share in shares.values() if share.p is not None]
    values = dict(zip(tested, holm(p_values).tolist(), strict=True)) if tested else {}
    return {n: replace(s, p_adjusted=float(values[n])) if n in values else s for n, s in shares.items()}


def ratio_interval(
    parts: Sequence[Sequence[float]],
    whole: Sequence[float],
    groups: Sequence[str] | None = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return the ratio of the summed means of `parts` to the mean of `whole`, with a paired bootstrap interval.

    Parameters
    ----------
    parts
        Per-item effects of each unit alone, (units, items).
    whole
        Per-item effects of all together, (items,).
    groups
        The unit of dependence of each item.

    Examples
    --------
    >>> ratio_interval([[1.0, 1.0], [1.0, 1.0]], [4.0, 4.0])
    (0.5, 0.5, 0.5)
    """
    top, bottom = np.sum(np.asarray(parts, dtype=float), axis=0), np.asarray(whole, dtype=float)
    low, high = bootstrap_statistic(
        lambda weights: float(weights @ top / (weights @ bottom)),
        len(bottom),
        groups,
        n_boot=n_boot,
        seed=seed,
    )
    return float(top.mean() / bottom.mean()), low, high
