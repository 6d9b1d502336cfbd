"""Activity that is computed when it is read: binned, smoothed, scaled, averaged views, and columns of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from torch import Tensor

from patchclamp.nouns.recording.integrity import guarded
from patchclamp.nouns.recording.lazy import Rows, SiteArray, pick, row_key

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Source(Protocol):
    """What a `SiteArray` needs of activity that is not a tensor or a Zarr array."""

    shape: tuple[int, ...]

    def dense(self, rows: Rows) -> Tensor:
        """The rows asked for, (len(rows), ...), read or computed now."""
        ...


@dataclass(frozen=True)
class Read:
    """Rows that a function reads from a file.

    Parameters
    ----------
    shape
        (samples, units).
    read
        Called with a sorted, gapless (start, stop); returns that many rows.
    """

    shape: tuple[int, ...]
    read: Callable[[int, int], NDArray[Any]]
    dtype: torch.dtype = torch.float32

    def dense(self, rows: Rows) -> Tensor:
        """Read runs of neighbouring rows in one go each."""
        key = row_key(rows)
        if isinstance(key, slice):
            return self._span(key.start, key.stop)
        if not len(key):
            return self._span(0, 0)
        unique, back = np.unique(key, return_inverse=True)
        cuts = np.flatnonzero(np.diff(unique) > 1) + 1
        parts = [self._span(int(run[0]), int(run[-1]) + 1) for run in np.split(unique, cuts)]
        return torch.cat(parts)[torch.from_numpy(back)]

    def _span(self, start: int, stop: int) -> Tensor:
        if stop <= start:
            return torch.empty((0, *self.shape[1:]), dtype=self.dtype)
        found = np.asarray(self.read(start, stop))
        # A mapped file is read-only, which torch cannot say of a tensor: it is copied.
        return torch.from_numpy(np.require(found, requirements=["C", "W"])).to(self.dtype)


@dataclass(frozen=True)
class Stacked:
    """Several sources one after another: the runs of a session, the files of a subject."""

    parts: tuple[Any, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """(samples of all, units)."""
        return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])

    def dense(self, rows: Rows) -> Tensor:
        """Ask every part for its own rows."""
        index = np.asarray(rows, dtype=np.int64)
        ends = np.cumsum([part.shape[0] for part in self.parts])
        owner = np.searchsorted(ends, index, side="right")
        out: Tensor | None = None
        for number in np.unique(owner):
            mine = np.flatnonzero(owner == number)
            first = int(ends[number]) - self.parts[number].shape[0]
            local = index[mine] - first
            plain = len(local) == local[-1] - local[0] + 1 and bool((np.diff(local) == 1).all())
            found = self.parts[number].dense(range(int(local[0]), int(local[-1]) + 1) if plain else local)
            if out is None:
                out = found.new_empty((len(index), *found.shape[1:]))
            out[torch.from_numpy(mine)] = found
        return self.parts[0].dense(range(0)) if out is None else out


@dataclass(frozen=True)
class Pooled:
    """Sum or mean over runs of neighbouring samples of an array: rows ``first[i]`` up to ``last[i]``."""

    array: SiteArray
    first: Ints
    last: Ints
    mean: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """(bins, units)."""
        return (len(self.first), *self.array.shape[1:])

    def dense(self, rows: Rows) -> Tensor:
        """Read the samples under the bins and pool them, bin by bin."""
        index = np.asarray(rows, dtype=np.int64)
        if not len(index):
            return self.array[0:0]
        counts = self.last[index] - self.first[index]
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        samples = np.repeat(self.first[index], counts) + offsets
        # One slice where the bins are neighbours, which is how a recording is read through.
        plain = bool((np.diff(samples) == 1).all())
        values = self.array[int(samples[0]) : int(samples[-1]) + 1] if plain else self.array[samples]
        kept = values.dtype
        owner = torch.from_numpy(np.repeat(np.arange(len(index)), counts))
        out = torch.zeros((len(index), *values.shape[1:]), dtype=torch.float64).index_add_(
            0, owner, values.double()
        )
        if self.mean:
            out /= torch.from_numpy(counts).double().reshape(-1, *[1] * (out.ndim - 1))
        return out.to(kept)


@dataclass(frozen=True)
class Smoothed:
    """Weighted mean with the neighbours in time, inside stretches of samples that are never left.

    At an edge the weights that fall outside are left out and the others scaled to sum to one.
    """

    array: SiteArray
    weights: Floats  # odd number, centred
    first: Ints  # stretch of each sample: from first[i] up to last[i]
    last: Ints

    @property
    def shape(self) -> tuple[int, ...]:
        """As the array's."""
        return self.array.shape

    def dense(self, rows: Rows) -> Tensor:
        """Read the rows with as many neighbours as the weights need."""
        index = np.asarray(rows, dtype=np.int64)
        if not len(index):
            return self.array[0:0]
        half = len(self.weights) // 2
        low = max(0, int(index.min()) - half)
        values = self.array[low : int(index.max()) + half + 1]
        total = torch.zeros((len(index), *values.shape[1:]), dtype=torch.float64)
        weight = np.zeros(len(index))
        for shift, w in zip(range(-half, half + 1), self.weights, strict=True):
            there = (index + shift >= self.first[index]) & (index + shift < self.last[index])
            place = torch.from_numpy(np.flatnonzero(there))
            total[place] += w * values[torch.from_numpy((index + shift - low)[there])].double()
            weight[there] += w
        out = total / torch.from_numpy(weight).reshape(-1, *[1] * (total.ndim - 1))
        return out.to(values.dtype)


