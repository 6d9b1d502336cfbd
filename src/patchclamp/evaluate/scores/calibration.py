"""How far may an approximation be believed in this model? Exact patches on a sample of its units tell.

An approximation scores every unit; to patch each would take too long. A sample is patched, many units from the top of
the estimates and some from every other stratum, and weights undo the choice, so that the figures speak of all units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng
from patchclamp.base.statistics import FEWEST_GROUPS, draws_interval, expanded_tail
from patchclamp.draw.cards import shown
from patchclamp.evaluate.scores.agreement import _check
from patchclamp.evaluate.scores.weighted import MEASURES, counted, weighted_compare, wilson
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.units import Units
from patchclamp.subjects.clamp.matching import UnitOrSite, collect

Array = NDArray[np.float64]
# Share of the sample that goes by size of stratum: measured on simulated scores (300 of 20,000 units), with less of it
# Spearman is coarse (standard error .06 for .04), with more of it the top is (.14 for .06).
SPREAD = 0.4
Exact = Scores | Callable[[Units], Scores]


@shown
@dataclass(frozen=True)
class Calibration:
    """An approximation held against exact effects of a sample.

    Attributes
    ----------
    measures : DataFrame
        Index pearson, spearman, slope (of the estimate on the exact effect; 1 is right), correction (of the exact effect
        on the estimate: what to multiply an estimate by), scale (sum |estimate| / sum |exact|), sign (among effects above
        1 % of the largest), top (share of the units of largest exact effect that are among the top by estimate).
        Columns value, low, high; of all units estimated, by weight.
    strata : DataFrame
        One row a stratum of |estimate|: low, high (bounds), units, checked, estimate (mean size), exact (mean size), error
        (root mean square of estimate - exact), largest (exact effect found in it).
    checks : DataFrame
        One row a unit checked: unit, estimate, exact, weight, stratum.
    estimated, checked : int
        Units.
    top : float
        Share of the units that counts as the top.
    method, exact_method : str
    """

    measures: pd.DataFrame
    strata: pd.DataFrame
    checks: pd.DataFrame = field(repr=False)
    estimated: int
    checked: int
    top: float
    method: str
    exact_method: str

    def __getitem__(self, measure: str) -> float:
        return float(self.measures.loc[measure, "value"])

    def off(self, share: float = 0.5, least: float = 0.1) -> pd.DataFrame:
        """The checked units that are wrong: estimate and exact effect differ by more than `share` of the larger of the two.

        Only units of which one of the two is above `least` of the largest exact effect: below, anything is off by half.
        """
        guess, true = self.checks["estimate"], self.checks["exact"]
        size = np.maximum(guess.abs(), true.abs())
        wrong = ((guess - true).abs() > share * size) & (size > least * true.abs().max())
        return self.checks[wrong].reset_index(drop=True)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "method": self.method,
            "exact_method": self.exact_method,
            "estimated": self.estimated,
            "checked": self.checked,
            "top": self.top,
            "measures": {
                name: {key: None if np.isnan(value) else float(value) for key, value in row.items()}
                for name, row in self.measures.iterrows()
            },
            "strata": self.strata.to_dict("records"),
        }

    def __str__(self) -> str:
        _, low, high = self.measures.loc["pearson", ["value", "low", "high"]]
        none = f"(no interval: fewer than {FEWEST_GROUPS} checks stand for other units)"
        span = none if np.isnan(low) else f"[{_short(low)}, {_short(high)}]"
        return (
            f"estimated on {self.estimated:,} units, checked on {self.checked:,}: "
            f"Pearson {_short(self['pearson'])} {span}, slope {_short(self['slope'], 1)}"
        )


def calibration(
    estimate: Scores,
    exact: Exact,
    n: int = 300,
    *,
    strata: int = 10,
    top: float = 0.01,
    n_boot: int = 1000,
    seed: int = 0,
) -> Calibration:
    """Check an approximation against exact patching on a stratified sample of its units.

    Units are sorted by |estimate| (mean over items, summed over positions) into `strata` strata, the first with the
    largest. These, an even share of `n`, are all checked, since a few large effects can rule every measure; each other
    stratum holds about twice as many units as the one above it. Six tenths of the rest are shared out evenly, so that the
    sample is dense where estimates are large, and four tenths by size of stratum. A checked unit of stratum h has the weight N_h / n_h. With weights, all
    measures estimate those over all units.

    Parameters
    ----------
    estimate
        `Scores` of a cheap method, all units.
    exact
        Either a function of `Units` that patches them, such as
        ``lambda units: activation_patching(subject, task, units)``, or `Scores` that are already there, of some or all of
        the units (units that were not chosen for their estimate, beyond what the strata undo).
    n
        Units to check.
    strata
        At most this many; fewer where there are few units.
    top
        Share of the units that counts as the top.
    n_boot, seed
        Of the bootstrap over checked units within strata (one that was checked whole adds no error), and of the sample.
        Correlations have an interval on Fisher's scale, sign and top Wilson's with one more check imagined, the others expanded
        percentiles (`draws_interval`); the first and the last need at least 8 checks of units that stand for others.

    Returns
    -------
    Calibration
        Prints as ``estimated on 46,350 units, checked on 300: Pearson .91 [.87, .94], slope .6``.

    Raises
    ------
    PatchclampError
        For exact scores of another question (direction, items, metric), or of units that were not asked for.

    Notes
    -----
    The interval is about the units that were not checked, for these items; how far other items differ is another
    question, which `agreement` answers where both scores are whole. A site scored as a whole is one unit. Measured on two
    simulated systems (normal and heavy-tailed effects, 300 of 10,000 units, 100 samples): the 95 % intervals hold the
    figure of all units in 91 to 95 of 100 (Pearson 91 and 92; sign 95 and 99; top 100, since it errs on the wide side).

    Examples
    --------
    >>> from patchclamp.nouns.units import Site
    >>> rng = np.random.default_rng(0)
    >>> site, true = Site("mlp_act", 0), rng.laplace(size=(4, 2000)).astype(np.float32)
    >>> whole = Scores("exact", "noising", "m", "t", {site: true}, {site: "unit"})
    >>> half = Scores("estimate", "noising", "m", "t", {site: 0.5 * true}, {site: "unit"})
    >>> print(calibration(half, whole, 100))
    estimated on 2,000 units, checked on 2,000: Pearson 1.00 [1.00, 1.00], slope .5
    """
    summed = estimate.summed()
    units = summed.ranked("abs")
    place = {member: i for i, member in enumerate(units)}
    guess = _means(summed, units)
    if n < 2 or strata < 1 or not 0 < top < 1:
        raise PatchclampError(
            f"n={n}, strata={strata}, top={top}: check at least two units, in strata, top a share below 1"
        )
    sizes = _sizes(len(units), strata, min(n, len(units)))
    rng = numpy_rng(seed)
    stratum = np.repeat(np.arange(len(sizes)), sizes)
    if isinstance(exact, Scores):
        found = exact
    else:
        rows = _draw(stratum, min(n, len(units)), rng)
        found = exact(collect([units[i] for i in rows]))
    known = found.summed()
    _check(summed, known)
    there = [m for site in known.sites for m in ((site, index) for index in known.index(site)) if m in place]
    rows = np.array(sorted(place[member] for member in there), dtype=np.int64)
    if not isinstance(exact, Scores) and len(rows) < min(n, len(units)):
        raise PatchclampError(
            f"{found.method}: scored {len(rows)} of the {min(n, len(units))} units that it was asked for"
        )
    if len(rows) < 2:
        raise PatchclampError(
            f"{found.method}: scores {len(rows)} of the units of {estimate.method}; at least two are needed"
        )
    stratum = _merged(stratum, rows)
    true = _means(known, [units[i] for i in rows])
    return _result(estimate, found, units, guess, true, rows, stratum, top, n_boot, rng)


def _means(scores: Scores, units: Sequence[UnitOrSite]) -> Array:
    table = {
        (site, index): value
        for site in scores.sites
        for index, value in zip(scores.index(site), scores.mean(site), strict=True)
    }
    return np.array([table[unit] for unit in units], dtype=np.float64)


def _sizes(units: int, strata: int, n: int) -> list[int]:
    """Units of each stratum, the top first: an even share of n, checked whole, then each about twice the one above."""
    fewest = max(1, n // strata)
    sizes = [min(units, fewest if strata > 1 else units)]
    left = units - sizes[0]
    for h in range(1, strata):
        if left <= 0:
            break
        even = left / (2 ** (strata - h) - 1)
        sizes.append(left if h == strata - 1 else min(left, max(fewest, round(even))))
        left -= sizes[-1]
    return sizes


def _draw(stratum: NDArray[np.int64], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Places of the units to check: the top stratum whole, of the rest `SPREAD` by size of stratum, the others evenly."""
    sizes = np.bincount(stratum)
    take = np.zeros(len(sizes), dtype=np.int64)
    if len(sizes) > 1:
        take[0] = min(sizes[0], n)
    by_size = SPREAD * (n - take[0]) * sizes / len(stratum)
    take = np.maximum(take, np.minimum(np.floor(by_size).astype(np.int64), sizes))
    while take.sum() < n:
        take[int(np.where(take < sizes, take - by_size, np.inf).argmin())] += 1
    return np.concatenate(
        [np.sort(rng.choice(np.flatnonzero(stratum == h), k, replace=False)) for h, k in enumerate(take) if k]
    )


