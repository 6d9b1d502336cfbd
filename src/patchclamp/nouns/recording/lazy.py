"""Activity of one site, read when it is sliced; storage types; the bridge to xarray."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import zarr
from torch import Tensor

from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.nouns.recording.integrity import guarded
from patchclamp.nouns.units import Site

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
Rows = range | np.ndarray


def storage_dtype(name: str) -> torch.dtype:
    """The torch type of a storage type's name, or a PatchclampError with the near names."""
    if name not in DTYPES:
        raise PatchclampError(f"dtype={name!r}: one of {', '.join(DTYPES)}{did_you_mean(name, DTYPES)}")
    return DTYPES[name]


def on_disk(dtype: torch.dtype) -> np.dtype[Any]:
    """The NumPy type that Zarr stores. Zarr has no bfloat16: its 16 bits are stored as uint16."""
    return np.dtype("uint16" if dtype == torch.bfloat16 else str(dtype).removeprefix("torch."))


def to_disk(tensor: Tensor) -> np.ndarray:
    """Bits of a tensor as the array that Zarr stores."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


def from_disk(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Undo `to_disk`, bit for bit."""
    if dtype == torch.bfloat16:
        return torch.from_numpy(np.ascontiguousarray(array).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.ascontiguousarray(array))


@dataclass(frozen=True)
class SiteArray:
    """Activity of one site, (samples, units) or (samples, heads, d_head): read from disk when it is sliced.

    ``array[rows]`` and ``array[rows, units]`` give torch tensors; rows and units are slices, boolean masks or
    index arrays. `take` gives a narrower view without reading anything.

    Parameters
    ----------
    site
        Address.
    source
        A Zarr array or a tensor with all samples and units, or a `SparseArray`, whose rows are made dense when read.
    dtype
        Type of the values.
    rows, units
        The samples and units that this view shows; units None = all.
    """

    site: Site
    source: Any
    dtype: torch.dtype
    rows: Rows
    units: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(samples, units) or (samples, heads, d_head)."""
        width = self.source.shape[1] if self.units is None else len(self.units)
        return (len(self.rows), width, *self.source.shape[2:])

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in memory if all of it were read."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    @property
    def unit_index(self) -> np.ndarray:
        """Index of each unit of this view in its site."""
        return np.arange(self.source.shape[1]) if self.units is None else self.units

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Any = None, units: np.ndarray | None = None) -> SiteArray:
        """Narrow the view to rows (slice, mask or indices of this view) and units (indices of this view)."""
        kept = self.rows if rows is None else pick(self.rows, rows)
        chosen = self.units if units is None else self.unit_index[units]
        return replace(self, rows=kept, units=chosen)

    def __getitem__(self, key: Any) -> Tensor:
        row_key, *rest = key if isinstance(key, tuple) else (key,)
        if isinstance(row_key, (int, np.integer)):
            return self[(slice(row_key, row_key + 1 or None), *rest)][0]
        values = _read(self.source, pick(self.rows, row_key), self.dtype)
        if self.units is not None:
            values = values[:, torch.from_numpy(self.units)]
        return values[(slice(None), *rest)] if rest else values

    def torch(self) -> Tensor:
        """Read all of it."""
        return self[:]

    def numpy(self) -> np.ndarray:
        """Read all of it; bfloat16, which NumPy lacks, becomes float32."""
        values = self[:]
        return (values.float() if self.dtype == torch.bfloat16 else values).cpu().numpy()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.numpy().astype(dtype) if dtype is not None else self.numpy()

    def __repr__(self) -> str:
        return f"SiteArray({str(self.site)!r}, shape={self.shape}, {self.dtype}, {self.nbytes / 1e6:.1f} MB)"


def pick(rows: Rows, key: Any) -> Rows:
    """Rows of rows: apply a slice, a mask or indices."""
    if isinstance(key, slice):
        return rows[key]
    index = key.cpu().numpy() if isinstance(key, Tensor) else np.asarray(key)
    if index.dtype == bool:
        if len(index) != len(rows):
            raise PatchclampError(f"a mask of {len(index)} entries cannot select among {len(rows)} samples")
        index = np.flatnonzero(index)
    index = index.astype(np.int64)
    if len(index) and (index.max() >= len(rows) or index.min() < -len(rows)):
        raise PatchclampError(f"sample {index.max()}: this recording has samples 0..{len(rows) - 1}")
    index = np.where(index < 0, index + len(rows), index)
    return rows.start + rows.step * index if isinstance(rows, range) else rows[index]


def row_key(rows: Rows) -> slice | np.ndarray:
    """Rows as the key that reads them: a slice where they follow each other, else their numbers."""
    if isinstance(rows, range) and rows.step == 1:
        return slice(rows.start, rows.stop)
    return np.asarray(rows, dtype=np.int64)


def _read(source: Any, rows: Rows, dtype: torch.dtype) -> Tensor:
    key = row_key(rows)
    if isinstance(source, Tensor):
        return source[key]
    if not isinstance(source, zarr.Array):
        dense: Tensor = source.dense(rows)
        return dense
    if isinstance(key, slice):
        return from_disk(guarded(source, key), dtype)
    # Zarr reads a chunk once if indices are sorted; the caller's order is put back afterwards.
    unique, back = np.unique(key, return_inverse=True)
    found = guarded(source, unique, orthogonal=True) if len(unique) else guarded(source, slice(0, 0))
    return from_disk(found[back], dtype)


def lazy_variable(array: SiteArray, dims: tuple[str, ...]) -> Any:
    """An xarray Variable that reads from `array` only what is asked for."""
    import xarray as xr
    from xarray.backends import BackendArray
    from xarray.core import indexing

    class Backend(BackendArray):
        shape = array.shape
        dtype = np.dtype("float32") if array.dtype == torch.bfloat16 else on_disk(array.dtype)

        def __getitem__(self, key: Any) -> Any:
            return indexing.explicit_indexing_adapter(
                key, self.shape, indexing.IndexingSupport.OUTER_1VECTOR, self._take
            )

        def _take(self, key: tuple[Any, ...]) -> np.ndarray:
            rows, *rest = key
            single = isinstance(rows, (int, np.integer))
            part = array.take(np.array([rows]) if single else rows).numpy()
            part = part[0] if single else part
            axis = 0 if single else 1
            for entry in rest:
                part = part[(slice(None),) * axis + (entry,)]
                axis += 0 if isinstance(entry, (int, np.integer)) else 1
            return part

    return xr.Variable(dims, indexing.LazilyIndexedArray(Backend()))
