"""Gated autoencoders: one path says whether a feature is active, another how strongly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.decompose.sae.architecture import folded
from patchclamp.decompose.sae.base import SparseAutoencoder
from patchclamp.decompose.sae.core import Geometry, Moment, Pass, Step, Tensors, active_rows, init_weights
from patchclamp.decompose.sae.support import Support, of_mask


@dataclass(frozen=True)
class Gated(SparseAutoencoder):
    """Sparse autoencoder with a gate and a magnitude that share their encoder (Rajamanoharan et al. 2024).

    q = (x - b_dec) W_enc; gate g = q + b_gate; f = [g > 0] max(exp(r) q + b_mag, 0);
    loss |x - x^|^2 + penalty sum max(g, 0) + |x - (max(g, 0) W_dec + b_dec)|^2, the decoder of the last term held
    fixed. The penalty acts on the gate alone, so magnitudes do not shrink.

    Parameters
    ----------
    n_features
        Features.
    penalty
        Weight of the penalty, for activity scaled to one unit of variance a unit.

    Examples
    --------
    >>> x = torch.relu(torch.randn(500, 4, generator=torch.Generator().manual_seed(0)))
    >>> Gated(8, penalty=1.0, steps=50, batch_size=100).fit(x, "mlp_act.0").activation
    'gated'
    """

    penalty: float = 2.0

    name: ClassVar[str] = "gated"
    restarts: ClassVar[bool] = True

    def init(self, geometry: Geometry, n_features: int, generator: torch.Generator) -> Tensors:
        """See `SparseAutoencoder.init`."""
        encoder, decoder = init_weights(geometry, n_features, generator)
        zeros = {name: torch.zeros(n_features) for name in ("b_gate", "b_mag", "r_mag")}
        return {"W_enc": encoder, "W_dec": decoder, **zeros}

    def _paths(self, step: Pass) -> tuple[Support, Tensor, Tensor, Tensor]:
        """Support of the open gates; on it q, gate and magnitude before its ReLU."""
        p = step.params
        shared: Float[Tensor, "batch feature"] = step.centred @ p["W_enc"].T
        support = of_mask(shared > -p["b_gate"], shared.dtype, step.products)
        q = support.take(shared)
        magnitude = q * support.per_feature(p["r_mag"].exp()) + support.per_feature(p["b_mag"])
        return support, q, q + support.per_feature(p["b_gate"]), magnitude

    def codes(self, step: Pass) -> tuple[Support, Tensor]:
        """See `SparseAutoencoder.codes`."""
        support, _, _, magnitude = self._paths(step)
        return support, torch.relu(magnitude)

    def step(self, step: Pass, moment: Moment) -> Step:
        """See `SparseAutoencoder.step`."""
        support, q, gate, magnitude = self._paths(step)
        codes, gate = torch.relu(magnitude), torch.relu(gate)
        residual = step.decode(support, codes).sub_(step.y)
        error, rows = residual.square().sum(), len(residual)
        shadow = step.decode(support, gate).sub_(step.y)

        grad = step.back_decoder(support, codes, residual * (2 / rows)) * (magnitude > 0)
        gain = support.per_feature(step.params["r_mag"].exp())
        step.add("b_mag", support.totals(grad))
        step.add("r_mag", support.totals(grad * gain * q))
        rate = self.penalty * moment.warm / rows
        closed = support.dots(shadow * (2 / rows), step.params["W_dec"])
        closed = (closed + rate * support.per_feature(torch.ones_like(step.params["r_mag"]))) * (gate > 0)
        step.add("b_gate", support.totals(closed))

        both = grad * gain + closed
        step.add("W_enc", support.gradient(both, step.centred))
        step.back_input(support.totals(both))
        loss = (error + shadow.square().sum()) / rows + rate * gate.sum()
        return Step(step.grads, loss, error, active_rows(support, codes), residual)

    def weights(self, params: Tensors, geometry: Geometry, factors: tuple[float, float]) -> dict[str, Any]:
        """See `SparseAutoencoder.weights`."""
        out = folded(params, geometry, factors)
        # What is taken off the input of a transcoder went into b_enc, which gated dictionaries do not use.
        shift, gain = out.pop("b_enc"), params["r_mag"].cpu()
        return {
            **out,
            "b_enc": None,
            "activation": "gated",
            "b_gate": params["b_gate"].cpu() / factors[1] + shift,
            "b_mag": params["b_mag"].cpu() / factors[1] + gain.exp() * shift,
            "r_mag": gain,
        }
