"""Events and intervals: one table of when something happened, from whatever the caller has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.nouns.recording.lazy import SiteArray
from patchclamp.nouns.recording.samples import COLUMNS
from patchclamp.nouns.units import Site

if TYPE_CHECKING:
    from xarray import DataArray

Ints = NDArray[np.int64]
MOST_DIGITS = 1000  # Python reads no number of more than 4,300
_START = ("start", "onset", "start_time", "time", "timestamp")
_STOP = ("stop", "stop_time", "end")
_LABEL = ("label", "trial_type", "condition", "description", "name", "tags")


def events_table(events: Any, tables: Mapping[str, Any], who: str = "events") -> pd.DataFrame:
    """Return events as a table with `start` (seconds), and `stop`, `label` where they are known.

    Parameters
    ----------
    events
        Name of a table of the recording, a table with a column of times (start, onset, time ...), a sequence of
        times, or one of (start, stop) pairs.
    tables
        The tables of the recording.

    Raises
    ------
    PatchclampError
        For a table that is not there, has no times, is empty, or holds times that are not finite.
    """
    if isinstance(events, str):
        if events not in tables:
            raise PatchclampError(
                f"{who}: no table {events!r}; this recording has {', '.join(tables) or 'none'}"
                f"{did_you_mean(events, tables)}"
            )
        events = pd.DataFrame(tables[events])
    if not isinstance(events, pd.DataFrame):
        if hasattr(events, "items"):
            events = pd.DataFrame(dict(events))
        else:
            values = np.asarray(events, np.float64)
            if values.ndim == 2 and values.shape[1] == 2:
                events = pd.DataFrame({"start": values[:, 0], "stop": values[:, 1]})
            elif values.ndim == 1:
                events = pd.DataFrame({"start": values})
            else:
                raise PatchclampError(
                    f"{who}: an array of {values.shape}; give (events,) times or (events, 2) start and stop"
                )
    return _checked(_renamed(events, who), who)


def _renamed(found: pd.DataFrame, who: str) -> pd.DataFrame:
    start = next((name for name in _START if name in found), None)
    if start is None:
        raise PatchclampError(f"{who}: no column of times among {list(found.columns)}; name it `start`")
    out = found.rename(columns={start: "start"}).reset_index(drop=True)
    for wanted, options in (("stop", _STOP), ("label", _LABEL)):
        has = next((name for name in options if name in out), None)
        if has is not None and has != wanted:
            out = out.rename(columns={has: wanted})
    if "stop" not in out and "duration" in out:
        out["stop"] = out["start"] + out["duration"]
    return out


def _checked(found: pd.DataFrame, who: str) -> pd.DataFrame:
    if not len(found):
        raise PatchclampError(f"{who}: the table is empty; there is nothing to cut at")
    times = found["start"].to_numpy(np.float64)
    bad = np.flatnonzero(~np.isfinite(times))
    if len(bad):
        raise PatchclampError(f"{who}: the time of event {bad[0]} is {times[bad[0]]}; leave it out")
    found["start"] = times
    if "stop" in found:
        stop = found["stop"].to_numpy(np.float64)
        bad = np.flatnonzero(~(stop >= times))
        if len(bad):
            raise PatchclampError(f"{who}: interval {bad[0]} is {times[bad[0]]:g} to {stop[bad[0]]:g} s")
        found["stop"] = stop
    return found


def coded(values: Sequence[Any] | None, n: int) -> tuple[np.ndarray, list[str]]:
    """Labels as codes in order of their names, and the names; -1 for what has none."""
    if values is None:
        return np.full(n, -1, np.int64), []
    texts = [None if _missing(value) else _text(value) for value in values]
    kept = [text for text in texts if text is not None]
    names = sorted(set(kept), key=int if all(_whole(text) for text in kept) else None)  # 2 before 10
    codes = {name: code for code, name in enumerate(names)}
    return np.array([-1 if text is None else codes[text] for text in texts], np.int64), names


def event_labels(events: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """`coded` labels of a table of events, -1 throughout where it has none."""
    return coded(events["label"].tolist() if "label" in events else None, len(events))


def numbers_of(events: pd.DataFrame, each: Ints, known: Iterable[str]) -> dict[str, Any]:
    """Further columns of numbers of a table of events, for samples that belong to event `each`."""
    taken = {*COLUMNS, *known, "start", "stop"}
    names = [name for name in events.columns if name not in taken and events[name].dtype.kind in "iufb"]
    return {str(name): events[name].to_numpy()[each] for name in names}


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, (float, np.floating)) and np.isnan(value))


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, (list, tuple, np.ndarray)):
        return ", ".join(_text(part) for part in value)
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _whole(text: str) -> bool:
    return len(text) < MOST_DIGITS and text.removeprefix("-").isdecimal()


def plain_table(found: pd.DataFrame) -> dict[str, list[Any]]:
    """A table as plain data for a manifest: numbers and text; other cells as text."""
    out: dict[str, list[Any]] = {}
    for name in found.columns:
        column = found[name]
        if column.dtype.kind in "iufb":
            out[str(name)] = [None if _missing(v) else v for v in column.tolist()]
        else:
            out[str(name)] = [None if _missing(v) else _text(v) for v in column.tolist()]
    return out


class Timeline(Protocol):
    """What cutting asks of a recording, which stands above this file."""

    manifest: dict[str, Any]

    @property
    def time_step(self) -> float:
        """Seconds between samples."""

    @property
    def columns(self) -> list[str]:
        """What is known of every sample."""

    def column(self, name: str) -> NDArray[Any]:
        """One of these, (samples,), labels and groups by name."""

    def numbers(self, name: str) -> NDArray[Any]:
        """One of these as numbers."""

    def site(self, site: Site | str) -> Site:
        """A site that is recorded."""

    def units(self, site: Site | str) -> pd.DataFrame:
        """The table of its units."""

    def __getitem__(self, site: Site | str) -> SiteArray: ...


def cut(
    recording: Timeline, events: pd.DataFrame, window: tuple[float, float], outside: str
) -> tuple[Ints, dict[str, Any], list[str]]:
    """Rows (trials, time), the columns of those samples, and the names of the labels."""
    step = recording.time_step
    steps = offsets(window, step)
    time, doc = recording.column("time"), recording.column("doc")
    centre, inside = _nearest(time, doc, events, step)
    rows = centre[:, None] + steps[None, :]
    inner = np.clip(rows, 0, len(doc) - 1)
    # A window may neither leave its run nor step over a hole in it.
    inside &= (rows[:, 0] >= 0) & (rows[:, -1] < len(doc))
    inside &= (doc[inner] == doc[np.clip(centre, 0, len(doc) - 1)][:, None]).all(1)
    inside &= np.abs(time[inner[:, -1]] - time[inner[:, 0]] - step * (steps[-1] - steps[0])) < 0.5 * step
    kept = keep(events, inside, window, outside, f"{time.min():g} to {time.max():g} s")
    events, rows = events[kept].reset_index(drop=True), rows[kept]
    labels, names = event_labels(events)
    flat = rows.ravel()
    each = np.repeat(np.arange(len(events)), len(steps))
    columns: dict[str, Any] = {name: recording.numbers(name)[flat] for name in recording.columns}
    columns |= {"session_time": columns.pop("time"), "time": np.tile(steps * step, len(events))}
    columns |= {"doc": each, "position": np.tile(np.arange(len(steps)), len(events)), "label": labels[each]}
    columns["trial"] = np.flatnonzero(kept)[each]
    return rows, columns | numbers_of(events, each, (*columns, "run")), names


def offsets(window: tuple[float, float], step: float) -> Ints:
    """Whole k with window[0] <= k * step < window[1]."""
    low, high = window
    steps = np.arange(np.ceil(low / step - 1e-6), np.ceil(high / step - 1e-6)).astype(np.int64)
    if not len(steps):
        raise PatchclampError(
            f"window={window}: holds no sample at a step of {step:g} s; give (before, after)"
        )
    return steps


def keep(
    events: pd.DataFrame, inside: NDArray[np.bool_], window: tuple[float, float], outside: str, extent: str
) -> NDArray[np.bool_]:
    """Which events to use: all of them, or an error that names the first whose window is not recorded."""
    if outside not in ("refuse", "drop"):
        raise PatchclampError(f"outside={outside!r}; 'refuse' or 'drop'")
    if outside == "refuse" and not inside.all():
        first = int(np.flatnonzero(~inside)[0])
        raise PatchclampError(
            f"event {first} at {events['start'][first]:g} s: its window {window[0]:g} to {window[1]:g} s is not wholly "
            f"recorded ({extent}; {int((~inside).sum())} such of {len(events)}); outside='drop' leaves them out"
        )
    if not inside.any():
        raise PatchclampError(
            f"no event has its window inside the recording, {extent}; are its times in seconds?"
        )
    return inside


def _nearest(time: Any, doc: Any, events: pd.DataFrame, step: float) -> tuple[Ints, NDArray[np.bool_]]:
    run = next((name for name in ("doc", "run") if name in events), None)
    docs = list(dict.fromkeys(doc.tolist()))
    if run is None and len(docs) > 1 and (np.diff(time) <= 0).any():
        raise PatchclampError(
            f"epoch: {len(docs)} runs with times of their own, so each event needs its run; add a column `doc`"
        )
    at = events["start"].to_numpy(np.float64)
    centre, inside = np.full(len(at), -1, np.int64), np.zeros(len(at), bool)
    for one in docs if run is not None else [None]:
        rows = np.arange(len(doc)) if one is None else np.flatnonzero(doc == one)
        mine = np.arange(len(at)) if one is None else np.flatnonzero(events[run].to_numpy() == one)
        right = np.clip(np.searchsorted(time[rows], at[mine]), 1, max(1, len(rows) - 1))
        right = np.minimum(right, len(rows) - 1)
        left = np.maximum(right - 1, 0)
        nearer = np.where(at[mine] - time[rows[left]] <= time[rows[right]] - at[mine], left, right)
        centre[mine] = rows[nearer]
        inside[mine] = np.abs(time[rows[nearer]] - at[mine]) <= step * (0.5 + 1e-6)
    return centre, inside


def trials(recording: Timeline, site: Site | str) -> DataArray:
    """A `DataArray` (trial, time, unit) of documents of one length."""
    import xarray as xr

    site = recording.site(site)
    doc, position = recording.column("doc"), recording.column("position")
    names, counts = np.unique(doc, return_counts=True)
    if np.ptp(counts):
        raise PatchclampError(
            f"to_trials: documents have {counts.min()} to {counts.max()} samples; cut equal windows with epoch(...)"
        )
    order = np.lexsort((position, doc))
    values = recording[site][order].numpy()
    shape = (len(names), int(counts[0]))
    first = order.reshape(shape)[:, 0]
    time = recording.column("time")[order].reshape(shape) if "time" in recording.columns else None
    even = time is not None and np.allclose(time, time[:1], atol=1e-9)
    coords: dict[str, Any] = {
        "time": time[0] if even and time is not None else position[order].reshape(shape)[0]
    }
    for name in ("doc", "label", "group", "trial"):
        if name in recording.columns:
            coords["trial" if name == "doc" else f"trial_{name}"] = ("trial", recording.column(name)[first])
    coords["unit"] = recording.units(site)["unit"].to_numpy()
    labels = recording.manifest.get("label_names")
    attrs = {"label_names": list(labels)} if labels else {}
    return xr.DataArray(
        values.reshape(*shape, *values.shape[1:]), coords, ("trial", "time", "unit"), str(site), attrs
    )
