"""When each unit was observed: a unit that was lost for a while is not silent in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchclamp.base.errors import PatchclampError

Floats = NDArray[np.float64]
_SLACK = 1e-3  # seconds by which a file's spikes may lie outside, by rounding


class Observed:
    """Intervals of every unit, (k, 2) start and stop in seconds, sorted and joined; None = all of the recording.

    Examples
    --------
    >>> seen = Observed([[(0.0, 4.0), (3.0, 6.0)], None, [(5.0, 9.0)]])
    >>> seen.seconds(range(3), (0.0, 10.0)).tolist(), seen.common([0, 2]).tolist()
    ([6.0, 10.0, 4.0], [[5.0, 6.0]])
    """

    def __init__(self, intervals: Sequence[ArrayLike | None], where: str = "observed") -> None:
        self.intervals = [_joined(one, f"{where}, unit {i}") for i, one in enumerate(intervals)]

    def __len__(self) -> int:
        return len(self.intervals)

    @property
    def extent(self) -> tuple[float, float] | None:
        """From the first start to the last stop; None where a unit's intervals are not known."""
        known = [one for one in self.intervals if one is not None]
        if len(known) < len(self.intervals):
            return None
        return min(float(one[0, 0]) for one in known), max(float(one[-1, 1]) for one in known)

    def seconds(self, units: Iterable[int], span: tuple[float, float]) -> Floats:
        """Seconds of the span in which each unit was observed, (units,)."""
        whole = np.array([span])
        parts = [whole if self.intervals[u] is None else _meet(self.intervals[u], whole) for u in units]
        return np.array([float(np.diff(part, axis=1).sum()) for part in parts])

    def common(self, units: Iterable[int]) -> Floats:
        """Intervals in which all these units were observed, (k, 2)."""
        found = np.array([[-np.inf, np.inf]])
        for unit in units:
            own = self.intervals[unit]
            found = found if own is None else _meet(found, own)
        return found

    def covers(self, units: Iterable[int], start: Floats, stop: Floats) -> NDArray[np.bool_]:
        """Whether all these units were observed in the whole of each window."""
        common = self.common(units)
        if not len(common):
            return np.zeros(len(start), bool)
        slack = 1e-6 * np.maximum(stop - start, 0)
        place = np.searchsorted(common[:, 0], start + slack, side="right") - 1
        return np.asarray((place >= 0) & (stop - slack <= common[np.maximum(place, 0), 1]))

    def check(self, unit: int, times: Floats, where: str) -> None:
        """Refuse spikes of a unit outside of its intervals."""
        own = self.intervals[unit]
        if own is None or not len(times):
            return
        place = np.searchsorted(own[:, 0], times + _SLACK, side="right") - 1
        lost = np.flatnonzero((place < 0) | (times > own[np.maximum(place, 0), 1] + _SLACK))
        if len(lost):
            shown = ", ".join(f"{a:g} to {b:g} s" for a, b in own[:3]) + (" ..." if len(own) > 3 else "")
            raise PatchclampError(
                f"{where}: a spike at {times[lost[0]]:g} s is outside the time in which the unit was observed, {shown} "
                f"({len(lost)} such of {len(times)}); observed=False sets that time aside"
            )


def _joined(intervals: ArrayLike | None, where: str) -> Floats | None:
    """Sorted, those that touch or overlap made one."""
    found = np.zeros((0, 2)) if intervals is None else np.asarray(intervals, np.float64).reshape(-1, 2)
    if not len(found):
        return None
    bad = np.flatnonzero(~(np.isfinite(found).all(1) & (found[:, 0] < found[:, 1])))
    if len(bad):
        start, stop = found[bad[0]]
        raise PatchclampError(f"{where}: it was observed from {start:g} to {stop:g} s, which is no interval")
    found = found[np.argsort(found[:, 0], kind="stable")]
    until = np.maximum.accumulate(found[:, 1])
    first = np.flatnonzero(np.r_[True, found[1:, 0] > until[:-1]])
    return np.stack([found[first, 0], np.maximum.reduceat(found[:, 1], first)], 1)


def _meet(one: Any, other: Any) -> Floats:
    """Where both hold, (k, 2); each sorted and without overlap."""
    low = np.maximum(one[:, None, 0], other[None, :, 0])
    high = np.minimum(one[:, None, 1], other[None, :, 1])
    keep = high > low
    return np.asarray(np.stack([low[keep], high[keep]], 1), np.float64)
