"""Which node acts on which: the edges between the circuit's nodes, with intervals on items that had no part in choosing them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from patchclamp.base.estimate import Estimate
from patchclamp.connect.circuits import edge_attribution, neuron_graph
from patchclamp.draw.text import signed
from patchclamp.evaluate.circuits import on_paths
from patchclamp.nouns.circuit import CircuitGraph
from patchclamp.nouns.units import Units
from patchclamp.study.circuits.context import CircuitStudy
from patchclamp.study.circuits.labels import label_nodes
from patchclamp.study.report.circuit import circuit_figure
from patchclamp.study.stages import Column, Section, Table
from patchclamp.subjects.clamp.flow import FlowPlan

__all__ = ["wire"]

SHOWN = 20

DRAWN = (
    "Direct edges among the first nodes, on train items; the table has them on test items, with intervals. Layers up, places in "
    "the text across, each node where most of its score is. The line in a box says which tokens its output promotes through the LM head, "
    "or the token at which it is most active: leads, which nothing was chosen by."
)


def wire(context: CircuitStudy) -> Section:
    """The graph among the first nodes: edges chosen on train items, measured again on test items."""
    options, count = context.sizes, min(context.sizes.graph_nodes, context.choice.k)
    units = context.nodes.first(count)
    make = _heads if context.choice.kind == "heads" else _neurons
    made = []
    for split in ("train", "test"):
        context.say(f"edges between {count} nodes on {split} items")
        made.append(make(context, units, split))
    items = context.splits["train"].take(options.graph_items)
    context.graph, context.held = graph, held = (
        label_nodes(context.subject, items, made[0], seed=options.seed),
        made[1],
    )
    rows = _edges(graph, held, options.seed)
    shown = rows[: options.n_edges]
    ends = [(row["source"], row["target"]) for row in shown]
    inputs = [name for name in graph.nodes if name.startswith("tokens:") or name == "embeddings"]
    steps = _through_heads(context, units) if context.choice.kind == "heads" else []
    alive = [edge for edge in on_paths([*ends, *steps], inputs, ["logits"]) if edge in set(ends)]
    clear = sum(
        row["low"] is not None and row["low"] * row["high"] > 0 and (row["low"] > 0) == (row["train"] > 0)
        for row in shown
    )
    inner = [row for row in shown if row["target"] != "logits"]
    last = [row for row in shown if row["target"] == "logits"]
    text = (
        f"Among the first {count} nodes, tokens and logits there are {len(rows):,} direct edges ({graph.method.replace('_', ' ')}). "
        f"Of the {len(shown)} strongest on train items, {clear} have the same sign for certain on test items, and {len(alive)} "
        f"lie on a path from the tokens to the logits. The strongest of them, with their values on test items: {_named(last)}"
        f"{'; and between nodes: ' * bool(inner)}{_named(inner)}."
    )
    columns = (
        Column("From", "source", "mono"),
        Column("To", "target", "mono"),
        Column("Train items", "train", "signed", digits=3),
        Column("Test items", "held", "signed", digits=3, interval=("low", "high")),
        Column("On a path", "path"),
    )
    listed = [{**row, "path": "yes" if (row["source"], row["target"]) in alive else ""} for row in rows[:100]]
    return Section(
        heading="Which acts on which",
        text=text,
        note=f"An edge is no evidence for {graph.limits}." if graph.limits else "",
        findings=[text],
        figures=[circuit_figure(graph, title="The circuit on train items", caption=DRAWN)],
        tables=[
            Table(pd.DataFrame(listed), "edges"),
            Table(pd.DataFrame(listed[:SHOWN]), columns=columns, title=f"The {len(listed[:SHOWN])} strongest edges"),
        ],
        facts={
            "graph": {
                "method": graph.method,
                "nodes": list(graph.nodes),
                "edges": len(rows),
                "strongest": len(shown),
                "on_paths": len(alive),
                "clear": clear,
            }
        },
    )  # fmt: skip


def _named(rows: list[dict[str, Any]]) -> str:
    return "; ".join(f"{row['source']} → {row['target']} {signed(row['held'])}" for row in rows[:3])


def _neurons(context: CircuitStudy, units: Units, split: str) -> CircuitGraph:
    items = context.splits[split].take(context.sizes.graph_items)
    return neuron_graph(context.subject, items, senders=0, nodes=units)


def _heads(context: CircuitStudy, units: Units, split: str) -> CircuitGraph:
    """Edges among heads by what they read: of keys and values, those of the key-value head that a node reads with."""
    subject = context.subject
    graph = edge_attribution(subject, context.splits[split].take(context.sizes.graph_items), steps=2)
    kept = {"embeddings", "logits", *(name for step in _through_heads(context, units) for name in step)}
    return graph.subgraph([name for name in graph.nodes if name in kept])


def _pairs(units: Units) -> list[tuple[int, int]]:
    return [(site.layer or 0, index) for site, indices in units.items() for index in indices or ()]


def _through_heads(context: CircuitStudy, units: Units) -> list[tuple[str, str]]:
    """From what each head reads (keys and values with those that share them) to what it writes: on a path one node."""
    subject, plan = context.subject, FlowPlan(context.subject, ())
    steps = []
    for layer, head in _pairs(units):
        group = head * len(plan.projection(layer, "k")) // subject.n_heads
        reads = (f"q.{layer}[{head}]", f"k.{layer}[{group}]", f"v.{layer}[{group}]")
        steps += [(read, f"head.{layer}[{head}]") for read in reads]
    return steps


def _edges(graph: CircuitGraph, held: CircuitGraph, seed: int) -> list[dict[str, Any]]:
    """All edges by size on train items, beside their mean on test items with its interval (of the first hundred)."""
    again = {(held.nodes[s], held.nodes[t]): place for place, (t, s) in enumerate(held.ends.tolist())}
    mean = graph.items.mean(0, dtype=np.float64)
    rows = []
    for rank, place in enumerate(np.argsort(-np.abs(mean), kind="stable").tolist()):
        target, source = (graph.nodes[i] for i in graph.ends[place])
        found = again.get((source, target))
        if mean[place] == 0:
            break
        values = np.zeros(len(held.items)) if found is None else held.items[:, found].astype(np.float64)
        there = (
            Estimate.of_mean(values, held.groups or None, seed=seed)
            if rank < 100
            else Estimate(float(values.mean()))
        )
        rows.append({"source": source, "target": target, "train": float(mean[place]), "held": there.value,
                     "low": there.low, "high": there.high})  # fmt: skip
    return rows
