"""Neurodata Without Borders: units, calcium, field potentials, behaviour, trials, epochs; read by pynwb, lazily."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError, check_choice, did_you_mean
from patchclamp.nouns.recording.events import events_table
from patchclamp.nouns.recording.observed import Observed
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.recording.sources import Computed, Ramp, Read
from patchclamp.nouns.recording.spikes import SpikeTrains
from patchclamp.nouns.recording.times import Ragged, Trace
from patchclamp.record.files.base import (
    Contents,
    FileItem,
    build,
    checked,
    even_step,
    foreign,
    increasing,
    need,
    refuse_circles,
    refuse_external,
)

_ACTIVITY = ("RoiResponseSeries", "ElectricalSeries")
_BEHAVIOUR = ("TimeSeries", "SpatialSeries", "IntervalSeries")
_WIDE = 64  # a plain TimeSeries with more columns is activity, not behaviour
_NOT_LABELS = (
    "spike_times",
    "obs_intervals",
    "electrodes",
    "waveforms",
    "waveform_mean",
    "waveform_sd",
    "timeseries",
)


@dataclass
class _Open:
    """An open file; what reads from it keeps it alive."""

    path: str
    io: Any
    file: Any

    def series(self) -> dict[str, Any]:
        """Time series with numbers, by name; where a name is used twice, by parent and name."""
        found = [o for o in self.file.objects.values() if _numeric(o)]
        names = [o.name for o in found]
        return {o.name if names.count(o.name) == 1 else f"{o.parent.name}/{o.name}": o for o in found}


def contents(path: Path) -> Contents:
    """What the file holds."""
    opened = _opened(path)
    with foreign(path, "NWB"):
        return _contents(opened)


def read(
    path: Path,
    what: str | None = None,
    *,
    groups: str | None = None,
    span: tuple[float, float] | None = None,
    sort: bool = False,
    missing: str = "refuse",
    observed: bool = True,
) -> Recording | SpikeTrains:
    """Open the units, or a series, of an NWB file.

    Parameters
    ----------
    path
        The file.
    what
        ``"units"`` for spike times, or the name of a series; needed only where the file holds several.
    groups
        Name of a table of intervals (epochs, trials): samples in one are a group, samples in none in no fold.
    span
        Beginning and end of the recording of spikes; by default of the time observed, else the first and the last spike.
    sort
        Sort spikes that are not in order, instead of refusing them.
    missing
        NaN in activity: ``"refuse"`` (where it is read), ``"keep"``, or ``"mask"`` units that have any (reads all).
    observed
        Use the units' ``obs_intervals``: rates are over that time, and bins outside of it have ``content`` False.
    """
    opened = _opened(path)
    with foreign(path, "NWB"):  # what pynwb gives of a damaged file is checked by nobody before
        return _read(opened, what, groups, span, sort, missing, observed)


def _read(
    opened: _Open,
    what: str | None,
    groups: str | None,
    span: tuple[float, float] | None,
    sort: bool,
    missing: str,
    observed: bool,
) -> Recording | SpikeTrains:
    item = _contents(opened).choose(what)
    tables = _tables(opened)
    series = opened.series()
    traces = {
        n: Trace(_times(s), _Scaled(s), str(s.unit or "")) for n, s in series.items() if _is_behaviour(s)
    }
    if item.kind == "spikes":
        return _units(opened, tables, traces, span, sort, observed)
    return _activity(opened, item.name, series[item.name], tables, traces, groups, missing)


def _opened(path: Path) -> _Open:
    pynwb = need("pynwb")
    h5py = need("h5py")
    errors = need("hdmf.build.errors")
    with foreign(path, "NWB", errors.BuildError, errors.ConstructError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they warn of is checked here, or refused
        with h5py.File(path, "r") as file:
            refuse_external(h5py, file, path)
            refuse_circles(h5py, file, path)
        io = pynwb.NWBHDF5IO(str(path), "r", load_namespaces=True)
        return _Open(str(path), io, io.read())


def _numeric(thing: Any) -> bool:
    kinds = {c.__name__ for c in type(thing).__mro__}
    if not kinds & {*_ACTIVITY, *_BEHAVIOUR} or kinds & {"ImageSeries", "SpikeEventSeries"}:
        return False
    data: Any = getattr(thing, "data", None)
    return getattr(data, "dtype", np.dtype(object)).kind in "iufb" and data.ndim in (1, 2)


def _is_behaviour(series: Any) -> bool:
    kinds = {c.__name__ for c in type(series).__mro__}
    narrow = series.data.ndim == 1 or series.data.shape[1] <= _WIDE
    return not kinds & set(_ACTIVITY) and narrow


def _contents(opened: _Open) -> Contents:
    units, items = opened.file.units, []
    if units is not None and len(units) and units.spike_times is not None:
        items.append(
            FileItem("units", "spikes", (len(units),), f"Units, {units.spike_times.data.shape[0]} spikes")
        )
    traces = {}
    for name, series in opened.series().items():
        shape = tuple(int(i) for i in series.data.shape)
        if _is_behaviour(series):
            traces[name] = shape
        else:
            rate = f", {float(series.rate):g} Hz" if series.rate else ""
            items.append(
                FileItem(name, "activity", (*shape, 1)[:2], f"{series.neurodata_type}{rate}, {series.unit}")
            )
    tables = {name: len(table) for name, table in (opened.file.intervals or {}).items()}
    return Contents(opened.path, "NWB", tuple(items), tables, traces, _about(opened))


def _about(opened: _Open) -> dict[str, Any]:
    file, out = opened.file, {}
    for name in ("identifier", "session_description", "lab", "institution"):
        if getattr(file, name, None):
            out[name] = str(getattr(file, name))
    if file.session_start_time is not None:
        out["session_start_time"] = str(file.session_start_time)
    subject = {key: str(v) for key, v in (file.subject.fields if file.subject else {}).items() if v}
    return {**out, **({"subject": subject} if subject else {})}


def _tables(opened: _Open) -> dict[str, pd.DataFrame]:
    found = {}
    for name, table in (opened.file.intervals or {}).items():
        frame = table.to_dataframe(exclude={"timeseries"}) if len(table) else None
        if frame is not None:
            found[name] = events_table(frame, {}, f"{opened.path}, {name}")
    return found


@dataclass(frozen=True)
class _Scaled:
    """Values of a series in its unit: data * conversion + offset, read when they are sliced."""

    series: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.series.data.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[Any]:
        series = self.series
        values = np.asarray(series.data[key])
        factor, offset = float(series.conversion or 1), float(getattr(series, "offset", 0) or 0)
        channel = getattr(series, "channel_conversion", None)
        if factor != 1 or offset or channel is not None:
            values = values * (factor if channel is None else factor * np.asarray(channel)) + offset
        return values


def _times(series: Any) -> Any:
    if series.timestamps is not None:
        return series.timestamps
    rate, start = float(series.rate), float(series.starting_time or 0.0)
    if not (0 < rate < np.inf and np.isfinite(start)):
        raise PatchclampError(
            f"{series.name}: a rate of {rate:g} Hz from {start:g} s on cannot be; mend it in the file"
        )
    return Ramp(series.data.shape[0], start, 1.0 / rate)


def _units(
    opened: _Open,
    tables: Mapping[str, pd.DataFrame],
    behaviour: Mapping[str, Trace],
    span: tuple[float, float] | None,
    sort: bool,
    observed: bool,
) -> SpikeTrains:
    units = opened.file.units
    index = np.asarray(units.spike_times_index.data[:])
    data = units.spike_times.data
    if (
        index.dtype.kind not in "iu"
        or index.ndim != 1
        or (np.diff(index.astype(np.int64), prepend=0) < 0).any()
    ):
        raise PatchclampError(
            f"{opened.path}, units: the index of spike times must count up from 0 in whole numbers, and is "
            f"{', '.join(map(str, np.ravel(index)[:4]))} ...; the file is damaged"
        )
    if data.ndim != 1 or data.dtype.kind not in "iuf":
        raise PatchclampError(
            f"{opened.path}, units: spike times are {data.shape} of {data.dtype}; wanted one row of seconds"
        )
    ends = index.astype(np.int64)
    if len(ends) and ends[-1] != data.shape[0]:
        raise PatchclampError(
            f"{opened.path}, units: the index ends at {ends[-1]} of {data.shape[0]} spike times; the file is damaged"
        )
    if not data.shape[0]:
        raise PatchclampError(f"{opened.path}, units: {len(ends)} units without a single spike")
    times = Ragged(data, ends, f"{opened.path}, units", None, sort)
    labels = _columns(units)
    if "location" not in labels and units.get("electrodes") is not None:
        labels["location"] = _places(units)
    trains = SpikeTrains(
        times, span, labels, tables, behaviour, {**_about(opened), "file": opened.path}, "units",
        observed=_observed(opened, units) if observed else None,
    )  # fmt: skip
    if data.shape[0] <= 1 << 22:  # small enough to be checked now; a large unit is checked when it is read
        times.check()
    return trains


def _observed(opened: _Open, units: Any) -> Observed | None:
    """When each unit was observed; a unit without an interval is not known to have been lost."""
    if "obs_intervals" not in units.colnames:
        return None
    index = units["obs_intervals"]
    ends, intervals = np.asarray(index.data[:], np.int64), np.asarray(index.target.data[:], np.float64)
    if len(ends) != len(units) or (len(ends) and ends[-1] != len(intervals)):
        raise PatchclampError(
            f"{opened.path}, units: {len(intervals)} obs_intervals with an index of {len(ends)} for {len(units)} units; the file "
            "is damaged; observed=False sets them aside"
        )
    return Observed(np.split(intervals, ends[:-1]), f"{opened.path}, obs_intervals")


def _columns(table: Any) -> dict[str, list[Any]]:
    """Columns of a table with one number or text a row, and its ids."""
    out: dict[str, list[Any]] = {"id": [int(i) for i in table.id[:]]}
    for name in table.colnames:
        column = table[name]
        if name in _NOT_LABELS or type(column).__name__ == "VectorIndex":
            continue
        values = column.data[:] if hasattr(column, "data") else list(column)
        if len(np.shape(values)) == 1 and len(values) == len(table):
            out[name] = [_plain(value) for value in values]
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, (int, float, str, bool)) else str(getattr(value, "name", value))


def _places(units: Any) -> list[str]:
    """Region of each unit: that of its electrodes."""
    found = []
    for row in range(len(units)):
        frame = units["electrodes"][row]
        places = frame["location"].astype(str).unique() if "location" in frame else []
        found.append(", ".join(places))
    return found


def _activity(
    opened: _Open,
    name: str,
    series: Any,
    tables: Mapping[str, pd.DataFrame],
    behaviour: Mapping[str, Trace],
    groups: str | None,
    missing: str,
) -> Recording:
    where = f"{opened.path}, {name}"
    values = _Scaled(series)
    n, width = (*values.shape, 1)[:2]
    units = _series_units(series, where, n, width)
    present = np.ones(width, bool)
    check_choice("missing", missing, ("refuse", "keep", "mask"))
    if missing == "mask":
        step = max(1, (64 << 20) // (8 * width))
        for start in range(0, n, step):
            present &= np.isfinite(values[start : start + step].reshape(-1, width)).all(0)
        units["present"] = present.tolist()

    def rows(start: int, stop: int) -> NDArray[Any]:
        found = values[start:stop].reshape(-1, width)
        return found if missing == "keep" else checked(found, start, where, present)

    time = _times(series)
    if len(time) != n:
        raise PatchclampError(f"{where}: {len(time)} timestamps for {n} samples; the file is inconsistent")
    step_s = 1.0 / float(series.rate) if series.rate else None
    if step_s is None and n <= 1 << 24:
        time = np.asarray(time[:], np.float64)
        increasing(time, where)
        step_s = even_step(time)
    columns = {}
    if "trials" in tables:
        columns["trial"] = Computed(time, partial(_inside, table=tables["trials"]))
    group = None
    if groups is not None:
        if groups not in tables:
            raise PatchclampError(
                f"{where}: groups={groups!r}; tables: {', '.join(tables)}{did_you_mean(groups, tables)}"
            )
        group = Computed(time, partial(_inside, table=tables[groups]))
    facts = {**_about(opened), "unit": str(series.unit)}
    return build(
        name.replace("/", "."), Read((n, width), rows), where=where, time=time, step=step_s, group=group,
        columns=columns, units=units, tables=tables, behaviour=behaviour, manifest=facts,
    )  # fmt: skip


def _series_units(series: Any, where: str, n: int, width: int) -> dict[str, list[Any]]:
    region = getattr(series, "rois", None) if hasattr(series, "rois") else getattr(series, "electrodes", None)
    if region is None:
        return {}
    index = np.asarray(region.data[:], np.int64)
    if len(index) != width:
        turned = (
            "; time is the first axis of NWB data, here it seems to be the second" if len(index) == n else ""
        )
        raise PatchclampError(f"{where}: {width} columns of data for {len(index)} units in its table{turned}")
    columns = {name: [column[i] for i in index] for name, column in _columns(region.table).items()}
    columns = {("table_index" if name == "index" else name): column for name, column in columns.items()}
    plane = getattr(region.table, "imaging_plane", None)
    if plane is not None and plane.location:
        columns.setdefault("location", [str(plane.location)] * width)
    return columns


def _inside(time: NDArray[Any], table: pd.DataFrame) -> NDArray[np.int64]:
    """Index of the interval in which each time lies, -1 for none; of overlapping ones the one that began last."""
    start, stop = table["start"].to_numpy(np.float64), table["stop"].to_numpy(np.float64)
    order = np.argsort(start, kind="stable")
    last = np.searchsorted(start[order], time, side="right") - 1
    own = order[np.maximum(last, 0)]
    return np.where((last >= 0) & (time < stop[own]), own, -1).astype(np.int64)
