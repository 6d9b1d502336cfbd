"""Why a head looks where it looks: its attention score as a sum over pairs of what is in the stream at both ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.draw.cards import shown
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.units import Site, Unit, parse_unit
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Batch, Edit, Pair
from patchclamp.subjects.clamp.flow import Flow, FlowPlan
from patchclamp.subjects.clamp.freeze import BeforeSoftmax
from patchclamp.subjects.clamp.relevance_rules import RulePlan
from patchclamp.subjects.transformer import Transformer

BIAS = "bias"


@shown
@dataclass(frozen=True)
class QKAttribution:
    """The score of one head at one query and one key position, pair by pair.

    Attributes
    ----------
    head : str
    query, key : str
        Positions.
    parts : tuple of str
        What writes into the stream below the head, and ``"bias"``: biases and shifts, of which no part is the author.
    items : array (item, query part, key part)
        Sum over both parts + `added` = `score`.
    score, added : array (item,)
        What the softmax is given (before a cap, where there is one), and what is added to products of queries and keys (a
        distance penalty, say).
    pattern : array (item,)
        The attention paid.
    """

    head: str
    query: str
    key: str
    parts: tuple[str, ...]
    items: NDArray[np.float32] = field(repr=False)
    score: NDArray[np.float32] = field(repr=False)
    added: NDArray[np.float32] = field(repr=False)
    pattern: NDArray[np.float32] = field(repr=False)

    def table(self, n: int = 20) -> pd.DataFrame:
        """The n largest pairs by mean size: query part, key part, weight, standard_error over items (taken as independent)."""
        mean = self.items.mean(0, dtype=np.float64)
        error = self.items.std(0, ddof=1) / len(self.items) ** 0.5 if len(self.items) > 1 else mean * np.nan
        order = np.argsort(-np.abs(mean), axis=None, kind="stable")[:n]
        rows = [divmod(int(place), len(self.parts)) for place in order]
        return pd.DataFrame(
            [(self.parts[i], self.parts[j], mean[i, j], error[i, j]) for i, j in rows],
            columns=["query part", "key part", "weight", "standard_error"],
        )

    def marginals(self) -> pd.DataFrame:
        """What each part does as the query's and as the key's, all partners together, mean over items."""
        mean = self.items.mean(0, dtype=np.float64)
        return pd.DataFrame({"part": self.parts, "query": mean.sum(1), "key": mean.sum(0)})


def qk_attribution(
    subject: Subject,
    task: TaskLike,
    head: str,
    query: str | int = "end",
    key: str | int = 0,
    *,
    neurons: Sequence[str] = (),
    batch_size: int = 8,
) -> QKAttribution:
    """Cut a head's attention score into pairs: what one part of the stream asks for, and another offers.

    score(t, s) = sum over i, j of q_i(t)' M_(t,s) k_j(s) + added(t, s)

    where q_i and k_j are what part i writes of the query and part j of the key, with norm scales held as they are (those
    of queries and keys too), and M = d^2 score / dq dk holds scale and rotary position. Parts are the embeddings, heads and
    MLPs below, and biases.

    Parameters
    ----------
    subject, task
        A transformer and items; only clean inputs are used.
    head
        Such as ``"head.9[6]"``.
    query, key
        Roles of the task, or positions (negative ones count from the end).
    neurons
        Taken out of their MLP as parts of their own (``"mlp_act.3[7]"``).

    Returns
    -------
    QKAttribution

    Raises
    ------
    PatchclampError
        For a key behind its query in a causal model, a role that an item does not have, latent attention.

    Notes
    -----
    After "QK attributions" (Kamath et al. 2025), with components in the place of features. Softmax compares keys: a pair that
    is as large at every key moves no attention; compare with another `key`.

    Examples
    --------
    >>> found = qk_attribution(subject, task, "head.9[6]", "end", "subject")     # doctest: +SKIP
    >>> found.table(5), found.marginals()
    """
    if not isinstance(subject, Transformer):
        raise PatchclampError(f"{subject.name}: heads are known for transformers of the anatomy table only")
    unit = parse_unit(head)
    if unit.site.point != "head":
        raise PatchclampError(f"{head}: give a head, such as head.9[6]")
    subject.check_units(subject.units(head))
    layer = unit.site.layer or 0
    plan = FlowPlan(subject, ("patterns", "norms"))
    split = [_neuron(subject, name, layer) for name in neurons]
    rules = RulePlan(subject, ("LN",), strict=False)
    parts: list[tuple[Tensor, ...]] = []
    names: list[str] = []
    for pair in subject.pairs(task, batch_size):
        at = place_of(pair, query), place_of(pair, key)
        if subject.causal and bool((at[1] > at[0]).any()):
            raise PatchclampError(
                f"{head}: no query sees a key behind it; key={key!r} is after query={query!r}"
            )
        score, form, pattern, raw = _bilinear(subject, plan, rules, pair.clean, layer, unit.index, at)
        flow = plan.run(pair.clean, "last")
        names, left = _written(flow, "q", layer, unit.index, at[0], split, raw[0])
        _, right = _written(flow, "k", layer, unit.index, at[1], split, raw[1])
        pairs = torch.einsum("bid,bde,bje->bij", left, form, right)
        parts.append((pairs, score, score - pairs.sum((1, 2)), pattern))
    if not parts:
        raise PatchclampError("qk_attribution: the task has no items")
    found = [torch.cat(some).detach().float().cpu().numpy() for some in zip(*parts, strict=True)]
    return QKAttribution(head, str(query), str(key), tuple(names), *found)


def place_of(pair: Pair, where: str | int) -> Int[Tensor, " batch"]:
    """The position of a role, or a number counted from either end, in each item.

    Raises
    ------
    PatchclampError
        For a role that is none or that an item does not have, and for a position outside of the text.
    """
    lengths = pair.clean.lengths
    if isinstance(where, str):
        if where not in pair.roles:
            hint = did_you_mean(where, pair.roles) or f"; the roles are {', '.join(pair.roles)}"
            raise PatchclampError(f"position {where!r}: the items have no such role{hint}")
        at = pair.roles[where].to(lengths.device)
    else:
        at = torch.full_like(lengths, where) if where >= 0 else lengths + where
    outside = (at < 0) | (at >= lengths)
    if bool(outside.any()):
        item = int(pair.rows[int(outside.nonzero()[0])])
        raise PatchclampError(f"position {where!r}: item {item} has none; select items that do")
    return at


def _neuron(subject: Transformer, name: str, layer: int) -> Unit:
    unit = parse_unit(name)
    if unit.site.point != "mlp_act" or (unit.site.layer or 0) >= layer:
        raise PatchclampError(f"{name}: give neurons of layers before that of the head, such as mlp_act.0[7]")
    subject.check_units(subject.units(name))
    return unit


def _bilinear(
    subject: Transformer, plan: FlowPlan, rules: RulePlan, batch: Batch, layer: int, head: int,
    at: tuple[Tensor, Tensor],
) -> tuple[Tensor, Float[Tensor, "batch d_head d_head"], Tensor, tuple[Tensor, Tensor]]:  # fmt: skip
    """Scores of a head, the form that is between its query and its key, its pattern, and both as they were made."""
    batch = batch.to(subject.device)
    rows = torch.arange(len(batch), device=subject.device)
    made = [plan.projection(layer, kind) for kind in ("q", "k")]
    heads = head, head * len(made[1]) // subject.n_heads
    columns = [part.columns[h] for part, h in zip(made, heads, strict=True)]
    probs = Site("attn_probs", layer)
    reads = {Site(part.path, io="out"): lambda t: t for part in made} | {probs: lambda t: t}
    begin = Edit(Site("resid_pre", layer), lambda t, batch: t.detach().requires_grad_(True))
    tap = BeforeSoftmax(subject)
    with tap.active(), rules.active():
        run = subject.run(batch, read=reads, write=[begin], grad=True)
    given = tap.seen[layer]
    given = given.reshape(len(batch), subject.n_heads, *given.shape[-2:])[rows, head, at[0], at[1]]
    cap = getattr(subject.config, "attn_logit_softcapping", None)
    score = cap * torch.atanh(given / cap) if cap else given
    query, key = (run.activity[Site(part.path, io="out")] for part in made)
    (first,) = torch.autograd.grad(score.sum(), query, create_graph=True)
    form = torch.stack(
        [
            torch.autograd.grad(first[rows, at[0], column].sum(), key, retain_graph=True)[0][rows, at[1]][
                :, columns[1]
            ]
            for column in columns[0]
        ],
        1,
    )
    pattern = run.activity[probs][rows, head, at[0], at[1]]
    raw = query[rows, at[0]][:, columns[0]], key[rows, at[1]][:, columns[1]]
    return score.detach(), form, pattern.detach(), (raw[0].detach(), raw[1].detach())


def _written(
    flow: Flow, kind: str, layer: int, head: int, at: Tensor, split: Sequence[Unit], raw: Tensor
) -> tuple[list[str], Float[Tensor, "batch part d_head"]]:
    """What each part of the stream writes of a head's query or key; what is left is the biases'."""
    subject = flow.subject
    made = flow.plan.projection(layer, kind)
    columns = made.columns[head * len(made) // subject.n_heads]
    items = torch.arange(len(at), device=at.device)
    like = flow.blocks[layer][f"out:{made.path}"]
    rows = torch.zeros(len(columns), *like.shape, device=like.device, dtype=like.dtype)
    for place, column in enumerate(columns.tolist()):
        rows[place, items, at, column] = 1
    carried = flow.pull(layer, {f"out:{made.path}": rows}, ["pre"])["pre"]
    names: list[str] = []
    found: list[Tensor] = []

    def add(name: str, rows: Tensor, written: Tensor) -> None:
        names.append(name)
        found.append(torch.einsum("ebtd,btd->be", rows, written.to(rows.dtype)))

    for lower in range(layer - 1, -1, -1):
        moved = flow.along_stream(lower, carried)
        here = [unit for unit in split if unit.site.layer == lower]
        rest = flow.value(lower, "mlp_out")
        for unit in here:
            act = flow.value(lower, "mlp_act")[..., unit.index, None]
            out = act * subject.output_matrix(unit.site)[unit.index].to(act)
            rest = rest - out
            add(str(unit), moved["mlp_out"], out)
        add(f"mlp_out.{lower}", moved["mlp_out"], rest)
        z, matrix = flow.value(lower, "head"), subject.head_output_matrix(lower)
        for h in range(subject.n_heads):
            add(f"head.{lower}[{h}]", moved["attn_out"], z[:, :, h] @ matrix[h].to(z))
        carried = moved["pre"]
    add("embeddings", carried, flow.value(0, "pre"))
    total = torch.stack(found, 1)
    return [*names[::-1], BIAS], torch.cat([total.flip(1), (raw - total.sum(1))[:, None]], 1)
