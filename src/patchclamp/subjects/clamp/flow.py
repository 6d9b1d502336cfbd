"""One pass cut into blocks: what acts on what, layer by layer, without ever holding all pairs.

A `Flow` runs a model once. Every block begins at a leaf of its own, so that each block is a small graph between the
stream that enters it and the stream that leaves it, and gradients of many receivers travel down together, one block at
a time: `pull` carries rows of gradients through one block, `along_stream` past it on the residual stream alone.

What is *frozen* decides what such a gradient means:

* ``"patterns"``: attention patterns are constants; a head only carries values from position to position
* ``"norms"``: the scale of every norm is a constant
* ``"mlps"``: what an MLP writes is a constant, so that only paths around it count
* ``"heads"``: what attention writes is a constant

With patterns and norms frozen all that is left between MLPs is linear, and the parts that write to the stream add up to
what any receiver reads, exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.base.errors import check_choice
from patchclamp.nouns.units import Site
from patchclamp.subjects.clamp.batch import Batch, Edit
from patchclamp.subjects.clamp.projections import KINDS, Projection, projection
from patchclamp.subjects.clamp.relevance_rules import RulePlan
from patchclamp.subjects.families.anatomy import weight_in_out
from patchclamp.subjects.transformer import Transformer

FREEZE = ("patterns", "norms", "mlps", "heads")
Rows = Float[Tensor, "row batch pos unit"]


class FlowPlan:
    """What a `Flow` of a model freezes, verified once and used for any number of batches.

    Parameters
    ----------
    subject
        A transformer of a known family.
    freeze
        Names in `FREEZE`.
    rules
        Relevance rules for what is not frozen, such as ``("Identity", "Half")``.
    """

    def __init__(
        self,
        subject: Transformer,
        freeze: Sequence[str] = ("patterns", "norms", "mlps"),
        rules: Sequence[str] = (),
    ) -> None:
        for name in freeze:
            check_choice("freeze", name, FREEZE)
        self.subject, self.freeze = subject, frozenset(freeze)
        named = {"LN": "norms" in freeze, "AH": "patterns" in freeze}
        wanted = [*rules, *(rule for rule, on in named.items() if on and rule not in rules)]
        self.rules = RulePlan(subject, wanted, strict=False)
        rows = [subject.row_at(layer) for layer in range(subject.n_layers)]
        roots = [f"{subject.row.layers}.{layer}" for layer in range(subject.n_layers)]
        self.mlp_in = [
            [f"{root}.{path}" for path in row.mlp_in] or [f"{root}.{row.taps['mlp_out'].module}"]
            for root, row in zip(roots, rows, strict=True)
        ]
        self.qkv = [[f"{root}.{path}" for path in row.qkv] for root, row in zip(roots, rows, strict=True)]
        self.biases = [self._biases(layer, root) for layer, root in enumerate(roots)]
        self._projections: dict[tuple[int, str], Projection] = {}
        # nothing lies on the stream itself or behind what is added to it
        self.plain = not any(
            row.post_norm or any(row.taps[p] != row.taps[f"{p}_post"] for p in ("attn_out", "mlp_out"))
            for row in rows
        )

    def _biases(self, layer: int, root: str) -> dict[str, Tensor]:
        """Name of a tensor of the block -> the bias that is added there."""
        row = self.subject.row_at(layer)
        stopped = {row.mlp_proj: "mlp_out"} if "mlps" in self.freeze else {}
        stopped |= {row.head_proj: "attn_out"} if "heads" in self.freeze else {}
        return {
            stopped.get(path, f"out:{root}.{path}"): module.bias.detach()
            for path, module in self.subject.layer_module(layer, "").named_modules()
            if isinstance(getattr(module, "bias", None), Tensor)
        }

    def projection(self, layer: int, kind: Any) -> Projection:
        """`projection` of a layer, worked out once."""
        if (layer, kind) not in self._projections:
            self._projections[layer, kind] = projection(self.subject, layer, kind)
        return self._projections[layer, kind]

    def run(
        self,
        batch: Batch,
        logits: Tensor | str = "last",
        *,
        write: Sequence[Edit] = (),
        biases: bool = False,
    ) -> Flow:
        """One pass, cut into blocks. `write` changes it; `biases` keeps what is needed to see what biases add."""
        return Flow(self, batch, logits, write, biases)


class Flow:
    """A pass whose blocks are graphs of their own; made by `FlowPlan.run`.

    Attributes
    ----------
    logits
        As the pass gave them, a function of the last stream; `metric(logits)` may be pulled with ``"logits"``.
    blocks
        For each layer, tensors by name: ``pre`` (the leaf), ``post``, ``mid`` (unless parallel), ``head`` (batch, pos,
        head, d_head), ``attn_out``, ``attn_out_post``, ``mlp_out``, ``mlp_out_post``, ``mlp_act``, and for modules
        ``in:PATH`` and ``out:PATH``. One more at the end holds ``pre``, the stream that the head reads, and ``post``,
        the logits.
    """

    def __init__(
        self, plan: FlowPlan, batch: Batch, logits: Tensor | str, write: Sequence[Edit], biases: bool
    ) -> None:
        self.plan, subject = plan, plan.subject
        self.subject = subject
        self.batch = batch.to(subject.device)
        self.n = subject.n_layers
        self.blocks: list[dict[str, Tensor]] = [{} for _ in range(self.n + 1)]
        reads: dict[Site, Any] = {}
        for layer in range(self.n):
            for site, name in self._sites(layer, biases):
                reads[site] = self._keep(layer, name)
        if "patterns" in plan.freeze:  # the form of attention whose gradients can be batched
            reads |= {Site("attn_probs", layer): self._keep(layer, "attn_probs") for layer in range(self.n)}
        edits = [*write, *self._cuts()]
        with plan.rules.active():
            run = subject.run(self.batch, read=reads, write=edits, logits=logits, grad=True)
        assert run.logits is not None
        self.logits = self.blocks[self.n]["post"] = run.logits

    # ---- making the cuts

    def _sites(self, layer: int, biases: bool) -> Iterator[tuple[Site, str]]:
        row = self.subject.row_at(layer)
        points = ["head", "attn_out", "attn_out_post", "mlp_out", "mlp_out_post"]
        points += [p for p in ("mlp_act",) if p in row.taps]
        for point in points:
            yield Site(point, layer), point
        if "resid_mid" in row.taps:
            yield Site("resid_mid", layer), "mid"
        for path in [*self.plan.qkv[layer], *self.plan.mlp_in[layer]]:
            yield Site(path, None, io="in"), f"in:{path}"
        outs = [*self.plan.qkv[layer], *(self.plan.mlp_in[layer] if row.mlp_in else ())]
        added = [name.removeprefix("out:") for name in self.plan.biases[layer] if name.startswith("out:")]
        for path in dict.fromkeys([*outs, *(added if biases else ())]):
            yield Site(path, None, io="out"), f"out:{path}"

    def _keep(self, layer: int, name: str) -> Any:
        def read(tensor: Tensor) -> None:
            self.blocks[layer][name] = tensor

        return read

    def _cuts(self) -> list[Edit]:
        stopped = [p for p, word in (("attn_out", "heads"), ("mlp_out", "mlps")) if word in self.plan.freeze]
        edits = []
        for layer in range(self.n):
            edits.append(Edit(Site("resid_pre", layer), self._cut(layer)))
            edits += [Edit(Site(point, layer), lambda t, batch: _leaf(t)) for point in stopped]
        return [*edits, Edit(Site("resid_post", self.n - 1), self._cut(self.n))]

    def _cut(self, layer: int) -> Any:
        def cut(stream: Tensor, batch: Batch) -> Tensor:
            if layer:
                self.blocks[layer - 1]["post"] = stream
            self.blocks[layer]["pre"] = leaf = _leaf(stream)
            return leaf

        return cut

    # ---- gradients

    def pull(self, layer: int, rows: Mapping[str, Tensor], wanted: Sequence[str]) -> dict[str, Tensor]:
        """Carry rows of gradients from tensors of a block to others of the same block.

        Parameters
        ----------
        layer
            The block; `n_layers` for what follows the last.
        rows
            Name of a tensor -> (row, *its shape); all with as many rows.
        wanted
            Names of tensors; a gradient stops at none of them but the block's leaves.

        Returns
        -------
        dict of Tensor
            Name -> (row, *its shape); zeros where nothing is carried.
        """
        block = self.blocks[layer]
        ins = [block[name] for name in wanted]
        n = len(next(iter(rows.values())))
        live = {
            name: row.reshape(n, *block[name].shape)
            for name, row in rows.items()
            if block[name].requires_grad
        }
        on = [i for i, tensor in enumerate(ins) if tensor.requires_grad]
        found: Sequence[Tensor | None] = [None] * len(on)
        if live and on:
            outs, cots = [block[name] for name in live], list(live.values())
            batched = n != 1
            got = torch.autograd.grad(
                outs,
                [ins[i] for i in on],
                cots if batched else [cot[0] for cot in cots],
                retain_graph=True,
                allow_unused=True,
                is_grads_batched=batched,
            )
            found = got if batched else [None if g is None else g[None] for g in got]
        result = {name: ins[i].new_zeros(()).expand(n, *ins[i].shape) for i, name in enumerate(wanted)}
        result |= {wanted[i]: g for i, g in zip(on, found, strict=True) if g is not None}
        return {name: self.by_position(g, 1) for name, g in result.items()}

    def value(self, layer: int, name: str) -> Tensor:
        """A tensor of a block without its graph, (batch, pos, ...)."""
        return self.by_position(self.blocks[layer][name].detach())

    def by_position(self, tensor: Tensor, before: int = 0) -> Tensor:
        """(batch, pos, ...) also where a family (OPT) runs its MLP on (batch * pos, units)."""
        shape = self.blocks[0]["pre"].shape[:2]
        flat = tensor.ndim == before + 2 and tensor.shape[before] == shape[0] * shape[1]
        return tensor.unflatten(before, shape) if flat else tensor

    def down(
        self, rows: Mapping[int, Mapping[str, Tensor]], wanted: Sequence[str]
    ) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """Carry rows that begin in several blocks down to the first, together.

        Parameters
        ----------
        rows
            Layer -> name of a tensor of its block -> (row, batch, pos, ...).
        wanted
            Names of tensors to be told at each block (``pre`` is always told).

        Yields
        ------
        layer, dict
            From the highest block to block 0: gradients at the wanted tensors, those of rows that began above first,
            then those that begin here.
        """
        names = list(dict.fromkeys(["pre", *wanted]))
        carried: Tensor | None = None
        for layer in range(max(rows), -1, -1):
            here = [n for n in names if n in self.blocks[layer]]
            parts = [] if carried is None else [self.pull(layer, {"post": carried}, here)]
            if layer in rows:
                parts.append(self.pull(layer, rows[layer], here))
            found = {name: torch.cat([part[name] for part in parts]) for name in here}
            yield layer, found
            carried = found["pre"]

    def along_stream(self, layer: int, rows: Rows) -> dict[str, Rows]:
        """Rows at the end of a block, carried to ``mlp_out``, ``attn_out`` and ``pre`` past its MLP and its heads.

        In most families they are the same there; norms that the stream itself or an output goes through count.
        """
        row = self.subject.row_at(layer)
        if row.post_norm:
            mlp = self.pull(layer, {"post": rows}, ["mlp_out"])["mlp_out"]
            attention = self.pull(layer, {"mid": mlp}, ["attn_out"])["attn_out"]
            return {"mlp_out": mlp, "attn_out": attention, "pre": attention}
        found = {"pre": rows}
        for point in ("mlp_out", "attn_out"):
            same = row.taps[point] == row.taps[f"{point}_post"]
            found[point] = rows if same else self.pull(layer, {f"{point}_post": rows}, [point])[point]
        return found

    def after_attention(self, layer: int, rows: Rows) -> dict[str, Rows]:
        """Rows at ``mid`` (at ``pre`` of parallel blocks), carried to ``attn_out`` and ``pre`` past the heads."""
        row = self.subject.row_at(layer)
        if row.parallel:
            return {"attn_out": torch.zeros_like(rows[:0]), "pre": rows}
        if row.post_norm:
            attention = self.pull(layer, {"mid": rows}, ["attn_out"])["attn_out"]
            return {"attn_out": attention, "pre": attention}
        same = row.taps["attn_out"] == row.taps["attn_out_post"]
        written = rows if same else self.pull(layer, {"attn_out_post": rows}, ["attn_out"])["attn_out"]
        return {"attn_out": written, "pre": rows}

    # ---- receivers

    def mlp_input(self, layer: int) -> str:
        """Name of the tensor that the MLP reads (the first of equal ones, where several modules read it)."""
        return f"in:{self.plan.mlp_in[layer][0]}"

    def inputs(self, layer: int, kind: str) -> str:
        """Name of the tensor that queries, keys or values are made from."""
        return f"in:{self.plan.projection(layer, kind).path}"

    def at_neurons(self, layer: int, units: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Rows at the MLP's input for neurons: weights[i] (row, batch, pos) times what their i-th matrix reads.

        The first matrix is that of the gate (the only one where there is no gate), the second that of the factor.
        """
        parts = [
            weight[..., None] * matrix[units][:, None, None]
            for weight, matrix in zip(weights, self.reading(layer), strict=True)
        ]
        return torch.stack(parts).sum(0)

    def reading(self, layer: int) -> list[Float[Tensor, "neuron d_model"]]:
        """What each neuron of a layer reads: one matrix, or those of gate and factor."""
        row = self.subject.row_at(layer)
        found = [weight_in_out(self.subject.layer_module(layer, path)).detach().T for path in row.mlp_in]
        return list(found[0].chunk(2)) if row.gated and len(found) == 1 else found

    def made(self, layer: int) -> list[str]:
        """Names of the tensors that the modules that read the MLP's input give."""
        return [f"out:{path}" for path in self.plan.mlp_in[layer]]

    def neuron_inputs(self, layer: int, tensors: Mapping[str, Tensor]) -> list[Tensor]:
        """Of tensors by the names of `made`: one (..., neuron) for each matrix of `reading`."""
        row = self.subject.row_at(layer)
        found = [tensors[name] for name in self.made(layer)]
        return list(found[0].chunk(2, -1)) if row.gated and len(found) == 1 else found

    def at_heads(self, layer: int, kind: str, gradient: Tensor) -> Tensor:
        """Rows at the attention's input, one a head: what a gradient at the projection's output says of each head's part."""
        found = self.plan.projection(layer, kind)
        parts = gradient[..., found.columns.to(gradient.device)]  # (batch, pos, head, d_head)
        return torch.einsum("bthe,hed->hbtd", parts, found.weight.to(parts))


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(True)


__all__ = ["FREEZE", "KINDS", "Flow", "FlowPlan"]