@dataclass(frozen=True)
class Scaled:
    """(activity - mean) / scale with a mean and scale for every group."""

    array: SiteArray
    mean: Tensor  # (groups, units), float64
    scale: Tensor
    group: Ints  # of each sample

    @property
    def shape(self) -> tuple[int, ...]:
        """As the array's."""
        return self.array.shape

    def dense(self, rows: Rows) -> Tensor:
        """Read and scale."""
        key = row_key(rows)
        values, own = self.array[key], torch.from_numpy(self.group[key])
        return ((values.double() - self.mean[own]) / self.scale[own]).to(values.dtype)


@dataclass(frozen=True)
class Ramp:
    """A column that counts, ``start + step * i``, without being kept: times of long recordings, or with step 0 one value."""

    n: int
    start: float = 0.0
    step: float = 1.0
    dtype: str = "float64"

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, key: Any) -> NDArray[Any]:
        index = np.arange(*key.indices(self.n)) if isinstance(key, slice) else np.asarray(key)
        return np.asarray(self.start + self.step * index).astype(self.dtype)


@dataclass(frozen=True)
class Computed:
    """A column computed from another (a trace at the times of the samples) where it is read."""

    base: Any
    function: Callable[[NDArray[Any]], NDArray[Any]]

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        return self.function(np.asarray(self.base[key]))


def take_column(column: Any, rows: Rows) -> NDArray[Any]:
    """Rows of a column, whatever it is kept in."""
    if isinstance(column, zarr.Array):
        return guarded(column, row_key(rows))
    values = column[row_key(rows)]
    return values.numpy() if isinstance(values, Tensor) else np.asarray(values)


def stretches(keys: Sequence[NDArray[Any]]) -> tuple[Ints, Ints]:
    """First and one-past-last sample of the run of equal keys (doc, group) in which each sample lies."""
    n = len(keys[0])
    change = np.zeros(n, bool)
    change[:1] = True
    for key in keys:
        change[1:] |= key[1:] != key[:-1]
    starts = np.flatnonzero(change)
    own = np.cumsum(change) - 1
    ends = np.append(starts[1:], n)
    return starts[own].astype(np.int64), ends[own].astype(np.int64)


@dataclass(frozen=True)
class Picked:
    """Rows of a column, as a column."""

    base: Any
    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        return take_column(self.base, pick(self.rows, key))
