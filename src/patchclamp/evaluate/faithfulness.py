"""Does a ranked set of units carry the behaviour? Curves of what is recovered with it and lost without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp._statistics import resamples
from patchclamp.errors import PatchclampError
from patchclamp.intervention import Intervention
from patchclamp.scores import Scores
from patchclamp.subjects.base import Subject
from patchclamp.subjects.reference import Reference
from patchclamp.subjects.trial import run_trial
from patchclamp.units import Site, Units

Array = NDArray[np.float64]
RANDOM = "random"


@dataclass(frozen=True)
class Faithfulness:
    """Curves over the number of units, each value (m(C) - m(empty)) / (m(full) - m(empty)) on held-out items.

    `table` has columns curve ("kept": all other candidates are ablated; "ablated": the set itself is), order
    ("ranked" or "random"), size, value, low, high. `cpr` is the area under "kept" and `cmd` that of |1 - kept|, by
    trapezoid over the fraction of units, on a linear and a logarithmic axis; `beats_model` says that some kept set
    exceeds the whole model, where `cpr` says little.
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


def default_sizes(candidates: int) -> list[int]:
    """Sizes 1, 2, 5, 10, ... up to all."""
    sizes = [base * 10**power for power in range(7) for base in (1, 2, 5)]
    return [*[s for s in sizes if s < candidates], candidates]


def faithfulness(
    subject: Subject,
    task: Any,
    ranking: Scores,
    sizes: Sequence[int] | None = None,
    ablation: str = "mean",
    *,
    points: Sequence[str] = ("head",),
    rank_by: Literal["abs", "signed"] = "abs",
    by: str = "template",
    reference: Any = None,
    n_random: int = 5,
    batch_size: int = 64,
    n_boot: int = 1000,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Faithfulness:
    """Measure how much of a task's metric the first k ranked units recover, and how much goes without them.

    f(C) = (m(C) - m(empty)) / (m(full) - m(empty)), where everything among the candidates (all units of `points`)
    that is not in C is ablated, and `empty` is all of them ablated. Everything that is no candidate stays intact.

    Parameters
    ----------
    task
        Items that did not choose the ranking.
    ranking
        Scores whose units are ranked, one rule for both curves: by size (``"abs"``) or signed.
    sizes
        Numbers of units; by default 1, 2, 5, 10, ... and all.
    ablation, by
        Kind of intervention, and of mean.
    n_random
        Random orders of the candidates beside the ranked one.
    reference
        Task for means; by default the items themselves.

    Notes
    -----
    Ratios are ratios of means; the band resamples items (groups), not tokens. m(full) near m(empty) makes the ratio
    meaningless and is refused.
    """
    order = ranking.top(10**9, by=rank_by, points=points)
    candidates = len(order)
    if candidates == 0:
        raise PatchclampError(f"the ranking has no unit of {', '.join(points)}")
    steps = sorted({int(k) for k in sizes or default_sizes(candidates)})
    if steps[0] < 1 or steps[-1] > candidates:
        raise PatchclampError(f"sizes {steps[0]}..{steps[-1]}: there are 1..{candidates} units to keep")
    rng = np.random.default_rng(seed)
    orders = {
        "ranked": [order],
        RANDOM: [[order[i] for i in rng.permutation(candidates)] for _ in range(n_random)],
    }
    plan = [
        (curve, name, k, _part(one, k, curve))
        for name, many in orders.items()
        for one in many
        for curve in ("kept", "ablated")
        for k in steps
    ]
    source = (
        reference if isinstance(reference, Reference) else Reference(subject, reference or task, batch_size)
    )
    sets = [_change(part, ablation, by, seed) for *_, part in plan]
    everything = _change(order, ablation, by, seed)
    trial = run_trial(subject, task, [everything, *sets], source, batch_size=batch_size, progress=progress)
    full, empty = trial.baseline, trial.changed[0]
    if abs(full.mean() - empty.mean()) < 1e-6 * max(1.0, abs(full.mean())):
        raise PatchclampError(
            f"ablating all {candidates} units changes the metric by {full.mean() - empty.mean():.2g} only, so no share "
            "of it can be stated; take other points or another ablation"
        )
    weights = resamples(len(full), trial.groups or None, n_boot, seed)
    table = _table(plan, trial.changed[1:], full, empty, weights)
    return _summarise(table, full, empty, candidates, rank_by, ablation)


def _part(order: Sequence[Units], k: int, curve: str) -> Sequence[Units]:
    """What is ablated: the first k, or all but the first k."""
    return order[:k] if curve == "ablated" else order[k:]


def _change(part: Sequence[Units], ablation: str, by: str, seed: int) -> tuple[Intervention, ...]:
    if not part:
        return ()
    members: dict[Site, list[int] | None] = {}
    for unit in part:
        for site, indices in unit.items():
            if indices is None:
                members[site] = None
            else:
                known = members.setdefault(site, [])
                assert known is not None
                known.extend(indices)
    return (Intervention(Units(members), ablation, by=by, seed=seed),)


def _table(plan: Sequence[Any], changed: Array, full: Array, empty: Array, weights: Array) -> pd.DataFrame:
    groups: dict[tuple[str, str, int], list[Array]] = {}
    for (curve, name, k, _), per_item in zip(plan, changed, strict=True):
        groups.setdefault((curve, name, k), []).append(per_item)
    span = weights @ (full - empty)
    rows = []
    for (curve, name, k), values in groups.items():
        per_item = np.mean(values, axis=0)
        value = (per_item - empty).mean() / (full - empty).mean()
        boot = weights @ (per_item - empty) / np.where(np.abs(span) > 0, span, np.nan)
        low, high = np.nanquantile(boot, [0.025, 0.975])
        rows.append({"curve": curve, "order": name, "size": k, "value": value, "low": low, "high": high})
    return pd.DataFrame(rows).sort_values(["curve", "order", "size"], ignore_index=True)


def _summarise(
    table: pd.DataFrame, full: Array, empty: Array, candidates: int, rank_by: str, ablation: str
) -> Faithfulness:
    kept = table[(table["curve"] == "kept") & (table["order"] == "ranked")]
    share = kept["size"].to_numpy(float) / candidates
    value = kept["value"].to_numpy(float)
    return Faithfulness(
        table,
        float(full.mean()),
        float(empty.mean()),
        candidates,
        rank_by,
        ablation,
        cpr=_area(share, value),
        cmd=_area(share, np.abs(1 - value)),
        cpr_log=_area(np.log10(share), value),
        cmd_log=_area(np.log10(share), np.abs(1 - value)),
        beats_model=bool((value[:-1] > 1).any()),
        n=len(full),
    )


def _area(x: Array, y: Array) -> float:
    """Area by trapezoid over the range of x, divided by its length: the mean height of the curve."""
    if len(x) < 2:
        return float(y[0])
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))
