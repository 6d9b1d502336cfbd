"""MATLAB's ``.mat``: version 5 by scipy, version 7.3 (HDF5) by h5py and lazily; fields by the small schema."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.memory import refuse_unpacking
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.recording.spikes import SpikeTrains
from patchclamp.record.files.base import Contents, foreign, need, refuse_circles, refuse_external
from patchclamp.record.files.fields import KNOWN, listed, read_fields, wanted_names
from patchclamp.record.files.mat5 import refuse_sizes

MOST, DEEPEST = 100_000, 32  # cells, and cells in cells
_HDF5 = b"\x89HDF\r\n\x1a\n"


def contents(path: Path, axes: str | None = None) -> Contents:
    """What the file holds."""
    return listed(path, "MATLAB", _fields(path), axes)


def read(
    path: Path,
    what: str | None = None,
    *,
    fields: Mapping[str, str] | None = None,
    skip: Sequence[str] = (),
    step: float | None = None,
    axes: str | None = None,
    sort: bool = False,
    missing: str = "refuse",
) -> Recording | SpikeTrains:
    """Open a ``.mat`` file whose variables follow the schema.

    Variables inside structs are named with dots (``data.lfp``). A cell array of vectors is a list of spike times,
    one a unit. Parameters are those of ``.npz`` files.
    """
    found, names = _fields(path), wanted_names(what, fields)
    if names:  # a file of the laboratory's own: what the caller does not name is none of the schema
        kept = set(names.values())
        ours = {name for name in found if name in (*KNOWN, "iscell") or name.startswith("unit_")}
        found = {name: value for name, value in found.items() if name in kept | ours}
    return read_fields(found, path, names, skip, axes, step=step, sort=sort, missing=missing)


def _fields(path: Path) -> dict[str, Any]:
    if is_version_73(path):
        return _version_73(path)
    refuse_sizes(path)
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError
    from scipy.sparse import issparse

    with foreign(path, "a MATLAB file", MatReadError):
        found = loadmat(path, simplify_cells=False, struct_as_record=True)
    out: dict[str, Any] = {}
    for name, value in found.items():
        if not name.startswith("__"):
            if issparse(value):
                refuse_unpacking(f"{path}, {name}", math.prod(value.shape) * 8, path.stat().st_size)
                value = value.toarray()
            _flatten(name, value, out)
    return out


def refuse_hostile(path: Path, kind: str) -> None:
    """Refuse a ``.mat`` or ``.set`` that another reader will open, by what its tags or its links say."""
    if not is_version_73(path):
        refuse_sizes(path, kind)
        return
    h5py = need("h5py")
    with foreign(path, kind), h5py.File(path, "r") as file:
        refuse_external(h5py, file, path)
        refuse_circles(h5py, file, path)


def is_version_73(path: Path) -> bool:
    """Whether its first bytes are those of HDF5."""
    with path.open("rb") as file:
        head = file.read(520)
    return _HDF5 in (head[:8], head[512:520])


def _flatten(name: str, value: Any, out: dict[str, Any]) -> None:
    """Structs to dotted names, cells to lists, char arrays to text."""
    if value.dtype.names and value.size == 1:
        for field in value.dtype.names:
            _flatten(f"{name}.{field}", value.reshape(-1)[0][field], out)
    elif value.dtype == object:
        cells = [np.asarray(cell) for cell in value.reshape(-1)]
        texts = all(cell.dtype.kind in "US" for cell in cells)
        out[name] = (
            np.array(["".join(map(str, cell.reshape(-1))) for cell in cells]) if texts else _CellArray(cells)
        )
    else:
        out[name] = value


@dataclass(frozen=True)
class _CellArray:
    """A cell array of numeric arrays."""

    cells: list[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.cells),)

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, i: int) -> NDArray[Any]:
        return np.asarray(self.cells[i])


@dataclass(frozen=True)
class _Turned:
    """A dataset as MATLAB shows it: HDF5 keeps MATLAB's arrays with their axes in reverse order."""

    data: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape[::-1])

    @property
    def ndim(self) -> int:
        return len(self.data.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = np.dtype(self.data.dtype)
        return dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[Any]:
        cut = key if isinstance(key, tuple) else (key,)
        cut = (*cut, *[slice(None)] * (self.ndim - len(cut)))
        return np.transpose(np.asarray(self.data[cut[::-1]]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        values = np.transpose(np.asarray(self.data[()]))
        return values if dtype is None else values.astype(dtype)


def _version_73(path: Path) -> dict[str, Any]:
    h5py = need("h5py")
    with foreign(path, "a MATLAB 7.3 file"):
        file = h5py.File(path, "r")
        refuse_external(h5py, file, path)
        refuse_circles(h5py, file, path)
        return _Version73(h5py, file, path).variables()


class _Version73:
    """The variables of one file. References may lead in circles, and from few data sets to very many cells."""

    def __init__(self, h5py: Any, file: Any, path: Path) -> None:
        self.h5py, self.file, self.path, self.cells = h5py, file, path, 0
        self.reached: dict[Any, int] = {}  # data set -> cells that it leads to

    def variables(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        waiting = [(self.file, "")]
        while waiting:
            group, prefix = waiting.pop()
            inner = []
            for name in group:
                member, where = group.get(name), f"{prefix}{name}"
                if name.startswith("#"):
                    continue
                if isinstance(member, self.h5py.Group):
                    inner.append((member, f"{where}."))
                elif isinstance(member, self.h5py.Dataset):
                    out[where] = self.dataset(member, where, frozenset())
                elif member is None:
                    raise PatchclampError(f"{self.path}: variable {where} is a link to nothing; take it out")
            waiting += inner[::-1]
        return out

    def dataset(self, data: Any, where: str, above: frozenset[Any]) -> Any:
        if data.shape is None:
            raise PatchclampError(
                f"{self.path}: variable {where} holds nothing, not even a size; take it out"
            )
        if data.attrs.get("MATLAB_empty", 0):
            return self._empty(data, where)
        if self.h5py.check_ref_dtype(data.dtype) is not None:
            return self._cells(data, where, above)
        if data.attrs.get("MATLAB_class", b"") == b"char":
            codes = np.transpose(data[()]).reshape(-1)
            if codes.dtype.kind not in "iu" or (len(codes) and not 0 <= codes.min() <= codes.max() <= 0xFFFF):
                raise PatchclampError(f"{self.path}: variable {where} should be text, and is no UTF-16")
            return codes.astype("<u2").tobytes().decode("utf-16-le", "replace")
        if data.dtype.kind not in "iufb":
            raise PatchclampError(
                f"{self.path}: variable {where} is of type {data.dtype}, which is not read; leave it out"
            )
        return _Turned(data)

    def _empty(self, data: Any, where: str) -> NDArray[Any]:
        """An empty array is its shape, which lies in the place of its data."""
        shape = np.ravel(data[()])[:32]
        if shape.dtype.kind not in "iuf" or not all(0 <= n < 1 << 31 for n in shape) or shape.all():
            raise PatchclampError(
                f"{self.path}: variable {where} should be empty, and its shape is {shape.tolist()}"
            )
        return np.zeros(tuple(int(i) for i in shape)[::-1])

    def _cells(self, data: Any, where: str, above: frozenset[Any]) -> Any:
        """Cells are references into a hidden group."""
        if not above:
            self.cells += self._reached(data, where, above)
            self._refuse_many(self.cells, where)
        cells = []
        for found, cell in self._referred(data, where):
            if not isinstance(found, self.h5py.Dataset):
                kind = "nothing" if found is None else "a struct, or what is no array"
                raise PatchclampError(f"{self.path}: variable {cell} is {kind}; save the arrays as cells")
            cells.append(self.dataset(found, cell, above | {data.id}))
        if all(isinstance(cell, str) for cell in cells):
            return np.array(cells)
        return _CellArray(cells)

    def _reached(self, data: Any, where: str, above: frozenset[Any]) -> int:
        """Cells that a cell array leads to, each as often as it is reached, from one look at each array."""
        if data.id in above:
            raise PatchclampError(f"{self.path}: variable {where} is a cell of itself; take it out")
        if len(above) > DEEPEST:
            raise PatchclampError(
                f"{self.path}: variable {where}: cells in cells, {DEEPEST} deep; take it out"
            )
        if data.id not in self.reached:
            total = data.size
            self._refuse_many(total, where)
            for found, cell in self._referred(data, where):
                if isinstance(found, self.h5py.Dataset) and self._is_cells(found):
                    total += self._reached(found, cell, above | {data.id})
                    self._refuse_many(total, cell)
            self.reached[data.id] = total
        return self.reached[data.id]

    def _is_cells(self, data: Any) -> bool:
        kept = data.shape is not None and self.h5py.check_ref_dtype(data.dtype) is not None
        return kept and not data.attrs.get("MATLAB_empty", 0)

    def _referred(self, data: Any, where: str) -> Iterator[tuple[Any, str]]:
        """What each reference leads to, and its name."""
        for number, ref in enumerate(np.transpose(data[()]).reshape(-1)):
            yield self.file[ref] if ref else None, f"{where}{{{number + 1}}}"

    def _refuse_many(self, total: int, where: str) -> None:
        if total > MOST:
            raise PatchclampError(
                f"{self.path}: at {where} more than {MOST:,} cells were counted; by cells in cells a few become many: "
                "save what is meant as plain variables"
            )
