"""What one position's query, key or value does to what heads read: each head recomputed exactly, nothing linearised in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.units import Site
from patchclamp.subjects.clamp.batch import Batch, Edit
from patchclamp.subjects.clamp.edits import put
from patchclamp.subjects.clamp.flow import FlowPlan
from patchclamp.subjects.clamp.freeze import BeforeSoftmax

Made = Mapping[Site, Tensor]


@dataclass(frozen=True)
class Crossing:
    """One layer: what a change at one position does to each head at each, times a gradient at that head.

    `q` (batch, head, query): the query there alone changed. `k` and `v` (batch, head, query, key): the key or the value
    at one position alone changed; values with the pattern held.
    """

    q: Float[Tensor, "batch head query"]
    k: Float[Tensor, "batch head query key"]
    v: Float[Tensor, "batch head query key"]


def made_sites(plan: FlowPlan) -> list[Site]:
    """Where queries, keys and values come out, and the streams that they are made from."""
    layers = range(plan.subject.n_layers)
    paths = dict.fromkeys(path for layer in layers for path in plan.qkv[layer])
    return [*(Site(path, None, io="out") for path in paths), *(Site("resid_pre", layer) for layer in layers)]


def crossings(
    plan: FlowPlan, batch: Batch, here: Made, there: Made, gradients: Mapping[int, Tensor]
) -> dict[int, Crossing]:
    """Recompute every head with the query, key or value of one position taken from another run.

    A score between two positions hangs on no third, so one pass with all keys exchanged (and the stream before each block as
    it was) holds the scores of every single exchange; the softmax of each follows.

    Parameters
    ----------
    plan
        Of the model.
    batch
        The run that is changed.
    here, there
        Activity of `made_sites` in it and in the run that replacements come from.
    gradients
        Layer -> (batch, pos, head, d_head): by how much a change of a head's result counts.

    Raises
    ------
    PatchclampError
        For a family whose heads do more than to add up values by their pattern.
    """
    scores, read = _scores(plan, batch, here, {})
    other = {kind: _scores(plan, batch, here, there, kind)[0] for kind in ("q", "k")}
    return {
        layer: _of_layer(plan, layer, here, there, gradient, [scores, other["q"], other["k"]], read[layer])
        for layer, gradient in gradients.items()
    }


def _scores(
    plan: FlowPlan, batch: Batch, here: Made, there: Made, kind: str = ""
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """What enters each softmax when queries or keys are those of the other run, and what heads then read."""
    subject, batch = plan.subject, batch.to(plan.subject.device)
    layers = range(subject.n_layers)
    edits = [Edit(Site("resid_pre", layer), put(here[Site("resid_pre", layer)], None)) for layer in layers]
    if kind:
        for layer in layers:
            part = plan.projection(layer, kind)
            site = Site(part.path, None, io="out")
            edits.append(Edit(site, put(there[site], part.columns.flatten())))
    tap = BeforeSoftmax(subject)
    sites = [Site(point, layer) for point in ("attn_probs", "head") for layer in layers]
    with tap.active(), torch.no_grad():
        run = subject.run(batch, read=sites, write=edits)
    pad = ~batch.mask[:, None, :, None]
    found = {}
    for layer in layers:
        at = tap.seen[layer].detach()
        at = at.reshape(len(batch), subject.n_heads, *at.shape[-2:]).cpu().double()
        found[layer] = at.masked_fill(pad.cpu(), 0)
    return found, {layer: run.activity[Site("head", layer)] for layer in layers}


def _of_layer(
    plan: FlowPlan, layer: int, here: Made, there: Made, gradient: Tensor, scores: list[dict[int, Tensor]],
    read: Float[Tensor, "batch pos head d_head"],
) -> Crossing:  # fmt: skip
    part = plan.projection(layer, "v")
    site, columns = Site(part.path, None, io="out"), part.columns
    shared = torch.arange(plan.subject.n_heads) * len(part) // plan.subject.n_heads
    old, new = (made[site][..., columns][:, :, shared].cpu().double() for made in (here, there))
    now, queries, keys = (some[layer] for some in scores)
    n = old.shape[1]
    patterns = now.softmax(-1)[..., :n]
    result = torch.einsum("bhts,bshe->bthe", patterns, old)
    kept = read.detach().cpu().double()
    error = ((result - kept) * (gradient != 0).cpu()).abs().max()
    if error > max(1e-3, 8 * torch.finfo(read.dtype).eps) * kept.abs().max():
        raise PatchclampError(
            f"layer {layer}: heads of {plan.subject.family} are not their values added up by their pattern (off by "
            f"{float(error):.2g}), so they cannot be recomputed position by position; use positions='sum'"
        )
    g = gradient.detach().cpu().double()
    value = torch.einsum("bthe,bshe->bhts", g, new - old) * patterns
    # One score of a row moves by d: (e^d - 1) p (value there - result) / (1 + (e^d - 1) p) ...
    step = torch.where(patterns > 0, keys[..., :n] - now[..., :n], 0).clamp(max=600).expm1() * patterns
    said = torch.einsum("bthe,bshe->bhts", g, old)
    query = ((queries.softmax(-1)[..., :n] - patterns) * said).sum(-1)
    key = step / (1 + step) * (said - (patterns * said).sum(-1, keepdim=True))
    # ... but where p is almost 1 that is a ratio of rounding errors: the largest of a row is exchanged in the softmax itself.
    most = patterns.argmax(-1, keepdim=True)
    row = now.scatter(-1, most, keys.gather(-1, most)).softmax(-1)[..., :n]
    return Crossing(query, key.scatter(-1, most, ((row - patterns) * said).sum(-1, keepdim=True)), value)
