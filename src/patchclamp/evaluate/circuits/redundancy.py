"""How units act together: redundant, in series, additive, opposed. Single effects alone cannot tell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate
from patchclamp.base.statistics import draws_interval, n_groups, resamples
from patchclamp.draw.cards import shown
from patchclamp.nouns.units import UnitsLike
from patchclamp.subjects.clamp.bench import Ablations, Bench, as_units, check_bench
from patchclamp.subjects.clamp.matching import collect, members

Array = NDArray[np.float64]
SMALL = 0.2
NONE = 0.02
VERDICTS = {
    "none": f"neither any unit nor all together have an effect of {NONE:.0%} of the baseline",
    "redundant": f"sizes of the single effects add up to less than {SMALL:.0%} of the joint effect",
    "series": f"each single effect is within {SMALL:.0%} of the joint effect: one loss is enough",
    "opposed": "single effects of both signs, which take from each other in the joint effect",
    "additive": f"the single effects add up to the joint effect within {SMALL:.0%}",
    "partly redundant": "the single effects add up to less than the joint effect",
    "partly in series": "the single effects add up to more than the joint effect",
}


@shown
@dataclass(frozen=True)
class Redundancy:
    """Effects of units alone and together, and what they are called.

    Attributes
    ----------
    verdict : str
        A key of `VERDICTS`, the first that holds of the means; `support` is the share of bootstrap draws over items with
        the same verdict.
    table : DataFrame
        One row a set (``"together"``, then each unit): set, effect = m(full) - m(without it), low, high, and alone = m of
        the candidates with only it left - m(none of them), what it does by itself (NaN for the joint set's row).
    interaction : Estimate
        Joint effect minus the sum of the single ones; above zero units back each other up.
    joint : Estimate
    baseline : float
        m(full).
    """

    verdict: str
    support: float
    table: pd.DataFrame
    interaction: Estimate
    joint: Estimate
    baseline: float

    def __str__(self) -> str:
        total, i = float(self.table["effect"].iloc[1:].sum()), self.interaction
        return (
            f"{self.verdict} (in {self.support:.0%} of resamples): together {self.joint.value:+.3g}, sum of "
            f"{len(self.table) - 1} alone {total:+.3g}, interaction {i.value:+.3g} {i.span('+.3g')}"
        )


def redundancy(bench: Bench, units: UnitsLike) -> Redundancy:
    """Name how units act together: each ablated alone, all together, and each left alone.

    Two units joined by OR have no effect alone and the whole effect together; a method that ablates or patches one unit
    at a time misses both. Joined by AND, each alone has the whole effect; with opposite signs, the joint effect is less
    than its parts.

    Parameters
    ----------
    bench
        Subject, items, ablation and reference.
    units
        At least two units (or whole sites).

    Raises
    ------
    PatchclampError
        For fewer than two units.

    Notes
    -----
    Verified on the gates OR, AND, SUM, BACKUP and CANCEL. Redundancy among more than two units, where any two are
    enough, is named as well; that among subsets of them is not looked for.
    """
    check_bench(bench)
    chosen = members(as_units(bench.subject, units))
    if len(chosen) < 2:
        raise PatchclampError(f"{collect(chosen)}: one unit cannot be redundant; give at least two")
    runs = Ablations(bench, chosen)
    effects = runs.full - runs.without([chosen, *([one] for one in chosen)])
    alone = runs.kept([[one] for one in chosen]) - runs.empty
    weights = resamples(len(runs.full), runs.groups or None, bench.n_boot, bench.seed)
    weights = weights / weights.sum(1, keepdims=True)
    means, draws = effects.mean(1), weights @ effects.T
    scale, scales = abs(float(runs.full.mean())), np.abs(weights @ runs.full)
    verdict = _verdict(means, scale)
    same = [_verdict(draw, float(size)) == verdict for draw, size in zip(draws, scales, strict=True)]
    count = n_groups(runs.groups, len(runs.full))
    low, high = draws_interval(draws, count, means)
    interaction = Estimate.of_mean(
        effects[0] - effects[1:].sum(0), runs.groups, n_boot=bench.n_boot, seed=bench.seed
    )
    table = pd.DataFrame(
        {
            "set": ["together", *(str(collect([one])) for one in chosen)],
            "effect": means,
            "low": low,
            "high": high,
            "alone": [np.nan, *alone.mean(1)],
        }
    )
    return Redundancy(
        verdict,
        float(np.mean(same)),
        table,
        interaction,
        Estimate(float(means[0]), float(low[0]), float(high[0]), len(runs.full), groups=count),
        float(runs.full.mean()),
    )


def _verdict(effects: Array, scale: float) -> str:
    """The first rule of `VERDICTS` that holds; effects are the joint one, then the single ones."""
    joint, single = float(effects[0]), effects[1:]
    size, total = abs(joint), float(single.sum())
    floor = NONE * scale
    clear = single[np.abs(single) > max(floor, SMALL * np.abs(single).max())]
    if size <= floor and (np.abs(single) <= floor).all():
        return "none"
    if np.abs(single).sum() < SMALL * size:
        return "redundant"
    if (np.abs(single - joint) <= SMALL * size).all():
        return "series"
    if len(clear) and clear.min() < 0 < clear.max():
        return "opposed"
    if abs(total - joint) <= SMALL * size:
        return "additive"
    return "partly redundant" if abs(total) < size else "partly in series"
