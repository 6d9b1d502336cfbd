"""The house's ranking of units: mean |activity| times the norm of what the unit writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.measure import BLOCK_ROWS, HasOutputs, Measure, host, row_blocks

if TYPE_CHECKING:
    from patchclamp.nouns.recording.recording import Samples


class Importance(Measure):
    """Mean |a| x output norm: how much a unit moves the stream on average.

    Scaling a by 1/s and its output by s changes nothing, which is not true of |a| alone. It is not a causal
    effect: two units may cancel, or write where nothing reads.

    Parameters
    ----------
    output_norms
        Norm of what one unit of activity writes, `subject.output_norms(site)`; None = ones (the units are the
        stream).
    """

    name = "importance"
    needs = ("output_norms",)
    fields = ("l1",)

    l1: Tensor

    def __init__(self, *, output_norms: Float[Tensor, " units"] | None = None) -> None:
        self.output_norms = output_norms

    @classmethod
    def _needs(cls, subject: HasOutputs, site: Any) -> dict[str, Any]:
        return {"output_norms": subject.output_norms(site).detach().float().cpu()}

    def _update(self, values: Float[Tensor, "n units"], samples: Samples) -> None:
        if self.output_norms is not None and self.output_norms.shape != values.shape[1:]:
            raise PatchclampError(
                f"{self._who}: {len(self.output_norms)} output norms for {values.shape[1]} units"
            )
        buffer = values.new_empty(min(len(values), BLOCK_ROWS), values.shape[1])
        parts = [torch.abs(block, out=buffer[: len(block)]).sum(0) for block in row_blocks(values)]
        self._add(l1=host(torch.stack(parts)).sum(0))

    def result(self) -> xr.Dataset:
        """Dataset over `unit`: importance, mean_abs, output_norm, rank (0 = most important)."""
        units = self._need_data()
        mean = self.l1 / self.n_samples
        norms = torch.ones(units) if self.output_norms is None else self.output_norms.cpu()
        value = mean * norms.double()
        rank = torch.empty(units, dtype=torch.int64)
        rank[value.argsort(descending=True, stable=True)] = torch.arange(units)
        unit = ("unit",)
        return self._dataset(
            {
                "importance": (unit, value),
                "mean_abs": (unit, mean),
                "output_norm": (unit, norms),
                "rank": (unit, rank),
            }
        )
