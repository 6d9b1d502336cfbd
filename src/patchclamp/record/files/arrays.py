"""NumPy's ``.npz`` and ``.npy``: fields by the small schema; a ``.npy`` is mapped, not read. Never pickle."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from patchclamp.base.errors import PatchclampError
from patchclamp.base.memory import refuse_unpacking
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.recording.spikes import SpikeTrains
from patchclamp.record.files.base import Contents, foreign, unreadable
from patchclamp.record.files.fields import listed, read_fields, wanted_names


def contents(path: Path, axes: str | None = None) -> Contents:
    """What the file holds."""
    return listed(path, "NumPy", _fields(path), axes)


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
    """Open a ``.npz`` whose arrays follow the schema, or a ``.npy`` of activity.

    Parameters
    ----------
    path
        The file.
    what
        Name of the array that is the activity; short for ``fields={"activity": what}``.
    fields
        Schema name -> name in the file.
    skip
        Arrays to leave out.
    step
        Seconds between samples, where the file does not say.
    axes
        Order of the activity's axes in the file, such as ``"unit sample"``; by default ``"sample unit"``, beside suite2p's
        ``iscell.npy`` as its entries say.
    sort
        Sort spikes that are not in order, instead of refusing them.
    missing
        ``"refuse"`` NaN in the activity where it is read, or ``"keep"``.
    """
    names = wanted_names(what, fields)
    return read_fields(_fields(path), path, names, skip, axes, step=step, sort=sort, missing=missing)


def _fields(path: Path) -> Mapping[str, Any]:
    with path.open("rb") as file:
        head = file.read(6)
    if not head.startswith((b"PK", b"\x93NUMPY")):
        raise unreadable(path, "NumPy arrays", ValueError("its first bytes are those of something else"))
    with foreign(path, "NumPy arrays"):
        if head.startswith(b"PK"):
            names = _arrays(path)
            with np.load(path, allow_pickle=False) as archive:
                return {name.removesuffix(".npy"): archive[name] for name in names}
        with path.open("rb") as file:
            shape, dtype = _head(file, str(path), path.stat().st_size)
        if not math.prod(shape):  # nothing to map
            return {"activity": np.zeros(shape, dtype)}
        return {"activity": np.load(path, mmap_mode="r", allow_pickle=False)}


def _arrays(path: Path) -> list[str]:
    """Names of the arrays in an archive, whose sizes agree with their heads; nothing is unpacked but these."""
    with zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
        for entry in entries:
            with archive.open(entry) as file:
                _head(file, f"{path}, {entry.filename}", entry.file_size)
        refuse_unpacking(str(path), sum(entry.file_size for entry in entries), path.stat().st_size)
    return [entry.filename for entry in entries]


def _head(file: IO[bytes], where: str, stored: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array in NumPy's format, by its head alone.

    Raises
    ------
    PatchclampError
        For Python objects, for a shape that no array has, and for more than the `stored` bytes can hold.
    """
    major, _ = np.lib.format.read_magic(file)
    # Version 3 is version 2 with a head in UTF-8, and NumPy has no public reader of it.
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise PatchclampError(
            f"{where}: holds Python objects, which only unpickling could read, and that runs code; save plain arrays "
            "(one array a unit as spike_times and spike_units)"
        )
    size = math.prod(shape) * dtype.itemsize
    if not all(type(n) is int and 0 <= n < 1 << 63 for n in shape) or size > stored:
        raise PatchclampError(
            f"{where} says that it is {shape} of {dtype}, {size:,} bytes, and has {stored:,}; it was cut short or made up"
        )
    return shape, dtype
