"""MATLAB's ``.mat``: version 5 by scipy, version 7.3 (HDF5) by h5py and lazily; fields by the small schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.recording.spikes import SpikeTrains
from patchclamp.record.files.base import Contents, need, refuse_external, unreadable
from patchclamp.record.files.fields import KNOWN, listed, read_fields, wanted_names

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
    with path.open("rb") as file:
        head = file.read(520)
    if _HDF5 in (head[:8], head[512:520]):
        return _version_73(path)
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        found = loadmat(path, simplify_cells=False, struct_as_record=True)
    except (MatReadError, ValueError, OSError, TypeError, NotImplementedError, IndexError) as error:
        raise unreadable(path, "a MATLAB file", error) from error
    out: dict[str, Any] = {}
    for name, value in found.items():
        if not name.startswith("__"):
            _flatten(name, value, out)
    return out


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
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise unreadable(path, "a MATLAB 7.3 file", error) from error
    refuse_external(h5py, file, path)
    out: dict[str, Any] = {}

    def visit(group: Any, prefix: str) -> None:
        for name, member in group.items():
            if name.startswith("#"):
                continue
            if isinstance(member, h5py.Group):
                visit(member, f"{prefix}{name}.")
            else:
                out[f"{prefix}{name}"] = _dataset(h5py, file, member, path)

    visit(file, "")
    return out


def _dataset(h5py: Any, file: Any, data: Any, path: Path) -> Any:
    kind = data.attrs.get("MATLAB_class", b"")
    if data.attrs.get("MATLAB_empty", 0):
        return np.zeros(tuple(int(i) for i in data[()])[::-1])
    if h5py.check_ref_dtype(data.dtype) is not None:
        # Cells are references into a hidden group.
        cells = [_dataset(h5py, file, file[ref], path) for ref in np.transpose(data[()]).reshape(-1)]
        if all(isinstance(cell, str) for cell in cells):
            return np.array(cells)
        return _CellArray(cells)
    if kind == b"char":
        return "".join(chr(int(c)) for c in np.transpose(data[()]).reshape(-1))
    if data.dtype.kind not in "iufb":
        raise PatchclampError(
            f"{path}: variable {data.name} is of type {data.dtype}, which is not read; leave it out"
        )
    return _Turned(data)
