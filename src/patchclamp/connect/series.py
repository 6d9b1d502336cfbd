"""From a recording or an array to units over time: finite, named, and cut where no lag may pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.base.arrays import as_array
from patchclamp.base.errors import PatchclampError
from patchclamp.base.folds import Ints
from patchclamp.nouns.recording.matrix import ActivityMatrix, MatrixLike, Reading, matrix
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.recording.samples import Samples

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Series:
    """Units over time.

    Parameters
    ----------
    values
        (sample, unit), finite.
    segments
        Stretches of samples that follow each other in time; no lag and no shift passes from one to the next.
    names
        Of the units.
    table
        One row a unit, or None.
    ordered
        False where every sample is a group of its own: then `segments` is one run, and time has no meaning.
    group
        (sample,) the group of every sample: as given, else the recording's, else 0.
    about
        How it was read (`ActivityMatrix.about`).
    """

    values: Array
    segments: tuple[slice, ...]
    names: tuple[str, ...]
    table: pd.DataFrame | None = None
    ordered: bool = True
    group: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_units(self) -> int:
        """Number of units."""
        return int(self.values.shape[1])

    def centred(self) -> Series:
        """Each unit minus its mean in each segment, so that differences between runs are not coupling."""
        values = self.values.copy()
        for part in self.segments:
            values[part] -= values[part].mean(0)
        return replace(self, values=values)

    def with_values(self, values: Array) -> Series:
        """The same units and segments with other values."""
        return replace(self, values=values)

    def lagged(self, lag: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices (earlier, later) of samples that are `lag` apart within a segment."""
        parts = [np.arange(s.start, s.stop - lag) for s in self.segments if s.stop - s.start > lag]
        earlier = np.concatenate(parts) if parts else np.empty(0, np.int64)
        return earlier, earlier + lag


def series(
    data: MatrixLike,
    groups: Sequence[Any] | None = None,
    *,
    what: str = "connect",
    time: bool = False,
    **reading: Unpack[Reading],
) -> Series:
    """Read what a person hands over.

    Parameters
    ----------
    data
        A `Recording` (all its sites side by side), a `matrix` of one, or an array (samples, units).
    groups
        One entry a sample that is read: runs, animals, trials. By default those of the recording (a change of document or group, or
        a gap in position), or one run for an array.
    what
        Method, for messages.
    time
        Whether the method needs samples in time order: then a recording in which every sample is a group of its own
        is refused.
    reading
        As in `matrix`: by default heads by their norm, content only, and units that are not present are refused.

    Raises
    ------
    PatchclampError
        For fewer than two units, NaN or Inf, a wrong number of groups, a unit that never changes.
    """
    parts = _parts(data, what, reading)
    values = np.concatenate([part.numpy() for part in parts], 1)
    table = pd.concat([part.units for part in parts], ignore_index=True)
    names, samples = tuple(table["unit"]), parts[0].samples
    label: NDArray[Any] = _runs(samples, len(values))
    if groups is not None:
        if len(groups) != len(values):
            raise PatchclampError(
                f"{what}: {len(groups)} groups for {len(values)} samples; give one a sample"
            )
        label = pd.factorize(np.asarray(groups))[0]
    _check(values, names, what)
    group = label if groups is not None or samples is None else pd.factorize(samples.group.numpy())[0]
    sites = ", ".join(str(part.site) for part in parts)
    about = {**parts[0].about, "site": sites, "units": values.shape[1]}
    segments, ordered = _segments(label), True
    if len(segments) == len(values):
        if time:
            raise PatchclampError(
                f"{what}: every sample is a group of its own, so nothing is earlier than anything; "
                "if the samples are one series in time, pass groups=[0] * n (or trials x time x units)"
            )
        segments, ordered = (slice(0, len(values)),), False
    known = None if samples is None else table
    return Series(values, segments, names, known, ordered, np.asarray(group, np.int64), about)


def _parts(data: MatrixLike, what: str, reading: Reading) -> list[ActivityMatrix]:
    """A matrix a site."""
    if isinstance(data, Recording):
        return [matrix(data, site, **reading) for site in data.sites]
    if isinstance(data, ActivityMatrix):
        return [data]
    values = as_array(data, what)
    if values.ndim != 2:
        raise PatchclampError(
            f"{what}: wanted a Recording or samples x units, got shape {values.shape}; "
            "trials x time x units goes through Recording.from_arrays"
        )
    return [matrix(values, "unit", **reading)]


def _runs(samples: Samples | None, n: int) -> NDArray[np.int64]:
    """(sample,) which stretch of following samples it lies in: a change of document or group, or a gap, ends one."""
    if samples is None or not n:
        return np.zeros(n, np.int64)
    doc, group, position = (getattr(samples, name).numpy() for name in ("doc", "group", "position"))
    new = (np.diff(doc) != 0) | (np.diff(group) != 0)
    if np.ptp(position) > 0:
        new |= np.diff(position) != 1
    return np.concatenate([[0], np.cumsum(new)])


def _segments(label: NDArray[Any]) -> tuple[slice, ...]:
    cuts = np.flatnonzero(np.diff(label) != 0) + 1
    edges = [0, *cuts.tolist(), len(label)]
    return tuple(slice(a, b) for a, b in pairwise(edges) if b > a)


def _check(values: Array, names: Sequence[str], what: str) -> None:
    if values.shape[1] < 2 or len(values) < 3:
        raise PatchclampError(
            f"{what}: {len(values)} samples of {values.shape[1]} units; from 3 samples and 2 units on"
        )
    still = np.flatnonzero(np.ptp(values, axis=0) == 0)
    if len(still):
        raise PatchclampError(
            f"{what}: {names[still[0]]} never changes ({len(still)} such units), so it has no correlation; "
            "select the units that do"
        )
