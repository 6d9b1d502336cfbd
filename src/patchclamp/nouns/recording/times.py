"""Times of events per unit, in memory or in a file, and counts of them in windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.recording.lazy import Rows, row_key
from patchclamp.nouns.recording.observed import Observed
from patchclamp.nouns.recording.samples import COLUMNS

Floats = NDArray[np.float64]
_KEEP = 1 << 25  # times kept in memory after they were read (256 MB)
_GAP = 5  # a trace is not interpolated over holes longer than this many of its steps


@dataclass
class Ragged:
    """Sorted times of every unit in one long array, unit i from ``ends[i - 1]`` up to ``ends[i]``.

    `data` may be an array or a dataset of a file: a unit is read, checked and kept when it is first asked for.
    """

    data: Any
    ends: NDArray[np.int64]
    where: str = "spike times"
    span: tuple[float, float] | None = None
    sort: bool = False
    observed: Observed | None = None
    _kept: dict[int, Floats] = field(default_factory=dict)

    @classmethod
    def of(cls, times: Sequence[Any], where: str, sort: bool = False) -> Ragged:
        """Join one array a unit."""
        parts = [np.asarray(one, np.float64).ravel() for one in times]
        ends = np.cumsum([len(part) for part in parts]).astype(np.int64)
        return cls(np.concatenate(parts) if parts else np.zeros(0), ends, where, None, sort)

    def __len__(self) -> int:
        return len(self.ends)

    def counts(self) -> NDArray[np.int64]:
        """Events of every unit, without reading them."""
        return np.diff(self.ends, prepend=0)

    def __getitem__(self, unit: int) -> Floats:
        if unit in self._kept:
            return self._kept[unit]
        first = int(self.ends[unit - 1]) if unit else 0
        times = np.asarray(self.data[first : int(self.ends[unit])], np.float64)
        times = self._checked(times, unit)
        if sum(map(len, self._kept.values())) + len(times) <= _KEEP:
            self._kept[unit] = times
        return times

    def _checked(self, times: Floats, unit: int) -> Floats:
        at = f"{self.where}, unit {unit}"
        bad = np.flatnonzero(~np.isfinite(times))
        if len(bad):
            raise PatchclampError(f"{at}: spike {bad[0]} is at {times[bad[0]]} s; leave it out of the file")
        falls = np.flatnonzero(np.diff(times) < 0)
        if len(falls) and not self.sort:
            i = int(falls[0])
            raise PatchclampError(
                f"{at}: spikes are not sorted: {times[i]:g} s comes before {times[i + 1]:g} s (place {i}; {len(falls)} "
                "such); if the times are right, sort=True sorts them"
            )
        times = np.sort(times) if len(falls) else times
        if self.span is not None and len(times) and not self.span[0] <= times[0] <= times[-1] <= self.span[1]:
            worst = times[0] if times[0] < self.span[0] else times[-1]
            raise PatchclampError(
                f"{at}: a spike at {worst:g} s is outside the recording, {self.span[0]:g} to {self.span[1]:g} s; are both "
                "in seconds and of the same clock? span=(start, stop) sets the recording's extent"
            )
        if self.observed is not None:
            self.observed.check(unit, times, at)
        return times

    def check(self) -> None:
        """Read and check every unit."""
        for unit in range(len(self)):
            self[unit]

    def extent(self) -> tuple[float, float]:
        """First and last event of all units."""
        some = [i for i, n in enumerate(self.counts()) if n]
        if not some:
            raise PatchclampError(f"{self.where}: no unit has a spike; there is nothing to read")
        return min(float(self[i][0]) for i in some), max(float(self[i][-1]) for i in some)


@dataclass(frozen=True)
class Counted:
    """Counts of events in half-open windows, windows x units: computed where they are read."""

    times: Ragged
    units: NDArray[np.int64]
    start: Floats
    stop: Floats

    @property
    def shape(self) -> tuple[int, ...]:
        """(windows, units)."""
        return (len(self.start), len(self.units))

    def dense(self, rows: Rows) -> Tensor:
        """Counts in the windows asked for."""
        key = row_key(rows)
        start, stop = self.start[key], self.stop[key]
        out = np.zeros((len(start), len(self.units)), np.float32)
        for column, unit in enumerate(self.units):
            times = self.times[int(unit)]
            out[:, column] = np.searchsorted(times, stop) - np.searchsorted(times, start)
        return torch.from_numpy(out)


@dataclass
class Trace:
    """A signal with times of its own (a position, a speed, a pupil), read when it is first needed.

    Parameters
    ----------
    times
        Seconds, increasing; an array, a dataset of a file or a computed ramp.
    values
        (samples,) or (samples, columns).
    unit
        Unit of the values.
    """

    times: Any
    values: Any
    unit: str = ""
    _read: tuple[Floats, Floats] | None = None

    @property
    def n_columns(self) -> int:
        """Number of columns."""
        return 1 if len(self.values.shape) == 1 else int(self.values.shape[1])

    def read(self) -> tuple[Floats, Floats]:
        """Times, and values (samples, columns)."""
        if self._read is None:
            times, values = np.asarray(self.times[:], np.float64), np.asarray(self.values[:], np.float64)
            falls = np.flatnonzero(~(np.diff(times) > 0))
            if len(falls):
                i = int(falls[0])
                raise PatchclampError(
                    f"behaviour: its times do not increase: {times[i]:g} s, then {times[i + 1]:g} s (place {i})"
                )
            self._read = times, values.reshape(len(times), -1)
        return self._read

    def at(self, when: Any, column: int = 0) -> Floats:
        """Interpolate linearly; NaN outside the trace, and in holes longer than five of its steps."""
        times, values = self.read()
        when = np.asarray(when, np.float64)
        if len(times) < 2:
            return np.full(when.shape, np.nan)
        step = float(np.median(np.diff(times)))
        out: NDArray[np.float64] = np.interp(when, times, values[:, column])
        right = np.clip(np.searchsorted(times, when), 1, len(times) - 1)
        hole = (
            (times[right] - times[right - 1] > _GAP * step)
            & (when > times[right - 1])
            & (when < times[right])
        )
        out[hole | (when < times[0] - step) | (when > times[-1] + step)] = np.nan
        return out


def trace_names(name: str, n: int) -> list[str]:
    """Names of a trace's columns of samples, none of which is a fixed one."""
    if n == 1 and name not in COLUMNS:
        return [name]
    return [f"{name}_{i}" for i in range(n)]


def trace_columns(traces: Mapping[str, Trace], time: Any) -> dict[str, Any]:
    """Traces as columns of samples at the times `time`, computed when read."""
    from patchclamp.nouns.recording.sources import Computed

    out: dict[str, Any] = {}
    for name, trace in traces.items():
        for i, column in enumerate(trace_names(name, trace.n_columns)):
            out[column] = Computed(time, partial(trace.at, column=i))
    return out
