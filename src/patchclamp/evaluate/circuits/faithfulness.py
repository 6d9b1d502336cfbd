"""Does a ranked set of units carry the behaviour? Curves of what is recovered with it and lost without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError, check_choice
from patchclamp.base.seeds import numpy_rng
from patchclamp.base.statistics import draws_interval, n_groups, resamples
from patchclamp.draw.cards import shown
from patchclamp.nouns.scores import Scores
from patchclamp.subjects.clamp.bench import Bench, check_bench, check_span, default_points, refuse_overlap
from patchclamp.subjects.clamp.matching import UnitOrSite, matched_order

Array = NDArray[np.float64]
RANKED = "ranked"
BASELINES = ("random", "matched")


@dataclass(frozen=True)
class AblationRun:
    """One ablation: which curve and order it belongs to, how many units the set has, which are ablated."""

    curve: str
    order: str
    draw: int
    size: int
    ablated: tuple[UnitOrSite, ...]


@shown
@dataclass(frozen=True)
class Faithfulness:
    """Curves over the number of units, each value f = (m(C) - m(empty)) / (m(full) - m(empty)).

    Attributes
    ----------
    table : DataFrame
        Columns curve, order, size, fraction, value, low, high. Curve ``"kept"``: all other candidates are ablated;
        ``"ablated"``: the set itself is, so that value is the faithfulness of the complement and 1 - value what is
        lost (completeness is good where it falls early). Order ``"ranked"``, or a baseline: ``"random"`` orders, or
        ``"matched"`` ones (random, but with as many units of each site and stratum of activity as the ranking).
        The band of the ranked curve resamples items; that of a baseline items and orders.
    full, empty : float
        Mean metric as it is, and with all candidates ablated.
    candidates : int
    rank_by, ablation : str
    cpr, cmd : float
        Mean height of "kept" and of |1 - "kept"| over the fraction of units from the smallest size to all (by
        trapezoid; the area itself is this times 1 - smallest fraction). `cpr_log`, `cmd_log`: over its logarithm.
    beats_model : bool
        Whether a kept set exceeds the whole model; then a large `cpr` is no virtue, and `cmd` is the one to read.
    n : int
        Items.
    runs : DataFrame
        One row a pass over the items: curve, order, draw, size.
    per_item : array (run, item)
        The metric in each run; `full_per_item` and `empty_per_item` beside.
    groups : tuple of str
        The unit of dependence of each item.
    """

    table: pd.DataFrame
    full: float
    empty: float
    candidates: int
    rank_by: str
    ablation: str
    cpr: float
    cmd: float
    cpr_log: float
    cmd_log: float
    beats_model: bool
    n: int
    runs: pd.DataFrame = field(repr=False)
    per_item: Array = field(repr=False)
    full_per_item: Array = field(repr=False)
    empty_per_item: Array = field(repr=False)
    groups: tuple[str, ...] = field(default=(), repr=False)

    def curve(self, curve: str = "kept", order: str = RANKED) -> pd.DataFrame:
        """The rows of one curve, by size."""
        chosen = (self.table["curve"] == curve) & (self.table["order"] == order)
        if not chosen.any():
            raise PatchclampError(f"there is no {curve} curve of {order} units")
        return self.table[chosen].sort_values("size", ignore_index=True)

    def item_band(self, curve: str = "kept", at: Sequence[float] = (0.25, 0.5, 0.75)) -> pd.DataFrame:
        """How single items lie about the ranked curve: quantiles over items at each size.

        An item's value is (m_i(C) - mean m(empty)) / (mean m(full) - mean m(empty)): its own metric on the scale of
        the curve, since a ratio of its own may have a denominator of nil. A mean of 1 with a wide band is a circuit
        that is above the model on some items and below it on others.

        Returns
        -------
        DataFrame
            Columns size, then one a quantile (``"q25"``, ``"q50"``, ...).
        """
        rows = np.flatnonzero((self.runs["curve"] == curve) & (self.runs["order"] == RANKED))
        if not len(rows):
            raise PatchclampError(f"there is no {curve} curve of ranked units")
        share = (self.per_item[rows] - self.empty) / (self.full - self.empty)
        table = pd.DataFrame(
            np.quantile(share, at, axis=1).T, columns=[f"q{round(100 * level)}" for level in at]
        )
        table.insert(0, "size", self.runs["size"].to_numpy()[rows])
        return table.sort_values("size", ignore_index=True)

    def to_json(self) -> dict[str, Any]:
        """The curves and their summary as plain data, without the values per item."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.repr and f.name != "table"} | {
            "table": self.table.to_dict("records")
        }


def default_sizes(candidates: int) -> list[int]:
    """Sizes 1, 2, 5, 10, ... up to all."""
    sizes = [base * 10**power for power in range(7) for base in (1, 2, 5)]
    return [*[s for s in sizes if s < candidates], candidates]


