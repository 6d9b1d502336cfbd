"""Matching pursuit autoencoders: each feature explains what the ones before it left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.decompose.sae.base import SparseAutoencoder
from patchclamp.decompose.sae.core import Geometry, Moment, Pass, Step, Tensors, unit_rows
from patchclamp.decompose.sae.support import Support, of_mask
from patchclamp.nouns.dictionary import StoredDictionary
from patchclamp.nouns.units import Site


@dataclass(frozen=True)
class MatchingPursuit(SparseAutoencoder):
    """Sparse autoencoder unrolled from matching pursuit (Costa et al. 2025).

    r = x - b_dec; k times: s = r W'; j = argmax s; c_j += s_j; r -= s_j W_j, with unit rows W that encode and decode.
    Loss |r|^2 after k steps, its gradient taken through all of them. A step is left out where no s is positive, so
    codes are never negative. Inner products are updated with the rows' own, W W', instead of being taken anew.

    Parameters
    ----------
    n_features, k
        Features in all; steps, so at most k active ones (a feature may be taken twice).

    Examples
    --------
    >>> x = torch.relu(torch.randn(500, 4, generator=torch.Generator().manual_seed(0)))
    >>> MatchingPursuit(8, k=2, steps=50, batch_size=100).fit(x, "mlp_act.0")
    <MatchingPursuitDictionary 8 features over mlp_act.0>
    """

    k: int = 32

    name: ClassVar[str] = "matching_pursuit"
    restarts: ClassVar[bool] = True

    def init(self, geometry: Geometry, n_features: int, generator: torch.Generator) -> Tensors:
        """See `SparseAutoencoder.init`."""
        if not geometry.tied:
            raise PatchclampError(
                "matching_pursuit: one set of directions encodes and decodes, so it cannot read one site and write another"
            )
        return {"W_dec": super().init(geometry, n_features, generator)["W_dec"]}

    def pursue(
        self, residual: Float[Tensor, "batch unit"], weight: Float[Tensor, "feature unit"]
    ) -> tuple[Float[Tensor, "batch unit"], Int[Tensor, "batch k"], Float[Tensor, "batch k"]]:
        """Residual after k steps, the features taken and their coefficients (0 where a step was left out)."""
        gram, match = weight @ weight.T, residual @ weight.T
        taken, size = [], []
        for _ in range(self.k):
            best = match.max(1)
            c = best.values.clamp(min=0)
            residual = residual - c[:, None] * weight[best.indices]
            match.sub_(gram[best.indices].mul_(c[:, None]))
            taken.append(best.indices)
            size.append(c)
        return residual, torch.stack(taken, 1), torch.stack(size, 1)

    def codes(self, step: Pass) -> tuple[Support, Tensor]:
        """See `SparseAutoencoder.codes`."""
        weight = step.params["W_dec"]
        _, taken, size = self.pursue(step.centred, weight)
        dense = size.new_zeros(len(size), len(weight)).scatter_add_(1, taken, size)
        support = of_mask(dense > 0, dense.dtype, step.products)
        return support, support.take(dense)

    def step(self, step: Pass, moment: Moment) -> Step:
        """See `SparseAutoencoder.step`."""
        weight = step.params["W_dec"]
        residual, taken, size = self.pursue(step.centred, weight)
        error, rows = residual.square().sum(), len(residual)
        g, r = residual * (2 / rows), residual
        grad = torch.zeros_like(weight)
        # r_t = r - (r.w) w. Backwards: r = r_t + c w needs no residual to be kept; dr = g - (g.w) w and
        # dw = -(r.w) g - (g.w) r. Steps left out have c = 0 and pass g on as it is.
        for t in reversed(range(self.k)):
            j, c = taken[:, t], size[:, t, None]
            w = weight[j]
            r = r + c * w
            along = (g * w).sum(1, keepdim=True) * (c > 0)
            grad.index_add_(0, j, -(c * g) - along * r)
            g = g - along * w
        step.add("W_dec", grad)
        step.add("b_dec", -g.sum(0))
        dense = size.new_zeros(rows, len(weight)).scatter_add_(1, taken, size)
        return Step(step.grads, error / rows, error, (dense > 0).to(size.dtype).sum(0), -residual)

    def weights(self, params: Tensors, geometry: Geometry, factors: tuple[float, float]) -> dict[str, Any]:
        """See `SparseAutoencoder.weights`."""
        return {"W_dec": params["W_dec"].cpu(), "b_dec": params["b_dec"].cpu() / factors[1], "k": self.k}

    def build(
        self, site: Site, target: Site, weights: dict[str, Any], meta: dict[str, Any]
    ) -> StoredDictionary:
        """See `SparseAutoencoder.build`."""
        return MatchingPursuitDictionary(site, **weights, meta=meta)


class MatchingPursuitDictionary(StoredDictionary):
    """Features found one after the other by matching pursuit; see `MatchingPursuit`.

    Parameters
    ----------
    site
        What is encoded.
    W_dec
        (features, units); rows are scaled to length 1.
    b_dec
        (units,); zeros where None.
    k
        Steps.
    tolerance
        A sample stops once |r| is at most this; then it has as many features as it needs, up to k.

    Examples
    --------
    A linear encoder with k = 2 would take the first two features of x = W_1 + W_3 / 2, which point nearly the same way:

    >>> weight = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.19 ** 0.5, 0.0], [0.0, 0.0, 1.0]])
    >>> found = MatchingPursuitDictionary("resid_post.0", weight, k=2)
    >>> found.encode(torch.tensor([1.0, 0.0, 0.5])).tolist()
    [1.0, 0.0, 0.5]
    """

    method: ClassVar[str] = "matching_pursuit"
    kind: ClassVar[str] = "matching_pursuit"
    plain: ClassVar[tuple[str, ...]] = ("k", "tolerance")

    W_dec: Float[Tensor, "feature unit"]
    b_dec: Float[Tensor, " unit"]

    def __init__(
        self,
        site: Site | str,
        W_dec: Float[Tensor, "feature unit"],
        b_dec: Float[Tensor, " unit"] | None = None,
        *,
        k: int,
        tolerance: float = 0.0,
        meta: dict[str, Any] | None = None,
    ) -> None:
        near = (W_dec.norm(dim=1) - 1).abs() < 1e-5
        # Rows that have length 1 keep their bits, so a dictionary read back encodes the same.
        weight = torch.where(near[:, None], W_dec, unit_rows(W_dec))
        bias = torch.zeros(W_dec.shape[1]) if b_dec is None else b_dec
        super().__init__(site, {"W_dec": weight, "b_dec": bias}, meta=meta)
        self.k, self.tolerance = k, tolerance
        if type(k) is not int or not 1 <= k <= len(W_dec):
            raise PatchclampError(
                f"{self.site}: k={k!r}; matching pursuit takes a whole number of steps, 1 to its {len(W_dec)} features"
            )
        if not bool(torch.isfinite(weight).all() and torch.isfinite(bias).all()):
            raise PatchclampError(f"{self.site}: the weights hold NaN or Inf")

    def _encode(self, activity: Float[Tensor, "*batch unit"]) -> Float[Tensor, "*batch feature"]:
        """Differentiable, the choice of features held fixed."""
        weight = self._on("W_dec", activity)
        residual = activity.to(weight.dtype) - self._on("b_dec", activity).to(weight.dtype)
        codes = residual.new_zeros(*residual.shape[:-1], len(weight))
        for _ in range(self.k):
            open_ = residual.norm(dim=-1, keepdim=True) > self.tolerance
            best = (residual @ weight.T).max(-1, keepdim=True)
            c = torch.where(open_, best.values.clamp(min=0), 0.0)
            codes = codes.scatter_add(-1, best.indices, c)
            residual = residual - c * weight[best.indices[..., 0]]
        return codes
