"""Where `edge_attribution` collects the scores of all edges, item by item: without places, or at the roles of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.units import Site
from patchclamp.subjects.clamp.batch import OTHER, Batch, Pair
from patchclamp.subjects.clamp.crossing import crossings
from patchclamp.subjects.clamp.flow import KINDS, FlowPlan
from patchclamp.subjects.clamp.receivers import (
    all_receivers,
    all_senders,
    in_order,
    parsed,
    receiver,
    stage_of,
)

Rows = Float[Tensor, "row batch pos d_model"]
Written = Float[Tensor, "sender batch pos d_model"]


class EdgeBoard:
    """Edges between all that write into the stream and all that read it, summed over positions.

    Attributes
    ----------
    nodes, ends, groups, node_data
        As `CircuitGraph` takes them.
    wanted
        Names of tensors of a block at which `passed` is told the gradient.
    """

    wanted: tuple[str, ...] = ()

    def __init__(self, plan: FlowPlan, n: int) -> None:
        self.plan = plan
        senders, receivers = all_senders(plan.subject), all_receivers(plan)
        self.sender = {name: i for i, name in enumerate(senders)}
        self.receiver = {name: i for i, name in enumerate(receivers)}
        self.nodes = in_order([*senders, *receivers])
        place = {name: i for i, name in enumerate(self.nodes)}
        written = np.array([stage_of(plan.subject, parsed(name)) for name in senders])
        read = np.array([receiver(plan, name).stage for name in receivers])
        self.edge = np.full((len(receivers), len(senders)), -1, np.int64)
        targets, sources = np.nonzero(written < read[:, None])
        self.edge[targets, sources] = np.arange(len(targets))
        self.ends = np.stack(
            [
                np.array([place[name] for name in receivers])[targets],
                np.array([place[name] for name in senders])[sources],
            ],
            1,
        )
        self.items = np.zeros((n, len(targets)), np.float32)
        self.groups = [""] * n
        self.node_data: pd.DataFrame | None = None

    def passed(self, layer: int, found: Mapping[str, Tensor], weight: float) -> None:
        """What one pass has at a block, at the tensors of `wanted`."""

    def meet(
        self, pair: Pair, receivers: Sequence[str], senders: Sequence[str], rows: Rows, written: Written, weight: float
    ) -> None:  # fmt: skip
        """Add products of gradients at receivers and what senders write; pairs that are no edges are left out."""
        places = self.edge[np.ix_([self.receiver[r] for r in receivers], [self.sender[s] for s in senders])]
        flat = (self.products(pair, rows, written) * weight).detach().float().cpu().numpy()
        self.items[pair.rows.cpu().numpy()[:, None], places[places >= 0]] += flat[:, places >= 0]

    def products(self, pair: Pair, rows: Rows, written: Written) -> Float[Tensor, "batch row sender *role"]:
        """Every row times every sender, an item at a time."""
        # on views: (row, pos * d_model) by (pos * d_model, sender)
        at, by = rows.flatten(2), written.flatten(2)
        return torch.stack([at[:, item] @ by[:, item].T for item in range(at.shape[1])])

    def values(self) -> NDArray[np.float32]:
        """(item, edge)."""
        return self.items


class RoleBoard(EdgeBoard):
    """The same within each role, and edges from what a head reads at one role to what it says at another."""

    wanted = ("head",)

    def __init__(self, plan: FlowPlan, n: int, pairs: Sequence[Pair]) -> None:
        super().__init__(plan, n)
        place = self._places(pairs)
        self.kept = list(place)
        names = [*pairs[0].roles, OTHER] if pairs else []
        self.roles = [names[i] for i in self.kept]
        bare, ends = self.nodes, self.ends.tolist()
        table = [(name, "", np.nan) for name in bare if name == "logits"]
        table = [(f"{name}@{role}", role, at) for name in bare if name != "logits"
                 for role, at in zip(self.roles, place.values(), strict=True)] + table  # fmt: skip
        self.nodes = [name for name, _, _ in table]
        self.node_data = pd.DataFrame(
            {"role": [role for _, role, _ in table], "position": [at for _, _, at in table]}
        )
        index = {name: i for i, name in enumerate(self.nodes)}
        index |= {f"logits@{role}": index["logits"] for role in self.roles}
        pairs_of = [(bare[t], bare[s], role, role) for t, s in ends for role in self.roles]
        self.within = len(pairs_of)
        heads = plan.subject.n_heads
        for layer in range(plan.subject.n_layers):
            for kind in KINDS:
                shared = len(plan.projection(layer, kind))
                pairs_of += [
                    (f"head.{layer}[{h}]", f"{kind}.{layer}[{h * shared // heads}]", to, role)
                    for h in range(heads)
                    for to in self.roles
                    for role in ([to] if kind == "q" else self.roles)
                ]
        found = [(index[f"{t}@{to}"], index[f"{s}@{role}"]) for t, s, to, role in pairs_of]
        self.ends = np.array(found, np.int64).reshape(-1, 2)
        self.items = np.zeros((n, len(ends), len(self.roles)), np.float32)
        self.across = np.zeros((n, len(found) - self.within), np.float32)
        self.heads: dict[int, Tensor] = {}

    @staticmethod
    def _places(pairs: Sequence[Pair]) -> dict[int, float]:
        """Roles that have a token of their own -> their mean position, in the order of the text."""
        count, total = torch.zeros(1), torch.zeros(1)
        for pair in pairs:
            for role, at in pair.roles.items():
                if bool((at < 0).any()):
                    item = int(pair.rows[int((at < 0).nonzero()[0])])
                    raise PatchclampError(
                        f"positions='roles': item {item} has no {role!r}; select items that have all roles, such as those of "
                        "one template, or use positions='sum'"
                    )
            masks = pair.by_role().double().cpu()
            count = count + masks.sum((0, 1))
            total = total + (masks * torch.arange(masks.shape[1])[:, None]).sum((0, 1))
        if pairs and not pairs[0].roles:
            raise PatchclampError("positions='roles': the task's items have no roles; use positions='sum'")
        mean: list[float] = (total / count).tolist()
        own = [i for i in range(len(mean)) if count[i] > 0]
        return {i: mean[i] for i in sorted(own, key=lambda i: mean[i])}

    def passed(self, layer: int, found: Mapping[str, Tensor], weight: float) -> None:
        """Add up the gradient at what heads read."""
        now = found["head"][0].detach() * weight
        self.heads[layer] = self.heads[layer] + now if layer in self.heads else now

    def products(self, pair: Pair, rows: Rows, written: Written) -> Float[Tensor, "batch row sender role"]:
        """Every row times every sender within each role."""
        masks = pair.by_role()[..., self.kept].to(rows.device)
        found = rows.new_zeros(rows.shape[1], rows.shape[0], written.shape[0], len(self.kept))
        for item, role in masks.any(1).nonzero().tolist():
            here = masks[item, :, role]
            found[item, ..., role] = (
                rows[:, item, here].flatten(1) @ written[:, item, here].to(rows).flatten(1).T
            )
        return found

    def cross(
        self, pair: Pair, batch: Batch, here: Mapping[Site, Tensor], there: Mapping[Site, Tensor], sign: int
    ) -> None:
        """Add what heads carry from role to role, by the gradients that passed since the last time."""
        roles = pair.by_role()[..., self.kept].cpu().double()
        told = crossings(self.plan, batch, here, there, self.heads)
        parts = []
        for layer in range(self.plan.subject.n_layers):
            one = told[layer]
            parts.append(torch.einsum("bht,btr->bhr", one.q, roles).flatten(1))
            parts += [
                torch.einsum("bhts,btr,bsf->bhrf", some, roles, roles).flatten(1) for some in (one.k, one.v)
            ]
        self.across[pair.rows.cpu().numpy()] = sign * torch.cat(parts, 1).float().numpy()
        self.heads = {}

    def values(self) -> NDArray[np.float32]:
        """(item, edge): within roles, then across."""
        return np.concatenate([self.items.reshape(len(self.items), -1), self.across], 1)
