"""How often a unit is active: firing rate, dead and constant units."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from patchclamp.nouns.measure import BLOCK_ROWS, Measure, require, row_blocks

if TYPE_CHECKING:
    from patchclamp.nouns.recording.recording import Samples


class FiringRate(Measure):
    """Fraction of samples on which a unit is above its threshold: #{a > threshold} / n. Counts are exact.

    Parameters
    ----------
    threshold
        A number, or a tensor with one threshold a unit.

    Examples
    --------
    >>> from patchclamp.nouns.recording.recording import Samples
    >>> f = FiringRate(threshold=0.5)
    >>> f.update(torch.tensor([[0.0, 1.0], [0.6, 1.0]]), Samples.of(torch.zeros(2), torch.arange(2)))
    >>> f.result()["rate"].values.tolist()
    [0.5, 1.0]
    """

    name = "firing"
    fields = ("active",)

    active: Tensor

    def __init__(self, *, threshold: float | Float[Tensor, " units"] = 0.0) -> None:
        self.threshold = threshold

    def _update(self, values: Float[Tensor, "n units"], samples: Samples) -> None:
        level = self.threshold
        if isinstance(level, Tensor):
            require(
                level.shape == values.shape[1:],
                f"{self._who}: threshold of shape {tuple(level.shape)} for {values.shape[1]} units",
            )
            level = level.to(values)
        self._add(active=count_above(values, level))

    def result(self) -> xr.Dataset:
        """Dataset over `unit`: active (number of samples), rate."""
        self._need_data()
        return self._dataset(
            {"active": (("unit",), self.active), "rate": (("unit",), self.active / self.n_samples)}
        )


class DeadUnits(Measure):
    """Units that never leave zero: dead = |a| <= threshold on every sample; constant = one value throughout.

    With `threshold=0` this is the usual definition for ReLU units and the features of sparse dictionaries.
    Smooth activations (SiLU, GELU) have no exact zeros: give the size that counts as none. A unit that is
    dead on few samples need not be dead: read `n_samples` beside it.

    Parameters
    ----------
    threshold
        Largest absolute value that still counts as silent.
    """

    name = "dead"
    fields = ("low", "high", "active")
    lows = ("low",)
    highs = ("high",)

    low: Tensor
    high: Tensor
    active: Tensor

    def __init__(self, *, threshold: float = 0.0) -> None:
        require(threshold >= 0, f"DeadUnits: threshold {threshold} is negative; it bounds an absolute value")
        self.threshold = float(threshold)

    def _update(self, values: Float[Tensor, "n units"], samples: Samples) -> None:
        active = count_above(values, self.threshold) + count_above(values, -self.threshold, below=True)
        self._add(low=values.amin(0).cpu().double(), high=values.amax(0).cpu().double(), active=active)

    def result(self) -> xr.Dataset:
        """Dataset over `unit`: dead, constant, active (samples beyond threshold), max_abs; fraction_dead."""
        self._need_data()
        dead = self.active == 0
        return self._dataset(
            {
                "dead": (("unit",), dead),
                "constant": (("unit",), self.low == self.high),
                "active": (("unit",), self.active),
                "max_abs": (("unit",), torch.maximum(self.high.abs(), self.low.abs())),
                "fraction_dead": ((), float(dead.double().mean())),
            },
            threshold=self.threshold,
        )


def count_above(
    values: Float[Tensor, "n units"], level: float | Tensor, below: bool = False, rows: int = 4 * BLOCK_ROWS
) -> Tensor:
    """Number of rows above (or below) a level, per unit, int64 on the CPU.

    The comparison writes float32 ones into a block that stays in cache and sums it: three times faster than
    summing booleans, and exact because a block has fewer than 2^24 rows.
    """
    buffer = values.new_empty((min(len(values), rows), values.shape[1]), dtype=torch.float32)
    total = torch.zeros(values.shape[1], dtype=torch.int64, device=values.device)
    compare = torch.lt if below else torch.gt
    for block in row_blocks(values, rows):
        mask = buffer[: len(block)]
        compare(block, level, out=mask)
        total += mask.sum(0).long()
    return total.cpu()
