"""Neural activation patterns: the units that are on, and those that are off, for (nearly) all inputs of a label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patchclamp.nouns.measure import Measure, require

if TYPE_CHECKING:
    from patchclamp.nouns.recording.recording import Samples

FREE = -1  # a unit that may be on or off


class ActivationPatterns(Measure):
    """The activation pattern of every label: 1 for units on in a share delta of its samples or more, 0 for units off in
    as many, -1 for the rest.

    A pattern is a specification that a label's inputs obey; whether others obey it too must be checked on other
    samples with `PatternCheck` (``measure.check()``). Give samples that the network gets right: errors of the
    network do not belong to the specification. Samples without a label (-1) do not count. Counts are exact.

    Parameters
    ----------
    delta
        Above 1/2 and up to 1; at 1/2 a unit could be specified both on and off. A smaller delta specifies more units,
        and fewer samples of the label itself then obey: about delta to the number of units where these are independent.
    threshold
        Activity above it is on.

    References
    ----------
    Geng et al. (2023), Towards reliable neural specifications.

    Examples
    --------
    >>> from patchclamp.nouns.recording.recording import Samples
    >>> on = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    >>> mined = ActivationPatterns(delta=1.0)
    >>> mined.update(on, Samples.of(torch.arange(2), torch.zeros(2), label=torch.zeros(2)))
    >>> mined.result()["pattern"].values.tolist()
    [[1, 0, -1]]
    """

    name = "patterns"
    fields = ("labels", "on", "count")

    labels: Tensor
    on: Tensor
    count: Tensor

    def __init__(self, *, delta: float = 0.99, threshold: float = 0.0) -> None:
        require(
            0.5 < delta <= 1,
            f"ActivationPatterns: delta={delta}; above 0.5, where a unit could be both on and off, and at most 1",
        )
        self.delta, self.threshold = float(delta), float(threshold)

    def _update(self, values: Float[Tensor, "n units"], samples: Samples) -> None:
        label = samples.label.cpu()
        known = label >= 0
        numbers, place = label[known].unique(return_inverse=True)
        on = (values.cpu() > self.threshold)[known].long()
        total = torch.zeros(len(numbers), values.shape[1], dtype=torch.int64).index_add_(0, place, on)
        self._add(labels=numbers, on=total, count=place.bincount(minlength=len(numbers)))

    def _add(self, **part: Tensor) -> None:
        """Join counts by label, labels rising."""
        table = self._behind(part)
        self.labels, place = table["labels"].unique(return_inverse=True)
        self.on = torch.zeros(len(self.labels), table["on"].shape[1], dtype=torch.int64).index_add_(
            0, place, table["on"]
        )
        self.count = torch.zeros_like(self.labels).index_add_(0, place, table["count"])

    def patterns(self) -> Int[Tensor, "labels units"]:
        """The pattern of each label, int8."""
        self._need_data()
        require(len(self.labels) > 0, f"{self._who}: no sample has a label; give samples.label")
        share = self.on.double() / self.count[:, None]
        quiet = (self.count[:, None] - self.on).double() / self.count[:, None]
        free = torch.full(share.shape, FREE, dtype=torch.int8)
        return free.masked_fill(share >= self.delta, 1).masked_fill(quiet >= self.delta, 0)

    def check(self) -> PatternCheck:
        """A measure that holds these patterns against other samples."""
        found = PatternCheck(patterns=self.patterns(), labels=self.labels, threshold=self.threshold)
        found.site = self.site
        return found

    def result(self) -> xr.Dataset:
        """Dataset over (label, unit): pattern (1, 0, -1 = free), rate; length, count (label)."""
        patterns = self.patterns()
        return self._dataset(
            {
                "pattern": (("label", "unit"), patterns),
                "rate": (("label", "unit"), self.on.double() / self.count[:, None]),
                "length": (("label",), (patterns != FREE).sum(1)),
                "count": (("label",), self.count),
            },
            {"label": self.labels.numpy()},
            delta=self.delta,
            threshold=self.threshold,
        )


class PatternCheck(Measure):
    """How many samples obey the pattern of their own label (recall) and of another one (false acceptance).

    Parameters
    ----------
    patterns
        (labels, units) of 1, 0 and -1 (free), from `ActivationPatterns.patterns`.
    labels
        The label of each pattern.
    threshold
        Activity above it is on.
    """

    name = "pattern check"
    fields = ("seen", "accepted", "several", "none")

    def __init__(
        self,
        *,
        patterns: Int[Tensor, "labels units"],
        labels: Int[Tensor, " labels"],
        threshold: float = 0.0,
    ) -> None:
        require(
            patterns.ndim == 2 and len(patterns) == len(labels),
            f"PatternCheck: patterns of shape {tuple(patterns.shape)} for {len(labels)} labels",
        )
        require(
            bool(((patterns >= -1) & (patterns <= 1)).all()),
            "PatternCheck: patterns hold 1 (on), 0 (off), -1 (free)",
        )
        self.patterns, self.labels, self.threshold = patterns.to(torch.int8), labels, float(threshold)
        self.seen = torch.zeros(len(labels), dtype=torch.int64)  # samples of each label
        self.accepted = torch.zeros(len(labels), len(labels), dtype=torch.int64)  # label, pattern
        self.several, self.none = torch.zeros(2, len(labels), dtype=torch.int64).unbind()

    def _update(self, values: Float[Tensor, "n units"], samples: Samples) -> None:
        require(
            values.shape[1] == self.patterns.shape[1],
            f"{self._who}: {values.shape[1]} units, but the patterns have {self.patterns.shape[1]}",
        )
        label = samples.label.cpu()
        obeyed = follows(values.cpu() > self.threshold, self.patterns)
        for i, number in enumerate(self.labels.tolist()):
            of_label = obeyed[label == number]
            self.seen[i] += len(of_label)
            self.accepted[i] += of_label.sum(0)
            self.several[i] += (of_label.sum(1) > 1).sum()
            self.none[i] += (of_label.sum(1) == 0).sum()

    def result(self) -> xr.Dataset:
        """Dataset over `label`: recall (own pattern obeyed), false_acceptance (of this pattern, by samples of other labels),
        ambiguous (several patterns obeyed), unclaimed (none), length, count; accepted (label, pattern).
        """
        self._need_data()
        require(
            bool(self.seen.sum() > 0),
            f"{self._who}: no sample has one of the labels {self.labels.tolist()}; the patterns cannot be checked",
        )
        own = self.accepted.diagonal()
        others = self.seen.sum() - self.seen
        length = (self.patterns != FREE).sum(1)
        return self._dataset(
            {
                "recall": (("label",), own.double() / self.seen),
                "false_acceptance": (("label",), (self.accepted.sum(0) - own).double() / others),
                "ambiguous": (("label",), self.several.double() / self.seen),
                "unclaimed": (("label",), self.none.double() / self.seen),
                "length": (("label",), length),
                "count": (("label",), self.seen),
                "accepted": (("label", "pattern"), self.accepted),
            },
            {
                "label": self.labels.numpy(),
                "pattern": self.labels.numpy(),
                "unit": np.arange(self.n_units or 0),
            },
        )


def follows(on: Bool[Tensor, "n units"], patterns: Int[Tensor, "labels units"]) -> Bool[Tensor, "n labels"]:
    """Whether each sample obeys each pattern: all units that are not free agree."""
    bits = on.float()
    broken = bits @ (patterns == 0).float().T + (1 - bits) @ (patterns == 1).float().T
    return broken == 0
