"""What norms and activations compute, recognised by trying the formula on numbers rather than by trusting a name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Ratio = Callable[[Tensor], Tensor]
_EPSILON = ("eps", "variance_epsilon", "epsilon", "layer_norm_eps")


@dataclass(frozen=True)
class NormFormula:
    """y = (x - mean(x) if centred else x) / scale * gain, over the last axis; a bias changes no gradient."""

    centred: bool
    gain: Tensor | None
    eps: float

    def linear(self, x: Tensor) -> Tensor:
        """The norm with its scale held fixed, computed in float32 (float64 stays): a linear function of x."""
        return self.scaled(x, self.scale(x))

    def scale(self, x: Tensor) -> Tensor:
        """What the norm multiplies its (centred) input with, (..., 1), without a gradient."""
        return torch.rsqrt(self._centre(x).pow(2).mean(-1, keepdim=True) + self.eps).detach()

    def scaled(self, x: Tensor, scale: Tensor) -> Tensor:
        """The norm at a scale that is given, its bias left out."""
        out = self._centre(x) * scale
        return out if self.gain is None else out * self.gain.to(out.dtype)

    def _centre(self, x: Tensor) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        return wide - wide.mean(-1, keepdim=True) if self.centred else wide


def recognise_norm(module: nn.Module) -> NormFormula | None:
    """The formula that a module computes, or None where it is no norm over the last axis that we know."""
    weight = getattr(module, "weight", None)
    if weight is not None and (not isinstance(weight, Tensor) or weight.ndim != 1):
        return None
    shape = getattr(module, "normalized_shape", None)
    if weight is None and shape is not None and (isinstance(shape, int) or len(shape) == 1):
        width = shape if isinstance(shape, int) else shape[0]
    elif weight is not None:
        width = len(weight)
    else:
        return None
    eps = next((getattr(module, n) for n in _EPSILON if isinstance(getattr(module, n, None), float)), 0.0)
    x, y = _probe(module, int(width), weight)
    if y is None:
        return None
    bias = getattr(module, "bias", None)
    gains = [None] if weight is None else [weight.detach(), weight.detach() + 1]
    for centred in (False, True):
        for gain in gains:
            formula = NormFormula(centred, gain, float(eps))
            want = formula.linear(x) + (bias.detach() if isinstance(bias, Tensor) else 0)
            if _close(want, y):
                return formula
    return None


def _probe(module: nn.Module, width: int, like: Tensor | None) -> tuple[Tensor, Tensor | None]:
    device, dtype = (torch.device("cpu"), torch.float32) if like is None else (like.device, like.dtype)
    draw = torch.Generator().manual_seed(0)
    # Small as well as large inputs, so that a forgotten epsilon shows; off centre, so that centring does.
    scales = torch.tensor([[1e-3], [0.1], [1.0], [30.0]])
    x = ((torch.randn(4, width, generator=draw) + 0.7) * scales).to(device, dtype)[None]
    with torch.no_grad():
        try:
            y = module.forward(x)
        except (RuntimeError, TypeError, ValueError, IndexError):  # takes another shape: no norm of this kind
            return x, None
    return x, y if isinstance(y, Tensor) and y.shape == x.shape else None


def _close(want: Tensor, got: Tensor) -> bool:
    tolerance = 1e-4 if got.dtype in (torch.float32, torch.float64) else 3e-2
    return torch.allclose(want.double(), got.double(), rtol=tolerance, atol=tolerance)


RATIOS: dict[str, Ratio] = {
    "SiLU": torch.sigmoid,
    "GELU": lambda z: 0.5 * (1 + torch.erf(z / math.sqrt(2))),
    "GELU (tanh)": lambda z: 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
    "GELU (sigmoid)": lambda z: torch.sigmoid(1.702 * z),
}


def recognise_activation(module: nn.Module) -> str | None:
    """Name in `RATIOS` of the activation that a module computes, or None."""
    z = torch.linspace(-6, 6, 97)[None]
    with torch.no_grad():
        try:
            y = module.forward(z)
        except (RuntimeError, TypeError, ValueError, IndexError):
            return None
    if not isinstance(y, Tensor) or y.shape != z.shape:
        return None
    fits = {name: float((z * ratio(z) - y).abs().max()) for name, ratio in RATIOS.items()}
    best = min(fits, key=lambda name: fits[name])
    return best if fits[best] < 1e-5 else None


def ratio(name: str, z: Tensor) -> Tensor:
    """act(z) / z in closed form, finite at z = 0, computed in float32 (float64 stays)."""
    wide = z if z.dtype == torch.float64 else z.float()
    return RATIOS[name](wide).to(z.dtype)
