"""Weights of one small dictionary, in the layouts that other libraries write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import relu

UNITS, FEATURES, OUT = 12, 40, 9


RANDOM = torch.Generator().manual_seed(0)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=RANDOM)


X = normal(30, UNITS)


# Free rows of uneven norm, so that a forgotten folding shows.
W = {"W_enc": normal(UNITS, FEATURES), "b_enc": 0.3 * normal(FEATURES)}


W |= {"W_dec": normal(FEATURES, UNITS) * (0.2 + torch.rand(FEATURES, 1)), "b_dec": normal(UNITS)}


THRESHOLD = torch.rand(FEATURES, generator=RANDOM) * 2


GATE = {"b_gate": normal(FEATURES), "b_mag": normal(FEATURES), "r_mag": 0.3 * normal(FEATURES)}


def topk(pre: Tensor, k: int) -> Tensor:
    values, places = relu(pre).topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, places, values)


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-5, atol=1e-5)


def saelens(folder: Path, cfg: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    cfg = {
        "d_in": UNITS,
        "d_sae": FEATURES,
        "dtype": "float32",
        "metadata": {"hook_name": "blocks.5.hook_resid_pre"},
    } | cfg
    (folder / "cfg.json").write_text(json.dumps(cfg))
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "sae_weights.safetensors")
    return folder


def saelens_standard(x: Tensor, b: Tensor) -> Tensor:
    return relu((x - b) @ W["W_enc"] + W["b_enc"])


def saelens_topk(x: Tensor, b: Tensor) -> Tensor:
    return topk((x - b) @ W["W_enc"] + W["b_enc"], 4)


def saelens_jumprelu(x: Tensor, b: Tensor) -> Tensor:
    pre = (x - b) @ W["W_enc"] + W["b_enc"]
    return relu(pre) * (pre > THRESHOLD).float()


def saelens_gated(x: Tensor, b: Tensor) -> Tensor:
    active = ((x - b) @ W["W_enc"] + GATE["b_gate"] > 0).float()
    return active * relu((x - b) @ (W["W_enc"] * GATE["r_mag"].exp()) + GATE["b_mag"])