def faithfulness(
    bench: Bench,
    ranking: Scores,
    sizes: Sequence[float] | None = None,
    *,
    points: Sequence[str] | None = None,
    rank_by: Literal["abs", "signed"] = "abs",
    baselines: Sequence[str] = ("random",),
    n_random: int = 5,
) -> Faithfulness:
    """Measure how much of a task's metric the first k ranked units recover, and how much is left without them.

    f(C) = (m(C) - m(empty)) / (m(full) - m(empty)), where of the candidates (all units scored at `points`) those not in
    C are ablated, and `empty` has all of them ablated. What is no candidate stays intact, so a high f says that C
    carries what the candidates carry, not that it is the whole mechanism. m is the mean over items: f is a ratio of
    means, never a mean of ratios.

    Parameters
    ----------
    bench
        Subject, items that did not choose the ranking, ablation and reference.
    ranking
        Scores whose units are ranked; all are candidates.
    sizes
        Numbers of units; numbers below 1 are fractions of the candidates. By default 1, 2, 5, 10, ... and all.
    points
        Points that are candidates; by default heads, or neurons where no head was scored, or all there is. Points that
        contain one another (head and attn_out) are refused.
    rank_by
        One rule for both curves: by size (``"abs"``), or ``"signed"``, which puts units that work against the
        behaviour last; the latter can exceed the whole model.
    baselines, n_random
        Orders to compare with (``"random"``, ``"matched"``), and how many of each.

    Raises
    ------
    PatchclampError
        For bad options, sizes out of range, or when ablating everything does not change the metric.

    Notes
    -----
    Passes: at most 1 + 2 |sizes| (1 + n_random |baselines|) over the items. Verified on networks with planted circuits.
    """
    check_bench(bench)
    for name in baselines:
        check_choice("baseline", name, BASELINES)
    points = points or default_points(ranking)
    refuse_overlap(points)
    order = ranking.ranked(rank_by, points)
    steps = _sizes(sizes, len(order))
    orders = _orders(order, bench, baselines, n_random)
    runs = [
        AblationRun(curve, name, draw, k, tuple(one[:k] if curve == "ablated" else one[k:]))
        for name, many in orders.items()
        for draw, one in enumerate(many)
        for curve in ("kept", "ablated")
        for k in steps
    ]
    everything = bench.change(order)
    trial = bench.trial([everything, *(bench.change(run.ablated) for run in runs)])
    full, empty, per_item = trial.baseline, trial.changed[0], trial.changed[1:]
    check_span(full, empty, len(order))
    weights = resamples(len(full), trial.groups or None, bench.n_boot, bench.seed)
    table = _table(runs, per_item, full, empty, weights, trial.groups, bench.seed)
    table.insert(3, "fraction", table["size"] / len(order))
    return Faithfulness(
        table=table,
        full=float(full.mean()),
        empty=float(empty.mean()),
        candidates=len(order),
        rank_by=rank_by,
        ablation=_name(bench.ablation, bench.by, everything[0].source),
        **_areas(table),
        n=len(full),
        runs=pd.DataFrame([(r.curve, r.order, r.draw, r.size) for r in runs], columns=_RUN_COLUMNS),
        per_item=per_item,
        full_per_item=full,
        empty_per_item=empty,
        groups=trial.groups,
    )


_RUN_COLUMNS = ["curve", "order", "draw", "size"]


def _sizes(sizes: Sequence[float] | None, candidates: int) -> list[int]:
    if sizes is None:
        return default_sizes(candidates)
    steps = sorted({max(1, round(k * candidates)) if 0 < k < 1 else int(k) for k in sizes})
    if not steps or steps[0] < 1 or steps[-1] > candidates:
        raise PatchclampError(f"sizes {list(sizes)}: there are 1..{candidates} units to keep")
    return steps


def _orders(
    order: list[UnitOrSite], bench: Bench, baselines: Sequence[str], n_random: int
) -> dict[str, list[list[UnitOrSite]]]:
    orders = {RANKED: [order]}
    for name in baselines:
        rng = numpy_rng([bench.seed, BASELINES.index(name)])
        drawn = (
            [[order[int(i)] for i in rng.permutation(len(order))] for _ in range(n_random)]
            if name == "random"
            else [matched_order(order, bench.subject, bench.reference, rng) for _ in range(n_random)]
        )
        if drawn:
            orders[name] = drawn
    return orders


def _name(ablation: str, by: str, source: str) -> str:
    if ablation != "mean":
        return ablation
    return f"mean by {by}" + (f" of {source} inputs" if source != "clean" else "")


def _table(
    runs: Sequence[AblationRun],
    per_item: Array,
    full: Array,
    empty: Array,
    weights: Array,
    groups: Sequence[str],
    seed: int,
) -> pd.DataFrame:
    rng = numpy_rng([seed, 2])
    count = n_groups(groups, len(full))
    places: dict[tuple[str, str, int], list[int]] = {}
    for place, run in enumerate(runs):
        places.setdefault((run.curve, run.order, run.size), []).append(place)
    span = weights @ (full - empty)
    span = np.where(span != 0, span, np.nan)
    rows = []
    for (curve, order, size), where in places.items():
        gain = per_item[where] - empty
        value = gain.mean() / (full - empty).mean()
        draw = rng.integers(len(where), size=len(weights))
        boot = np.einsum("bi,bi->b", weights, gain[draw]) / span
        low, high = map(float, draws_interval(boot, count, value))
        rows.append({"curve": curve, "order": order, "size": size, "value": value, "low": low, "high": high})
    return pd.DataFrame(rows).sort_values(["curve", "order", "size"], ignore_index=True)


def _areas(table: pd.DataFrame) -> dict[str, Any]:
    kept = table[(table["curve"] == "kept") & (table["order"] == RANKED)].sort_values("size")
    share, value = kept["fraction"].to_numpy(float), kept["value"].to_numpy(float)
    return {
        "cpr": float(mean_height(share, value)),
        "cmd": float(mean_height(share, np.abs(1 - value))),
        "cpr_log": float(mean_height(np.log10(share), value)),
        "cmd_log": float(mean_height(np.log10(share), np.abs(1 - value))),
        "beats_model": bool((value[share < 1] > 1).any()),
    }


def mean_height(x: Array, y: Array) -> Array:
    """Mean height over the range of x of one curve or of many, (..., size): the area by trapezoid over its length."""
    if len(x) < 2:
        return y[..., 0]
    return np.asarray(((y[..., 1:] + y[..., :-1]) / 2 * np.diff(x)).sum(-1) / (x[-1] - x[0]))
