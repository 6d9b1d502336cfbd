"""Distances between rows, for measures that compare all pairs of a few thousand samples."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def squared(values: Float[Tensor, "n units"], other: Tensor | None = None) -> Float[Tensor, "n m"]:
    """Squared Euclidean distances of all pairs, float64; exactly 0 between equal rows.

    By differences, not by |x|^2 + |y|^2 - 2 x y, which leaves 1e-16 |x|^2 between equal rows: with a small kernel
    width, equal rows would become neighbours at a distance.
    """
    values = values.double()
    other = values if other is None else other.double()
    return torch.cdist(values, other, compute_mode="donot_use_mm_for_euclid_dist").square()


def quantile_distance(square: Float[Tensor, "n n"], quantile: float) -> float:
    """A quantile of the distances between rows that differ; 1 where no two differ."""
    n = len(square)
    pairs = square[tuple(torch.triu_indices(n, n, 1))]
    pairs = pairs[pairs > 0].sqrt().sort().values
    if not len(pairs):
        return 1.0
    return float(pairs[min(int(quantile * len(pairs)), len(pairs) - 1)])
