"""From a recording or an array to units over time: finite, named, and cut where no lag may pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.folds import Ints
from patchclamp.nouns.recording.recording import Recording

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
    """

    values: Array
    segments: tuple[slice, ...]
    names: tuple[str, ...]
    table: pd.DataFrame | None = None
    ordered: bool = True

    @property
    def n_units(self) -> int:
        """Number of units."""
        return self.values.shape[1]

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
    data: Any, groups: Sequence[Any] | None = None, *, what: str = "connect", time: bool = False
) -> Series:
    """Read what a person hands over.

    Parameters
    ----------
    data
        A `Recording` (all its sites side by side; heads with parts by their norm; samples that are not content and
        units that are not present are left out) or an array (samples, units).
    groups
        One entry a sample: runs, animals, trials. By default those of the recording (a change of document or group, or
        a gap in position), or one run for an array.
    what
        Method, for messages.
    time
        Whether the method needs samples in time order: then a recording in which every sample is a group of its own
        is refused.

    Raises
    ------
    PatchclampError
        For fewer than two units, NaN or Inf, a wrong number of groups, a unit that never changes.
    """
    label: NDArray[Any]
    if isinstance(data, Recording):
        values, names, table, label = _recording(data)
    else:
        values = _array(data, what)
        names, table, label = tuple(f"unit[{i}]" for i in range(values.shape[1])), None, np.zeros(len(values))
    if groups is not None:
        if len(groups) != len(values):
            raise PatchclampError(
                f"{what}: {len(groups)} groups for {len(values)} samples; give one a sample"
            )
        label = pd.factorize(np.asarray(groups))[0]
    _check(values, names, what)
    segments, ordered = _segments(label), True
    if len(segments) == len(values):
        if time:
            raise PatchclampError(
                f"{what}: every sample is a group of its own, so nothing is earlier than anything; "
                "if the samples are one series in time, pass groups=[0] * n (or trials x time x units)"
            )
        segments, ordered = (slice(0, len(values)),), False
    return Series(values, segments, names, table, ordered)


def _recording(data: Recording) -> tuple[Array, tuple[str, ...], pd.DataFrame, NDArray[np.int64]]:
    samples = data.samples.numpy()
    keep = samples["content"]
    blocks, tables = [], []
    for site in data.sites:
        block = data[site][:].double()
        block = block.norm(dim=-1) if block.ndim == 3 else block
        table = data.units(site)
        here = table["present"].to_numpy(bool)
        blocks.append(block.numpy()[keep][:, here])
        tables.append(table[here])
    joined = pd.concat(tables, ignore_index=True)
    doc, group, position = (samples[name][keep] for name in ("doc", "group", "position"))
    new = (np.diff(doc) != 0) | (np.diff(group) != 0)
    if len(position) and np.ptp(position) > 0:
        new |= np.diff(position) != 1
    label = np.concatenate([[0], np.cumsum(new)]) if len(doc) else np.empty(0, np.int64)
    return np.concatenate(blocks, 1), tuple(joined["unit"]), joined, label


def _array(data: Any, what: str) -> Array:
    values = data.detach().cpu().numpy() if isinstance(data, torch.Tensor) else np.asarray(data)
    if values.ndim != 2:
        raise PatchclampError(
            f"{what}: wanted a Recording or samples x units, got shape {values.shape}; "
            "trials x time x units goes through Recording.from_arrays"
        )
    return values.astype(np.float64)


def _segments(label: NDArray[Any]) -> tuple[slice, ...]:
    cuts = np.flatnonzero(np.diff(label) != 0) + 1
    edges = [0, *cuts.tolist(), len(label)]
    return tuple(slice(a, b) for a, b in pairwise(edges) if b > a)


def _check(values: Array, names: Sequence[str], what: str) -> None:
    if values.shape[1] < 2 or len(values) < 3:
        raise PatchclampError(
            f"{what}: {len(values)} samples of {values.shape[1]} units; from 3 samples and 2 units on"
        )
    if not np.isfinite(values).all():
        row, unit = (int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise PatchclampError(
            f"{what}: {names[unit]} is not finite at sample {row}; leave the sample out or mark the unit not present"
        )
    still = np.flatnonzero(np.ptp(values, axis=0) == 0)
    if len(still):
        raise PatchclampError(
            f"{what}: {names[still[0]]} never changes ({len(still)} such units), so it has no correlation; "
            "select the units that do"
        )


def group_of(data: Any, groups: Sequence[Any] | None, units: Series) -> Ints:
    """(sample,) the group of every sample of a series: as given, else the recording's, else its segment."""
    if groups is not None:
        return np.asarray(pd.factorize(np.asarray(groups))[0], np.int64)
    if isinstance(data, Recording):
        samples = data.samples.numpy()
        return np.asarray(pd.factorize(samples["group"][samples["content"]])[0], np.int64)
    out = np.zeros(len(units.values), np.int64)
    for place, part in enumerate(units.segments):
        out[part] = place
    return out
