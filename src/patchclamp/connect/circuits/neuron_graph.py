"""The circuit of a behaviour in the basis of neurons: which neurons and heads carry it, and what each says to which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from patchclamp.base.errors import PatchclampError, check_choice
from patchclamp.connect.circuits.edge_attribution import metric_gradient
from patchclamp.nouns.circuit import CircuitGraph
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.units import Site, Units, UnitsLike
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import OTHER, Pair
from patchclamp.subjects.clamp.flow import Flow, FlowPlan
from patchclamp.subjects.clamp.relevance_rules import DEFAULT_RULES
from patchclamp.subjects.transformer import Transformer

Direction = Literal["denoising", "noising"]
FREEZE = ("patterns", "norms", "mlps")
LIMITS = (
    "what queries and keys do (patterns are held as they are in the run that is patched), paths through other neurons, and "
    "what a patch of these neurons does: measure that on items that had no part in choosing them"
)
MEANS = (
    "the share of the target's score that comes from the source directly, by the stream and by what heads carry between "
    "places in the text"
)
# Rows of gradients that travel down together.
CHUNK = 48


@dataclass(frozen=True)
class _Node:
    """A neuron of one sign (index), or a head (sign 0)."""

    site: Site
    index: int
    sign: int

    def __str__(self) -> str:
        return f"{self.site}[{self.index}]" + {1: "+", -1: "-", 0: ""}[self.sign]


@dataclass
class _Runs:
    """One batch: the run that is patched, cut into blocks, and what both runs wrote."""

    pair: Pair
    flow: Flow
    delta: dict[Site, Tensor]
    positive: dict[Site, Bool[Tensor, "batch pos unit"]]
    reference: Tensor | None
    gates: dict[int, list[Float[Tensor, "batch pos neuron"]]] = field(default_factory=dict)
    heads: dict[int, Float[Tensor, "batch pos head d_head"]] = field(default_factory=dict)
    scores: dict[Site, Float[Tensor, "batch pos unit"]] = field(default_factory=dict)

    def part(self, node: _Node) -> Float[Tensor, "batch pos"]:
        """1 where the node is this one: where the clean activity has its sign."""
        if not node.sign:
            return torch.ones_like(self.positive[Site("mlp_act", 0)][..., 0], dtype=torch.float32)
        here = self.positive[node.site][..., node.index]
        return (here if node.sign > 0 else ~here).to(self.flow.logits.dtype)


def neuron_graph(
    subject: Subject,
    task: TaskLike,
    *,
    neurons: int = 200,
    heads: int = 20,
    senders: int = 50,
    nodes: UnitsLike | None = None,
    direction: Direction = "denoising",
    rules: Sequence[str] = DEFAULT_RULES,
    batch_size: int = 8,
) -> CircuitGraph:
    """Neurons and heads that carry a behaviour, and the direct effect of each on each, on every item.

    Nodes are the `neurons` and `heads` with the largest mean relevance (`relevance_patching`'s score; a neuron is two
    nodes, one where its clean activity is positive and one where it is not), tokens by role, and the logits.

    weight(u -> v) = sum over positions s, t of (a_u(clean) - a_u(corrupted))_s . d x_v,t / d a_u,s . r_v,t

    with x_v what v reads (gate and factor of a neuron, value of a head at its output) and r_v the relevance there: so
    much of v's score comes from u directly. The derivative goes through the stream and what heads carry from position to
    position, with attention patterns and norm scales held as they are in the run that is patched, and no MLP between.

    Parameters
    ----------
    subject, task
        A transformer whose MLPs have neurons, and a task with corrupted inputs.
    neurons, heads
        How many nodes of each kind.
    senders
        For each node, so many strongest neurons of *all* of the model that act on it, and the sum of the rest
        (`params["senders"]`); 0 leaves that out, which is faster.
    nodes
        Neurons and heads to take as nodes in place of the largest, such as a circuit that other items chose.
    direction
        The run that is patched, where gradients are taken: corrupted (``"denoising"``) or clean (``"noising"``).
    rules
        Relevance rules that nodes are scored with.
    batch_size
        Items in a pass; results do not depend on it (beyond rounding).

    Returns
    -------
    CircuitGraph
        Per item, in units of the metric. `node_data`: kind, site, index, sign, score, and the role where most of the
        score is (of two roles on one token the first); of tokens their mean position. Weights on the logits are direct.
        `params["senders"]` is a table: target, source, weight, standard_error over items (rows ``rest``: the sum of all
        neurons that are not listed).

    Raises
    ------
    PatchclampError
        For a subject without neurons (experts), a task without corrupted inputs, a metric without a gradient.

    Notes
    -----
    Arora et al. 2025 (Transluce, "Language model circuits are sparse in the neuron basis"), whose code lets gradients
    pass queries and keys; here they do not, in any family. A head that is a node is also on the way between neurons: its
    edges say which head carries, and are no share beside those of neurons. Tokens and neurons (with biases) together are
    all that is written, so nothing is left over as error. Nodes were chosen on these items: prove a circuit on others.

    Examples
    --------
    >>> graph = neuron_graph(subject, task, neurons=50)                         # doctest: +SKIP
    >>> graph.edges().head()
    """
    check_choice("direction", direction, ("denoising", "noising"))
    if not isinstance(subject, Transformer):
        raise PatchclampError(
            f"{subject.name}: neurons of a stream are known for transformers of the anatomy table only"
        )
    for layer in range(subject.n_layers):
        subject.place(Site("mlp_act", layer))  # refuses layers of experts
    if neurons < 1 or heads < 0 or senders < 0:
        raise PatchclampError(
            f"neurons={neurons}, heads={heads}, senders={senders}: give at least one neuron"
        )
    scored, frozen = FlowPlan(subject, (), rules), FlowPlan(subject, FREEZE)
    pairs = list(subject.pairs(task, batch_size))
    if not pairs:
        raise PatchclampError("neuron_graph: the task has no items")
    mean = _mean_scores(scored, pairs, direction, len(task))
    taken = _named(mean, subject.units(nodes)) if nodes is not None else _chosen(mean, neurons, heads)
    board = _Tables(subject, taken, pairs, len(task), senders)
    for pair in pairs:
        runs = _relevance(scored, pair, direction)
        # The frozen pass has the same values as the one that was scored; only its gradients differ.
        runs.flow = frozen.run(runs.flow.batch, pair.answer_position)
        board.add(runs)
    return board.graph(task, mean, direction, rules)


# ---- scores of nodes


def _relevance(plan: FlowPlan, pair: Pair, direction: Direction) -> _Runs:
    """One backward pass by the rules: relevance at every neuron, at what it reads, and at every head."""
    subject = plan.subject
    if pair.corrupted is None:
        raise PatchclampError(
            "neuron_graph: the task's items have no corrupted inputs, and this method compares two runs"
        )
    layers = range(subject.n_layers)
    sites = [Site("embeddings"), *(Site(point, layer) for layer in layers for point in ("head", "mlp_act"))]
    clean, corrupted = (
        subject.run(b, read=sites, logits=pair.answer_position) for b in (pair.clean, pair.corrupted)
    )
    flow = plan.run(pair.corrupted if direction == "denoising" else pair.clean, pair.answer_position)
    carried = metric_gradient(flow, pair, clean.logits, "neuron_graph")
    runs = _Runs(
        pair, flow, {site: clean.activity[site] - corrupted.activity[site] for site in sites},
        {site: clean.activity[site] > 0 for site in sites if site.point == "mlp_act"}, clean.logits,
    )  # fmt: skip
    for layer in reversed(layers):
        made = flow.made(layer)
        found = flow.pull(layer, {"post": carried}, ["pre", "head", "mlp_act", *made])
        carried = found["pre"]
        runs.gates[layer] = flow.neuron_inputs(layer, {name: found[name][0] for name in made})
        runs.heads[layer] = found["head"][0]
        act, head = Site("mlp_act", layer), Site("head", layer)
        runs.scores[act] = runs.delta[act] * found["mlp_act"][0]
        runs.scores[head] = (runs.delta[head] * found["head"][0]).sum(3)
    return runs


def _mean_scores(
    plan: FlowPlan, pairs: Sequence[Pair], direction: Direction, n: int
) -> dict[tuple[Site, int], Float[Tensor, " unit"]]:
    """(site, sign) -> mean over items of every unit's score."""
    total: dict[tuple[Site, int], Tensor] = {}
    for pair in pairs:
        runs = _relevance(plan, pair, direction)
        for site, score in runs.scores.items():
            signs = {0: None} if site.point == "head" else {1: runs.positive[site], -1: ~runs.positive[site]}
            for sign, where in signs.items():
                part = score if where is None else score * where
                total[site, sign] = total.get((site, sign), 0) + part.sum((0, 1)) / n
    return total


