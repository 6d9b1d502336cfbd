"""Non-negative codes of activity for a fixed dictionary: one solver for SNMF and NMF, differentiable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

EXACT = 500  # iterations at most when encoding; most activity needs fewer than 100


def non_negative_codes(
    projected: Float[Tensor, "row feature"],
    gram: Float[Tensor, "feature feature"],
    iterations: int = EXACT,
    tolerance: float = 1e-6,
) -> Float[Tensor, "row feature"]:
    """argmin over Z >= 0 of |A - Z D|^2, each row by itself, from P = A D^T and Q = D D^T.

    Accelerated projected gradient (Beck and Teboulle, 2009) with an adaptive restart of each row (O'Donoghue and
    Candes, 2015), from the rectified projection scaled to the best fit. Rows do not depend on each other, so that
    the split into batches changes nothing but rounding.

    Parameters
    ----------
    projected
        P, (rows, features).
    gram
        Q, (features, features).
    iterations
        Iterations at most.
    tolerance
        Stop where no code moves by more than this part of the largest one.
    """
    lipschitz = _bound(gram)
    if lipschitz <= 0:
        return torch.zeros_like(projected)
    codes = projected.clamp_min(0)
    fit = (projected * codes).sum(1, keepdim=True) / ((codes @ gram) * codes).sum(1, keepdim=True).clamp_min(
        torch.finfo(codes.dtype).tiny
    )
    codes = codes * fit.clamp(0, 1)
    ahead = codes
    momentum = torch.ones(len(codes), 1, dtype=codes.dtype, device=codes.device)
    for _ in range(iterations):
        after = (ahead - (ahead @ gram - projected) / lipschitz).clamp_min_(0)
        step = after - codes
        restart = ((ahead - after) * step).sum(1, keepdim=True) > 0
        momentum = torch.where(restart, torch.ones_like(momentum), momentum)
        larger = (1 + (1 + 4 * momentum * momentum).sqrt()) / 2
        ahead = after + ((momentum - 1) / larger) * step
        codes, momentum = after, larger
        if tolerance and float(step.abs().max()) <= tolerance * float(codes.max()):
            break
    return codes


def _bound(gram: Tensor) -> float:
    """The largest eigenvalue of Q, or for many features a bound that needs no decomposition."""
    if len(gram) <= 512:
        return float(torch.linalg.eigvalsh(gram.double())[-1]) * (1 + 1e-6)
    return float(gram.abs().sum(1).max())


class _Codes(torch.autograd.Function):
    """The codes with their exact derivative: where a code is positive, Q_SS dz_S = dp_S; elsewhere nothing."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor, gram: Tensor) -> Tensor:
        codes = non_negative_codes(projected, gram)
        ctx.save_for_backward(codes, gram)
        return codes

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        codes, gram = ctx.saved_tensors
        active = (codes > 0).to(codes.dtype)
        return _solve_active(grads[0] * active, gram, active), None


_codes: Callable[[Tensor, Tensor], Tensor] = _Codes.apply


def _solve_active(right: Tensor, gram: Tensor, active: Tensor, iterations: int = 200) -> Tensor:
    """Conjugate gradients for Q_SS y_S = r_S, all rows at once."""
    solution = torch.zeros_like(right)
    residual, direction = right.clone(), right.clone()
    size = (residual * residual).sum(1, keepdim=True)
    tiny = torch.finfo(right.dtype).tiny
    for _ in range(min(iterations, 2 * len(gram))):
        forward = (direction @ gram) * active
        length = size / (direction * forward).sum(1, keepdim=True).clamp_min(tiny)
        solution = solution + length * direction
        residual = residual - length * forward
        after = (residual * residual).sum(1, keepdim=True)
        if float(after.max()) <= 1e-14 * float((right * right).sum(1).max()):
            break
        direction = residual + (after / size.clamp_min(tiny)) * direction
        size = after
    return solution


def encode_non_negative(
    activity: Float[Tensor, "*batch unit"], directions: Float[Tensor, "feature unit"]
) -> Float[Tensor, "*batch feature"]:
    """Codes of activity over a dictionary: argmin over z >= 0 of |x - z D|^2; differentiable in x.

    The derivative is that of the solution: exact wherever no code is just turning on or off.
    """
    flat = activity.reshape(-1, activity.shape[-1])
    gram = directions @ directions.T
    codes = _codes(flat @ directions.T, gram)
    return codes.reshape(*activity.shape[:-1], len(directions))
