"""A few words at each node of a circuit: the tokens that it writes, and the places of the task where it is most active."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.describe import decode_in
from patchclamp.nouns.circuit import CircuitGraph
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.units import Unit, parse_unit
from patchclamp.subjects import LanguageModel
from patchclamp.subjects.clamp.batch import Pair

__all__ = ["label_nodes"]

CERTAIN = 0.05


@dataclass
class _Labelled:
    """A neuron (of one sign, or 0 for either) or a head, and what was seen of it."""

    name: str
    unit: Unit
    sign: int
    role: str
    writes: Tensor | None = None
    seen: list[tuple[float, str, str, str]] = field(default_factory=list)


def label_nodes(
    subject: LanguageModel,
    task: TaskLike,
    graph: CircuitGraph,
    *,
    top: int = 4,
    exemplars: int = 3,
    batch_size: int = 8,
    seed: int = 0,
) -> CircuitGraph:
    """Say what the neurons and heads of a circuit write and where they are active; pictures and the report show it.

    Parameters
    ----------
    subject, task
        A language model and the items.
    graph
        The circuit. Nodes that are no neuron and no head stay without words.
    top, exemplars
        Tokens and places of each node.
    batch_size
        Items in a pass.
    seed
        Of the random directions that a token is held against.

    Returns
    -------
    CircuitGraph
        The same with columns of `node_data`. ``written``: tokens that output weights (of a neuron, times its sign) or the mean
        contribution at its role (of a head) promote through the LM head. ``exemplars``: value, before, token, after,
        largest first and at most one an item, by the activity (of the node's sign) or the size of a head's contribution.
        ``label``: the first tokens written where they are beyond the best of random directions (p <= .05), else
        the token where it is most active.

    Notes
    -----
    Leads for a reader and no evidence: nothing is chosen or claimed by them. The LM head reads the direct path alone.

    Examples
    --------
    >>> label_nodes(subject, task, graph).plot()                                # doctest: +SKIP
    """
    nodes = _described(graph)
    for pair in subject.pairs(task, batch_size) if nodes else ():
        _see(subject, pair, nodes, exemplars)
    table = _words(subject, nodes, top, seed)
    told = {node.name: _told(node, table) for node in nodes}
    data = pd.DataFrame(index=range(graph.n)) if graph.node_data is None else graph.node_data.copy()
    for column, empty in (("label", ""), ("written", None), ("exemplars", None)):
        data[column] = [told.get(name, {}).get(column, empty) for name in graph.nodes]
    return replace(graph, node_data=data)


def _described(graph: CircuitGraph) -> list[_Labelled]:
    roles = [""] * graph.n
    if graph.node_data is not None and "role" in graph.node_data:
        roles = graph.node_data["role"].fillna("").astype(str).tolist()
    found = []
    for name, role in zip(graph.nodes, roles, strict=True):
        bare, _, own = name.partition("@")
        try:
            unit = parse_unit(bare.rstrip("+-"))
        except PatchclampError:  # tokens, logits, what a head reads
            continue
        if unit.site.point in ("mlp_act", "head") and unit.site.dictionary is None:
            found.append(_Labelled(name, unit, {"+": 1, "-": -1}.get(bare[-1], 0), own or role))
    return found


def _see(subject: LanguageModel, pair: Pair, nodes: list[_Labelled], keep: int) -> None:
    """Where each node is most active on these items, and what a head adds at its role."""
    batch = pair.clean
    assert batch.tokens is not None
    run = subject.run(batch, read=sorted({node.unit.site for node in nodes}))
    decode = subject.tokenizer.decode
    rows = torch.arange(len(batch), device=batch.mask.device)
    last = batch.last
    for node in nodes:
        activity = run.activity[node.unit.site]
        if node.unit.site.point == "head":
            matrix = subject.head_output_matrix(node.unit.site.layer or 0)[node.unit.index].float()
            written = activity[:, :, node.unit.index].float() @ matrix
            size = written.norm(dim=2)
            at = pair.roles.get(node.role, last)
            here = written[rows, torch.where(at >= 0, at, last)].sum(0)
            node.writes = here if node.writes is None else node.writes + here
        else:
            raw = activity[:, :, node.unit.index].float()
            size = raw * node.sign if node.sign else raw.abs()
            node.writes = subject.output_matrix(node.unit.site)[node.unit.index].float() * (node.sign or 1)
        value, at = size.masked_fill(~batch.mask, -torch.inf).max(1)
        for row in range(len(batch)):
            ids, t = batch.tokens[row][batch.mask[row]].tolist(), int(at[row])
            parts = (decode(ids[:t], skip_special_tokens=True), decode([ids[t]]), decode(ids[t + 1 :]))
            node.seen.append((float(value[row]), *parts))
        node.seen = sorted(set(node.seen), key=lambda one: (-one[0], one[1:]))[:keep]


def _words(subject: LanguageModel, nodes: list[_Labelled], top: int, seed: int) -> pd.DataFrame:
    some: list[tuple[str, Float[Tensor, " d_model"]]] = [
        (node.name, node.writes) for node in nodes if node.writes is not None and bool(node.writes.any())
    ]
    if not some:
        return pd.DataFrame(columns=["unit", "way", "token", "p"])
    return decode_in(
        subject, torch.stack([one for _, one in some]), [name for name, _ in some], top=top, seed=seed
    )


def _told(node: _Labelled, table: pd.DataFrame) -> dict[str, Any]:
    rows = table[(table.unit == node.name) & (table.way == "promotes")]
    certain = [str(row.token).strip() or str(row.token) for row in rows.itertuples() if row.p <= CERTAIN]
    active = [token.strip() or token for value, _, token, _ in node.seen if value > 0]
    label = ""
    if certain:
        label = "writes " + ", ".join(dict.fromkeys(certain[:3]))
    elif active:
        label = "at " + Counter(active).most_common(1)[0][0]
    return {
        "label": label,
        "written": [str(token) for token in rows["token"]],
        "exemplars": [
            {"value": value, "before": before, "token": token, "after": after}
            for value, before, token, after in node.seen
            if value > 0
        ],
    }
