"""How sparse a code is: over samples for each unit (lifetime), over units for each sample (population)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from patchclamp.measure.activity.firing import count_above
from patchclamp.measure.activity.moments import Moments
from patchclamp.nouns.measure import BLOCK_ROWS, host, require, row_blocks

if TYPE_CHECKING:
    from patchclamp.nouns.recording.recording import Samples

_POPULATION = ("hoyer", "kurtosis", "l0")
_OWN = ("l1", "l2", "active", "population", "population_n")


class Sparsity(Moments):
    """Hoyer sparsity, kurtosis and L0, of each unit over samples and of each sample over units.

    For a vector of n values: ``hoyer`` = (sqrt(n) - |x|_1 / |x|_2) / (sqrt(n) - 1), 1 for a single non-zero
    value and 0 where all are equal in size; ``kurtosis`` = m_4 / m_2^2 - 3; ``l0`` = number of values with
    |x| > epsilon. A vector of zeros has no Hoyer sparsity, one of constants no kurtosis: NaN, left out of the
    averages over samples and counted.

    Parameters
    ----------
    epsilon
        Size above which a value counts as active. SiLU and GELU have no exact zeros: for them L0 says nothing
        at 0 (use `CETT`, which chooses the threshold by its effect on the layer's output).

    References
    ----------
    Hoyer (2004), Non-negative matrix factorization with sparseness constraints. Willmore and Tolhurst (2001),
    Characterizing the sparseness of neural codes (lifetime and population).
    """

    name = "sparsity"
    fields = (*Moments.fields, *_OWN)

    l1: Tensor
    l2: Tensor
    active: Tensor
    population: Tensor  # sum and sum of squares of each figure
    population_n: Tensor

    def __init__(self, *, epsilon: float = 0.0) -> None:
        super().__init__()
        require(epsilon >= 0, f"Sparsity: epsilon {epsilon} is negative; it bounds an absolute value")
        self.epsilon = float(epsilon)

    def _update(self, values: Float[Tensor, "n units"], samples: Samples) -> None:
        super()._update(values, samples)
        figures = torch.cat([self._figures(block) for block in row_blocks(values)], 1)
        known = (~figures.isnan()).sum(1).cpu()
        figures = figures.nan_to_num(0.0)
        population = torch.stack([figures.sum(1), figures.square().sum(1)], 1).cpu()
        active = count_above(values, self.epsilon) + count_above(values, -self.epsilon, below=True)
        l1, l2 = norm_sums(values)
        self._add(l1=l1, l2=l2, active=active, population=population, population_n=known)

    def _figures(self, values: Float[Tensor, "n units"]) -> Float[Tensor, "3 n"]:
        """Hoyer sparsity, kurtosis and L0 of each row."""
        active = (values.abs() > self.epsilon).sum(1)
        return torch.stack([hoyer(values), kurtosis(values), active.double()])

    def _merge(self, other: Self) -> None:
        super()._merge(other)
        self._add(**{name: getattr(other, name) for name in _OWN})

    def result(self) -> xr.Dataset:
        """Dataset: hoyer, kurtosis, l0, rate (unit); population_mean, population_std, population_n
        (figure)."""
        lifetime_kurtosis = super().result()["kurtosis"].values
        root = math.sqrt(self.n_samples)
        ratio = self.l1 / self.l2.sqrt()
        lifetime = (root - ratio) / (root - 1) if root > 1 else torch.full_like(ratio, torch.nan)
        mean, square = (self.population / self.population_n[:, None].double()).unbind(1)
        return self._dataset(
            {
                "hoyer": (("unit",), lifetime.clamp(0, 1)),
                "kurtosis": (("unit",), lifetime_kurtosis),
                "l0": (("unit",), self.active),
                "rate": (("unit",), self.active / self.n_samples),
                "population_mean": (("figure",), mean),
                "population_std": (("figure",), (square - mean**2).clamp_min(0).sqrt()),
                "population_n": (("figure",), self.population_n),
            },
            {"figure": list(_POPULATION)},
            epsilon=self.epsilon,
        )


def hoyer(values: Float[Tensor, "n units"]) -> Float[Tensor, " n"]:
    """Hoyer sparsity of each row, float64; NaN for a row of zeros or a single unit.

    Examples
    --------
    >>> hoyer(torch.tensor([[0.0, 3.0, 0.0, 0.0], [1.0, -1.0, 1.0, 1.0]])).tolist()
    [1.0, 0.0]
    """
    root = math.sqrt(values.shape[1])
    if root == 1:
        return torch.full((len(values),), torch.nan, dtype=torch.float64)
    # Divided by the largest value first, so that squares neither overflow nor vanish.
    scaled = values.abs()
    scaled /= scaled.amax(1, keepdim=True)
    ratio = scaled.sum(1).double() / scaled.square_().sum(1).double().sqrt()
    return ((root - ratio) / (root - 1)).clamp(0, 1)


def kurtosis(values: Float[Tensor, "n units"]) -> Float[Tensor, " n"]:
    """Excess kurtosis of each row over its units, float64; NaN for a constant row."""
    centred = values - values.mean(1, keepdim=True)
    low, high = centred.aminmax(dim=1, keepdim=True)
    centred /= torch.maximum(high, -low)  # powers neither overflow nor vanish
    square = centred.square_()
    m2 = square.mean(1).double()
    m4 = square.square_().mean(1).double()
    return (m4 / m2**2 - 3).masked_fill((low == high)[:, 0], torch.nan)


def norm_sums(values: Float[Tensor, "n units"]) -> tuple[Float[Tensor, " units"], Float[Tensor, " units"]]:
    """Sums of |a| and a^2 over samples, float64."""
    buffer = values.new_empty(min(len(values), BLOCK_ROWS), values.shape[1])
    absolute, squared = [], []
    for block in row_blocks(values):
        part = buffer[: len(block)]
        absolute.append(torch.abs(block, out=part).sum(0))
        squared.append(torch.mul(block, block, out=part).sum(0))
    l1, l2 = host(torch.stack(absolute)).sum(0), host(torch.stack(squared)).sum(0)
    if values.dtype == torch.float32 and not bool(l2.isfinite().all()):
        return norm_sums(values.double())  # squares overflow float32
    return l1, l2
