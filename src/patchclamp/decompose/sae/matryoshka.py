"""Matryoshka autoencoders: every prefix of the features is a dictionary of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.decompose.sae.batch_topk import BatchTopK
from patchclamp.decompose.sae.core import Moment, Pass, Step, active_rows
from patchclamp.decompose.sae.support import Support


@dataclass(frozen=True)
class Matryoshka(BatchTopK):
    """BatchTopK autoencoder whose first features must do alone (Bussmann et al. 2025).

    loss sum_g w_g |x - (f_{1..m_g} W_dec,1..m_g + b_dec)|^2 over prefixes m_g, sum w_g = 1, and the auxiliary loss on
    the error of the whole. Early features stay general, as they may not rely on later ones. The reconstruction keeps
    its weight beside the auxiliary loss whatever the number of prefixes.

    Parameters
    ----------
    n_features, k
        As in `BatchTopK`.
    prefixes
        Increasing; the last is `n_features`. None: `n_features` halved up to four times.
    prefix_weights
        One a prefix, scaled to sum 1; None: equal.

    Examples
    --------
    >>> x = torch.relu(torch.randn(500, 4, generator=torch.Generator().manual_seed(0)))
    >>> found = Matryoshka(8, k=2, prefixes=(4, 8), steps=50, batch_size=100).fit(x, "mlp_act.0")
    >>> found.meta["settings"]["prefixes"]
    [4, 8]
    """

    prefixes: tuple[int, ...] | None = None
    prefix_weights: tuple[float, ...] | None = None

    name: ClassVar[str] = "matryoshka"

    def edges(self, n_features: int) -> tuple[int, ...]:
        """The prefixes."""
        if self.prefixes is not None:
            return tuple(self.prefixes)
        return tuple(dict.fromkeys(max(1, n_features >> i) for i in range(4, -1, -1)))

    def _shares(self, n: int) -> list[float]:
        given = self.prefix_weights or (1.0,) * n
        return [weight / sum(given) for weight in given]

    def check(self, n_features: int) -> None:
        """See `SparseAutoencoder.check`."""
        super().check(n_features)
        edges = self.edges(n_features)
        rising = all(a < b for a, b in zip((0, *edges), edges, strict=False))
        if not rising or edges[-1] != n_features:
            raise PatchclampError(
                f"matryoshka: prefixes={edges}; they rise from above 0 to n_features={n_features}"
            )
        if self.prefix_weights is not None and len(self.prefix_weights) != len(edges):
            raise PatchclampError(
                f"matryoshka: {len(self.prefix_weights)} prefix_weights for {len(edges)} prefixes"
            )

    def step(self, step: Pass, moment: Moment) -> Step:
        """See `SparseAutoencoder.step`."""
        pre = step.pre()
        support = self.select(pre, step.products)
        codes = support.take(pre)
        errors, loss = self._prefix_errors(step, support, codes)
        residual = errors[-1]
        error = residual.square().sum()
        step.back_encoder(support, self._backward(step, support, codes, errors))
        loss = loss + self.revival(step, pre, residual, moment)
        return Step(step.grads, loss, error, active_rows(support, codes), residual)

    def _blocks(self, step: Pass) -> list[tuple[int, int]]:
        edges = self.edges(len(step.params["W_dec"]))
        return list(zip((0, *edges), edges, strict=False))

    def _prefix_errors(self, step: Pass, support: Support, codes: Tensor) -> tuple[list[Tensor], Tensor]:
        """Error of every prefix, and the weighted loss."""
        total = step.params["b_dec"] - step.y
        if step.geometry.skip:
            total = total + step.centred @ step.params["W_skip"]
        errors: list[Tensor] = []
        blocks = self._blocks(step)
        loss = total.new_zeros(())
        for (low, high), share in zip(blocks, self._shares(len(blocks)), strict=True):
            part, index = support.part(low, high)
            total = total + part.decode(codes[index], step.params["W_dec"][low:high])
            errors.append(total)
            loss = loss + share * total.square().sum() / len(total)
        return errors, loss

    def _backward(self, step: Pass, support: Support, codes: Tensor, errors: list[Tensor]) -> Tensor:
        """Gradients of decoder and offset; returns that of the codes. A block serves its own and all longer prefixes."""
        blocks = self._blocks(step)
        shares = self._shares(len(blocks))
        grad = torch.zeros_like(codes)
        decoder: list[Tensor] = []
        g = torch.zeros_like(errors[-1])
        for (low, high), share, gap in zip(reversed(blocks), reversed(shares), reversed(errors), strict=True):
            g = g.add(gap, alpha=2 * share / len(gap))
            part, index = support.part(low, high)
            grad[index] = part.dots(g, step.params["W_dec"][low:high])
            decoder.insert(0, part.gradient(codes[index], g))
        step.add("W_dec", torch.cat(decoder))
        step.back_offset(g)
        return grad
