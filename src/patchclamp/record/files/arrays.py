"""NumPy's ``.npz`` and ``.npy``: fields by the small schema; a ``.npy`` is mapped, not read. Never pickle."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from patchclamp.base.errors import PatchclampError
from patchclamp.base.memory import refuse_unpacking
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.recording.spikes import SpikeTrains
from patchclamp.record.files.base import Contents, unreadable
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
    try:
        if path.suffix == ".npy":
            return {"activity": np.load(path, mmap_mode="r", allow_pickle=False)}
        _check_sizes(path)
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except PatchclampError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if "pickle" in str(error).lower() or "object" in str(error).lower():
            raise PatchclampError(
                f"{path}: holds Python objects, which only unpickling could read, and that runs code; save plain arrays "
                "(one array a unit as spike_times and spike_units)"
            ) from error
        raise unreadable(path, "NumPy arrays", error) from error


def _check_sizes(path: Path) -> None:
    """What the archive, and the head of each array in it, say of sizes; nothing is unpacked but the heads."""
    with zipfile.ZipFile(path) as archive:
        whole = 0
        for entry in archive.infolist():
            if not entry.filename.endswith(".npy"):
                continue
            with archive.open(entry) as file:
                major, _ = np.lib.format.read_magic(file)
                read = (
                    np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = read(file)
            size = math.prod(shape) * dtype.itemsize
            if size > entry.file_size:
                raise PatchclampError(
                    f"{path}: {entry.filename} says that it is {shape} of {dtype}, {size:,} bytes, and has {entry.file_size:,}; "
                    "it was cut short or made up"
                )
            whole += entry.file_size
        refuse_unpacking(str(path), whole, path.stat().st_size)
