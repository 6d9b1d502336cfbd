"""Planted features and every architecture with settings that find them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from patchclamp import Recording

SITE = "mlp_act.0"


def planted(n: int = 40000, units: int = 32, features: int = 64) -> tuple[Tensor, Tensor]:
    """Unit features with falling rates, 3 active on average, amplitudes U(.5, 1.5)."""
    g = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(features, units, generator=g), dim=1)
    rates = torch.arange(1, features + 1).float() ** -0.5
    active = torch.rand(n, features, generator=g) < 3 * rates / rates.sum()
    return (active * (0.5 + torch.rand(n, features, generator=g))) @ directions, directions


VARIANTS: dict[str, dict[str, Any]] = {
    "topk": {"k": 3},
    "batch_topk": {"k": 3},
    "jumprelu": {"penalty": 0.05, "threshold": 0.15, "bandwidth": 0.05},
    "matryoshka": {"k": 3, "prefixes": (8, 16, 32, 64, 128)},
    "gated": {"penalty": 1.0},
    "relu_l1": {"penalty": 1.0},
    "matching_pursuit": {"k": 3},
}


def kept(pre: Tensor, k: int) -> Tensor:
    top = pre.topk(k, dim=1)
    return torch.zeros_like(pre).scatter(1, top.indices, top.values.clamp(min=0))


def recording(x: Tensor) -> Recording:
    return Recording.from_arrays({SITE: x})