def _chosen(mean: dict[tuple[Site, int], Tensor], neurons: int, heads: int) -> list[_Node]:
    found: list[_Node] = []
    for point, count in (("mlp_act", neurons), ("head", heads)):
        keys = [key for key in mean if key[0].point == point]
        sizes = torch.cat([mean[key].abs() for key in keys])
        owner = [(key, index) for key in keys for index in range(len(mean[key]))]
        for place in sizes.argsort(descending=True, stable=True)[:count].tolist():
            if sizes[place] > 0:
                (site, sign), index = owner[place]
                found.append(_Node(site, index, sign))
    return sorted(found, key=lambda node: (node.site, node.index, node.sign))


def _named(mean: dict[tuple[Site, int], Tensor], units: Units) -> list[_Node]:
    """Nodes of given units; a neuron is one of each sign with which it does anything."""
    known = {site for site, _ in mean}
    for site in units.sites:
        if site not in known:
            raise PatchclampError(
                f"{site}: a node of this graph is a neuron (mlp_act.L[i]) or a head (head.L[h])"
            )
    found = [
        _Node(site, index, sign)
        for (site, sign), score in mean.items()
        if site in units
        for index in (range(len(score)) if units[site] is None else units[site] or ())
        if score[index] != 0
    ]
    if not found:
        raise PatchclampError(
            f"{units}: none of these units differs between the two inputs, so there is no node"
        )
    return sorted(found, key=lambda node: (node.site, node.index, node.sign))


