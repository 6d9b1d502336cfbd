"""Sparse activity in compressed rows: one object for features of every dictionary."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from torch import Tensor
from zarr.codecs import ZstdCodec

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.recording.integrity import CHECKSUM, Chunk, chunks, guarded
from patchclamp.nouns.recording.lazy import Rows, from_disk, on_disk, row_key, storage_dtype, to_disk

BLOCK = 16384  # rows read at a time where single rows are asked for
ENTRIES = 1 << 18  # entries a chunk on disk


@dataclass(frozen=True)
class SparseCodes:
    """Samples x units, of which few entries are not zero, as compressed sparse rows.

    Row i holds units ``unit[indptr[i]:indptr[i+1]]``, ascending, with the values beside them. Every entry
    different from zero is kept, whatever its sign.

    Parameters
    ----------
    indptr
        int64 (n + 1,).
    unit
        uint32 NumPy array, one entry a nonzero.
    value
        Tensor (float32, float16 or bfloat16), one entry a nonzero.
    n_units
        Number of units (columns).

    Examples
    --------
    >>> codes = SparseCodes.from_dense(torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [-1.0, 0.0, 3.0]]))
    >>> codes.indptr.tolist(), codes.unit.tolist(), codes.value.tolist()
    ([0, 1, 1, 3], [1, 0, 2], [2.0, -1.0, 3.0])
    >>> codes.rows(2, 3).to_dense().tolist()
    [[-1.0, 0.0, 3.0]]
    """

    indptr: np.ndarray
    unit: np.ndarray
    value: Tensor
    n_units: int

    def __post_init__(self) -> None:
        nonzeros = len(self.unit)
        if self.indptr.dtype != np.int64 or self.unit.dtype != np.uint32:
            raise PatchclampError(
                f"sparse codes: indptr is {self.indptr.dtype} and unit {self.unit.dtype}; wanted int64 and uint32"
            )
        if len(self.value) != nonzeros or self.indptr[0] != 0 or self.indptr[-1] != nonzeros:
            raise PatchclampError(
                f"sparse codes: indptr runs {self.indptr[0]}..{self.indptr[-1]} over {nonzeros} units "
                f"and {len(self.value)} values; they must agree"
            )
        if nonzeros and int(self.unit.max()) >= self.n_units:
            raise PatchclampError(
                f"sparse codes: unit {int(self.unit.max())}, but there are units 0..{self.n_units - 1}"
            )

    @classmethod
    def from_dense(cls, dense: Tensor) -> SparseCodes:
        """Keep the entries of (n, units) that are not zero; NaN and Inf are refused."""
        if not bool(torch.isfinite(dense).all()):
            raise PatchclampError("sparse codes: the dense activity holds NaN or Inf")
        row, column = dense.nonzero(as_tuple=True)
        indptr = np.zeros(len(dense) + 1, np.int64)
        np.cumsum(torch.bincount(row, minlength=len(dense)).cpu().numpy(), out=indptr[1:])
        return cls(
            indptr, column.cpu().numpy().astype(np.uint32), dense[row, column].detach().cpu(), dense.shape[1]
        )

    @classmethod
    def concat(cls, parts: Iterable[SparseCodes]) -> SparseCodes:
        """Put codes one after another along the samples."""
        pieces = list(parts)
        if not pieces or len({piece.n_units for piece in pieces}) != 1:
            raise PatchclampError(
                f"sparse codes over {sorted({piece.n_units for piece in pieces})} units cannot be joined"
            )
        starts = np.cumsum([0] + [len(piece.unit) for piece in pieces])
        indptr = [np.zeros(1, np.int64)] + [p.indptr[1:] + s for p, s in zip(pieces, starts, strict=False)]
        return cls(
            np.concatenate(indptr),
            np.concatenate([piece.unit for piece in pieces]),
            torch.cat([piece.value for piece in pieces]),
            pieces[0].n_units,
        )

    def append(self, other: SparseCodes) -> SparseCodes:
        """These samples, then those of `other`."""
        return SparseCodes.concat([self, other])

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def nbytes(self) -> int:
        """Size in memory and on disk."""
        return self.indptr.nbytes + self.unit.nbytes + self.value.nbytes

    def rows(self, start: int, stop: int) -> SparseCodes:
        """Samples start..stop."""
        start, stop, _ = slice(start, stop).indices(len(self))
        low, high = int(self.indptr[start]), int(self.indptr[max(stop, start)])
        indptr = self.indptr[start : max(stop, start) + 1] - low
        return SparseCodes(indptr, self.unit[low:high], self.value[low:high], self.n_units)

    def take(self, index: np.ndarray) -> SparseCodes:
        """Samples by their numbers, in the order given."""
        counts = np.diff(self.indptr)[index]
        indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        entry = np.arange(indptr[-1]) + np.repeat(self.indptr[index] - indptr[:-1], counts)
        return SparseCodes(indptr, self.unit[entry], self.value[torch.from_numpy(entry)], self.n_units)

    def to_dense(self) -> Tensor:
        """(n, units), zeros where nothing is stored."""
        return dense_rows(self.indptr, self.unit, self.value, self.n_units)

    def save(self, group: zarr.Group, name: str, chunk: int = 1 << 20) -> None:
        """Write into the Zarr group `group` as its subgroup `name`, in chunks of `chunk` entries."""
        write_rows(group, name, self.indptr, self.unit, self.value, self.n_units, chunk)

    @classmethod
    def load(cls, group: zarr.Group, name: str) -> SparseCodes:
        """Read what `save` wrote."""
        if name not in group:
            raise PatchclampError(f"{name}: no codes of this name; there are {sorted(group.group_keys())}")
        inner: Any = group[name]
        dtype = storage_dtype(inner.attrs["dtype"])
        indptr, unit, value = (guarded(inner[key], slice(None)) for key in ("indptr", "unit", "value"))
        return cls(indptr, unit, from_disk(value, dtype), int(inner.attrs["n_units"]))


def dense_rows(indptr: NDArray[np.int64], unit: NDArray[Any], value: Tensor, n_units: int) -> Tensor:
    """(rows, units) of compressed rows, zeros where nothing is stored."""
    dense = torch.zeros(len(indptr) - 1, n_units, dtype=value.dtype)
    row = np.repeat(np.arange(len(dense)), np.diff(indptr))
    dense[torch.from_numpy(row), torch.from_numpy(unit.astype(np.int64))] = value
    return dense


def write_rows(
    group: zarr.Group,
    name: str,
    indptr: NDArray[np.int64],
    unit: NDArray[Any],
    value: Tensor,
    n_units: int,
    chunk: int,
) -> None:
    """Write compressed rows into a Zarr group as its subgroup `name`, in chunks of `chunk` entries."""
    if name in group:
        raise PatchclampError(f"{name}: the group already holds codes of this name; choose another")
    dtype = str(value.dtype).removeprefix("torch.")
    inner = group.create_group(name, attributes={"n_units": n_units, "dtype": dtype})
    for key, column in {"indptr": indptr, "unit": unit, "value": to_disk(value)}.items():
        array = inner.create_array(
            key,
            shape=column.shape,
            chunks=(max(1, min(chunk, len(column))),),
            dtype=column.dtype,
            compressors=[ZstdCodec(), CHECKSUM],
            config={"write_empty_chunks": True},
        )
        if len(column):
            array[:] = column


@dataclass(frozen=True)
class SparseArray:
    """All samples of a site as compressed rows, in memory or in a Zarr group; `dense` and `codes` read some of them.

    Parameters
    ----------
    indptr, unit, value
        As in `SparseCodes`; Zarr arrays may be longer than what was written.
    n_samples, n_units
        Of the site.
    dtype
        Type of the values.
    """

    indptr: Any
    unit: Any
    value: Any
    n_samples: int
    n_units: int
    dtype: torch.dtype

    @classmethod
    def of(cls, codes: SparseCodes) -> Self:
        """Codes in memory."""
        return cls(codes.indptr, codes.unit, codes.value, len(codes), codes.n_units, codes.value.dtype)

    @classmethod
    def create(
        cls,
        group: Any,
        name: str,
        shape: tuple[int, int],
        rows: int,
        dtype: torch.dtype,
        attributes: dict[str, Any],
    ) -> None:
        """Make an empty group for codes that will be appended.

        Units take 2 bytes where there are at most 65,536 of them, else 4. `unit` and `value` are as long as dense
        activity would be until the store is finished; only chunks that hold something exist.
        """
        samples, units = shape
        inner = group.create_group(name, attributes={**attributes, "n_units": units, "sparse": True})
        most = max(1, samples * units)
        kinds = {"unit": "uint16" if units <= 1 << 16 else "uint32", "value": str(on_disk(dtype))}
        for key, kind in kinds.items():
            inner.create_array(
                key, shape=(most,), chunks=(min(ENTRIES, most),), dtype=kind, compressors=CHECKSUM
            )
        inner.create_array(
            "indptr", shape=(samples + 1,), chunks=(rows,), dtype="int64", compressors=CHECKSUM
        )

    @classmethod
    def open(cls, group: Any, shape: tuple[int, int], dtype: torch.dtype) -> Self:
        """Codes in a group that `create` made."""
        return cls(group["indptr"], group["unit"], group["value"], *shape, dtype)

    @property
    def shape(self) -> tuple[int, int]:
        """(samples, units)."""
        return (self.n_samples, self.n_units)

    def append(self, start: int, codes: SparseCodes) -> list[Chunk]:
        """Write samples `start` and following, all before them being there; returns the chunks that it touched."""
        begin = int(self.indptr[start])
        stop = begin + len(codes.unit)
        if len(codes.unit):
            self.unit[begin:stop] = codes.unit.astype(self.unit.dtype)
            self.value[begin:stop] = to_disk(codes.value)
        self.indptr[start + 1 : start + 1 + len(codes)] = begin + codes.indptr[1:]
        # From the chunk before the first entry on, so that each line of the journal says how the last one ends.
        touched = [*chunks(self.unit, max(begin - 1, 0), stop), *chunks(self.value, max(begin - 1, 0), stop)]
        return [*touched, *chunks(self.indptr, start, start + 1 + len(codes))]

    def cut(self) -> None:
        """Shorten `unit` and `value` to what was written."""
        n = int(self.indptr[self.n_samples])
        self.unit.resize((n,))
        self.value.resize((n,))

    def codes(self, start: int, stop: int) -> SparseCodes:
        """Samples start..stop as compressed rows."""
        ends = guarded(self.indptr, slice(start, max(stop, start) + 1)).astype(np.int64)
        low, high = int(ends[0]), int(ends[-1])
        unit = guarded(self.unit, slice(low, high)).astype(np.uint32)
        value = self.value
        value = (
            value[low:high]
            if isinstance(value, Tensor)
            else from_disk(guarded(value, slice(low, high)), self.dtype)
        )
        return SparseCodes(ends - low, unit, value, self.n_units)

    def pick(self, rows: Rows) -> SparseCodes:
        """Some samples as compressed rows, in the order given; blocks that hold none of them are not read."""
        key = row_key(rows)
        if isinstance(key, slice):
            return self.codes(key.start, key.stop)
        unique, back = np.unique(key, return_inverse=True)
        parts = [
            SparseCodes(
                np.zeros(1, np.int64), np.zeros(0, np.uint32), torch.zeros(0, dtype=self.dtype), self.n_units
            )
        ]
        for block in np.unique(unique // BLOCK):
            first = int(block) * BLOCK
            mine = unique[unique // BLOCK == block] - first
            parts.append(self.codes(first, min(first + int(mine[-1]) + 1, self.n_samples)).take(mine))
        return SparseCodes.concat(parts).take(back)

    def dense(self, rows: Rows) -> Tensor:
        """Some samples, (rows, units)."""
        return self.pick(rows).to_dense()
