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
    """Values with |h| > `ratio` x the median |h| of the site (and > `minimum`), each with its place.

    They sit in few units of the residual stream, at the first token, at delimiters and at sinks in mid-sentence, and act
    as biases; norms, variance-weighted decompositions and CKA are dominated by them. Measured on rows without BOS and
    sinks, most are missing: give all rows to this measure.

    The threshold is relative to the model. On SmolLM2 the largest value of an ordinary token is at most 60 medians and that
    of a sink 300 to 10,000; 7B models reach 1,000 and more, and ``minimum=100, ratio=1000`` are the criteria found there.

    The median comes from a histogram, within 0.2 %. The `keep` largest values are kept, exactly, ties in
    order of (document, position, unit); `n_candidates` (from the histogram) tells whether more were beyond the threshold.

    Parameters
    ----------
    minimum
        Absolute size that a massive activation exceeds as well.
    ratio
        Multiple of the median |h| that it exceeds.
    keep
        Largest number of values in the list.

    References
    ----------
    Sun, Chen, Kolter, Liu (2024), Massive activations in large language models (both criteria).
    """

    name = "massive"
    fields = ("counts", *_COLUMNS)

    counts: Tensor
    value: Tensor
    unit: Tensor
    doc: Tensor
    position: Tensor
    token: Tensor

    def __init__(self, *, minimum: float = 0.0, ratio: float = 300.0, keep: int = 10_000) -> None:
        require(
            minimum >= 0 and ratio > 0,
            f"MassiveActivations: minimum={minimum}, ratio={ratio}: no size is negative, and the ratio must be positive",
        )
        require(keep > 0, f"MassiveActivations: keep={keep}; keep at least one value")
        self.minimum, self.ratio, self.keep = float(minimum), float(ratio), int(keep)

    def _update(self, values: Float[Tensor, "n units"], samples: Samples) -> None:
        size = values.abs()
        counts = torch.bincount(_BUCKETS.index(size).flatten(), minlength=_BUCKETS.count).cpu()
        above = size >= self._floor(size)
        rows, units = (index.cpu() for index in above.nonzero(as_tuple=True))
        found = {
            "value": values[above].cpu().double(),
            "unit": units,
            "doc": samples.doc.cpu()[rows],
            "position": samples.position.cpu()[rows],
            "token": samples.token.cpu()[rows],
        }
        self._add(counts=counts, **found)

    def _floor(self, size: Tensor) -> float:
        """What a value of this batch must reach to be among the `keep` largest, here and so far."""
        flat = size.flatten()
        floor = float(flat.topk(self.keep).values[-1]) if self.keep < len(flat) else 0.0
        kept: Tensor | None = getattr(self, "value", None)
        return max(floor, float(kept[-1].abs())) if kept is not None and len(kept) == self.keep else floor

    def _add(self, **part: Tensor) -> None:
        super()._add(counts=part.pop("counts"))
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
        """Dataset: value, ratio, massive_unit, doc, position, token (found); above (unit: how many found); median."""
        n_units = self._need_data()
        median = self.median
        least = max(self.ratio * median, self.minimum)
        chosen = self.value.abs() > least
        beyond = int(self.counts[_BUCKETS.values() > least].sum())
        found = ("found",)
        return self._dataset(
            {
                "value": (found, self.value[chosen]),
                "ratio": (found, self.value[chosen].abs() / median),
                "massive_unit": (found, self.unit[chosen]),
                "doc": (found, self.doc[chosen]),
                "position": (found, self.position[chosen]),
                "token": (found, self.token[chosen]),
                "above": (("unit",), torch.bincount(self.unit[chosen], minlength=n_units)),
                "median": ((), median),
                "n_candidates": ((), max(beyond, int(chosen.sum()))),
            },
            truncated=int(bool(chosen.all()) and len(self.value) == self.keep),
        )
