"""How stable a circuit is: between halves of the items that chose it, between templates, and under another corruption."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.attribute import METHODS
from patchclamp.base.errors import PatchclampError
from patchclamp.base.folds import drawn_groups, group_codes
from patchclamp.base.statistics import expected_jaccard
from patchclamp.draw.text import between, number, percent
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.tasks.builtin import CORRUPTIONS, load_task
from patchclamp.nouns.units import Unit
from patchclamp.study.ability import splits_of
from patchclamp.study.circuits.context import CircuitStudy, score_matrix, top_units
from patchclamp.study.experiments import Experiments
from patchclamp.study.stages import Column, Section, Table
from patchclamp.subjects.clamp.reference import Reference

__all__ = ["another_corruption", "stability_of"]

FEWEST_OF_A_TEMPLATE = 4
SHOWN = 40


def stability_of(context: CircuitStudy) -> Section:
    """Overlap of circuits between halves of the train items and between templates; how often each node was in."""
    options, choice, k = context.sizes, context.choice, context.choice.k
    units, values = score_matrix(context.scores, choice.points)
    sizes = sorted({*choice.table["size"].astype(int).tolist(), k})
    codes = group_codes(context.scores.groups, len(values))
    count = int(codes.max()) + 1
    overlaps: dict[int, list[float]] = {size: [] for size in sizes}
    inside = np.zeros(len(units))
    for split in range(options.n_splits if count >= 4 else 0):
        first = drawn_groups(codes, (count + 1) // 2, [options.seed, split])
        halves = [_order(values[rows]) for rows in (first, ~first)]
        for size in sizes:
            overlaps[size].append(_jaccard(*(set(half[:size].tolist()) for half in halves)))
        for half in halves:
            inside[half[:k]] += 1
    drawn = 2 * len(overlaps[k])
    context.shares = dict(zip(units, (inside / max(drawn, 1)).tolist(), strict=True)) if drawn else {}
    rows = [
        {
            "size": size,
            "overlap": float(np.mean(found)) if found else None,
            "least": float(np.min(found)) if found else None,
            "most": float(np.max(found)) if found else None,
            "chance": expected_jaccard(len(units), size, size),
        }
        for size, found in overlaps.items()
    ]
    at_k = next(row for row in rows if row["size"] == k)
    templates = _templates(context, values, k)
    text = _halves_text(at_k, k, count, options.n_splits)
    text += _templates_text(templates)
    columns = (
        Column("First", "size", "number", digits=0),
        Column("Overlap between halves", "overlap", "number"),
        Column("Least of all cuts", "least", "number"),
        Column("Most", "most", "number"),
        Column("By chance", "chance", "number", digits=3),
    )
    members = _members(context, values, units)
    shown = (
        Column("Node", "unit", "unit"),
        Column("Score", "score", "signed", digits=3),
        Column("Patched alone", "measured", "signed", digits=3),
        Column("In the circuit of halves", "halves", "percent"),
    )
    return Section(
        heading="How stable it is",
        text=text,
        findings=[text],
        tables=[
            Table(
                pd.DataFrame(rows),
                "stability",
                columns,
                "Overlap (Jaccard) of circuits chosen on random halves",
            ),
            Table(members, "nodes", shown, f"The first {len(members):,} nodes"),
        ],
        facts={"stability": {"halves": rows, "splits": drawn // 2, "groups": count, "templates": templates}},
    )


def _order(values: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.argsort(-np.abs(values.mean(0)), kind="stable")


def _jaccard(one: set[Any], two: set[Any]) -> float:
    return len(one & two) / max(len(one | two), 1)


def _halves_text(row: dict[str, Any], k: int, groups: int, splits: int) -> str:
    if row["overlap"] is None:
        return f"The train items are in {groups} groups, too few to be cut in halves. "
    return (
        f"Circuits of {k:,} nodes chosen on two random halves of the train items overlap by {number(row['overlap'])} "
        f"(Jaccard, mean of {splits} cuts; {number(row['chance'], 3)} by chance). "
    )


def _templates(context: CircuitStudy, values: NDArray[np.float64], k: int) -> list[dict[str, Any]]:
    """Overlap of the circuits of every two templates that have enough items."""
    names = [item.template for item in context.splits["train"].items]
    counts = {name: names.count(name) for name in dict.fromkeys(names) if name}
    orders = {
        name: _order(values[[n == name for n in names]])[:k].tolist()
        for name, count in counts.items()
        if count >= FEWEST_OF_A_TEMPLATE
    }
    return [
        {"one": a, "other": b, "overlap": _jaccard(set(orders[a]), set(orders[b]))}
        for a, b in combinations(orders, 2)
    ]


def _templates_text(pairs: Sequence[dict[str, Any]]) -> str:
    if not pairs:
        return "No two templates have enough items to be held against each other."
    found = [pair["overlap"] for pair in pairs]
    least = min(pairs, key=lambda pair: pair["overlap"])
    return (
        f"Between templates they overlap by {number(float(np.mean(found)))} (least: {number(least['overlap'])}, "
        f"{least['one']!r} and {least['other']!r}; fewer items, so more noise)."
    )


def _members(context: CircuitStudy, values: NDArray[np.float64], units: Sequence[Unit]) -> pd.DataFrame:
    nodes = context.nodes
    exact = {unit: told[2] for unit, told in nodes.estimated.items()}
    return pd.DataFrame(
        [
            {"unit": str(u), "score": score, "measured": exact.get(u), "halves": context.shares.get(u)}
            for u, score in zip(nodes.order[:SHOWN], nodes.scores, strict=False)
            if nodes.order.index(u) < context.choice.k
        ]
    )


def another_corruption(context: CircuitStudy) -> Section:
    """The same circuit under another corruption of the task, and the circuit that this one chooses."""
    task, choice = context.task, context.choice
    others = [name for name in CORRUPTIONS.get(context.source, {}) if name != task.corruption]
    named = f"The corruption is {task.corruption or 'that of the items'}"
    if not others:
        text = f"{named}; there is no other to run, and another may well have another circuit."
        return Section(
            text=text, findings=[text], facts={"corruption": {"name": task.corruption, "other": None}}
        )
    refused = []
    for name in others:
        context.say(f"the circuit under {name}")
        other = load_task(
            context.source, context.subject.tokenizer, n=len(task), seed=context.options.seed, corruption=name
        )
        try:
            found = _under(context, splits_of(other, context.options))
            break
        except PatchclampError as refusal:  # another corruption may leave the answer as it was
            refused.append(f"under {name} nothing can be said ({refusal})")
    else:
        text = f"{named}; {'; '.join(refused)}."
        return Section(
            text=text, findings=[text], facts={"corruption": {"name": task.corruption, "other": None}}
        )
    text = (
        f"{named}. Under {name} the same {choice.k:,} nodes keep {percent(found['kept'])} "
        f"({between(found['low'], found['high'])}); the circuit of {choice.k:,} chosen under {name} keeps "
        f"{percent(found['own'])} of it ({between(found['own_low'], found['own_high'])}), and the two overlap by "
        f"{number(found['overlap'])} ({number(found['chance'], 3)} by chance)."
    )
    return Section(
        heading="Another corruption",
        text=text,
        findings=[text],
        facts={"corruption": {"name": task.corruption, "other": name, **found}},
    )


def _under(context: CircuitStudy, splits: Any) -> dict[str, Any]:
    subject, options, choice = context.subject, context.sizes, context.choice
    sites = [site for site in context.scores.sites if site.point in choice.points]
    method: Any = METHODS[options.method]
    scores: Scores = method(
        subject, splits["train"], sites, direction=options.direction, batch_size=options.batch_size
    )
    ours, theirs = context.nodes.first(choice.k), top_units(scores.ranked("abs", choice.points), choice.k)
    bench = Experiments(
        subject, splits["test"], options.kind, Reference(subject, splits["train"], options.batch_size),
        batch_size=options.batch_size, seed=options.seed,
    )  # fmt: skip
    kept, own = (bench.kept(units, choice.among).share for units in (ours, theirs))
    sets = [{str(unit) for unit in units.each()} for units in (ours, theirs)]
    return {
        "kept": kept.value, "low": kept.low, "high": kept.high,
        "own": own.value, "own_low": own.low, "own_high": own.high,
        "overlap": _jaccard(*sets), "chance": expected_jaccard(choice.candidates, choice.k, choice.k),
    }  # fmt: skip
