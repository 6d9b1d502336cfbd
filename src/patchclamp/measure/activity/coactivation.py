"""Which units are active together: Jaccard index, phi coefficient and correlation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.measure.activity.kept import check_memory
from patchclamp.nouns.measure import Measure, require

if TYPE_CHECKING:
    from patchclamp.nouns.recording.recording import Samples

_BYTES = 80  # of one pair of units at the peak: sums, results and what lies between
_ROWS = 4096


class Coactivation(Measure):
    """Co-activation of pairs of units, among all or among chosen ones.

    With n_i the number of samples on which unit i is above `threshold` and n_ij those of both: ``jaccard`` =
    n_ij / (n_i + n_j - n_ij); ``phi`` = (n n_ij - n_i n_j) / sqrt(n_i (n - n_i) n_j (n - n_j)), the
    correlation of the two binary variables; ``correlation`` = Pearson's r of the activity itself. Undefined
    where a unit is never (or always, for phi) active or constant: NaN. Counts are exact; correlations are
    accumulated in float64 about the first batch's mean.

    Parameters
    ----------
    units
        Indices of the units; None = all of the site.
    threshold
        Level above which a unit is active.
    memory_limit
        Bytes; more is refused before anything is allocated.
    """

    name = "coactivation"
    fields = ("both", "cross", "total", "shift")

    both: Tensor
    cross: Tensor
    total: Tensor
    shift: Tensor

    def __init__(
        self, *, units: Sequence[int] | None = None, threshold: float = 0.0, memory_limit: int = 2**30
    ) -> None:
        self.units = None if units is None else tuple(int(u) for u in units)
        require(
            self.units is None or len(self.units) > 0,
            "Coactivation: units is empty; choose some, or None for all",
        )
        require(
            self.units is None or len(set(self.units)) == len(self.units),
            "Coactivation: a unit is named twice",
        )
        self.threshold, self.memory_limit = float(threshold), int(memory_limit)
        if self.units is not None:
            self._check_memory(len(self.units))

    def _check_memory(self, count: int) -> None:
        most = int((self.memory_limit / _BYTES) ** 0.5)
        check_memory(self, count * count * _BYTES, f"{count} units", f"choose at most {most} units")

    def _chosen(self, values: Tensor) -> Tensor:
        if self.units is None:
            return values
        if max(self.units) >= values.shape[1] or min(self.units) < 0:
            raise PatchclampError(
                f"{self._who}: unit {max(self.units)}; this site has units 0..{values.shape[1] - 1}"
            )
        return values[:, torch.tensor(self.units, device=values.device)]

    def _update(self, values: Float[Tensor, "n units"], samples: Samples) -> None:
        values = self._chosen(values).cpu()
        if not hasattr(self, "both"):
            self._check_memory(values.shape[1])
            self.shift = values.mean(0, dtype=torch.float64)
            self.both = torch.zeros(values.shape[1], values.shape[1], dtype=torch.int64)
            self.cross = torch.zeros_like(self.both, dtype=torch.float64)
            self.total = torch.zeros_like(self.shift)
        for part in values.split(_ROWS):
            active = (part > self.threshold).float()
            self.both += (active.T @ active).round_().long()  # exact: at most 4,096 a product
            centred = part.double() - self.shift
            self.cross.addmm_(centred.T, centred)
            self.total += centred.sum(0)

    def _merge(self, other: Self) -> None:
        self.both += other.both
        # Their sums about their shift, carried over to ours.
        step = other.shift - self.shift
        self.cross += other.cross + torch.outer(other.total, step) + torch.outer(step, other.total)
        self.cross += other.n_samples * torch.outer(step, step)
        self.total = self.total + other.total + other.n_samples * step

    def result(self) -> xr.Dataset:
        """Dataset: count (unit); both, jaccard, phi, correlation (unit, other)."""
        self._need_data()
        n = self.n_samples
        alone = self.both.diagonal().double()
        either = alone[:, None] + alone[None, :] - self.both
        jaccard = torch.where(either > 0, self.both / either, torch.nan)
        phi = n * self.both.double() - torch.outer(alone, alone)
        spread = (alone * (n - alone)).sqrt()
        phi = torch.where(torch.outer(spread, spread) > 0, phi / torch.outer(spread, spread), torch.nan)
        index = np.arange(len(alone)) if self.units is None else np.array(self.units)
        pair = ("unit", "other")
        return self._dataset(
            {
                "count": (("unit",), self.both.diagonal()),
                "both": (pair, self.both),
                "jaccard": (pair, jaccard),
                "phi": (pair, phi.clamp(-1, 1)),
                "correlation": (pair, self._correlation()),
            },
            {"unit": index, "other": index},
            threshold=self.threshold,
        )

    def _correlation(self) -> Tensor:
        covariance = self.cross - torch.outer(self.total, self.total) / self.n_samples
        variance = covariance.diagonal()
        # Rounding leaves a constant unit with a variance of about 1e-16 of its sum of squares.
        flat = variance <= 1e-13 * self.cross.diagonal()
        std = variance.masked_fill(flat, torch.nan).sqrt()
        return (covariance / torch.outer(std, std)).clamp(-1, 1)
