"""Edge attribution: what every part of a network does to the metric by way of every other, from gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.base.errors import PatchclampError, check_choice
from patchclamp.connect.circuits.edge_boards import EdgeBoard, RoleBoard
from patchclamp.nouns.circuit import CircuitGraph
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.units import Site
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Edit, Pair
from patchclamp.subjects.clamp.crossing import made_sites
from patchclamp.subjects.clamp.flow import KINDS, Flow, FlowPlan
from patchclamp.subjects.transformer import Transformer

Direction = Literal["denoising", "noising"]
Positions = Literal["sum", "roles"]
Rows = Float[Tensor, "row batch pos d_model"]
LIMITS = (
    "what an edge does when it is patched (edge_patching measures that), or paths through more than one edge"
)
WITHIN_HEADS = (
    "what the source does to the target, in units of the metric; from what a head reads (q, k, v) to the head: what its result "
    "would change by, recomputed with one position of that alone exchanged, times the gradient there"
)
# Rows of gradients that travel together are at most so large.
ROOM = 64 * 2**20


def edge_attribution(
    subject: Subject,
    task: TaskLike,
    *,
    direction: Direction = "denoising",
    steps: int = 5,
    rules: Sequence[str] = ("LN",),
    positions: Positions = "sum",
    batch_size: int = 8,
) -> CircuitGraph:
    """Estimate the effect of patching each edge of the residual stream's graph, all at once.

    score(u -> v) = sum over positions of (w_u(clean) - w_u(corrupted)) . dm/dx_v, where w_u is what u writes into the
    stream and x_v what v reads from it, before the norm. Positive: the edge raises the metric.

    Parameters
    ----------
    subject, task
        A transformer, and a task with corrupted inputs.
    direction
        Where the path of gradients begins: at the corrupted run (``"denoising"``) or the clean one (``"noising"``).
    steps
        0: one gradient, at the run that is patched (EAP). Else the mean over as many midpoints of the straight path
        between the embeddings of both runs (EAP-IG), which is the same in both directions.
    rules
        Relevance rules for the backward pass (`attribute.relevance_rules`): LN, Identity, Half, AH.
    positions
        ``"sum"``: edges without a place. ``"roles"``: one node for each role of the task and for `other` positions,
        such as ``head.9[6]@subject``. Edges as above then stay within a role (their sum over roles is the score without),
        and ``k.9[2]@subject -> head.9[6]@end`` (v and, at its own place, q alike) lead from what a head reads to what it says
        elsewhere: the head is recomputed exactly with one position's key, value or query of the other run (values with the
        pattern held), the change of its result is multiplied by the mean gradient there, and pairs of positions are summed.
    batch_size
        Items in a pass; results do not depend on it (beyond rounding).

    Returns
    -------
    CircuitGraph
        Sources ``embeddings``, ``head.L[h]``, ``mlp_out.L``; targets ``q.L[h]``, ``k.L[g]``, ``v.L[g]`` (g counts
        key-value heads: query heads that share one cannot be told apart), ``mlp_out.L``, ``logits``. Per item. With roles
        `node_data` has `role` and `position` (its mean in the text); of two roles on one token the first counts.

    Raises
    ------
    PatchclampError
        For a subject that is no transformer, latent attention (DeepSeek), a task without corrupted inputs, a metric
        without a gradient; with roles, for an item that lacks one.

    Notes
    -----
    Syed et al. 2023 (EAP), Hanna et al. 2024 (EAP-IG; their grid leaves out the clean end, ours takes midpoints),
    Jafari et al. 2025 (rules). A first-order estimate: it fails where the metric bends between the two runs. What a
    head or MLP writes goes through the norm behind it, if there is one (Gemma 2 and 3), as the gradient at the run says.
    Rows of gradients travel down the layers together, never more than 64 MB of them; no tensor of all sources at all
    positions is made. Edges at positions: Haklay et al. 2025 (PEAP), who ask a language model for what roles are here. Where
    queries or keys of all heads share a norm (OLMo), those of one position are exchanged for all heads at once.

    Examples
    --------
    >>> graph = edge_attribution(subject, task)                                  # doctest: +SKIP
    >>> graph.edges().head()
    """
    check_choice("direction", direction, ("denoising", "noising"))
    check_choice("positions", positions, ("sum", "roles"))
    if not isinstance(subject, Transformer):
        raise PatchclampError(
            f"{subject.name}: edges of the stream are known for transformers of the anatomy table only"
        )
    if steps < 0:
        raise PatchclampError(f"steps={steps}: give 0 for one gradient, or the number of midpoints")
    plan = FlowPlan(subject, freeze=(), rules=rules)
    pairs = list(subject.pairs(task, batch_size))
    board = EdgeBoard(plan, len(task)) if positions == "sum" else RoleBoard(plan, len(task), pairs)
    for pair in pairs:
        _score_pair(board, pair, direction, steps)
    more = {"positions": positions, "means": WITHIN_HEADS} if positions == "roles" else {}
    passes = "two" if positions == "sum" else "five"
    return CircuitGraph.of(
        board.nodes, board.ends, board.values(), method="edge_attribution", groups=board.groups, limits=LIMITS,
        node_data=board.node_data,
        params={
            "direction": direction, "steps": steps, "rules": list(rules), "task": task.name, "metric": task.metric_name,
            "cost": f"{passes} forward passes, and {max(steps, 1)} forward and backward", **more,
        },
    )  # fmt: skip


def _score_pair(board: EdgeBoard, pair: Pair, direction: Direction, steps: int) -> None:
    plan, subject = board.plan, board.plan.subject
    if pair.corrupted is None:
        raise PatchclampError(
            "edge_attribution: the task's items have no corrupted inputs, and this method compares two runs"
        )
    sites = [Site("embeddings")]
    for layer in range(subject.n_layers):
        sites += [Site("head", layer), Site("mlp_out", layer)]
    made = made_sites(plan) if isinstance(board, RoleBoard) else []
    runs = [
        subject.run(b, read=[*sites, *made], logits=pair.answer_position)
        for b in (pair.clean, pair.corrupted)
    ]
    for row, group in zip(pair.rows.tolist(), pair.groups, strict=False):
        board.groups[row] = group
    delta = {site: runs[0].activity[site] - runs[1].activity[site] for site in sites}
    start, end = (runs[1], runs[0]) if direction == "denoising" else runs
    batch = pair.corrupted if direction == "denoising" else pair.clean
    low, high = (run.activity[Site("embeddings")] for run in (start, end))
    for step in range(max(steps, 1)):
        write = []
        if steps:
            between = torch.lerp(low, high, (step + 0.5) / steps)
            write = [Edit(Site("embeddings"), lambda t, b, between=between: between)]  # type: ignore[misc]
        flow = plan.run(batch, pair.answer_position, write=write)
        _Downward(board, flow, delta, pair, 1 / max(steps, 1)).go(
            metric_gradient(flow, pair, runs[0].logits, "edge_attribution")
        )
    if isinstance(board, RoleBoard):
        board.cross(pair, batch, start.activity, end.activity, 1 if direction == "denoising" else -1)


def metric_gradient(flow: Flow, pair: Pair, reference: Tensor | None, method: str) -> Rows:
    """One row at the last stream: the gradient of every item's metric.

    Raises
    ------
    PatchclampError
        For a metric that has none.
    """
    metric = pair.metric(flow.logits, reference=reference)
    if not metric.requires_grad:
        raise PatchclampError(
            f"{method}: the metric has no gradient (an accuracy, say); use logit_diff or prob_diff"
        )
    (at_logits,) = torch.autograd.grad(metric.sum(), flow.logits, retain_graph=True)
    return flow.pull(flow.n, {"post": at_logits[None]}, ["pre"])["pre"]


class _Downward:
    """One descent through a pass: gradients at all receivers, each met by what every sender before it writes."""

    def __init__(
        self, board: EdgeBoard, flow: Flow, delta: Mapping[Site, Tensor], pair: Pair, weight: float
    ) -> None:
        self.board, self.flow, self.delta, self.pair, self.weight = board, flow, delta, pair, weight
        self.waiting: dict[int, dict[str, tuple[list[str], Rows]]] = {}
        self.size = 0

    def go(self, last: Rows) -> None:
        flow, n = self.flow, self.flow.n
        self._wait(n, "pre", ["logits"], last)
        carried = last
        for layer in range(n - 1, -1, -1):
            row = flow.subject.row_at(layer)
            outs = {kind: f"out:{flow.plan.projection(layer, kind).path}" for kind in KINDS}
            reads = [f"in:{path}" for path in flow.plan.mlp_in[layer]]
            wanted = ["pre", *self.board.wanted, *outs.values(), *reads]
            found = flow.pull(layer, {"post": carried}, list(dict.fromkeys(wanted)))
            self.board.passed(layer, found, self.weight)
            at_mlp = torch.stack([found[name] for name in reads]).sum(0)
            stream = "pre" if row.parallel else "mid"
            moved = flow.pull(layer, {flow.mlp_input(layer): at_mlp}, [stream])[stream]
            self._wait(layer, "mid", [f"mlp_out.{layer}"], moved)
            seeds = {kind: flow.at_heads(layer, kind, found[outs[kind]][0]) for kind in KINDS}
            names = [f"{kind}.{layer}[{h}]" for kind in KINDS for h in range(len(seeds[kind]))]
            together = torch.cat([seeds[kind] for kind in KINDS])
            self._wait(
                layer, "pre", names, flow.pull(layer, {flow.inputs(layer, "q"): together}, ["pre"])["pre"]
            )
            carried = found["pre"]
            if self.size > ROOM or layer == 0:
                self._meet()

    def _wait(self, layer: int, where: str, names: list[str], rows: Rows) -> None:
        self.waiting.setdefault(layer, {})[where] = (names, rows)
        self.size += rows.numel() * rows.element_size()

    def _meet(self) -> None:
        """All waiting rows meet every sender before them."""
        if self.flow.plan.plain:
            self._meet_at_once()
        else:
            self._meet_on_the_way()
        self.waiting, self.size = {}, 0

    def _meet_at_once(self) -> None:
        """Where nothing lies on the stream itself a row is the same at every sender: a few large products."""
        told = [part for here in self.waiting.values() for part in here.values()]
        names = [name for part, _ in told for name in part]
        rows = torch.cat([at for _, at in told])
        layers = list(range(max(self.waiting)))
        if any("mid" in self.waiting[layer] for layer in self.waiting):
            layers.append(max(self.waiting))
        layers = [layer for layer in layers if layer < self.flow.n]
        one = (self.flow.subject.n_heads + 1) * rows[0].numel() * rows.element_size()
        some = max(1, ROOM // 4 // one)
        self._senders(names, ["embeddings"], rows, self.delta[Site("embeddings")][None])
        for first in range(0, len(layers), some):
            parts, senders = [], []
            for layer in layers[first : first + some]:
                parts += [self._heads_write(layer), self.delta[Site("mlp_out", layer)][None]]
                senders += [*self._heads_of(layer), f"mlp_out.{layer}"]
            self._senders(names, senders, rows, torch.cat(parts))

    def _meet_on_the_way(self) -> None:
        """Carry rows down the stream, through norms that lie on it and behind heads and MLPs."""
        names: list[str] = []
        rows: Rows | None = None
        for layer in range(max(self.waiting), -1, -1):
            if rows is not None:
                moved = self.flow.along_stream(layer, rows)
                written = self.delta[Site("mlp_out", layer)][None]
                self._senders(names, [f"mlp_out.{layer}"], moved["mlp_out"], written)
                self._senders(names, self._heads_of(layer), moved["attn_out"], self._heads_write(layer))
                rows = moved["pre"]
            here = self.waiting.get(layer, {})
            if "mid" in here:
                more, at = here["mid"]
                moved = self.flow.after_attention(layer, at)
                if len(moved["attn_out"]):
                    self._senders(more, self._heads_of(layer), moved["attn_out"], self._heads_write(layer))
                names, rows = (
                    [*names, *more],
                    moved["pre"] if rows is None else torch.cat([rows, moved["pre"]]),
                )
            if "pre" in here:
                more, at = here["pre"]
                names, rows = [*names, *more], at if rows is None else torch.cat([rows, at])
        assert rows is not None
        self._senders(names, ["embeddings"], rows, self.delta[Site("embeddings")][None])

    def _heads_of(self, layer: int) -> list[str]:
        return [f"head.{layer}[{h}]" for h in range(self.flow.subject.n_heads)]

    def _heads_write(self, layer: int) -> Float[Tensor, "head batch pos d_model"]:
        delta = self.delta[Site("head", layer)].permute(2, 0, 1, 3)
        out = delta.flatten(1, 2) @ self.flow.subject.head_output_matrix(layer).to(delta.dtype)
        written: Tensor = out.unflatten(1, delta.shape[1:3])
        return written

    def _senders(
        self,
        names: list[str],
        senders: list[str],
        rows: Rows,
        written: Float[Tensor, "sender batch pos d_model"],
    ) -> None:
        self.board.meet(self.pair, names, senders, rows, written, self.weight)