def _merged(stratum: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Strata joined with the next until each has at least two checked units (or is checked whole)."""
    counts, sizes = np.bincount(stratum[rows], minlength=stratum.max() + 1), np.bincount(stratum)
    number, checked, units = 0, 0, 0
    names = np.empty(len(sizes), dtype=np.int64)
    for h in range(len(sizes)):
        names[h] = number
        checked, units = checked + int(counts[h]), units + int(sizes[h])
        if checked >= min(2, units):
            number, checked, units = number + 1, 0, 0
    if units:  # what is left at the end joins the stratum before it
        names[names == number] = max(0, number - 1)
    return names[stratum]


def _result(
    estimate: Scores,
    exact: Scores,
    units: Sequence[UnitOrSite],
    guess: Array,
    true: Array,
    rows: NDArray[np.int64],
    stratum: NDArray[np.int64],
    top: float,
    n_boot: int,
    rng: np.random.Generator,
) -> Calibration:
    sizes, own = np.bincount(stratum), stratum[rows]
    counts = np.bincount(own, minlength=len(sizes))
    weight = (sizes / np.maximum(counts, 1))[own]
    first = rows < max(1, round(top * len(units)))
    part = guess[rows]
    value = weighted_compare(part, true, weight, first, top)
    draws = np.array(
        [
            list(
                weighted_compare(part, true, weight * _resample(own, counts, sizes, rng), first, top).values()
            )
            for _ in range(n_boot)
        ]
    ).reshape(n_boot, len(MEASURES))
    bounds = _bounds(value, draws, true, weight, top)
    measures = pd.DataFrame(
        {"value": [value[name] for name in MEASURES], "low": bounds[0], "high": bounds[1]},
        index=list(MEASURES),
    )
    checks = pd.DataFrame(
        {
            "unit": [str(collect([units[i]])) for i in rows],
            "estimate": part,
            "exact": true,
            "weight": weight,
            "stratum": own,
        }
    )
    return Calibration(
        measures,
        _strata_table(guess, stratum, checks),
        checks,
        len(units),
        len(rows),
        top,
        estimate.method,
        exact.method,
    )


def _bounds(value: dict[str, float], draws: Array, true: Array, weight: Array, top: float) -> Array:
    """(low or high, measure): expanded percentiles of the draws, but for correlations and shares.

    Correlations near one are skewed, so theirs are normal after Fisher's transformation. Shares have nothing to draw
    where all that was checked agrees: theirs are Wilson's, with as many checks as the weights are worth.
    """
    from scipy.stats import norm  # half a second

    bounds = np.full((2, len(MEASURES)), np.nan)
    if not len(draws):
        return bounds
    open_ = int((weight > 1 + 1e-9).sum())  # checks that stand for units beside themselves
    point = np.array([value[name] for name in MEASURES])
    bounds[:] = draws_interval(draws, open_, point) if open_ else point
    reach = -float(norm.ppf(expanded_tail(open_))) if open_ >= FEWEST_GROUPS else np.nan
    for place, name in enumerate(MEASURES):
        if open_ and name in ("pearson", "spearman") and abs(value[name]) < 1 - 1e-12:
            spread = np.nanstd(np.arctanh(np.clip(draws[:, place], -1 + 1e-12, 1 - 1e-12)))
            bounds[:, place] = np.tanh(np.arctanh(value[name]) + np.array([-reach, reach]) * spread)
        elif name in ("sign", "top") and np.isfinite(value[name]):
            bounds[:, place] = wilson(value[name], counted(name, true, weight, top), weight)
    return bounds


def _resample(
    own: NDArray[np.int64], counts: NDArray[np.int64], sizes: NDArray[np.int64], rng: np.random.Generator
) -> Array:
    """How often each checked unit counts: drawn within its stratum, with the finite population's smaller error.

    Of n units checked of N, n - 1 are drawn and scaled (Rao and Wu), and moved towards one by sqrt(1 - n / N), so that a
    stratum checked whole does not vary.
    """
    out = np.ones(len(own))
    for h, n in enumerate(counts):
        if n < 2 or n == sizes[h]:
            continue
        times = rng.multinomial(n - 1, np.full(n, 1 / n)) * n / (n - 1)
        out[own == h] = 1 + np.sqrt(1 - n / sizes[h]) * (times - 1)
    return out


def _strata_table(guess: Array, stratum: NDArray[np.int64], checks: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for h in range(int(stratum.max()) + 1):
        size, own = np.abs(guess[stratum == h]), checks[checks["stratum"] == h]
        error = float(np.sqrt(np.mean((own["estimate"] - own["exact"]) ** 2)))
        largest = own["exact"].iloc[int(own["exact"].abs().to_numpy().argmax())]
        rows.append(
            (
                size.min(),
                size.max(),
                len(size),
                len(own),
                size.mean(),
                own["exact"].abs().mean(),
                error,
                largest,
            )
        )
    columns = ["low", "high", "units", "checked", "estimate", "exact", "error", "largest"]
    return pd.DataFrame(rows, columns=columns)


def _short(value: float, digits: int = 2) -> str:
    """A number without the zero before its point."""
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text
