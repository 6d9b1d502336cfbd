"""Decoders with a mixture of experts: Mixtral, Qwen2-MoE, Qwen3-MoE, OLMoE, DeepSeek-V3."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from patchclamp.subjects.families.decoders import LLAMA
from patchclamp.subjects.families.row import (
    EXPERT_NEURONS,
    PROBS_READ_ONLY,
    ROUTER_READ_ONLY,
    AnatomyRow,
    Tap,
)

_NEURONS = ("mlp_pre", "mlp_act")
_ROUTED = {point: tap for point, tap in LLAMA.taps.items() if point not in _NEURONS} | {
    # the router returns (logits, weights, chosen experts), one row a token of the whole batch
    "router": Tap("mlp.gate", "out", 0)
}
_DENSE_LAYER = "this layer is dense: it has no router; the expert layers have one"
_EXPERTS = replace(
    LLAMA,
    taps=_ROUTED,
    mlp_proj=None,
    mlp_in=(),
    activation=None,
    experts="mlp.experts",
    flat=("router",),
    missing=dict.fromkeys(_NEURONS, EXPERT_NEURONS),
    read_only={"router": ROUTER_READ_ONLY, "attn_probs": PROBS_READ_ONLY},
)


def _family(family: str, model_type: str, **changes: Any) -> AnatomyRow:
    dense = replace(
        LLAMA, family=family, model_types=(model_type,), missing={"router": _DENSE_LAYER}, **changes
    )
    return replace(_EXPERTS, family=family, model_types=(model_type,), dense=dense, **changes)


ROWS: tuple[AnatomyRow, ...] = (
    _family("Mixtral", "mixtral"),
    _family("Qwen2-MoE", "qwen2_moe"),
    _family("Qwen3-MoE", "qwen3_moe"),
    _family("OLMoE", "olmoe"),
    _family(
        "DeepSeek-V3",
        "deepseek_v3",
        qkv=("self_attn.q_b_proj", "self_attn.kv_a_proj_with_mqa", "self_attn.kv_b_proj"),
    ),
)
