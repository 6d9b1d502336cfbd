"""Tuning curves and fields: activity as a function of a behaviour; and the behaviour decoded back from activity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng
from patchclamp.base.statistics import permutation_p
from patchclamp.draw.tuning import curves_figure
from patchclamp.nouns.recording.matrix import content_only

if TYPE_CHECKING:
    from patchclamp.nouns.recording.recording import Recording

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Tuning:
    """Tuning curves (one behaviour) or fields (two).

    Parameters
    ----------
    curves
        (unit, behaviour ...): spikes a second, or mean activity; NaN where the behaviour hardly ever was.
    occupancy
        (behaviour ...): seconds spent in each bin.
    table
        A row a unit: ``mean``, ``peak``, ``information`` (bits a spike), ``p`` and ``null`` (mean of the shifts).
    about
        Settings of the call.
    """

    curves: xr.DataArray
    occupancy: xr.DataArray
    table: pd.DataFrame
    about: dict[str, Any]

    def plot(self, units: Sequence[int] | None = None, columns: int = 4) -> Any:
        """Draw the curves or fields of some units (by default the 8 most informative of those above their shifts); return the figure."""
        return curves_figure(*self._panels(units), columns)

    def _panels(self, units: Sequence[int] | None) -> tuple[list[xr.DataArray], list[str]]:
        # Of few spikes the information is large by chance: units that their own shifts reach come last.
        chance = self.table["p"].fillna(0).to_numpy() > 0.05
        order = np.lexsort((-self.table["information"].to_numpy(), chance))
        chosen = [int(unit) for unit in (order[:8] if units is None else units)]
        titles = []
        for _, row in self.table.iloc[chosen].iterrows():
            p = "" if np.isnan(row["p"]) else f", p {row['p']:.2g}"
            titles.append(f"{row['unit']}  {row['information']:.2f} bit{p}")
        return [self.curves[unit] for unit in chosen], titles

    def __repr__(self) -> str:
        dims = " x ".join(f"{name} {size}" for name, size in self.curves.sizes.items())
        return f"Tuning({dims}; median information {self.table['information'].median():.2f} bits a spike)"


def tuning(
    recording: Recording,
    behaviour: str | Sequence[str],
    bins: int | Sequence[int] = 20,
    *,
    site: str | None = None,
    smooth: float = 0.0,
    min_occupancy: float = 0.0,
    range_: Sequence[tuple[float, float]] | None = None,
    n_shifts: int = 0,
    seed: int = 0,
) -> Tuning:
    """Mean activity in bins of one or two behaviours, and how much it tells of them.

    rate(b) = activity summed over the samples in bin b, over the time spent there (for counts: spikes a second);
    activity that is not counts is averaged. With `smooth`, activity and time are both smoothed over bins before they
    are divided. Skaggs' information is sum over b of p(b) (rate(b) / rate) log2(rate(b) / rate) bits a spike, p the
    share of time; it is biased upwards for few spikes, so compare it with its shifts: all samples' activity is shifted
    circularly by a random time of at least 20 s (or a tenth of the recording where that is less), which keeps both
    rhythms. Samples without behaviour (NaN) are left out.

    Parameters
    ----------
    recording
        Activity with the behaviours among its columns.
    behaviour
        One or two columns.
    bins
        Bins of each.
    site
        Site; by default the first.
    smooth
        Standard deviation of a Gaussian over bins.
    min_occupancy
        Seconds below which a bin is NaN.
    range_
        (low, high) of each behaviour; by default that of its samples.
    n_shifts, seed
        Shifts of the null; 0 for none.

    References
    ----------
    Skaggs, McNaughton, Gothard, Markus (1993), An information-theoretic approach to deciphering the hippocampal code.

    Examples
    --------
    >>> from patchclamp.nouns.recording.recording import Recording
    >>> x = np.tile(np.arange(4.0), 50)
    >>> r = Recording.from_arrays({"cells": np.stack([x == 2, x >= 0], 1).astype("float32")}).with_columns(x=x, time=x * 0)
    >>> t = tuning(r, "x", bins=4)
    >>> t.curves.values.round(2).tolist(), t.table["information"].round(2).tolist()
    ([[0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]], [2.0, 0.0])
    """
    recording = content_only(recording)  # bins that are not full do not count
    names = [behaviour] if isinstance(behaviour, str) else list(behaviour)
    chosen = recording.sites[0] if site is None else recording.site(site)
    grid = _Grid.of(recording, names, bins, range_, smooth)
    values = recording[chosen].numpy().astype(np.float64)
    counts = recording.manifest.get("quantity") == "count"
    dt = recording.time_step if counts else 1.0
    place = grid.places(recording)
    use = place >= 0
    if not use.any():
        raise PatchclampError(
            f"tuning: no sample has {' and '.join(names)}; does the behaviour cover the recording?"
        )
    if not np.isfinite(values[use]).all():
        raise PatchclampError(f"tuning: {chosen} has NaN; select the units that are present first")
    curves, occupancy = grid.rates(values[use], place[use], dt)
    raw = occupancy.copy()
    curves[:, raw <= min_occupancy] = np.nan
    information = _information(curves, raw)
    table = recording.units(chosen)[["unit", "index"]].copy()
    table["mean"] = values[use].mean(0) / dt
    table["peak"] = np.nanmax(curves, 1)
    table["information"] = information
    table["null"], table["p"] = np.nan, np.nan
    if n_shifts:
        null = _shifted(values, place, grid, dt, min_occupancy, n_shifts, seed, recording)
        table["null"] = null.mean(0)
        table["p"] = [permutation_p(information[u], null[:, u]) for u in range(len(information))]
    coords = {name: (edges[1:] + edges[:-1]) / 2 for name, edges in zip(names, grid.edges, strict=True)}
    shape = [len(edges) - 1 for edges in grid.edges]
    about = {"site": str(chosen), "smooth": smooth, "n_shifts": n_shifts, "seed": seed}
    return Tuning(
        xr.DataArray(
            curves.reshape(-1, *shape), {"unit": np.arange(len(curves)), **coords}, ("unit", *names)
        ),
        xr.DataArray(raw.reshape(shape), coords, tuple(names)),
        table,
        about,
    )


@dataclass(frozen=True)
class _Grid:
    """Bins of one or more behaviours, as one index."""

    names: list[str]
    edges: list[Floats]
    smooth: float

    @classmethod
    def of(
        cls,
        recording: Recording,
        names: list[str],
        bins: int | Sequence[int],
        range_: Sequence[tuple[float, float]] | None,
        smooth: float,
    ) -> _Grid:
        if not 1 <= len(names) <= 2:
            raise PatchclampError(f"tuning: {len(names)} behaviours; one or two")
        sizes = [bins] * len(names) if isinstance(bins, int) else list(bins)
        edges = []
        for i, (name, size) in enumerate(zip(names, sizes, strict=True)):
            column = np.asarray(recording.column(name), np.float64)
            finite = column[np.isfinite(column)]
            if not len(finite) or size < 2:
                raise PatchclampError(
                    f"tuning: {name} has {len(finite)} samples and {size} bins; at least two bins"
                )
            low, high = range_[i] if range_ is not None else (finite.min(), finite.max())
            edges.append(np.linspace(low, high, size + 1))
        return cls(names, edges, smooth)

    def places(self, recording: Recording) -> Ints:
        """Bin of each sample; -1 outside and where there is no behaviour."""
        out = np.zeros(recording.n_samples, np.int64)
        lost = np.zeros(recording.n_samples, bool)
        for name, edges in zip(self.names, self.edges, strict=True):
            column = np.asarray(recording.column(name), np.float64)
            bad = ~np.isfinite(column) | (column < edges[0]) | (column > edges[-1])
            own = np.clip(
                np.searchsorted(edges, np.where(bad, edges[0], column), side="right") - 1, 0, len(edges) - 2
            )
            out, lost = out * (len(edges) - 1) + own, lost | bad
        out[lost] = -1
        return out

    @property
    def size(self) -> int:
        """Number of bins in all."""
        return int(np.prod([len(edges) - 1 for edges in self.edges]))

    @property
    def centres(self) -> Floats:
        """(bins, behaviours)."""
        axes = [(edges[1:] + edges[:-1]) / 2 for edges in self.edges]
        return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], 1)

    def rates(self, values: Floats, place: Ints, dt: float) -> tuple[Floats, Floats]:
        """Activity over time, (units, bins), and seconds, (bins,)."""
        from scipy.ndimage import gaussian_filter
        from scipy.sparse import csr_array

        n = len(place)
        pick = csr_array((np.ones(n), (place, np.arange(n))), shape=(self.size, n))
        total, time = (pick @ values).T, np.bincount(place, minlength=self.size) * dt
        top, below = total, time
        if self.smooth:
            shape = [len(edges) - 1 for edges in self.edges]
            below = gaussian_filter(time.reshape(shape), self.smooth, mode="constant").ravel()
            top = np.stack(
                [gaussian_filter(one.reshape(shape), self.smooth, mode="constant").ravel() for one in total]
            )
        with np.errstate(invalid="ignore", divide="ignore"):
            curves = np.where(time > 0, top / below, np.nan)
        return np.asarray(curves, np.float64), np.asarray(time, np.float64)


def _information(curves: Floats, occupancy: Floats) -> Floats:
    there = np.isfinite(curves)
    p = np.where(there, occupancy, 0.0)
    p = p / p.sum(1, keepdims=True)
    rate = np.where(there, curves, 0.0)
    mean = (p * rate).sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = rate / mean
        terms = np.where(ratio > 0, ratio * np.log2(ratio), 0.0)
    return np.where(mean[:, 0] > 0, (p * terms).sum(1), 0.0)


def least_shift(recording: Recording, seconds: float = 20.0) -> int:
    """Samples of the smallest circular shift: 20 s, or a tenth of the recording where that is less or it has no times."""
    n = recording.n_samples
    if "time" not in recording.columns or recording.manifest.get("time_step") is None:
        return max(1, n // 10)
    return max(1, min(int(seconds / recording.time_step), n // 10))


def _shifted(
    values: Floats,
    place: Ints,
    grid: _Grid,
    dt: float,
    least_time: float,
    n: int,
    seed: int,
    recording: Recording,
) -> Floats:
    rng = numpy_rng(seed)
    least = least_shift(recording)
    use = place >= 0
    out = []
    for shift in rng.integers(least, len(values) - least, n):
        curves, occupancy = grid.rates(np.roll(values, shift, 0)[use], place[use], dt)
        curves[:, occupancy <= least_time] = np.nan
        out.append(_information(curves, occupancy))
    return np.array(out)
