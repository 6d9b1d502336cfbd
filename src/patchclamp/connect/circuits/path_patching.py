"""Exact patching of paths and edges: what a sender says to a receiver, and nothing else, is changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from torch import Tensor

from patchclamp.base.errors import PatchclampError, check_choice
from patchclamp.nouns.circuit import CircuitGraph
from patchclamp.nouns.intervention import Intervention
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Pair
from patchclamp.subjects.clamp.edits import compile_interventions
from patchclamp.subjects.clamp.flow import FlowPlan
from patchclamp.subjects.clamp.paths import PathRuns
from patchclamp.subjects.clamp.receivers import (
    Receiver,
    all_receivers,
    all_senders,
    in_order,
    parsed,
    receiver,
    stage_of,
)
from patchclamp.subjects.clamp.reference import Reference
from patchclamp.subjects.transformer import Transformer

Direction = Literal["denoising", "noising"]
Names = str | Sequence[str]
Wanted = dict[str, list[Receiver]]
MANY = 20_000
MEANS = {
    "path_patching": "what the source does to the metric by way of the target, measured",
    "edge_patching": "what patching that edge alone does to the metric, measured",
}


def path_patching(
    subject: Subject,
    task: TaskLike,
    senders: Names | None = None,
    receivers: Names = "logits",
    *,
    direction: Direction = "denoising",
    positions: str | int | tuple[str | int, ...] = "all",
    change: str = "patch",
    freeze: Sequence[str] = ("heads",),
    reference: TaskLike | Reference | None = None,
    batch_size: int = 32,
) -> CircuitGraph:
    """Measure what each sender does to the metric by way of each receiver.

    First pass: the sender's activity is changed, all that is in `freeze` keeps its value, and what the receiver then
    reads is noted. Second pass: the receiver alone reads that, all else is free. weight = m(second pass) - m(unchanged)
    for denoising, m(unchanged) - m(second pass) for noising. Positive: what runs along the path raises the metric.

    Parameters
    ----------
    subject, task
        A transformer, and a task with corrupted inputs (for ``change="patch"``).
    senders
        ``embeddings``, ``head.L[h]``, ``mlp_act.L[i]``, ``mlp_out.L``, ``attn_out.L``; None for embeddings, all heads and
        all MLPs.
    receivers
        ``q.L[h]``, ``k.L[g]``, ``v.L[g]`` (g counts key-value heads), ``mlp_out.L``, ``mlp_act.L[i]``, ``logits``.
    direction
        ``"denoising"``: paths of the clean run in the corrupted one; ``"noising"``: the reverse.
    positions
        Where the sender is changed: ``"all"``, a role, an index. Receivers read it wherever it arrives.
    change
        What becomes of the sender: ``"patch"`` (its value in the other run), ``"zero"``, ``"mean"``, ``"resample"``.
    freeze
        ``"heads"``: paths may run through MLPs, which recompute (the method of Wang et al.). With ``"mlps"`` too only
        the direct edge is left (`edge_patching`). ``"patterns"`` and ``"norms"`` in place of ``"heads"``: paths may run
        through what heads carry.
    reference
        Items that means and replacements come from; by default other items of the task.

    Returns
    -------
    CircuitGraph
        Per item, in units of the metric. Pairs of which the receiver comes first have no edge.

    Raises
    ------
    PatchclampError
        For a subject that is no transformer, a name that is no sender or receiver, a task without corrupted inputs.

    Notes
    -----
    Wang et al. 2022 (IOI), Goldowsky-Dill et al. 2023; their code freezes heads at the last position only, here they are
    frozen at all. Norms recompute unless frozen. Where a family normalises the queries or keys of all heads together
    (OLMo), a change of one head's moves the others. Cost: a pass for each sender, and one for each pair.
    """
    wanted = [receivers] if isinstance(receivers, str) else list(receivers)
    given = [senders] if isinstance(senders, str) else senders
    plan = _plan(subject, direction)
    names = all_senders(plan.subject) if given is None else list(given)
    edges = [(source, target) for source in names for target in wanted]
    options = {"direction": direction, "positions": positions, "change": change, "freeze": list(freeze)}
    return _measure(plan, task, edges, "path_patching", options, reference, batch_size, skip=True)


def edge_patching(
    subject: Subject,
    task: TaskLike,
    edges: Sequence[tuple[str, str]] | None = None,
    *,
    direction: Direction = "denoising",
    positions: str | int | tuple[str | int, ...] = "all",
    change: str = "patch",
    reference: TaskLike | Reference | None = None,
    batch_size: int = 32,
) -> CircuitGraph:
    """Measure the effect of each edge: `path_patching` with all heads and MLPs between the two frozen.

    What the receiver reads is the unchanged stream with the sender's part exchanged, through the receiver's own norm.

    Parameters
    ----------
    edges
        (sender, receiver) pairs; None for all of the model (refused above 20,000).
    subject, task, direction, positions, change, reference, batch_size
        As for `path_patching`.

    Returns
    -------
    CircuitGraph
        As `path_patching` gives it.

    Raises
    ------
    PatchclampError
        For an edge whose receiver comes first; else as `path_patching`.
    """
    plan = _plan(subject, direction)
    every = edges is None
    if edges is None:
        edges = [(s, r) for s in all_senders(plan.subject) for r in all_receivers(plan)]
        if len(edges) > MANY:
            raise PatchclampError(
                f"edge_patching: about {len(edges) // 2} edges, each a pass; choose some with edge_attribution and give edges="
            )
    options = {"direction": direction, "positions": positions, "change": change, "freeze": ["heads", "mlps"]}
    return _measure(plan, task, list(edges), "edge_patching", options, reference, batch_size, skip=every)


def _plan(subject: Subject, direction: str) -> FlowPlan:
    check_choice("direction", direction, ("denoising", "noising"))
    if not isinstance(subject, Transformer):
        raise PatchclampError(
            f"{subject.name}: senders and receivers are known for transformers of the anatomy table only"
        )
    return FlowPlan(subject, freeze=())


def _measure(
    plan: FlowPlan,
    task: TaskLike,
    edges: list[tuple[str, str]],
    method: str,
    options: Mapping[str, object],
    reference: TaskLike | Reference | None,
    batch_size: int,
    skip: bool,
) -> CircuitGraph:
    wanted = _in_order(plan, edges, method, skip)
    change, noising = str(options["change"]), options["direction"] == "noising"
    source = Reference.of(plan.subject, reference, task) if change in ("mean", "resample") else None
    kept = [(sender, one.name) for sender, found in wanted.items() for one in found]
    column = {edge: i for i, edge in enumerate(kept)}
    items, groups = np.zeros((len(task), len(kept)), np.float32), [""] * len(task)
    for pair in plan.subject.pairs(task, batch_size):
        rows = pair.rows.cpu().numpy()
        for row, group in zip(pair.rows.tolist(), pair.groups, strict=False):
            groups[row] = group
        for sender, one, effect in _effects(plan, pair, wanted, options, source, method):
            items[rows, column[sender, one.name]] = (-effect if noising else effect).float().cpu().numpy()
    nodes = in_order([name for edge in kept for name in edge])
    place = {name: i for i, name in enumerate(nodes)}
    return CircuitGraph.of(
        nodes, [(place[target], place[sender]) for sender, target in kept], items, method=method, groups=groups,
        limits="paths that were not asked for, and what several paths do together",
        params={"means": MEANS[method], "task": task.name, "metric": task.metric_name, **options},
    )  # fmt: skip


def _in_order(plan: FlowPlan, edges: list[tuple[str, str]], method: str, skip: bool) -> Wanted:
    """Sender -> its receivers; pairs of which the receiver comes first are left out or refused."""
    wanted: Wanted = {}
    known: dict[str, Receiver] = {}
    for sender, target in edges:
        one = known.setdefault(target, receiver(plan, target))
        plan.subject.check_units(plan.subject.units(sender))
        if stage_of(plan.subject, parsed(sender)) < one.stage:
            wanted.setdefault(sender, []).append(one)
        elif not skip:
            raise PatchclampError(
                f"{sender} -> {target}: {target} has read the stream before {sender} writes to it"
            )
    if not wanted:
        raise PatchclampError(f"{method}: no receiver comes after any of the senders")
    return wanted


def _effects(
    plan: FlowPlan,
    pair: Pair,
    wanted: Wanted,
    options: Mapping[str, object],
    reference: Reference | None,
    method: str,
) -> Iterator[tuple[str, Receiver, Tensor]]:
    change: str = str(options["change"])
    if options["direction"] == "denoising":
        if pair.corrupted is None:
            raise PatchclampError(f"{method}: the task's items have no corrupted inputs to start from")
        own = replace(pair, clean=pair.corrupted, corrupted=pair.clean)
    else:
        own = pair
    clean = plan.subject.run(pair.clean, logits=pair.answer_position).logits
    base = plan.subject.run(own.clean, logits=pair.answer_position).logits
    assert clean is not None and base is not None
    before = pair.metric(base, reference=clean)
    paths = PathRuns(plan, own.clean, options["freeze"])  # type: ignore[arg-type]
    for sender, found in wanted.items():
        described = Intervention(sender, change, positions=options["positions"])  # type: ignore[arg-type]
        edits = compile_interventions([described], plan.subject, own, reference)
        received = paths.receive(edits, found, max(stage_of(plan.subject, parsed(sender)), 0) // 2)
        for one in found:
            out = paths.send([one], received, pair.answer_position)
            yield sender, one, pair.metric(out, reference=clean) - before
