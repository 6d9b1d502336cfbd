"""Which nodes: scores on train items, exact effects of the first of them, and the kind of nodes that validation items choose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.attribute import METHODS, activation_patching
from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import require_nonzero
from patchclamp.draw.text import number, percent, signed
from patchclamp.evaluate import faithfulness
from patchclamp.evaluate.scores.agreement import compare
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.tasks.task import Task
from patchclamp.nouns.units import Unit
from patchclamp.study.circuits.context import NODES, Choice, CircuitStudy, Nodes, score_matrix
from patchclamp.study.sidebyside import LABELS
from patchclamp.study.stages import Column, Figure, Section, Table
from patchclamp.subjects.clamp.bench import item_values
from patchclamp.subjects.clamp.matching import UnitOrSite

__all__ = ["choose_nodes", "measure_first", "score_nodes"]

LEAST = 0.5
"""Share of the difference between the runs that a kind of nodes has to carry for a circuit of it to say anything."""
OFF = 0.5
"""An estimate that is off by more than this share of the larger of the two is replaced by what was measured."""


def score_nodes(context: CircuitStudy) -> Section:
    """Estimated effect of every head and neuron on train items."""
    subject, options, train = context.subject, context.sizes, context.splits["train"]
    sites = [s for s in subject.known_sites() if s.point in ("head", "mlp_act") and s.dictionary is None]
    method: Any = METHODS[options.method]
    context.scores = scores = method(
        subject, train, sites, direction=options.direction, batch_size=options.batch_size
    )
    context.basis = replace(context.basis, task={**context.basis.task, "ranked_by": scores.method})
    label = LABELS.get(scores.method, scores.method.replace("_", " "))
    return Section(
        heading="The nodes",
        text=(
            f"Every head and neuron was scored by {label} on {len(train)} train items: the estimated effect on the metric of "
            "putting its activity on the clean input into the run on the corrupted one. Nodes are taken in order of the size "
            "of that score, with either sign."
        ),
        facts={"attribution": {"method": scores.method, "label": label, "direction": scores.direction, "n_items": len(train)}},
    )  # fmt: skip


def choose_nodes(context: CircuitStudy) -> Section:
    """Curves of every kind of nodes on validation items, and the kind and number that they choose."""
    scored = {site.point for site in context.scores.sites}
    kinds = [kind for kind, (points, _, _) in NODES.items() if scored.issuperset(points)]
    difference = _difference(context)
    context.choices = []
    for kind in kinds:
        context.say(f"circuits of {NODES[kind][1]}")
        context.choices.append(_curve(context, kind, difference))
    chosen, why = _choose(context.choices, context.sizes.within)
    context.choice = chosen
    units, values = score_matrix(context.scores, chosen.points)
    context.nodes = _ordered(units, values.mean(0))
    series = [
        {
            "name": NODES[c.kind][1],
            "x": (c.table["size"] / c.candidates).tolist(),
            "y": c.table["kept"].tolist(),
            "low": c.table["low"].tolist(),
            "high": c.table["high"].tolist(),
            "css": css,
        }
        for c, css in zip(context.choices, ("s1", "s2", "control"), strict=False)
        if len(c.table)
    ]
    rows = [
        {"kind": c.words, "candidates": c.candidates, "carried": c.carried, **row}
        for c in context.choices
        for row in c.table.to_dict("records")
    ]
    table = Table(
        pd.DataFrame(rows),
        "kinds",
        (
            Column("Nodes", "kind"),
            Column("Of", "candidates", "number", digits=0),
            Column("First", "size", "number", digits=0),
            Column("Kept", "kept", "percent", interval=("low", "high"), ends="percent"),
            Column("Left without them", "left", "percent"),
        ),
        "Kinds of nodes, on validation items",
    )
    figures = [Figure("curves", [_drawing(series)], "Kept on validation items, by share of the candidates",
                      key=[("line", "pos", "neurons"), ("line", "second", "heads"), ("line", "control", "both")],
                      half=True)]  # fmt: skip
    return Section(
        text=why,
        tables=[table] if rows else [],
        figures=figures if series else [],
        findings=[why],
        facts={"kinds": [c.to_json() for c in context.choices], "chosen": chosen.kind, "why": why},
    )


def _difference(context: CircuitStudy) -> float:
    """Clean minus corrupted metric on validation items; refused where there is none, or none on the test items.

    Raises
    ------
    PatchclampError
        With the difference: a circuit carries it, so without it there is none.
    """
    found = {}
    for split in ("validation", "test"):
        items = context.splits[split]
        clean, corrupted = (
            item_values(context.subject, items, which, context.options.batch_size)[0].numpy()
            for which in ("clean", "corrupted")
        )
        found[split] = (clean - corrupted).astype(np.float64)
        what = f"no circuit: the difference in {context.task.metric_name} between the two inputs of the {split} items"
        require_nonzero(found[split], items.groups, what)
    return float(found["validation"].mean())


def _drawing(series: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    label = "What circuits keep, against their share of the candidates"
    x_label, unit = "share of the candidates that are kept, %", " % of the candidates"
    drawn = [{**one, "x": [100 * x for x in one["x"]]} for one in series]
    return {"series": drawn, "x_label": x_label, "y_label": "difference kept", "label": label, "unit": unit}


def _curve(context: CircuitStudy, kind: str, difference: float) -> Choice:
    """Kept and removed curves of a kind of nodes, judged by |1 - kept|."""
    options, points = context.sizes, NODES[kind][0]
    ranked = context.scores.ranked("abs", points)
    sizes = _drawable(ranked, options.sizes(kind, len(ranked)))
    nothing = Choice(kind, len(ranked), pd.DataFrame(columns=["size", "kept", "low", "high", "left"]), 0.0)
    if not sizes:
        return replace(
            nothing, refused=f"there are {len(ranked)} of them, too few to draw random sets beside a circuit"
        )
    try:
        found = faithfulness(
            context.bench.on(context.splits["validation"]), context.scores, sizes, points=points, n_random=0
        )
    except PatchclampError as refusal:  # no share can be stated where patching all of them changes nothing
        return replace(nothing, refused=str(refusal))
    kept, left = found.curve("kept"), found.curve("ablated")
    table = kept[["size", "value", "low", "high"]].rename(columns={"value": "kept"})
    table = table.assign(left=left["value"].to_numpy())
    distance = (1 - table["kept"]).abs()
    near = table["size"][distance <= options.within]
    gone = table["size"][table["left"] <= options.gone]
    carried = (found.full - found.empty) / difference if difference else 0.0
    k = int(near.iloc[0]) if len(near) else int(table["size"][distance.idxmin()])
    m = int(gone.iloc[0]) if len(gone) else k
    return Choice(kind, len(ranked), table, carried, k, m, bool(len(near)) and carried >= LEAST)


def _drawable(ranked: Sequence[UnitOrSite], sizes: Sequence[int]) -> list[int]:
    """The sizes at which the first nodes are at most a third of each point, so that random sets can be drawn beside them."""
    there = Counter(site.point for site, _ in ranked)
    found = []
    for size in sizes:
        taken = Counter(site.point for site, _ in ranked[:size])
        if all(3 * count <= there[point] for point, count in taken.items()):
            found.append(size)
    return found


def _choose(choices: Sequence[Choice], within: float) -> tuple[Choice, str]:
    """The kind that needs the smallest share of its candidates, and why; both kinds only where neither alone does."""
    there = [c for c in choices if c.k]
    if not there:
        refused = "; ".join(f"{c.words}: {c.refused}" for c in choices)
        raise PatchclampError(f"no circuit: no kind of nodes has an effect to keep ({refused})")
    if all(c.carried < LEAST for c in there):
        clauses = "; ".join(_said(c, within) for c in choices)
        raise PatchclampError(
            f"no circuit: no kind of nodes carries half of the difference between the runs ({clauses}); it may be in what no "
            "kind holds, such as the embeddings at the last token"
        )
    good = [c for c in there if c.enough]
    alone = [c for c in good if c.kind != "both"] or good
    best = min(alone, key=lambda c: c.k / c.candidates) if alone else max(there, key=_merit)
    said = [_said(c, within) for c in choices]
    if not good:
        return best, f"No kind of nodes makes a circuit on the validation items: {'; '.join(said)}."
    reason = "the smallest share of its candidates"
    if best.kind == "both":
        reason = "neither kind alone keeps it"
    elif len(alone) == 1:
        reason = "the only kind that does it alone"
    return best, f"The nodes are {best.words} ({reason}): {'; '.join(said)} (validation items)."


def _merit(choice: Choice) -> tuple[bool, float]:
    return choice.carried >= LEAST, -abs(1 - choice.kept(choice.k))


def _said(choice: Choice, within: float) -> str:
    """A kind's curve in a clause."""
    if choice.refused:
        return f"{choice.words} have no curve ({choice.refused})"
    size = f"{choice.k:,} of {choice.candidates:,} {choice.words}"
    if choice.carried < LEAST:
        return f"all {choice.candidates:,} {choice.words} carry {percent(choice.carried)} of the difference"
    kept = choice.kept(choice.k)
    stronger = ", stronger than the model" if kept > 1.1 else ""
    share = f"{100 * choice.k / choice.candidates:.2g} %"
    if not choice.enough:
        return f"no size tried of {choice.words} comes within {within:g} of all of it ({size} keep {percent(kept)}{stronger})"
    return f"{size} ({share}) keep {percent(kept)}{stronger}"


