"""The proof: what a circuit keeps and what its removal takes on test items, beside random sets and large changes of activity."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.base.estimate import Estimate
from patchclamp.draw.text import between, percent
from patchclamp.evaluate import faithfulness
from patchclamp.evaluate.circuits import Faithfulness, area_table
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.units import Site
from patchclamp.study.circuits.context import CircuitStudy
from patchclamp.study.report import findings
from patchclamp.study.stages import Column, Figure, Section, Table

__all__ = ["prove"]

_COLUMNS = (
    Column("Nodes", "size", "number", digits=0),
    Column("Kept", "kept", "percent", interval=("kept_low", "kept_high"), ends="percent"),
    Column("Left without them", "left", "percent", interval=("left_low", "left_high"), ends="percent"),
    Column("Kept by as many with the largest change of activity", "by_activity", "percent"),
    Column("", "verdict"),
)


def prove(context: CircuitStudy) -> Section:
    """Curves, controls and claims of the chosen circuit on test items."""
    choice, options, bench = context.choice, context.sizes, context.bench
    k, m = choice.k, choice.m
    sizes = sorted({*choice.table["size"].astype(int).tolist(), k, m})
    context.say("curves on test items")
    curve = partial(faithfulness, bench, points=choice.points, n_random=0)
    found = curve(context.scores, sizes)
    by_activity = curve(_by_activity(context), sorted({k, m, sizes[-1]}))
    context.curve = table = _table(found, by_activity)
    context.joint = {}
    for name, size, measure in (("kept", k, bench.kept), ("removed", m, bench.removed)):
        context.say(f"{size} nodes {name}, {options.n_control} random sets")
        context.joint[name] = measure(context.nodes.first(size), choice.among, options.n_control)
    kept, removed = context.joint["kept"].share, context.joint["removed"].share
    claim = partial(findings.claim, context.basis, whole=choice.candidates, among=choice.among)
    made = [
        claim("circuit-kept", "circuit", context.nodes.first(k), context.joint["kept"]),
        claim("circuit-removed", "circuit removed", context.nodes.first(m), context.joint["removed"]),
    ]
    distance = _distance(found, bench.n_boot, bench.seed)
    apart = _apart(found, by_activity, k, bench.seed)
    control = (
        f"As many nodes with the largest change of activity between the two inputs, times the norm of what they write, keep "
        f"{percent(_at(by_activity, k))}; the circuit keeps {percent(apart.value)} more "
        f"({between(apart.low, apart.high)})."
    )
    judged = (
        f"Judged by the distance from 1 over all sizes (CMD, logarithmic axis): {distance.value:.2f} {distance.span('.2f')}; "
        f"by the part kept (CPR): {found.cpr_log:.2f}"
        + (", which sizes that are stronger than the model raise." if found.beats_model else ".")
    )
    head = _headline(context, kept, removed)
    first = f"Without the first {m:,} nodes " if m > 1 else "Without the first node "
    first += (
        f"{percent(1 - removed.value)} is left ({between(*_flip(removed))})" + _random(removed, "take") + "."
    )
    return Section(
        claims=[one for one in made if one is not None],
        heading="The proof: what the circuit keeps",
        text=(
            "On test items, everything of the kind that is not in the circuit was given its activity on the item's corrupted "
            f"input. 100 % is the whole model, 0 % all {choice.candidates:,} {choice.words} patched; {_free(context)}. "
            f"{judged}"
        ),
        headline=head,
        tiles=[
            (percent(kept.value), f"of the difference kept by {k:,} of {choice.candidates:,} {choice.words}"),
            (percent(1 - removed.value), f"left without the first {m:,}"),
        ],
        findings=[first, control, *_strong(found)],
        tables=[Table(table, "circuit_curve", _COLUMNS, "Sizes of circuit, on test items")],
        figures=_figures(table, choice.words),
        facts={
            "circuit": {
                "kind": choice.kind,
                "k": k,
                "m": m,
                "enough": choice.enough,
                "units": [str(u) for u in context.nodes.order[:k]],
                "kept": context.joint["kept"].to_json(),
                "removed": context.joint["removed"].to_json(),
                "over_activity": {"value": apart.value, "low": apart.low, "high": apart.high},
                "cmd_log": {"value": distance.value, "low": distance.low, "high": distance.high},
                "cpr_log": found.cpr_log,
                "curve": table.to_dict("records"),
            }
        },
    )


def _headline(context: CircuitStudy, kept: Estimate, removed: Estimate) -> str:
    choice, place = context.choice, "on items that had no part in choosing them"
    who = f"{choice.k:,} of {choice.candidates:,} {choice.words}"
    span = f"{percent(kept.value)} of the difference between the two runs ({between(kept.low, kept.high)})"
    if not kept.bounded:
        return (
            f"Nothing can be concluded: {kept.size} are too few for an interval. On them, {who} keep {span}."
        )
    if not choice.enough or kept.interval[0] < 0.5 or not kept.beats_null:
        return f"No circuit: {who} keep {span}, {place}{_random(kept, 'keep')}."
    if kept.value > findings.STRONGER:
        return f"{who} are stronger than the model: they keep {span}, {place}{_random(kept, 'keep')}."
    carry = "carry it: they keep" if choice.k > 1 else "carries it: it keeps"
    left = f"without the first {choice.m:,}, {percent(1 - removed.value)} is left"
    return f"{who} {carry} {span}, {place}{_random(kept, 'keep')}; {left}."


def _random(share: Estimate, verb: str) -> str:
    null = share.null
    if null is None:
        return ""
    return f"; {null.n} random sets as large {verb} {percent(null.mean)} ({percent(null.low)} to {percent(null.high)})"


def _flip(share: Estimate) -> tuple[float | None, float | None]:
    return (None if share.high is None else 1 - share.high), (None if share.low is None else 1 - share.low)


def _free(context: CircuitStudy) -> str:
    points, words = context.choice.points, "norms and attention patterns follow"
    if points == ("head",):
        return f"MLPs, {words}"
    return f"attention, {words}" if points == ("mlp_act",) else words


def _by_activity(context: CircuitStudy) -> Scores:
    """Units by mean |clean - corrupted activity| x output norm on train items: large, whatever it does."""
    subject, train, scores = context.subject, context.splits["train"], context.scores
    sites = [site for site in scores.sites if site.point in context.choice.points]
    totals: dict[Site, NDArray[np.float64]] = {}
    for pair in subject.pairs(train, context.options.batch_size):
        assert pair.corrupted is not None
        clean, corrupted = (subject.run(batch, read=sites).activity for batch in (pair.clean, pair.corrupted))
        for site in sites:
            apart = (clean[site] - corrupted[site]).float() * pair.clean.mask[
                (..., *[None] * (clean[site].ndim - 2))
            ]
            size = apart.norm(dim=-1) if apart.ndim == 4 else apart.abs()
            totals[site] = (
                totals.get(site, np.zeros(size.shape[-1])) + size.sum((0, 1)).double().cpu().numpy()
            )
    values = {
        site: (total * subject.output_norms(site).double().cpu().numpy())[None].astype(np.float32)
        for site, total in totals.items()
    }
    level = {site: scores.level[site] for site in sites}
    return replace(scores, method="activity", values=values, level=level, groups=(), nodes={})


def _table(found: Faithfulness, by_activity: Faithfulness) -> pd.DataFrame:
    kept, left = found.curve("kept"), found.curve("ablated")
    other = dict(zip(*(by_activity.curve("kept")[name] for name in ("size", "value")), strict=True))
    rows = []
    for (_, one), (_, two) in zip(kept.iterrows(), left.iterrows(), strict=True):
        rows.append(
            {
                "size": int(one["size"]),
                **{f"kept{end}": float(one[name]) for end, name in _ENDS},
                **{f"left{end}": float(two[name]) for end, name in _ENDS},
                "distance": abs(1 - float(one["value"])),
                "by_activity": other.get(int(one["size"])),
                "verdict": "stronger than the model" if one["value"] > findings.STRONGER else "",
            }
        )
    return pd.DataFrame(rows)


_ENDS = (("", "value"), ("_low", "low"), ("_high", "high"))


def _at(found: Faithfulness, size: int) -> float:
    return float(found.curve("kept").set_index("size").loc[size, "value"])


def _row(found: Faithfulness, size: int) -> NDArray[np.float64]:
    runs = found.runs
    at = runs.index[(runs["curve"] == "kept") & (runs["size"] == size)][0]
    return np.asarray(found.per_item[at])


def _apart(found: Faithfulness, other: Faithfulness, size: int, seed: int) -> Estimate:
    """How much more of the difference one set keeps than another as large, item by item."""
    span = found.full_per_item - found.empty_per_item
    return Estimate.of_ratio(_row(found, size) - _row(other, size), span, found.groups, seed=seed)


def _distance(found: Faithfulness, n_boot: int, seed: int) -> Estimate:
    """CMD on the logarithmic axis, with its interval."""
    table = area_table(found, n_boot, seed)
    row = table[(table["measure"] == "cmd") & (table["axis"] == "log") & ~table["clipped"]].iloc[0]
    return Estimate(float(row["value"]), float(row["low"]), float(row["high"]), found.n)


def _strong(found: Faithfulness) -> list[str]:
    over = found.curve("kept")
    over = over[over["value"] > findings.STRONGER]
    return [f"Stronger than the model: {int(size):,} nodes keep {percent(value)}." for size, value in
            zip(over["size"], over["value"], strict=True)]  # fmt: skip


def _figures(table: pd.DataFrame, words: str) -> list[Figure]:
    drawn = []
    for which, title, label in (
        ("kept", f"Kept by the first k {words}", "difference kept"),
        ("left", "Left without them", "difference left"),
    ):
        line: dict[str, Any] = {"name": which, "css": "s1", "x": table["size"], "y": table[which]}
        line |= {"low": table[f"{which}_low"], "high": table[f"{which}_high"]}
        line = {name: v.tolist() if isinstance(v, pd.Series) else v for name, v in line.items()}
        data = {"series": [line], "x_label": "nodes", "y_label": label, "label": f"{title}, test items"}
        drawn.append(Figure("curves", [data], title, key=[("line", "pos", "in order of |score|")], half=True))
    return drawn
