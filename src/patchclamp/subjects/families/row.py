"""What one row of the anatomy table holds: where a family of models keeps its named tensors, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from torch import nn


class Tap(NamedTuple):
    """Where one tensor is seen: a module's input or output, and which element of it.

    Parameters
    ----------
    module
        Dotted path, from the layer for points of a layer (``""`` is the layer itself), from the model for others.
    io
        ``"in"`` or ``"out"``.
    index
        Positional argument, or element of a tuple that the module returns; 0 also for a bare tensor.
    """

    module: str
    io: Literal["in", "out"]
    index: int = 0  # type: ignore[assignment]  # hides tuple.index, which nobody needs here

    def __str__(self) -> str:
        element = f"[{self.index}]" if self.index else ""
        return f"{self.module or 'layer'}.{self.io}{element}"


ROUTER_READ_ONLY = (
    "the router picks its experts inside the module that returns these logits, so a change would do nothing; "
    "to change the routing, write the router's input, or mlp_out.L"
)
PROBS_READ_ONLY = (
    "the probabilities have already been used when the attention module returns them, so a change would do "
    "nothing; write z.L or head.L"
)


@dataclass(frozen=True)
class AnatomyRow:
    """The anatomy of one family (or of one variant of it, chosen by its configuration).

    Parameters
    ----------
    family
        Name for people.
    model_types
        Values of ``config.model_type``.
    layers
        Dotted path of the list of blocks.
    taps
        Points of a layer -> `Tap`, relative to the layer.
    fixed
        `embeddings`, `final_norm`, `logits` -> `Tap`, relative to the model.
    attention
        The attention module of a layer.
    head_proj
        The module of a layer whose input is z (heads x d_head) and whose output is the heads' sum.
    mlp_proj
        The module whose input is mlp_act; None where there is none (expert layers).
    qkv, mlp_in
        Modules that make queries, keys and values, and that make mlp_pre (and the factor beside it, if gated).
    fused
        How one module that makes queries, keys and values orders its outputs: ``"blocks"`` (all queries, all keys, all
        values), ``"groups"`` (for each key and value head its queries, its key, its value); empty for three modules.
    gated
        mlp_act = activation(gate) * up rather than activation(in).
    parallel
        Attention and MLP read the same stream: no resid_mid, and resid_pre + attn_out_post + mlp_out_post = resid_post.
    post_norm
        The sum itself is normalised (BERT): resid_mid = norms[0](resid_pre + attn_out_post), resid_post =
        norms[1](resid_mid + mlp_out_post).
    norms
        The norms of a layer that read the stream, or that normalise what is added to it, in the order of the pass.
    activation
        The activation module of a layer.
    missing
        Point -> why this family does not have it.
    causal
        Whether a token sees only earlier ones.
    when
        Values of the configuration that select this row among those of one `model_type`; a missing value counts
        as None.
    refused
        If not empty: why models with this configuration are not supported.
    base
        Path of the transformer without its head; dropped from all paths if the model is that very module.
    head_path
        Modules between final_norm and logits, in order; the last gives logits (before a soft cap).
    norm_offset
        What is added to the final norm's weight to get its gain (1 in Gemma: the gain is 1 + weight).
    logit_softcap
        Name of the configuration's value c, with logits = c tanh(raw / c); None where there is none. `logits` is then
        what the model returns; the raw values are the output of the last of `head_path`.
    position_ids
        Whether the model's forward takes `position_ids` (those with ALiBi count from the mask instead).
    flat
        Points whose tensors come as (batch * pos, units).
    inplace
        Points whose tensors the model changes in place afterwards: an edit must hand over a tensor of its own.
    read_only
        Point -> why a write at its tap would do nothing.
    experts
        A module that expert layers have and dense layers lack; with it goes `dense`.
    dense
        The row for layers without `experts`.
    """

    family: str
    model_types: tuple[str, ...]
    layers: str
    taps: Mapping[str, Tap]
    fixed: Mapping[str, Tap]
    attention: str
    head_proj: str
    mlp_proj: str | None
    gated: bool
    norms: tuple[str, ...]
    activation: str | None
    qkv: tuple[str, ...]
    mlp_in: tuple[str, ...]
    fused: Literal["", "blocks", "groups"] = ""
    base: str = "model"
    head_path: tuple[str, ...] = ("lm_head",)
    parallel: bool = False
    post_norm: bool = False
    missing: Mapping[str, str] = field(default_factory=dict)
    causal: bool = True
    when: Mapping[str, object] = field(default_factory=dict)
    refused: str = ""
    norm_offset: float = 0.0
    logit_softcap: str | None = None
    position_ids: bool = True
    flat: tuple[str, ...] = ()
    inplace: tuple[str, ...] = ()
    read_only: Mapping[str, str] = field(default_factory=lambda: {"attn_probs": PROBS_READ_ONLY})
    experts: str | None = None
    dense: AnatomyRow | None = None

    def at(self, layer: nn.Module) -> AnatomyRow:
        """The row that holds for this block: `dense` for the dense blocks of an expert model, else this one."""
        if self.experts is None or self.dense is None or _has(layer, self.experts):
            return self
        return self.dense


_MLP = Tap("mlp", "out")
_NOTHING: Mapping[str, str] = {}


def _has(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


def row_of(
    *,
    attention: str,
    head_proj: str,
    activation: str,
    mlp_proj: str,
    resid_mid: Tap | None = None,
    mlp_out: Tap = _MLP,
    attn_out: Tap | None = None,
    attn_out_post: Tap | None = None,
    mlp_out_post: Tap | None = None,
    gated: bool = False,
    missing: Mapping[str, str] = _NOTHING,
    **about: Any,
) -> AnatomyRow:
    """The row of a family of ordinary blocks without experts: its taps follow from its modules where none are given."""
    attn = attn_out or Tap(attention, "out")
    taps = {
        "resid_pre": Tap("", "in"),
        "attn_probs": Tap(attention, "out", 1),
        "z": Tap(head_proj, "in"),
        "head": Tap(head_proj, "in"),
        "attn_out": attn,
        "attn_out_post": attn_out_post or attn,
        "mlp_pre": Tap(activation, "in"),
        "mlp_act": Tap(mlp_proj, "in"),
        "mlp_out": mlp_out,
        "mlp_out_post": mlp_out_post or mlp_out,
        "resid_post": Tap("", "out"),
    }
    if resid_mid is not None:
        taps["resid_mid"] = resid_mid
    return AnatomyRow(
        taps=taps, attention=attention, head_proj=head_proj, activation=activation, mlp_proj=mlp_proj, gated=gated,
        missing={"router": DENSE, **missing}, **about,
    )  # fmt: skip


def in_parallel(row: AnatomyRow, **changes: Any) -> AnatomyRow:
    """The row, with other changes, of a variant whose attention and MLP read the same stream."""
    taps = {point: tap for point, tap in row.taps.items() if point != "resid_mid"}
    missing = {**row.missing, "resid_mid": PARALLEL}
    return replace(row, taps=taps, parallel=True, missing=missing, **changes)


def ends(embeddings: str | Tap, final_norm: str, logits: str) -> dict[str, Tap]:
    """The taps outside of the blocks, at the outputs of these modules."""
    first = Tap(embeddings, "out") if isinstance(embeddings, str) else embeddings
    return {"embeddings": first, "final_norm": Tap(final_norm, "out"), "logits": Tap(logits, "out")}


DENSE = "only families with a mixture of experts have one"
PARALLEL = (
    "attention and MLP read the same stream in this model, so there is no stream between them; use resid_pre.L or "
    "resid_post.L"
)
EXPERT_NEURONS = (
    "this is an expert layer: its neurons live inside fused experts, each running on the tokens routed to it, and "
    "no module of the model takes or returns them; use router.L, mlp_out.L, or the dense layers"
)
