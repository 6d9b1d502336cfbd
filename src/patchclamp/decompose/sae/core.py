"""One training step's arithmetic, shared by all architectures: forward, and the backward pass by hand.

Notation of every file here: rows x (batch, units) in, y (batch, units) out (y = x but for transcoders); W_enc and
W_dec (feature, unit), one row a feature; pre-activations p = (x - b) W_enc' + b_enc; codes f; reconstruction
y^ = f W_dec + b_dec [+ x W_skip]; error e = y^ - y. Losses are means over the batch and sums over units.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patchclamp.decompose.sae.support import Support

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Geometry:
    """What is read and what is written.

    Parameters
    ----------
    inputs, outputs
        Widths.
    tied
        An autoencoder: what is read is what is written, and the bias taken off first is the one added last.
    skip
        Add (x - b) W_skip to the reconstruction.
    sides
        Widths of the parts of x, for a crosscoder.
    """

    inputs: int
    outputs: int
    tied: bool = True
    skip: bool = False
    sides: tuple[int, ...] = ()

    @property
    def pre_bias(self) -> str:
        """Name of the bias that is taken off the input."""
        return "b_dec" if self.tied else "b_pre"


@dataclass
class Step:
    """What a step gave.

    Parameters
    ----------
    grads
        Gradient of each parameter.
    loss
        Value of the objective.
    error
        Squared error summed over the batch: the reconstruction that the dictionary will give.
    active
        How many rows each feature was active in.
    residual
        y^ - y.
    """

    grads: Tensors
    loss: Tensor
    error: Tensor
    active: Float[Tensor, " feature"]
    residual: Float[Tensor, "batch unit"]


@dataclass
class Pass:
    """One batch on its way through: what is needed again on the way back, and the gradients so far."""

    params: Tensors
    geometry: Geometry
    x: Float[Tensor, "batch input"]
    y: Float[Tensor, "batch output"]
    products: str = "auto"
    grads: Tensors = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.centred = self.x - self.params[self.geometry.pre_bias]

    def pre(self) -> Float[Tensor, "batch feature"]:
        """Pre-activations: the one product that has to see every feature."""
        return torch.addmm(self.params["b_enc"], self.centred, self.params["W_enc"].T)

    def decode(self, support: Support, codes: Tensor) -> Float[Tensor, "batch output"]:
        """Reconstruction from codes on a support."""
        out = support.decode(codes, self.params["W_dec"]).add_(self.params["b_dec"])
        return out.addmm_(self.centred, self.params["W_skip"]) if self.geometry.skip else out

    def add(self, name: str, grad: Tensor) -> None:
        """Add to a parameter's gradient."""
        self.grads[name] = self.grads[name].add_(grad) if name in self.grads else grad

    def back_decoder(self, support: Support, codes: Tensor, g: Float[Tensor, "batch output"]) -> Tensor:
        """Gradients of the decoder for dL/dy^ = g; returns dL/df on the support."""
        self.add("W_dec", support.gradient(codes, g))
        self.back_offset(g)
        return support.dots(g, self.params["W_dec"])

    def back_offset(self, g: Float[Tensor, "batch output"]) -> None:
        """Gradients of what is added to the decoded codes."""
        self.add("b_dec", g.sum(0))
        if self.geometry.skip:
            self.add("W_skip", self.centred.T @ g)
            self.add(self.geometry.pre_bias, -(self.params["W_skip"] @ g.sum(0)))

    def back_encoder(self, support: Support, grad: Tensor) -> None:
        """Gradients of the encoder for dL/dp = grad on the support."""
        total = support.totals(grad)
        self.add("W_enc", support.gradient(grad, self.centred))
        self.add("b_enc", total)
        self.back_input(total)

    def back_input(self, total: Float[Tensor, " feature"]) -> None:
        """Gradient of the bias taken off the input, from the sum over the batch of dL/dp."""
        self.add(self.geometry.pre_bias, -(total @ self.params["W_enc"]))


def active_rows(support: Support, codes: Tensor) -> Float[Tensor, " feature"]:
    """In how many rows each feature is active."""
    return support.totals((codes > 0).to(codes.dtype))


def init_weights(
    geometry: Geometry, n_features: int, generator: torch.Generator
) -> tuple[Float[Tensor, "feature input"], Float[Tensor, "feature output"]]:
    """Encoder and decoder: random rows of length 1, equal to each other in an autoencoder."""
    decoder = unit_rows(torch.randn(n_features, geometry.outputs, generator=generator))
    if geometry.inputs == geometry.outputs:
        return decoder.clone(), decoder
    encoder = unit_rows(torch.randn(n_features, geometry.inputs, generator=generator))
    return encoder, decoder


def unit_rows(weight: Float[Tensor, "feature unit"]) -> Float[Tensor, "feature unit"]:
    """Rows scaled to length 1; rows of zeros stay."""
    norms: Tensor = weight.norm(dim=1, keepdim=True)
    return weight / norms.clamp_min(1e-12)


@dataclass(frozen=True)
class Moment:
    """Where in the run a step is.

    Parameters
    ----------
    warm
        From 0 to 1 while the sparsity penalty is warmed up.
    dead
        (feature,) features that have not been active for `dead_after` rows.
    """

    warm: float = 1.0
    dead: Bool[Tensor, " feature"] | None = None
