"""How few directions does a head need? Its queries and keys, and what it writes, cut down to a rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import torch_rng
from patchclamp.connect.circuits.qk_attribution import place_of
from patchclamp.draw.cards import shown
from patchclamp.nouns.tasks.held_out import check_held_out
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.units import Site, parse_unit
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Batch, Edit, Pair
from patchclamp.subjects.clamp.freeze import BeforeSoftmax
from patchclamp.subjects.clamp.projections import projection
from patchclamp.subjects.clamp.relevance_rules import RulePlan
from patchclamp.subjects.transformer import Transformer


@shown
@dataclass(frozen=True)
class HeadSubspace:
    """A head at each rank, on items that did not choose the directions.

    Attributes
    ----------
    table : DataFrame
        rank, choice (share of items where the key with the largest score is the same as uncompressed), choice_random (mean
        over random subspaces), scores (share of the variation of scores over keys that is kept), written (share of the
        head's effect on the metric, against its mean, that is kept by the first directions of what it writes; NaN where
        the effect is none).
    query, key : array (rank, d_head)
        Directions, largest first: of the query as it is made, and of what a key is to it.
    written : array (rank, d_head)
        Directions of z, by variance; `written_mean` beside them.
    """

    table: pd.DataFrame
    query: NDArray[np.float64] = field(repr=False)
    key: NDArray[np.float64] = field(repr=False)
    written: NDArray[np.float64] = field(repr=False)
    written_mean: NDArray[np.float64] = field(repr=False)


def head_subspace(
    subject: Subject,
    task: TaskLike,
    head: str,
    keys: Sequence[str | int],
    query: str | int = "end",
    *,
    held_out: TaskLike,
    ranks: Sequence[int] = (1, 2, 3, 4, 8),
    n_random: int = 20,
    batch_size: int = 8,
    seed: int = 0,
) -> HeadSubspace:
    """Cut a head's choice among some keys, and what it writes, down to few directions.

    score(i, s) = q_i . k_(i,s), with k_(i,s) = d score / d q: the key as the query meets it, with rotary position, norms and
    scale. Keys have their mean over the item's `keys` taken away, since softmax ignores what they share. Directions of rank r
    are those of the best approximation of the matrix of all queries by all keys.

    Parameters
    ----------
    subject, task
        Items that choose the directions.
    head
        Such as ``"head.9[6]"``.
    keys
        At least two roles or positions among which the head chooses.
    query
        Where from.
    held_out
        Items on which all figures are taken.
    ranks
        Up to the size of a head.
    n_random
        Random subspaces of each rank for `choice_random`.

    Returns
    -------
    HeadSubspace

    Raises
    ------
    PatchclampError
        For fewer than two keys, roles that items lack, ranks that there are not.

    Notes
    -----
    Lieberum et al. 2023 (multiple choice in Chinchilla), who find about 3 directions for correct-letter heads.

    Examples
    --------
    >>> head_subspace(subject, train, "head.9[6]", ["subject", "attractor"], held_out=test).table   # doctest: +SKIP
    """
    if not isinstance(subject, Transformer):
        raise PatchclampError(f"{subject.name}: heads are known for transformers of the anatomy table only")
    unit = parse_unit(head)
    if unit.site.point != "head" or len(keys) < 2:
        raise PatchclampError(f"{head}, {len(keys)} keys: give a head and at least two keys to choose from")
    subject.check_units(subject.units(head))
    size = subject.unit_dim(unit.site)
    if not ranks or min(ranks) < 1 or max(ranks) > size:
        raise PatchclampError(f"ranks={list(ranks)}: a head has 1..{size} directions")
    check_held_out(held_out, task, "the directions")
    layer = unit.site.layer or 0
    rules = RulePlan(subject, ("LN",), strict=False)
    q, k, z = map(torch.cat, _met(subject, task, rules, layer, unit.index, query, keys, batch_size))
    left, right = subspace_of(q, k)
    _, _, basis = torch.linalg.svd(z - z.mean(0), full_matrices=False)
    q2, k2, _ = map(torch.cat, _met(subject, held_out, rules, layer, unit.index, query, keys, batch_size))
    table = choices(q2, k2, left, right, ranks, n_random, seed)
    table["written"] = _kept(
        subject, held_out, unit.site, unit.index, query, z.mean(0), basis, ranks, batch_size
    )
    return HeadSubspace(table, left.numpy(), right.numpy(), basis.numpy(), z.mean(0).numpy())


def subspace_of(
    q: Float[Tensor, "item d"], k: Float[Tensor, "item key d"], centre: bool = True
) -> tuple[Float[Tensor, "rank d"], Float[Tensor, "rank d"]]:
    """Directions (queries', keys') whose products make the best approximation of all queries by all keys, largest first.

    score of rank r = sum over j <= r of (q . left_j) (k . right_j)
    """
    k = (k - k.mean(1, keepdim=True) if centre else k).flatten(0, 1)
    first, second = (torch.linalg.qr(x.double())[1] for x in (q, k))
    u, sizes, v = torch.linalg.svd(first @ second.T, full_matrices=False)
    kept = sizes > 1e-10 * sizes.max()
    left = torch.linalg.pinv(first) @ (u * sizes.sqrt())
    right = torch.linalg.pinv(second) @ (v.T * sizes.sqrt())
    return left.T[kept], right.T[kept]


def choices(
    q: Float[Tensor, "item d"],
    k: Float[Tensor, "item key d"],
    left: Float[Tensor, "rank d"],
    right: Float[Tensor, "rank d"],
    ranks: Sequence[int],
    n_random: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """At each rank: how often the largest score is at the same key, in random subspaces too, and what scores keep."""
    q, k = q.double(), (k - k.mean(1, keepdim=True)).double()
    full = torch.einsum("id,isd->is", q, k)
    best = full.argmax(1)
    draw = torch_rng(seed)
    rows = []
    for r in ranks:
        low = torch.einsum("ir,isr->is", q @ left[:r].T, k @ right[:r].T)
        chance = []
        for _ in range(n_random):
            some = torch.linalg.qr(torch.randn(q.shape[1], r, generator=draw, dtype=torch.float64))[0]
            drawn = torch.einsum("ir,isr->is", q @ some, k @ some)
            chance.append(float((drawn.argmax(1) == best).double().mean()))
        rows.append(
            {"rank": r, "choice": float((low.argmax(1) == best).double().mean()),
             "choice_random": float(np.mean(chance)) if chance else np.nan,
             "scores": 1 - float((full - low).square().sum() / full.square().sum())}
        )  # fmt: skip
    return pd.DataFrame(rows)


def _met(
    subject: Transformer, task: TaskLike, rules: RulePlan, layer: int, head: int, query: str | int,
    keys: Sequence[str | int], batch_size: int,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:  # fmt: skip
    """Queries as they are made, keys as the query meets them, and z, item by item."""
    made = projection(subject, layer, "q")
    site, probs, out = Site("head", layer), Site("attn_probs", layer), Site(made.path, io="out")
    cap = getattr(subject.config, "attn_logit_softcapping", None)
    found: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    for pair in subject.pairs(task, batch_size):
        batch = pair.clean.to(subject.device)
        rows = torch.arange(len(batch), device=subject.device)
        at = place_of(pair, query)
        tap = BeforeSoftmax(subject)
        begin = Edit(Site("resid_pre", layer), lambda t, b: t.detach().requires_grad_(True))
        reads = {out: lambda t: t, probs: lambda t: t, site: lambda t: t}
        with tap.active(), rules.active():
            run = subject.run(batch, read=reads, write=[begin], grad=True)
        given = tap.seen[layer]
        given = given.reshape(len(batch), subject.n_heads, *given.shape[-2:])
        made_q = run.activity[out]
        met = []
        for key in keys:
            score = given[rows, head, at, place_of(pair, key)]
            score = cap * torch.atanh(score / cap) if cap else score
            (gradient,) = torch.autograd.grad(score.sum(), made_q, retain_graph=True)
            met.append(gradient[rows, at][:, made.columns[head]])
        found[0].append(made_q[rows, at][:, made.columns[head]].detach().double().cpu())
        found[1].append(torch.stack(met, 1).double().cpu())
        found[2].append(run.activity[site][rows, at, head].detach().double().cpu())
    if not found[0]:
        raise PatchclampError("head_subspace: the task has no items")
    return found


def _kept(
    subject: Transformer, task: TaskLike, site: Site, head: int, query: str | int, mean: Tensor, basis: Tensor,
    ranks: Sequence[int], batch_size: int,
) -> list[float]:  # fmt: skip
    """Share of the head's effect, against its mean, that is left when z is cut down to its first directions."""
    total = np.zeros(len(ranks) + 2)
    for pair in subject.pairs(task, batch_size):
        at = place_of(pair, query)
        clean = subject.run(pair.clean, logits=pair.answer_position).logits

        def metric(edits: Sequence[Edit], pair: Pair = pair, clean: Tensor | None = clean) -> float:
            out = subject.run(pair.clean, write=edits, logits=pair.answer_position).logits
            assert out is not None
            return float(pair.metric(out, reference=clean).double().sum())

        total[0] += metric([])
        for number, r in enumerate([0, *ranks]):
            total[number + 1] += metric([Edit(site, _cut(head, at, mean, basis[:r]))])
    span = total[0] - total[1]
    if abs(span) < 1e-6 * max(1.0, abs(total[0])):
        return [float("nan")] * len(ranks)
    return [float(value) for value in (total[2:] - total[1]) / span]


def _cut(head: int, at: Tensor, mean: Tensor, basis: Tensor) -> Callable[[Tensor, Batch], Tensor]:
    def act(z: Tensor, batch: Batch) -> Tensor:
        rows = torch.arange(len(z), device=z.device)
        own = z[rows, at, head].double()
        centre, directions = mean.to(own), basis.to(own)
        new = z.clone()
        new[rows, at, head] = (centre + (own - centre) @ directions.T @ directions).to(z.dtype)
        return new

    return act
