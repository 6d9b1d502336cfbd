"""Nodes of circuits by name: who writes into the stream, who reads it, and who comes before whom."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.units import Site, Unit, parse_site, parse_unit
from patchclamp.subjects.clamp.flow import FlowPlan
from patchclamp.subjects.clamp.projections import KINDS
from patchclamp.subjects.transformer import Transformer

_PART = re.compile(r"([qkv])\.(\d+)\[(\d+)\]")
Tapped = tuple[Site, Tensor | None]


@dataclass(frozen=True)
class Receiver:
    """What reads the stream.

    Parameters
    ----------
    name
        ``q.9[6]`` (queries of head 6), ``k.9[2]``, ``v.9[2]`` (keys and values of key-value head 2), ``mlp_out.9`` (what
        the MLP reads), ``mlp_act.9[345]`` (what a neuron reads), ``logits``.
    taps
        Tensors at which it is held: site of a module, and the columns of it that are this receiver's (None: all).
    stage
        It reads what is written before this stage of the pass.
    """

    name: str
    taps: tuple[Tapped, ...]
    stage: int


def receiver(plan: FlowPlan, name: str) -> Receiver:
    """A receiver by its name.

    Raises
    ------
    PatchclampError
        For a name that is none, and for layers, heads and units that the model does not have.
    """
    subject = plan.subject
    if name == "logits":
        last = subject.n_layers - 1
        return Receiver(name, ((Site("resid_post", last), None),), 2 * subject.n_layers)
    part = _PART.fullmatch(name)
    if part:
        kind, layer, head = part[1], int(part[2]), int(part[3])
        subject.place(Site("head", layer))  # refuses a layer that is not there
        found = plan.projection(layer, kind)
        if head >= len(found):
            raise PatchclampError(f"{name}: layer {layer} has {kind}.{layer}[0..{len(found) - 1}]")
        return Receiver(name, ((Site(found.path, None, io="out"), found.columns[head]),), 2 * layer)
    unit = parse_unit(name) if name.endswith("]") else None
    site = unit.site if unit else parse_site(name)
    if site.point not in ("mlp_out", "mlp_act") or (site.point == "mlp_act") != (unit is not None):
        raise PatchclampError(
            f"{name}: not a receiver; give q.L[h], k.L[h], v.L[h], mlp_out.L, mlp_act.L[i] or logits"
        )
    subject.check_units(subject.units(name))
    layer = site.layer or 0
    row = subject.row_at(layer)
    stage = 2 * layer if row.parallel else 2 * layer + 1
    if unit is None:
        return Receiver(name, tuple((Site(p, None, io="in"), None) for p in plan.mlp_in[layer]), stage)
    index = torch.tensor([unit.index])
    fused = row.gated and len(plan.mlp_in[layer]) == 1
    index = torch.cat([index, index + subject.width(site)]) if fused else index
    return Receiver(name, tuple((Site(p, None, io="out"), index) for p in plan.mlp_in[layer]), stage)


def parsed(name: str) -> Unit | Site:
    """A sender by its name."""
    return parse_unit(name) if name.endswith("]") else parse_site(name)


def stage_of(subject: Transformer, sender: Unit | Site) -> int:
    """The stage at which a site's activity is written: embeddings -1, heads 2 L, MLPs 2 L + 1.

    Raises
    ------
    PatchclampError
        For a site that is no part of its own in the stream.
    """
    site = sender.site if isinstance(sender, Unit) else sender
    if site.point == "embeddings":
        return -1
    stages = {
        "head": 0,
        "z": 0,
        "attn_out": 0,
        "attn_out_post": 0,
        "mlp_act": 1,
        "mlp_out": 1,
        "mlp_out_post": 1,
    }
    if site.point not in stages or site.layer is None:
        raise PatchclampError(
            f"{sender}: not a sender; give embeddings, head.L[h], mlp_act.L[i], attn_out.L or mlp_out.L"
        )
    return 2 * site.layer + stages[site.point]


def all_senders(subject: Transformer) -> list[str]:
    """Embeddings, every head and every MLP, in the order of the pass."""
    found = ["embeddings"]
    for layer in range(subject.n_layers):
        found += [f"head.{layer}[{head}]" for head in range(subject.n_heads)]
        found.append(f"mlp_out.{layer}")
    return found


def all_receivers(plan: FlowPlan) -> list[str]:
    """Queries, keys and values of every head, every MLP, and the logits, in the order of the pass."""
    found: list[str] = []
    for layer in range(plan.subject.n_layers):
        for kind in KINDS:
            found += [f"{kind}.{layer}[{head}]" for head in range(len(plan.projection(layer, kind)))]
        found.append(f"mlp_out.{layer}")
    return [*found, "logits"]


def in_order(names: Sequence[str]) -> list[str]:
    """Names once each, in the order of the pass: embeddings, then by layer queries, keys, values, heads, MLP, logits."""
    ranks = ("embeddings", "q", "k", "v", "head", "attn_out", "mlp_act", "mlp_out", "logits")

    def key(name: str) -> tuple[int, int, int]:
        point, _, rest = name.partition(".")
        layer, _, index = rest.partition("[")
        depth = -1 if point == "embeddings" else 10**9 if point == "logits" else int(layer)
        return depth, ranks.index(point), int(index.rstrip("]") or 0)

    return sorted(dict.fromkeys(names), key=key)
