"""Bayesian decoding of a behaviour from counts, held out, against circular shifts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate, Null
from patchclamp.base.seeds import numpy_rng
from patchclamp.base.statistics import permutation_p
from patchclamp.draw.tuning import errors_figure
from patchclamp.measure.brain.tuning import _Grid, least_shift

if TYPE_CHECKING:
    from patchclamp.nouns.recording.recording import Recording

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Decoded:
    """Behaviour decoded from held-out activity.

    Parameters
    ----------
    true, estimate
        (samples, behaviours); NaN where a sample was in no test part or has no behaviour.
    error
        (samples,) Euclidean distance between them, in the behaviour's unit.
    median
        Median error, with the null of the shifts, each fitted and tested anew (none without shifts); its p is
        (1 + number of shifts with a median error at most as large) / (shifts + 1).
    """

    true: Floats
    estimate: Floats
    error: Floats
    median: Estimate

    def __repr__(self) -> str:
        null = self.median.null
        beside = "" if null is None else f", null {np.median(null.draws):.4g} (p {null.p:.3g})"
        return f"Decoded(median error {self.median.value:.4g}{beside}, {int(np.isfinite(self.error).sum())} samples)"

    def plot(self, ax: Any = None) -> Any:
        """Draw the errors' distribution with the null's medians; return the matplotlib figure."""
        return errors_figure(self.error, self.median.value, np.array(self.median.draws), ax)


def decode_behaviour(
    recording: Recording,
    behaviour: str | Sequence[str],
    bins: int | Sequence[int] = 20,
    *,
    folds: Sequence[Any] | None = None,
    site: str | None = None,
    smooth: float = 1.0,
    where: Any = None,
    n_shifts: int = 20,
    seed: int = 0,
) -> Decoded:
    """Decode one or two behaviours from counts: independent Poisson units, uniform prior over visited bins.

    log p(b | counts) = sum over units of counts log(rate(b) dt) - dt sum over units of rate(b) + const, with the rates
    of the training samples (smoothed over bins, at least 0.01 Hz); the estimate is the most probable bin's centre.
    The null shifts all activity circularly against the behaviour by at least 20 s, then fits and decodes
    again on the same folds.

    Parameters
    ----------
    recording
        Counts with the behaviours among their columns; the bin is the decoder's time window.
    behaviour, bins
        One or two columns, and the bins of each.
    folds
        (train, test) pairs; by default ``recording.split(by="time")``: blocks with a gap.
    site
        Site; by default the first.
    smooth
        Standard deviation of a Gaussian over bins of the behaviour.
    where
        Mask of samples to use (of movement, say).
    n_shifts, seed
        Shifts of the null.

    References
    ----------
    Zhang, Ginzburg, McNaughton, Sejnowski (1998), Interpreting neuronal population activity by reconstruction.
    """
    names = [behaviour] if isinstance(behaviour, str) else list(behaviour)
    if recording.manifest.get("quantity") != "count":
        raise PatchclampError("decode_behaviour: activity must be counts, such as SpikeTrains.bin gives")
    chosen = recording.sites[0] if site is None else recording.site(site)
    grid = _Grid.of(recording, names, bins, None, smooth)
    place = grid.places(recording)
    use = (place >= 0) & recording.samples.content.numpy()  # bins that are not full do not count
    if where is not None:
        mask = np.asarray(where)
        if mask.shape != use.shape or mask.dtype != bool:
            raise PatchclampError(
                f"where: {mask.shape} of {mask.dtype}; wanted a mask, ({len(use)},) of bool"
            )
        use &= mask
    if use.sum() < 10:
        raise PatchclampError(
            f"decode_behaviour: {int(use.sum())} samples have {' and '.join(names)}; too few"
        )
    parts = [(np.asarray(a), np.asarray(b)) for a, b in folds or recording.split(by="time")]
    counts = recording[chosen].numpy().astype(np.float64)
    true = np.stack([np.asarray(recording.column(name), np.float64) for name in names], 1)
    estimate = _decoded(counts, place, use, grid, parts, recording.time_step)
    error = np.sqrt(((estimate - true) ** 2).sum(1))
    median = float(np.nanmedian(error))
    rng = numpy_rng(seed)
    least, null = least_shift(recording), []
    for shift in rng.integers(least, len(counts) - least, n_shifts):
        guess = _decoded(np.roll(counts, shift, 0), place, use, grid, parts, recording.time_step)
        null.append(float(np.nanmedian(np.sqrt(((guess - true) ** 2).sum(1)))))
    beside = None
    if null:
        beside = Null.of(null, "circular shifts of all activity against the behaviour")
        beside = replace(beside, p=permutation_p(-median, -np.array(null)))
    return Decoded(true, estimate, error, Estimate(median, n=int(np.isfinite(error).sum()), null=beside))


def _decoded(
    counts: Floats, place: NDArray[np.int64], use: NDArray[np.bool_], grid: _Grid, folds: Any, dt: float
) -> Floats:
    centres = grid.centres
    out = np.full((len(counts), centres.shape[1]), np.nan)
    for train, test in folds:
        train, test = train[use[train]], test[use[test]]
        if not len(train) or not len(test):
            continue
        rates, _ = grid.rates(counts[train], place[train], dt)
        seen = np.isfinite(rates).all(0)
        rates = np.maximum(rates[:, seen], 0.01)
        score = counts[test] @ np.log(rates * dt) - dt * rates.sum(0)
        out[test] = centres[seen][score.argmax(1)]
    return out
