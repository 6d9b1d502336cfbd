"""Quantiles of every unit from mergeable histograms with a stated relative error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.measure.activity.histogram import Buckets
from patchclamp.nouns.measure import Measure, require

if TYPE_CHECKING:
    from patchclamp.nouns.recording.recording import Samples

DEFAULT_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


class Quantiles(Measure):
    """Quantiles of each unit: the sample quantile within 1 / (2^(bits+1) + 1) of its value (1.5 % for 5
    bits).

    The q-quantile of n values is the one of rank floor(q (n - 1)) in rising order (NumPy's method ``lower``).
    It is read from a histogram over log-linear buckets (see `Buckets`), so shards merge exactly and the order
    of the data does not matter. Quantiles smaller than `smallest` in size are given as 0; minimum and maximum
    are exact and bound every quantile; those beyond `largest` are not resolved: NaN, and `beyond` counts such
    values.

    Memory: units x (2 log2(largest / smallest) 2^bits + 3) x 4 bytes, 11 MB for 1,536 units at the defaults.

    Parameters
    ----------
    q
        Quantiles between 0 and 1.
    bits
        Bits of the mantissa that tell buckets apart; one more halves the error and doubles the memory.
    smallest, largest
        Range of sizes that is resolved; powers of two.

    References
    ----------
    Masson, Rim, Lee (2019), DDSketch, VLDB: the guarantee on the relative error. The buckets here are linear
    within an octave, which needs 1.4 times as many of them and no logarithm.

    Examples
    --------
    >>> from patchclamp.nouns.recording.recording import Samples
    >>> m = Quantiles(q=(0.5,))
    >>> m.update(torch.arange(101.0)[:, None], Samples.of(torch.zeros(101), torch.arange(101)))
    >>> abs(float(m.result()["quantile_value"][0, 0]) - 50) < 50 * 0.0154
    True
    """

    name = "quantiles"
    fields = ("counts", "low", "high")
    lows = ("low",)
    highs = ("high",)

    counts: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self,
        *,
        q: Sequence[float] = DEFAULT_QUANTILES,
        bits: int = 5,
        smallest: float = 2.0**-12,
        largest: float = 2.0**16,
    ) -> None:
        self.q = tuple(float(value) for value in q)
        outside = [value for value in self.q if not 0 <= value <= 1]
        require(bool(self.q) and not outside, f"q={outside or self.q}: quantiles lie between 0 and 1")
        self.bits, self.smallest, self.largest = int(bits), float(smallest), float(largest)
        self.buckets = Buckets(self.bits, self.smallest, self.largest)

    def _update(self, values: Float[Tensor, "n units"], samples: Samples) -> None:
        units = values.shape[1]
        if not hasattr(self, "counts"):
            self.counts = torch.zeros(units * self.buckets.count, dtype=torch.int32)
        if self.n_samples + len(values) >= 2**31:
            raise PatchclampError(f"{self._who}: more than 2^31 samples; measure in parts")
        index = self.buckets.index(values)
        index += torch.arange(units, dtype=torch.int32, device=index.device) * self.buckets.count
        flat = index.flatten().cpu()
        self.counts.index_add_(0, flat, torch.ones(1, dtype=torch.int32).expand(len(flat)))
        self._add(low=values.amin(0).cpu().double(), high=values.amax(0).cpu().double())

    def result(self) -> xr.Dataset:
        """Dataset: quantile_value (unit, quantile); min, max, beyond (unit); the relative error as an
        attribute."""
        units = self._need_data()
        table = self.counts.view(units, -1)
        ranks = [int(q * (self.n_samples - 1)) for q in self.q]
        bucket = bucket_of_rank(table, torch.tensor(ranks))
        values = self.buckets.values()[bucket]
        values = values.clamp(self.low[:, None], self.high[:, None])
        last = self.buckets.count - 1
        values = values.masked_fill((bucket == 0) | (bucket == last), torch.nan)
        return self._dataset(
            {
                "quantile_value": (("unit", "quantile"), values),
                "min": (("unit",), self.low),
                "max": (("unit",), self.high),
                "beyond": (("unit",), table[:, 0] + table[:, last]),
            },
            {"quantile": list(self.q)},
            relative_error=self.buckets.relative_error,
            resolution_at_zero=self.smallest,
        )


def bucket_of_rank(table: Int[Tensor, "units buckets"], ranks: Int[Tensor, " q"]) -> Int[Tensor, "units q"]:
    """Bucket that holds the value of each rank (0 = smallest), per unit."""
    wanted = (ranks + 1).expand(len(table), -1).contiguous()
    return torch.searchsorted(table.cumsum(1), wanted)
