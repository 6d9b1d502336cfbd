"""CETT: the share of a layer's output that is lost when its small neurons are left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.measure import HasOutputs, Measure, require

if TYPE_CHECKING:
    from patchclamp.nouns.recording.recording import Samples

_CHUNK = 1024  # rows at once: bounds the copy of the activity


def magnitudes(
    activity: Float[Tensor, "n units"], output_weight: Float[Tensor, "units d"]
) -> Float[Tensor, "n units"]:
    """Size of what each unit writes on each sample: m = |a| x |W_out row|."""
    norms: Tensor = output_weight.to(activity).norm(dim=1)
    return activity.abs() * norms


def cett(
    activity: Float[Tensor, "n units"],
    output_weight: Float[Tensor, "units d"],
    thresholds: Sequence[float] | Float[Tensor, " k"],
) -> Float[Tensor, " k"]:
    """CETT at given thresholds t: mean over samples of |sum of a_i W_i with m_i <= t| / |sum of all a_i W_i|.

    Samples whose whole output is zero have no ratio and are left out. CETT is 0 where nothing is left out and
    1 where everything is, but it need not rise in between when outputs cancel (it does when the rows of W are
    orthogonal).

    Examples
    --------
    >>> cett(torch.tensor([[3.0, 4.0]]), torch.eye(2), [1.0, 3.0, 4.0]).tolist()
    [0.0, 0.6, 1.0]
    """
    weight = output_weight.to(activity)
    sizes, whole = magnitudes(activity, weight), (activity @ weight).norm(dim=1).double()
    live = whole > 0
    out = []
    for level in torch.as_tensor(thresholds).tolist():
        lost = (activity.masked_fill(sizes > level, 0) @ weight).norm(dim=1).double()
        out.append((lost[live] / whole[live]).mean())
    return torch.stack(out)


def cett_threshold(
    activity: Float[Tensor, "n units"],
    output_weight: Float[Tensor, "units d"],
    target: float,
    steps: int = 40,
) -> float:
    """Largest threshold with CETT <= target, by bisection over activity in memory.

    Exact to 2^-steps of the largest magnitude where CETT rises with the threshold; elsewhere it is one
    crossing.
    """
    _check_target(target)
    low, high = 0.0, float(magnitudes(activity, output_weight).max())
    if float(cett(activity, output_weight, [high])) <= target:
        return high
    for _ in range(steps):
        middle = (low + high) / 2
        if float(cett(activity, output_weight, [middle])) <= target:
            low = middle
        else:
            high = middle
    return low


class CETT(Measure):
    """CETT and the share of active neurons on a grid of thresholds, and thresholds for a wanted CETT.

    With m_i = |a_i| |W_i| (W_i what neuron i writes): ``cett(t)`` = mean over samples of the norm of what the
    neurons with m_i <= t write, relative to the norm of the whole output; ``active(t)`` = mean fraction of
    neurons with m_i > t. The scale on which neurons are compared is thus their output, and does not change
    when a is scaled by 1/s and W by s. Samples whose whole output is zero are left out and counted in
    `skipped`.

    The grid is fixed (so that shards merge): 2^(k/steps) for k from log2(low) steps to log2(high) steps, and
    0. Cost: a product with W_out a batch for every grid point between the smallest and the largest magnitude
    of the batch; meant for some thousand tokens of calibration. Choose thresholds on one text and report
    sparsity on another.

    Parameters
    ----------
    output_weight
        What each unit writes, `subject.output_matrix(site)`; taken from the subject by `CETT.for_site`.
    low, high
        Ends of the grid, powers of two.
    steps
        Grid points an octave.
    targets
        Values of CETT whose thresholds `result` gives.

    References
    ----------
    Song et al. (2024), Sparsing Law (PPL-p % sparsity); Zhang et al. (2024), ReLU^2 wins (CETT). Here neurons
    at the threshold count as inactive on both sides, so that at t = 0 `active` is the fraction of non-zero
    values.
    """

    name = "cett"
    needs = ("output_weight",)
    fields = ("lost", "active", "used")

    def __init__(
        self,
        *,
        output_weight: Float[Tensor, "units d"] | None = None,
        low: float = 2.0**-14,
        high: float = 2.0**10,
        steps: int = 4,
        targets: Sequence[float] = (0.01, 0.05, 0.1, 0.2),
    ) -> None:
        require(
            output_weight is not None,
            "CETT: output_weight is missing; give subject.output_matrix(site), or use CETT.for_site",
        )
        require(
            0 < low < high and steps > 0, f"CETT: a grid from {low} to {high} with {steps} points an octave"
        )
        for target in targets:
            _check_target(target)
        assert output_weight is not None
        self.output_weight = output_weight.detach()
        self.low, self.high, self.steps = float(low), float(high), int(steps)
        self.targets = tuple(float(t) for t in targets)
        exponents = torch.arange(
            round(torch.tensor(low).log2().item() * steps),
            round(torch.tensor(high).log2().item() * steps) + 1,
        )
        self.grid = torch.cat([torch.zeros(1, dtype=torch.float64), 2.0 ** (exponents.double() / steps)])
        self.lost = torch.zeros_like(self.grid)
        self.active = torch.zeros(len(self.grid), dtype=torch.int64)
        self.used = 0

    @classmethod
    def _needs(cls, subject: HasOutputs, site: Any) -> dict[str, Any]:
        return {"output_weight": subject.output_matrix(site).detach()}

    def _update(self, values: Float[Tensor, "n units"], samples: Samples) -> None:
        if len(self.output_weight) != values.shape[1]:
            raise PatchclampError(
                f"{self._who}: output_weight has {len(self.output_weight)} rows for {values.shape[1]} units"
            )
        for part in values.split(_CHUNK):
            self._grow(part, self.output_weight.to(part))

    def _grow(self, values: Tensor, weight: Tensor) -> None:
        sizes = magnitudes(values, weight)
        whole = (values @ weight).norm(dim=1).double()
        live = whole > 0
        values, sizes, whole = values[live], sizes[live], whole[live]
        self.used += len(values)
        if not len(values):
            return
        grid = self.grid.to(sizes)
        smallest, largest = float(sizes.min()), float(sizes.max())
        below = None
        for k, level in enumerate(grid.tolist()):
            if level < smallest:
                self.active[k] += sizes.numel()
            elif level >= largest:
                self.lost[k:] += len(values)  # all is lost: the ratio is 1 for every sample
                return
            else:
                kept = sizes > level
                count = int(kept.sum())
                if below is None or count != below[0]:
                    lost = (values.masked_fill(kept, 0) @ weight).norm(dim=1).double()
                    below = (count, float((lost / whole).sum()))
                self.active[k] += count
                self.lost[k] += below[1]

    def curve(self) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"], Float[Tensor, " k"]]:
        """Thresholds, CETT and active fraction on the grid."""
        units = self._need_data()
        require(self.used > 0, f"{self._who}: every sample's output is zero")
        return self.grid, self.lost / self.used, self.active.double() / (self.used * units)

    def threshold(self, target: float, interpolate: bool = False) -> float:
        """Threshold for a CETT of `target`.

        By default the largest grid point up to which CETT stays <= target: a bound that holds. With
        `interpolate` the threshold is interpolated (in CETT, linearly) up to the next grid point, which is
        what a search needs.
        """
        _check_target(target)
        grid, lost, _ = self.curve()
        over = (lost > target).nonzero()
        if not len(over):
            return float(grid[-1])
        k = int(over[0])
        if k == 0:
            return 0.0
        if not interpolate:
            return float(grid[k - 1])
        share = (target - float(lost[k - 1])) / (float(lost[k]) - float(lost[k - 1]))
        return float(grid[k - 1] + share * (grid[k] - grid[k - 1]))

    def result(self) -> xr.Dataset:
        """Dataset: cett, active (threshold); threshold_at, active_at (target); skipped."""
        grid, lost, active = self.curve()
        levels = [self.threshold(target) for target in self.targets]
        places = torch.searchsorted(grid, torch.tensor(levels, dtype=torch.float64))
        return self._dataset(
            {
                "cett": (("threshold",), lost),
                "active": (("threshold",), active),
                "threshold_at": (("target",), levels),
                "active_at": (("target",), active[places]),
                "skipped": ((), self.n_samples - self.used),
            },
            {"threshold": grid.numpy(), "target": list(self.targets)},
        )


def _check_target(target: float) -> None:
    require(0 <= target <= 1, f"CETT of {target}: a share between 0 and 1")
