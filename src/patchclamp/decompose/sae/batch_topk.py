"""BatchTopK autoencoders: k features a sample on average, more where a sample needs more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.decompose.sae.architecture import folded
from patchclamp.decompose.sae.core import Geometry, Pass, Tensors
from patchclamp.decompose.sae.support import Support, of_largest
from patchclamp.decompose.sae.topk import TopK, smallest_kept

CALIBRATION = 32


@dataclass(frozen=True)
class BatchTopK(TopK):
    """Sparse autoencoder that keeps the k x batch largest features of a batch (Bussmann et al. 2024).

    As `TopK`, but the number of active features may differ between samples. The dictionary that comes out keeps
    features above one threshold, the mean over 32 batches of the smallest activity kept, measured with the final
    weights; so a sample's code does not depend on the others in its batch.

    Parameters
    ----------
    n_features, k
        Features in all, and active ones on average.
    aux, aux_k
        As in `TopK`.

    Examples
    --------
    >>> x = torch.relu(torch.randn(500, 4, generator=torch.Generator().manual_seed(0)))
    >>> BatchTopK(4, k=2, steps=50, batch_size=100).fit(x, "mlp_act.0").activation
    'batchtopk'
    """

    name: ClassVar[str] = "batch_topk"

    def select(self, pre: Float[Tensor, "batch feature"], products: str) -> Support:
        """Which entries are kept."""
        return of_largest(pre, self.k * len(pre), pre.dtype, products)

    def settle(self, params: Tensors, passes: Callable[[int], Pass]) -> Tensors:
        """See `SparseAutoencoder.settle`."""
        lowest = [smallest_kept(self.codes(passes(i))[1]).double() for i in range(CALIBRATION)]
        return {"threshold": torch.stack(lowest).mean().to(params["W_dec"].dtype)}

    def weights(self, params: Tensors, geometry: Geometry, factors: tuple[float, float]) -> dict[str, Any]:
        """See `SparseAutoencoder.weights`."""
        threshold = params["threshold"].cpu() / factors[1]
        kept = {**folded(params, geometry, factors), "activation": "batchtopk", "k": self.k}
        return {**kept, "threshold": threshold}
