"""Massive activations: single values that are huge beside everything else in the layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from patchclamp.measure.activity.histogram import Buckets
from patchclamp.measure.activity.quantiles import bucket_of_rank
from patchclamp.nouns.measure import Measure, require

if TYPE_CHECKING:
    from patchclamp.nouns.recording.recording import Samples

_BUCKETS = Buckets(bits=8, smallest=2.0**-24, largest=2.0**24)
_COLUMNS = ("value", "unit", "doc", "position", "token")


class MassiveActivations(Measure):
    """Values with |h| > `minimum` and |h| > `ratio` x the median |h| of the site, each with its place.

    They sit in few units of the residual stream, at the first token and at delimiters, and act as biases;
    norms, variance-weighted decompositions and CKA are dominated by them. Measured on rows without BOS and
    sinks, most are missing: give all rows to this measure.

    The median comes from a histogram, within 0.2 %. The `keep` largest candidates are kept, exactly, ties in
    order of (document, position, unit); `n_candidates` tells whether there were more, `above` counts |h| >
    minimum per unit.

    Parameters
    ----------
    minimum
        Absolute size that a massive activation exceeds.
    ratio
        Multiple of the median |h| that it exceeds.
    keep
        Largest number of values in the list.

    References
    ----------
    Sun, Chen, Kolter, Liu (2024), Massive activations in large language models (both criteria).
    """

    name = "massive"
    fields = ("counts", "above", *_COLUMNS)

    counts: Tensor
    above: Tensor
    value: Tensor
    unit: Tensor
    doc: Tensor
    position: Tensor
    token: Tensor

    def __init__(self, *, minimum: float = 100.0, ratio: float = 1000.0, keep: int = 10_000) -> None:
        require(
            minimum > 0 and ratio > 0,
            f"MassiveActivations: minimum={minimum}, ratio={ratio} must be positive",
        )
        require(keep > 0, f"MassiveActivations: keep={keep}; keep at least one value")
        self.minimum, self.ratio, self.keep = float(minimum), float(ratio), int(keep)

    def _update(self, values: Float[Tensor, "n units"], samples: Samples) -> None:
        size = values.abs()
        counts = torch.bincount(_BUCKETS.index(size).flatten(), minlength=_BUCKETS.count).cpu()
        above = size > self.minimum
        rows, units = (index.cpu() for index in above.nonzero(as_tuple=True))
        found = {
            "value": values[above].cpu().double(),
            "unit": units,
            "doc": samples.doc.cpu()[rows],
            "position": samples.position.cpu()[rows],
            "token": samples.token.cpu()[rows],
        }
        self._add(counts=counts, above=above.sum(0).cpu(), **found)

    def _add(self, **part: Tensor) -> None:
        super()._add(counts=part.pop("counts"), above=part.pop("above"))
        table = self._behind(part)
        keys = (
            table["unit"].numpy(),
            table["position"].numpy(),
            table["doc"].numpy(),
            -table["value"].abs().numpy(),
        )
        order = torch.from_numpy(np.lexsort(keys)[: self.keep])
        for name in _COLUMNS:
            setattr(self, name, table[name][order])

    @property
    def median(self) -> float:
        """Median |h| over all units and samples."""
        self._need_data()
        total = int(self.counts.sum())
        rank = torch.tensor([(total - 1) // 2])
        return float(_BUCKETS.values()[bucket_of_rank(self.counts[None], rank)])

    def result(self) -> xr.Dataset:
        """Dataset: value, ratio, massive_unit, doc, position, token (found); above (unit); median."""
        self._need_data()
        median = self.median
        chosen = self.value.abs() > self.ratio * median
        found = ("found",)
        return self._dataset(
            {
                "value": (found, self.value[chosen]),
                "ratio": (found, self.value[chosen].abs() / median),
                "massive_unit": (found, self.unit[chosen]),
                "doc": (found, self.doc[chosen]),
                "position": (found, self.position[chosen]),
                "token": (found, self.token[chosen]),
                "above": (("unit",), self.above),
                "median": ((), median),
                "n_candidates": ((), int(self.above.sum())),
            },
            truncated=int(int(self.above.sum()) > self.keep),
        )
