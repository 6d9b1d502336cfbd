"""ReLU autoencoders with an L1 penalty: the first of their kind, which shrink."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.decompose.sae.architecture import folded
from patchclamp.decompose.sae.base import SparseAutoencoder
from patchclamp.decompose.sae.core import Geometry, Moment, Pass, Step, Tensors, active_rows
from patchclamp.decompose.sae.support import Support, of_mask


@dataclass(frozen=True)
class ReluL1(SparseAutoencoder):
    """Sparse autoencoder with ReLU and L1 penalty (Bricken et al. 2023; Cunningham et al. 2023).

    f = max((x - b_dec) W_enc + b_enc, 0); loss |x - x^|^2 + penalty sum_i f_i |W_dec,i|. With ``decoder="unit"`` rows
    have length 1; with ``"free"`` they start at .1 and the penalty counts their length (in a crosscoder the sum of
    their lengths over the sides, and always so). The penalty pulls activity towards 0: reconstructions are too small
    (`shrinkage` below 1).

    Parameters
    ----------
    n_features
        Features.
    penalty
        Weight of the penalty, for activity scaled to one unit of variance a unit.
    decoder
        ``"unit"`` or ``"free"``.

    Examples
    --------
    >>> x = torch.relu(torch.randn(500, 4, generator=torch.Generator().manual_seed(0)))
    >>> ReluL1(8, penalty=1.0, steps=50, batch_size=100).fit(x, "mlp_act.0").activation
    'relu'
    """

    penalty: float = 2.0
    decoder: str = "unit"

    name: ClassVar[str] = "relu_l1"
    restarts: ClassVar[bool] = True

    def check(self, n_features: int) -> None:
        """See `SparseAutoencoder.check`."""
        super().check(n_features)
        if self.decoder not in ("unit", "free"):
            from patchclamp.base.errors import PatchclampError

            raise PatchclampError(f"relu_l1: decoder={self.decoder!r} is neither 'unit' nor 'free'")

    def unit_norm(self, geometry: Geometry) -> bool:
        """See `SparseAutoencoder.unit_norm`."""
        return self.decoder == "unit" and not geometry.sides

    def init(self, geometry: Geometry, n_features: int, generator: torch.Generator) -> Tensors:
        """See `SparseAutoencoder.init`."""
        length = 1.0 if self.unit_norm(geometry) else 0.1
        return {name: w * length for name, w in super().init(geometry, n_features, generator).items()}

    def codes(self, step: Pass) -> tuple[Support, Tensor]:
        """See `SparseAutoencoder.codes`."""
        pre = step.pre()
        support = of_mask(pre > 0, pre.dtype, step.products)
        return support, support.take(pre)

    def step(self, step: Pass, moment: Moment) -> Step:
        """See `SparseAutoencoder.step`."""
        support, codes = self.codes(step)
        residual = step.decode(support, codes).sub_(step.y)
        error = residual.square().sum()
        rate = self.penalty * moment.warm / len(residual)
        lengths, directions = self._lengths(step)
        grad = step.back_decoder(support, codes, residual * (2 / len(residual)))
        grad = grad + rate * support.per_feature(lengths)
        totals = support.totals(codes)
        if directions is not None:
            step.grads["W_dec"].addcmul_(totals[:, None], directions, value=rate)
        step.back_encoder(support, grad)
        loss = error / len(residual) + rate * (totals @ lengths)
        return Step(step.grads, loss, error, active_rows(support, codes), residual)

    def _lengths(self, step: Pass) -> tuple[Float[Tensor, " feature"], Tensor | None]:
        """Length of each decoder row (sum over the sides), and its gradient; None where it is fixed."""
        decoder = step.params["W_dec"]
        if self.unit_norm(step.geometry):
            return decoder.new_ones(len(decoder)), None
        parts = decoder.split(list(step.geometry.sides or (decoder.shape[1],)), dim=1)
        norms = [part.norm(dim=1, keepdim=True).clamp_min(1e-12) for part in parts]
        directions = torch.cat([part / norm for part, norm in zip(parts, norms, strict=True)], 1)
        return torch.cat(norms, 1).sum(1), directions

    def weights(self, params: Tensors, geometry: Geometry, factors: tuple[float, float]) -> dict[str, Any]:
        """See `SparseAutoencoder.weights`."""
        return {**folded(params, geometry, factors), "activation": "relu"}
