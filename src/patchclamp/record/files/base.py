"""What readers of files share: what a file holds, refusals, and a recording built of its parts."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.base.memory import refuse_unpacking
from patchclamp.base.optional import optional
from patchclamp.nouns.recording.events import coded, events_table, plain_table
from patchclamp.nouns.recording.lazy import SiteArray
from patchclamp.nouns.recording.recording import Recording, check_marks
from patchclamp.nouns.recording.samples import COLUMNS
from patchclamp.nouns.recording.sources import Ramp, stretches, take_column
from patchclamp.nouns.recording.times import Trace, trace_columns
from patchclamp.nouns.units import Site

CHUNK_BYTES = 64 << 20
_PACKAGES = {"pynwb": "NWB", "h5py": "HDF5", "mne": "M/EEG", "nibabel": "NIfTI", "nilearn": "NIfTI"}


@dataclass(frozen=True)
class FileItem:
    """One thing in a file that can be opened as a recording.

    Parameters
    ----------
    name
        What `open_recording(path, what=name)` takes.
    kind
        ``"spikes"`` or ``"activity"``.
    shape
        (units,) for spikes, (samples, units) or (trials, time, units) for activity.
    about
        Kind in the file's own words, rate, unit of the values.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    about: str = ""


@dataclass(frozen=True)
class Contents:
    """What a file holds, found without reading its data.

    Parameters
    ----------
    path, format
        The file, and the name of its format.
    items
        What can be opened.
    tables
        Name -> number of rows: trials, epochs, events.
    behaviour
        Name -> shape: signals that become columns of the samples.
    about
        Further facts: session, subject, channels.
    """

    path: str
    format: str
    items: tuple[FileItem, ...]
    tables: Mapping[str, int] = field(default_factory=dict)
    behaviour: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    def choose(self, what: str | None) -> FileItem:
        """The item of this name; without a name, the only one."""
        names = [item.name for item in self.items]
        if not names:
            raise PatchclampError(
                f"{self.path}: a readable {self.format} file, but it holds no spike times and no activity; "
                f"tables: {', '.join(self.tables) or 'none'}"
            )
        if what is None and len(names) == 1:
            return self.items[0]
        if what not in names:
            asked = "holds several recordings" if what is None else f"holds no {what!r}"
            raise PatchclampError(
                f"{self.path}: {asked}; say what=NAME, one of {', '.join(names)}"
                + (did_you_mean(what, names) if what else "")
            )
        return self.items[names.index(what)]


def need(package: str) -> Any:
    """An optional package, or a PatchclampError that says how to get it."""
    return optional(package, f"{_PACKAGES.get(package.split('.', maxsplit=1)[0], package)} files need")


def unreadable(path: Any, kind: str, error: BaseException) -> PatchclampError:
    """The refusal of a file that its own library cannot open."""
    told = (
        error if isinstance(error, OSError) or len(error.args) < 2 else error.args[-1]
    )  # else what, and why
    reason = (str(told).splitlines() or [""])[0][:200]
    if isinstance(error, KeyError):
        reason = f"no entry {reason}"
    elif not reason or isinstance(error, (AttributeError, AssertionError, RecursionError)):
        reason = f"{type(error).__name__} {reason}".strip()
    return PatchclampError(
        f"{path}: not readable as {kind} ({reason}); is the file complete, and its name right? format= overrides the "
        "choice by suffix"
    )