# ---- edges


class _Tables:
    """Edges per item between the nodes, and sums over items of every neuron's effect on each of them."""

    def __init__(
        self, subject: Transformer, nodes: list[_Node], pairs: Sequence[Pair], n: int, senders: int
    ) -> None:
        self.subject, self.nodes, self.senders = subject, nodes, senders
        self.roles = [*pairs[0].roles, OTHER]
        self.groups = [""] * n
        self.where = np.zeros((len(nodes), len(self.roles)))
        self.places, self.counts = np.zeros(len(self.roles)), np.zeros(len(self.roles))
        width = len(self.roles) + len(nodes)
        # One target more than nodes: the logits.
        self.items = np.zeros((n, len(nodes) + 1, width), np.float32)
        self.sums: dict[int, tuple[Tensor, Tensor]] = {}
        self.n = n
        self.source_of: dict[Site, list[int]] = {}
        for place, node in enumerate(nodes):
            self.source_of.setdefault(node.site, []).append(place)

    def add(self, runs: _Runs) -> None:
        pair = runs.pair
        for row, group in zip(pair.rows.tolist(), pair.groups, strict=False):
            self.groups[row] = group
        rows = pair.rows.cpu().numpy()
        roles = pair.by_role().to(runs.flow.logits.dtype)
        for place, node in enumerate(self.nodes):
            score = runs.scores[node.site][..., node.index] * runs.part(node)
            self.where[place] += torch.einsum("bt,btr->r", score, roles).double().cpu().numpy()
        self.counts += roles.sum((0, 1)).double().cpu().numpy()
        steps = torch.arange(roles.shape[1], device=roles.device, dtype=roles.dtype)
        self.places += torch.einsum("btr,t->r", roles, steps).double().cpu().numpy()
        last = runs.flow.n
        # The metric's own gradient, through a final norm whose scale is held.
        top = metric_gradient(runs.flow, pair, runs.reference, "neuron_graph")
        self._descend(runs, rows, [len(self.nodes)], {last - 1: {"post": top}})
        order = sorted(range(len(self.nodes)), key=lambda place: -(self.nodes[place].site.layer or 0))
        for first in range(0, len(order), CHUNK):
            chunk = order[first : first + CHUNK]
            seeds: dict[int, dict[str, Tensor]] = {}
            targets: list[int] = []
            for layer in sorted({self.nodes[p].site.layer or 0 for p in chunk}, reverse=True):
                here = [p for p in chunk if (self.nodes[p].site.layer or 0) == layer]
                seeds[layer], ordered = self._seeds(runs, layer, here)
                targets += ordered
            self._descend(runs, rows, targets, seeds)

    def _seeds(self, runs: _Runs, layer: int, places: list[int]) -> tuple[dict[str, Tensor], list[int]]:
        """Rows of the nodes of one layer: neurons at the MLP's input, heads at their values."""
        flow = runs.flow
        mlps = [p for p in places if self.nodes[p].site.point == "mlp_act"]
        heads = [p for p in places if self.nodes[p].site.point == "head"]
        rows: dict[str, Tensor] = {}
        n = len(places)
        if mlps:
            index = torch.tensor([self.nodes[p].index for p in mlps])
            part = torch.stack([runs.part(self.nodes[p]) for p in mlps])
            weights = [gate[..., index].permute(2, 0, 1) * part for gate in runs.gates[layer]]
            at = flow.at_neurons(layer, index, weights)
            rows[flow.mlp_input(layer)] = torch.cat([at, at.new_zeros(n - len(mlps), *at.shape[1:])])
        if heads:
            at = torch.zeros(n, *runs.heads[layer].shape, device=runs.heads[layer].device)
            for k, place in enumerate(heads):
                head = self.nodes[place].index
                at[len(mlps) + k, :, :, head] = runs.heads[layer][:, :, head]
            rows["head"] = at
        return rows, [*mlps, *heads]

    def _descend(
        self, runs: _Runs, rows: NDArray[np.int64], targets: list[int], seeds: dict[int, dict[str, Tensor]]
    ) -> None:
        """Meet every sender below with the rows of these targets."""
        began = 0
        # A head that is itself seeded in this block is no sender to its own layer's nodes beside the MLP's.
        for layer, found in runs.flow.down(seeds, ["head", "mlp_out"]):
            count = len(found["pre"])
            old, began = began, count
            self._neurons(runs, rows, targets[:count], layer, found["mlp_out"])
            self._heads(runs, rows, targets, old, layer, found["head"])
            pre = found["pre"]
        product = torch.einsum("kbtd,btd->kbt", pre, runs.delta[Site("embeddings")])
        by_role = torch.einsum("kbt,btr->bkr", product, runs.pair.by_role().to(product.dtype))
        self._put(rows, targets, list(range(len(self.roles))), by_role)

    def _neurons(
        self, runs: _Runs, rows: NDArray[np.int64], targets: list[int], layer: int, at: Tensor
    ) -> None:
        site = Site("mlp_act", layer)
        places = self.source_of.get(site, [])
        if not at.any():
            return
        written = self.subject.output_matrix(site).to(at.dtype)
        delta = runs.delta[site]
        if places:
            index = torch.tensor([self.nodes[p].index for p in places])
            part = torch.stack([runs.part(self.nodes[p]) for p in places], -1)
            value = torch.einsum("kbtd,nd,btn->bkn", at, written[index], delta[..., index] * part)
            self._put(rows, targets, [len(self.roles) + p for p in places], value)
        if self.senders:
            shape = (len(self.nodes) + 1, len(written))
            total, square = self.sums.setdefault(
                layer, (torch.zeros(shape, device=at.device), torch.zeros(shape, device=at.device))
            )
            places_of = torch.tensor(targets, device=at.device)
            for item in range(len(rows)):
                # where both runs are alike, or nothing arrives, there is nothing to multiply
                moved = (delta[item] != 0).any(1) & (at[:, item] != 0).any(2).any(0)
                by_item = ((at[:, item, moved] @ written.T) * delta[item, moved]).sum(1)  # (target, neuron)
                total.index_add_(0, places_of, by_item)
                square.index_add_(0, places_of, by_item**2)

    def _heads(
        self, runs: _Runs, rows: NDArray[np.int64], targets: list[int], old: int, layer: int, at: Tensor
    ) -> None:
        site = Site("head", layer)
        places = self.source_of.get(site, [])
        if not places:
            return
        index = [self.nodes[p].index for p in places]
        value = torch.einsum("kbthe,bthe->bkh", at[:, :, :, index], runs.delta[site][:, :, index])
        here = [
            self.nodes[t].site.point == "head" and k >= old
            for k, t in enumerate(targets[: len(at)])
            if t < len(self.nodes)
        ]
        here += [False] * (len(at) - len(here))
        value[:, torch.tensor(here)] = 0  # its own seed
        self._put(rows, targets[: len(at)], [len(self.roles) + p for p in places], value)

    def _put(
        self,
        rows: NDArray[np.int64],
        targets: list[int],
        sources: list[int],
        value: Float[Tensor, "batch row source"],
    ) -> None:
        self.items[np.ix_(rows, np.array(targets), np.array(sources))] += value.detach().float().cpu().numpy()

    # ---- the result

    def graph(
        self, task: TaskLike, mean: dict[tuple[Site, int], Tensor], direction: str, rules: Sequence[str]
    ) -> CircuitGraph:
        """All edges that were met."""
        names = [*(f"tokens:{role}" for role in self.roles), *map(str, self.nodes), "logits"]
        shift = len(self.roles)
        target, source = np.nonzero(np.abs(self.items).max(0) > 0)
        table = [
            {
                "kind": "tokens",
                "site": "embeddings",
                "index": -1,
                "sign": 0,
                "score": np.nan,
                "role": role,
                "position": self.places[i] / self.counts[i] if self.counts[i] else np.nan,
            }
            for i, role in enumerate(self.roles)
        ]
        for node, where in zip(self.nodes, self.where, strict=True):
            kind = "neuron" if node.sign else "head"
            score = float(mean[node.site, node.sign][node.index])
            table.append(
                {
                    "kind": kind, "site": str(node.site), "index": node.index, "sign": node.sign, "score": score,
                    "role": self.roles[int(np.abs(where).argmax())],
                }
            )  # fmt: skip
        table.append(
            {"kind": "logits", "site": "logits", "index": -1, "sign": 0, "score": np.nan, "role": ""}
        )
        params = {
            "means": MEANS,
            "direction": direction, "rules": list(rules), "freeze": list(FREEZE), "task": task.name,
            "metric": task.metric_name, "senders": self._strongest(names[shift:]) if self.senders else None,
        }  # fmt: skip
        return CircuitGraph.of(
            names, np.stack([target + shift, source], 1), self.items[:, target, source], method="neuron_graph",
            groups=self.groups, limits=LIMITS, node_data=pd.DataFrame(table), params=params,
        )  # fmt: skip

    def _strongest(self, names: list[str]) -> pd.DataFrame:
        layers = sorted(self.sums)
        total = torch.cat([self.sums[layer][0] for layer in layers], 1) / self.n
        square = torch.cat([self.sums[layer][1] for layer in layers], 1) / self.n
        error = ((square - total**2).clamp(min=0) / max(self.n - 1, 1)).sqrt()
        owner = [f"mlp_act.{layer}[{i}]" for layer in layers for i in range(self.sums[layer][0].shape[1])]
        parts = []
        for row, name in enumerate(names):
            top = total[row].abs().argsort(descending=True, stable=True)[: self.senders].tolist()
            top = [i for i in top if total[row, i] != 0]
            found = [(name, owner[i], float(total[row, i]), float(error[row, i])) for i in top]
            rest = float(total[row].double().sum() - total[row, top].double().sum())
            parts += [*found, (name, "rest", rest, float("nan"))]
        return pd.DataFrame(parts, columns=["target", "source", "weight", "standard_error"])
