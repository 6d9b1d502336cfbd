"""TopK autoencoders: the k largest pre-activations of each sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.decompose.sae.architecture import folded
from patchclamp.decompose.sae.auxiliary import auxiliary_loss
from patchclamp.decompose.sae.base import SparseAutoencoder
from patchclamp.decompose.sae.core import Geometry, Moment, Pass, Step, Tensors, active_rows
from patchclamp.decompose.sae.support import Support, of_topk


@dataclass(frozen=True)
class TopK(SparseAutoencoder):
    """Sparse autoencoder that keeps the k largest features of each sample (Gao et al. 2024).

    f = the k largest of max((x - b_dec) W_enc + b_enc, 0); loss |x - x^|^2 + `aux` units |e - e^|^2 / |e - mean e|^2,
    where e is the error, held fixed, and e^ what the `aux_k` largest *dead* features make of it. Four of the five
    matrix products of a step touch active entries alone, and the backward pass is written by hand, so a step costs
    little more than the encoder's product.

    Parameters
    ----------
    n_features, k
        Features in all, and active ones (at most, where fewer are positive).
    aux, aux_k
        Weight and number of features of the auxiliary loss; `aux_k` None: half the units, at most 256.

    Examples
    --------
    >>> x = torch.relu(torch.randn(500, 4, generator=torch.Generator().manual_seed(0)))
    >>> found = TopK(4, k=2, steps=50, batch_size=100).fit(x, "mlp_act.0")
    >>> found.encode_sparse(x[:3]).indptr.tolist()[-1] <= 6
    True
    """

    k: int = 32
    aux: float = 1 / 32
    aux_k: int | None = None

    name: ClassVar[str] = "topk"

    def select(self, pre: Float[Tensor, "batch feature"], products: str) -> Support:
        """Which entries are kept."""
        return of_topk(pre, self.k, pre.dtype, products)

    def codes(self, step: Pass) -> tuple[Support, Tensor]:
        """See `SparseAutoencoder.codes`."""
        pre = step.pre()
        support = self.select(pre, step.products)
        return support, support.take(pre)

    def step(self, step: Pass, moment: Moment) -> Step:
        """See `SparseAutoencoder.step`."""
        pre = step.pre()
        support = self.select(pre, step.products)
        codes = support.take(pre)
        residual = step.decode(support, codes).sub_(step.y)
        error = residual.square().sum()
        grad = step.back_decoder(support, codes, residual * (2 / len(residual)))
        step.back_encoder(support, grad)
        loss = error / len(residual) + self.revival(step, pre, residual, moment)
        return Step(step.grads, loss, error, active_rows(support, codes), residual)

    def revival(self, step: Pass, pre: Tensor, residual: Tensor, moment: Moment) -> Tensor:
        """The auxiliary loss, its gradients added."""
        if moment.dead is None or self.aux == 0:
            return pre.new_zeros(())
        k = self.aux_k or max(1, min(256, step.geometry.outputs // 2))
        return auxiliary_loss(step, pre, residual, moment.dead, k, self.aux)

    def weights(self, params: Tensors, geometry: Geometry, factors: tuple[float, float]) -> dict[str, Any]:
        """See `SparseAutoencoder.weights`."""
        return {**folded(params, geometry, factors), "activation": "topk", "k": self.k}


def smallest_kept(codes: Tensor) -> Tensor:
    """The smallest positive code of a batch (0 where there is none)."""
    kept = codes[codes > 0]
    return kept.min() if len(kept) else torch.zeros((), dtype=codes.dtype, device=codes.device)