def _ordered(units: Sequence[Unit], values: NDArray[np.float64]) -> Nodes:
    order = np.argsort(-np.abs(values), kind="stable")
    return Nodes(tuple(units[i] for i in order), tuple(float(values[i]) for i in order))


def measure_first(context: CircuitStudy) -> Section:
    """Patch the first nodes one by one, and hold what was predicted from train items against what validation items show.

    The order of the nodes stays that of the estimates: patched alone, a unit shows what it does without the others.
    """
    options, nodes = context.sizes, context.nodes
    count = min(options.n_measured, len(nodes.order))
    first, estimates = list(nodes.order[:count]), np.array(nodes.scores[:count])
    units = nodes.first(count)
    exact = {}
    for split in ("train", "validation"):
        context.say(f"patching {count} nodes one by one on {split} items")
        items = _spread(context.splits[split], options.measured_items)
        found = activation_patching(
            context.subject, items, units, direction="denoising", batch_size=options.batch_size
        )
        exact[split] = np.array([_value(found, unit) for unit in first])
    wrong = np.abs(estimates - exact["train"]) > OFF * np.maximum(abs(estimates), abs(exact["train"]))
    used = np.where(wrong, exact["train"], estimates)
    before, after = (_figures(v, exact["validation"]) for v in (estimates, used))
    told = zip(estimates.tolist(), exact["train"].tolist(), exact["validation"].tolist(), strict=True)
    context.nodes = replace(nodes, estimated=dict(zip(first, told, strict=True)))
    off = [(str(u), e, x) for u, e, x, w in zip(first, estimates, exact["train"], wrong, strict=True) if w]
    largest = max(abs(exact["train"]).max(), 1e-12)
    named = [
        f"{u} (estimated {signed(e)}, measured {signed(x)})"
        for u, e, x in off
        if max(abs(e), abs(x)) > 0.1 * largest
    ]
    text = (
        f"Effects of the first {count} nodes one by one, predicted from train items and measured by patching on other items: "
        f"{_words(before)}; {_words(after)} once the {len(off)} estimates that were off by more than half had been measured "
        "on train items."
    )
    if named:
        text += f" Off by more than half, among nodes that matter: {', '.join(named[:8])}."
    rows = [
        {"unit": str(u), "estimate": float(e), "used": float(m), "measured": float(x)}
        for u, e, m, x in zip(first, estimates, used, exact["validation"], strict=True)
    ]
    facts = {
        "n": count,
        "before": before,
        "after": after,
        "off": [{"unit": u, "estimate": float(e), "exact": float(x)} for u, e, x in off],
    }
    return Section(
        text=text,
        note="The order of the nodes stays that of the estimates: patched alone, a unit shows what it does without the others.",
        findings=[text],
        tables=[Table(pd.DataFrame(rows), "predicted")],
        facts={"predicted": facts},
    )


def _spread(task: Task, n: int) -> Task:
    """So many items, spread evenly over the split."""
    return task.select(
        np.unique(np.linspace(0, len(task) - 1, min(n, len(task))).round().astype(int)).tolist()
    )


def _value(scores: Scores, unit: Unit) -> float:
    return float(scores.summed().mean(unit.site)[scores.index(unit.site).index(unit.index)])


def _figures(predicted: NDArray[np.float64], measured: NDArray[np.float64]) -> dict[str, float]:
    """Pearson, slope (of the prediction on what was measured) and equal signs among effects above 1 % of the largest."""
    found = compare(predicted, measured)
    return {name: found[name] for name in ("pearson", "slope", "sign")}


def _words(figures: Mapping[str, float]) -> str:
    return (
        f"Pearson {number(figures['pearson'])}, slope {number(figures['slope'])}, "
        f"equal signs {percent(figures['sign'])}"
    )
