"""Events and intervals: one table of when something happened, from whatever the caller has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from patchclamp.errors import PatchclampError, did_you_mean

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
    if all(_whole(text) for text in kept):  # 2 before 10
        names = sorted(set(kept), key=int)
    else:
        names = sorted(set(kept))
    codes = {name: code for code, name in enumerate(names)}
    return np.array([-1 if text is None else codes[text] for text in texts], np.int64), names


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, (float, np.floating)) and np.isnan(value))


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, (list, tuple, np.ndarray)):
        return ", ".join(_text(part) for part in value)
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _whole(text: str) -> bool:
    return text.lstrip("-").isdecimal()


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
