"""JumpReLU autoencoders: a threshold for each feature, learnt through a surrogate gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from patchclamp.decompose.sae.architecture import folded
from patchclamp.decompose.sae.base import SparseAutoencoder
from patchclamp.decompose.sae.core import Geometry, Moment, Pass, Step, Tensors, active_rows
from patchclamp.decompose.sae.support import Support, of_mask


@dataclass(frozen=True)
class JumpReLU(SparseAutoencoder):
    """Sparse autoencoder with a learnt threshold per feature (Rajamanoharan et al. 2024).

    f = p where p > theta, else 0, p = (x - b_dec) W_enc + b_enc; loss |x - x^|^2 + penalty L0, or, with `l0`,
    penalty (L0 / l0 - 1)^2. The step has no gradient in theta, so its expectation's is estimated with a box of width
    `bandwidth` around it: df/dtheta = -(theta / bandwidth) [|p - theta| < bandwidth / 2] and
    dL0/dtheta = -(1 / bandwidth) [...]. The box is laid over p *before* the threshold: on p after it, only the upper
    half of the box would see data, and the gradient would come out half as large.

    Parameters
    ----------
    n_features
        Features.
    penalty
        Weight of the penalty, for activity scaled to one unit of variance a unit.
    l0
        Number of active features to aim at; None: as many as the penalty leaves.
    bandwidth
        Width of the box, for scaled activity.
    threshold
        theta at the start, for scaled activity, where pre-activations have a standard deviation near 1. It moves by a
        factor of about exp(lr) a step at most, so a start near 0 needs long runs.

    Examples
    --------
    >>> x = torch.relu(torch.randn(500, 4, generator=torch.Generator().manual_seed(0)))
    >>> JumpReLU(8, l0=2.0, penalty=1.0, steps=50, batch_size=100).fit(x, "mlp_act.0").threshold.shape
    torch.Size([8])
    """

    penalty: float = 1.0
    l0: float | None = None
    bandwidth: float = 0.1
    threshold: float = 0.5

    name: ClassVar[str] = "jumprelu"
    restarts: ClassVar[bool] = True

    def init(self, geometry: Geometry, n_features: int, generator: torch.Generator) -> Tensors:
        """See `SparseAutoencoder.init`."""
        log = torch.full((n_features,), self.threshold).log()
        return {**super().init(geometry, n_features, generator), "log_threshold": log}

    def codes(self, step: Pass) -> tuple[Support, Tensor]:
        """See `SparseAutoencoder.codes`."""
        pre = step.pre()
        support = of_mask(pre > step.params["log_threshold"].exp(), pre.dtype, step.products)
        return support, support.take(pre)

    def step(self, step: Pass, moment: Moment) -> Step:
        """See `SparseAutoencoder.step`."""
        pre, width = step.pre(), self.bandwidth
        rows = len(pre)
        theta = step.params["log_threshold"].exp()
        # Active entries, and those below the threshold that the box sees.
        support = of_mask(pre > theta - width / 2, pre.dtype, step.products)
        values, edge = support.take(pre), support.per_feature(theta)
        active = ((values > edge) & (edge > 0)).to(pre.dtype)
        box = (((values - edge).abs() < width / 2) & (edge > 0)).to(pre.dtype)
        codes = values * active
        residual = step.decode(support, codes).sub_(step.y)
        error = residual.square().sum()
        grad = step.back_decoder(support, codes, residual * (2 / rows))
        fired = active_rows(support, active)
        price, cost = self._penalty(float(fired.sum()) / rows, moment.warm)
        slope = -(edge * grad + cost / rows) * box / width
        step.add("log_threshold", support.totals(slope) * theta)
        step.back_encoder(support, grad * active)
        return Step(step.grads, error / rows + price, error, fired, residual)

    def _penalty(self, l0: float, warm: float) -> tuple[float, float]:
        """The penalty and its derivative in L0."""
        rate = self.penalty * warm
        if self.l0 is None:
            return rate * l0, rate
        gap = l0 / self.l0 - 1
        return rate * gap**2, 2 * rate * gap / self.l0

    def weights(self, params: Tensors, geometry: Geometry, factors: tuple[float, float]) -> dict[str, Any]:
        """See `SparseAutoencoder.weights`."""
        theta = params["log_threshold"].exp().cpu() / factors[1]
        return {**folded(params, geometry, factors), "activation": "jumprelu", "threshold": theta}