FOREIGN: tuple[type[Exception], ...] = (
    OSError, EOFError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, AssertionError, BufferError,
    MemoryError, RuntimeError, SyntaxError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What the libraries that read files raise at a damaged one: none of them promises anything."""


@contextmanager
def foreign(path: Any, kind: str, *more: type[Exception]) -> Iterator[None]:
    """Around the calls of a file's own library: whatever it raises is the refusal of that file.

    Parameters
    ----------
    path, kind
        The file, and what it is meant to be.
    *more
        Errors of the library's own.

    Raises
    ------
    PatchclampError
        See `unreadable`.
    """
    try:
        yield
    except PatchclampError:
        raise
    except (*FOREIGN, *more) as error:
        raise unreadable(path, kind, error) from error


def checked(values: NDArray[Any], first: int, where: str, present: NDArray[np.bool_] | None) -> NDArray[Any]:
    """Refuse NaN and Inf in units that are present, with the file, the sample and the unit."""
    bad = ~np.isfinite(values)
    if present is not None:
        bad &= present
    if bad.any():
        row, unit = (int(i) for i in np.argwhere(bad)[0][:2])
        raise PatchclampError(
            f"{where}: {values[row, unit]} at sample {first + row}, unit {unit} ({int(bad.sum())} such in this stretch); "
            "leave the unit out (missing='mask' marks units with any), or missing='keep' to work with them"
        )
    return values


def build(
    name: str,
    source: Any,
    *,
    where: str,
    time: Any = None,
    step: float | None = None,
    run: Any = None,
    group: Any = None,
    label: Sequence[Any] | None = None,
    columns: Mapping[str, Any] | None = None,
    units: Mapping[str, Any] | None = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
    behaviour: Mapping[str, Trace] | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> Recording:
    """A recording of one site from a lazy source (samples, units) and the labels of its axes.

    `run` gives the document of each sample (default: all one), `group` the group (default: the run), both by name or
    number; `label` may hold None. `columns` are whole or measured numbers a sample.
    """
    n, width = int(source.shape[0]), int(source.shape[1])
    if not n or not width:
        raise PatchclampError(f"{where}: empty, {n} samples x {width} units")
    about: dict[str, Any] = {**(manifest or {}), "file": where}
    none = Ramp(n, -1, 0, "int64")
    fixed: dict[str, Any] = {"token": none, "content": Ramp(n, 1, 0, "bool")}
    if run is None:
        fixed |= {"doc": Ramp(n, 0, 0, "int64"), "position": Ramp(n, 0, 1, "int64")}
    else:
        doc, about["doc_names"] = _runs(run, n, where)
        first, _ = stretches([doc])
        if len(np.unique(first)) != len(np.unique(doc)):
            raise PatchclampError(
                f"{where}: samples of one run are not neighbours; sort them by run and time"
            )
        fixed |= {"doc": doc, "position": np.arange(n) - first}
    for key, values in (("group", group), ("label", label)):
        if values is None:
            fixed[key] = fixed["doc"] if key == "group" else none
            if key == "group" and run is not None:
                about["group_names"] = about["doc_names"]
        elif hasattr(values, "__getitem__") and not isinstance(values, (list, tuple, np.ndarray, pd.Series)):
            fixed[key] = values  # a lazy column of codes
        else:
            sized(values, n, key, where)
            fixed[key], about[f"{key}_names"] = coded(list(values), n)
    more = dict(columns or {})
    fixed["content"] = more.pop("content", fixed["content"])
    for key, column in more.items():
        sized(column, n, key, where)
    if time is None and step is not None:
        time = Ramp(n, 0.0, step)
    if time is not None:
        sized(time, n, "time", where)
        more = {"time": time, **trace_columns(behaviour or {}, time), **more}
    if step is not None:
        about["time_step"] = float(step)
    if tables:
        about["tables"] = {key: plain_table(events_table(table, {}, where)) for key, table in tables.items()}
    labels = {key: np.asarray(column).tolist() for key, column in (units or {}).items()}
    for key, column in labels.items():
        sized(column, width, f"unit labels {key!r}", where, "units")
    check_marks(where, labels, width)
    site = Site(name)
    array = SiteArray(site, source, getattr(source, "dtype", torch.float32), range(n))
    row = max(1, width * array.dtype.itemsize)
    ordered = {key: fixed[key] for key in COLUMNS}
    return Recording(
        {site: array},
        {**ordered, **more},
        range(n),
        about,
        {site: labels},
        None,
        max(64, min(65536, CHUNK_BYTES // row)),
    )


def _runs(run: Any, n: int, where: str) -> tuple[NDArray[Any], list[str]]:
    doc, names = coded(list(run), n)
    if (doc < 0).any():
        raise PatchclampError(f"{where}: sample {int((doc < 0).argmax())} has no run; give each sample one")
    return doc, names


def sized(column: Any, n: int, key: str, where: str, what: str = "samples") -> None:
    """Refuse a column of the wrong length."""
    if len(column) != n:
        raise PatchclampError(f"{where}: {len(column)} entries of {key} for {n} {what}")


def increasing(time: Any, where: str, run: NDArray[Any] | None = None) -> None:
    """Refuse times that are not finite or do not increase within a run."""
    values = np.asarray(take_column(time, range(len(time))), np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise PatchclampError(f"{where}: the time of sample {bad[0]} is {values[bad[0]]}")
    falls = np.diff(values) <= 0
    if run is not None:
        falls &= run[1:] == run[:-1]
    if falls.any():
        i = int(np.flatnonzero(falls)[0])
        raise PatchclampError(
            f"{where}: times do not increase: {values[i]:g} s at sample {i}, then {values[i + 1]:g} s; sort the samples, "
            "or give each run its own `run`"
        )


def even_step(time: NDArray[np.float64], run: NDArray[Any] | None = None) -> float | None:
    """Step of evenly spaced times, else None."""
    steps = np.diff(time) if run is None else np.diff(time)[run[1:] == run[:-1]]
    if not len(steps) or np.ptp(steps) > 0.01 * np.median(steps):
        return None
    return float(np.median(steps))


def existing(path: str | Path) -> Path:
    """A path that exists and is not empty."""
    found = Path(path)
    if not found.exists():
        near = [p.name for p in found.parent.glob("*")] if found.parent.is_dir() else []
        raise PatchclampError(f"{found}: no such file{did_you_mean(found.name, near)}")
    if not found.is_file() and not found.is_dir():
        raise PatchclampError(
            f"{found}: is a pipe or a device; copy what it gives into a file, and open that"
        )
    if found.is_file() and not found.stat().st_size:
        raise PatchclampError(f"{found}: the file is empty (0 bytes); copy it again")
    return found


def refuse_external(h5py: Any, group: Any, path: Path) -> None:
    """Refuse an HDF5 file that takes its content from other files: whoever wrote it chose which.

    Raises
    ------
    PatchclampError
        Naming the link or the data.
    """
    seen: set[Any] = set()
    waiting = [group]
    while waiting:
        here = waiting.pop()
        if here.id in seen:
            continue
        seen.add(here.id)
        for name in here:
            link, where = here.get(name, getlink=True), f"{here.name.rstrip('/')}/{name}"
            if isinstance(link, h5py.ExternalLink):
                raise PatchclampError(
                    f"{path}: {where} is a link to another file, {link.filename}; {_WITHIN}"
                )
            if not isinstance(link, h5py.HardLink):
                continue
            thing = here[name]
            if isinstance(thing, h5py.Group):
                waiting.append(thing)
            elif isinstance(thing, h5py.Dataset):
                if thing.external or thing.is_virtual:
                    raise PatchclampError(f"{path}: {where} is kept in other files; {_WITHIN}")
                if thing.shape is not None:
                    refuse_unpacking(f"{path}, {where}", thing.nbytes, thing.id.get_storage_size())


MOST_NAMES = 1_000_000


def refuse_circles(h5py: Any, group: Any, path: Path) -> None:
    """Refuse an HDF5 file whose links lead in circles, or give a few things very many names: its readers run on.

    Raises
    ------
    PatchclampError
        Naming the place.
    """
    below: dict[Any, int] = {}  # names in a group and in those under it, by whichever way
    trail = [(group, "", iter(group))]
    counts, above = [0], {group.id}
    while trail:
        here, prefix, names = trail[-1]
        name = next(names, None)
        if name is None:
            trail.pop()
            above.discard(here.id)
            below[here.id] = counts.pop()
            if counts:
                counts[-1] += below[here.id]
            continue
        found, where = here.get(name), f"{prefix}/{name}"
        counts[-1] += 1
        if isinstance(found, h5py.Group):
            if found.id in above:
                raise PatchclampError(
                    f"{path}: {where:.200} is a link back to a group that it is in; take that link out"
                )
            if found.id in below:
                counts[-1] += below[found.id]
            else:
                trail.append((found, where, iter(found)))
                counts.append(0)
                above.add(found.id)
        if counts[-1] > MOST_NAMES:
            raise PatchclampError(
                f"{path}: {where:.200} is one of more than {MOST_NAMES:,} names, by links that give a few things many; take "
                "links out"
            )


_WITHIN = "copy what is meant into one file (h5repack, or h5py's copy with expand_external=True)"
