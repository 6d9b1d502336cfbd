"""Spike trains: times per unit, which become a recording of counts when they are binned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.tables import write_arrays
from patchclamp.nouns.recording.events import event_labels, events_table, keep, numbers_of, offsets
from patchclamp.nouns.recording.lazy import SiteArray
from patchclamp.nouns.recording.observed import Observed
from patchclamp.nouns.recording.samples import COLUMNS
from patchclamp.nouns.recording.times import Counted, Ragged, Trace, trace_columns
from patchclamp.nouns.units import Site

if TYPE_CHECKING:
    from patchclamp.nouns.recording.recording import Recording

Floats = NDArray[np.float64]


class SpikeTrains:
    """Times of events (spikes) of units, in seconds, with the labels of the units and what went on meanwhile.

    Make one with `SpikeTrains.from_times` or `patchclamp.record.open_recording`. Nothing is read before it is asked
    for; `bin` and `epoch` give a `Recording` of counts, samples x units, that is computed as it is read.

    Examples
    --------
    >>> trains = SpikeTrains.from_times([[0.1, 0.4, 0.45], [0.2]], span=(0.0, 0.5))
    >>> trains
    SpikeTrains(2 units, 4 spikes, 0 to 0.5 s)
    >>> trains.bin(0.25)["units"][:].tolist()
    [[1.0, 1.0], [2.0, 0.0]]
    """

    def __init__(
        self,
        times: Ragged,
        span: tuple[float, float] | None = None,
        labels: Mapping[str, Sequence[Any]] | None = None,
        tables: Mapping[str, Any] | None = None,
        behaviour: Mapping[str, Trace] | None = None,
        manifest: Mapping[str, Any] | None = None,
        name: str = "units",
        units: NDArray[np.int64] | None = None,
        observed: Observed | None = None,
    ) -> None:
        self._times = times
        self._span = span if span is not None or observed is None else observed.extent
        self._observed = observed
        if self._span is not None:
            self._times.span = self._span
        self._times.observed = observed
        if observed is not None and len(observed) != len(times):
            raise PatchclampError(f"{name}: observed has {len(observed)} entries for {len(times)} units")
        self._labels = {key: list(column) for key, column in (labels or {}).items()}
        self._tables = dict(tables or {})
        self.behaviour = dict(behaviour or {})
        self.manifest = dict(manifest or {})
        self.name = name
        self._units = np.arange(len(times)) if units is None else units
        for key, column in self._labels.items():
            if len(column) != len(times):
                raise PatchclampError(f"{name}: {len(column)} entries of {key} for {len(times)} units")
        if not len(times):
            raise PatchclampError(f"{times.where}: there is no unit")

    @classmethod
    def from_times(
        cls,
        times: Sequence[Any],
        span: tuple[float, float] | None = None,
        *,
        labels: Mapping[str, Sequence[Any]] | None = None,
        tables: Mapping[str, Any] | None = None,
        behaviour: Mapping[str, tuple[Any, Any]] | None = None,
        name: str = "units",
        sort: bool = False,
        observed: Sequence[Any] | None = None,
    ) -> SpikeTrains:
        """Make spike trains of times in memory.

        Parameters
        ----------
        times
            One array of seconds a unit, sorted.
        span
            Beginning and end of the recording, in seconds; by default the first and the last spike.
        labels
            Columns with one entry a unit (region, x, y, quality ...).
        tables
            Name -> table of events or intervals (trials, epochs ...), times in seconds.
        behaviour
            Name -> (times, values): signals with times of their own, interpolated where activity is binned.
        name
            Name of the site.
        sort
            Sort times that are not in order, instead of refusing them.
        observed
            One list of (start, stop) a unit: when it was observed, where that is not all the time. None for a unit that
            always was. Rates are over that time; bins in which not all units were observed have ``content`` False.

        Raises
        ------
        PatchclampError
            For unsorted or non-finite times, spikes outside the span, or no unit.
        """
        traces = {
            key: Trace(np.asarray(t, np.float64), np.asarray(v)) for key, (t, v) in (behaviour or {}).items()
        }
        for key, trace in traces.items():
            if trace.times.ndim != 1 or len(trace.times) != len(trace.values):
                raise PatchclampError(
                    f"behaviour {key!r}: {len(trace.times)} times, {len(trace.values)} values"
                )
        seen = None if observed is None else Observed(observed, name)
        trains = cls(Ragged.of(times, name, sort), span, labels, tables, traces, None, name, observed=seen)
        trains._times.check()
        return trains

    # ---- looking at it

    @property
    def n_units(self) -> int:
        """Number of units."""
        return len(self._units)

    @property
    def span(self) -> tuple[float, float]:
        """Beginning and end in seconds: as given, else of the time observed, else the first and last spike."""
        if self._span is None:
            self._span = self._times.extent()
        return self._span

    @property
    def counts(self) -> NDArray[np.int64]:
        """Spikes of every unit, (units,)."""
        return self._times.counts()[self._units]

    def __len__(self) -> int:
        return self.n_units

    def __getitem__(self, unit: int) -> Floats:
        """Times of one unit, seconds."""
        if not -self.n_units <= unit < self.n_units:
            raise PatchclampError(f"{self.name}[{unit}]: there are units 0..{self.n_units - 1}")
        return self._times[int(self._units[unit])]

    def __repr__(self) -> str:
        start, stop = self.span
        return f"SpikeTrains({self.n_units} units, {self.counts.sum()} spikes, {start:g} to {stop:g} s)"

    @property
    def tables(self) -> list[str]:
        """Names of the tables: trials, epochs ..."""
        return list(self._tables)

    def table(self, name: str) -> pd.DataFrame:
        """A table of events or intervals, times in seconds."""
        return events_table(name, self._tables, "table")

    def units(self) -> pd.DataFrame:
        """A table of the units: address, index, spikes, rate (Hz) and their labels.

        The rate is over the span, or over the time in which the unit was observed (`observed`, seconds) where that is known.
        """
        start, stop = self.span
        table = pd.DataFrame({"unit": [f"{self.name}[{i}]" for i in self._units], "index": self._units})
        table["spikes"] = self.counts
        seconds = np.full(len(table), stop - start)
        if self._observed is not None:
            table["observed"] = seconds = self._observed.seconds(self._units, (start, stop))
        table["rate"] = self.counts / np.maximum(seconds, np.finfo(float).tiny)
        return table.assign(**{key: [column[i] for i in self._units] for key, column in self._labels.items()})

    def select(self, units: Any) -> SpikeTrains:
        """Return some of the units: indices, or a mask over `units()`."""
        index = np.asarray(units)
        index = np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64)
        if not len(index) or index.max() >= self.n_units or index.min() < 0:
            raise PatchclampError(f"{self.name}: units {units!r} of 0..{self.n_units - 1}")
        return SpikeTrains(
            self._times, self._span, self._labels, self._tables, self.behaviour, self.manifest, self.name,
            self._units[index], self._observed,
        )  # fmt: skip

    # ---- counts

    def bin(self, width: float, within: Any = None) -> Recording:
        """Count spikes in bins of `width` seconds: a recording of counts, bins x units.

        Bin i covers [start + i width, start + (i + 1) width); its time is its centre; the last bin includes the end. Every spike of the span is in
        exactly one bin. A last bin that is not wholly recorded is kept, with ``content`` False; so is a bin in which not
        all units were observed.

        Parameters
        ----------
        width
            Seconds.
        within
            Name of a table, or a table or array of intervals (start, stop): bins are cut within each, and
            each is a document and a group of its own. By default the whole span is one.
        """
        if not width > 0:
            raise PatchclampError(f"bin: width={width:g} s must be above zero")
        if within is None:
            low, high = self.span
            table = pd.DataFrame({"start": [low], "stop": [np.nextafter(high, np.inf)]})
        else:
            table = self._intervals(within)
        sizes = np.ceil((table["stop"] - table["start"]).to_numpy() / width - 1e-9).astype(np.int64)
        sizes = np.maximum(sizes, 1)
        doc = np.repeat(np.arange(len(table)), sizes)
        position = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        begin, end = table["start"].to_numpy()[doc], table["stop"].to_numpy()[doc]
        start = begin + position * width
        stop = np.minimum(begin + (position + 1) * width, end)
        stop[position == sizes[doc] - 1] = end[position == sizes[doc] - 1]
        labels, names = event_labels(table)
        columns: dict[str, Any] = {"doc": doc, "position": position, "label": labels[doc], "group": doc}
        columns["content"] = begin + (position + 1) * width <= end + 1e-9 * width
        if self._observed is not None:
            seen = self._observed.covers(self._units, start, np.minimum(begin + (position + 1) * width, end))
            if not seen.any():
                raise PatchclampError(
                    f"bin: in no bin of {width:g} s were all {self.n_units} units observed; select() units that were observed "
                    "together, or open the file with observed=False"
                )
            columns["content"] &= seen
        columns["time"] = start + width / 2
        return self._recording(start, stop, columns, width, names)

    def _intervals(self, within: Any) -> pd.DataFrame:
        table = events_table(within, self._tables, "within")
        if "stop" not in table:
            raise PatchclampError("within: intervals need a start and a stop; these have starts alone")
        low, high = self.span
        lost = np.flatnonzero(
            (table["stop"] <= low) | (table["start"] >= high) | (table["stop"] <= table["start"])
        )
        if len(lost):
            row = table.iloc[lost[0]]
            raise PatchclampError(
                f"within: interval {lost[0]}, {row['start']:g} to {row['stop']:g} s, holds nothing of the recording, "
                f"{low:g} to {high:g} s; are its times in seconds?"
            )
        return table

    def epoch(
        self, events: Any, window: tuple[float, float], width: float = 0.02, *, outside: str = "refuse"
    ) -> Recording:
        """Count spikes around every event: trials x time x units, aligned to the event itself, not to a bin.

        Bin k of a trial covers [event + k width, event + (k + 1) width) for whole k with
        ``window[0] <= k * width < window[1]``; its `time` is the bin's centre in seconds from the event.

        Parameters
        ----------
        events
            Name of a table, a table with times in seconds, or an array of times.
        window
            Seconds before (negative) and after.
        width
            Seconds a bin.
        outside
            ``"refuse"`` events whose window leaves the span, or the time in which all units were observed, or ``"drop"`` them.
        """
        found = events_table(events, self._tables, "epoch")
        steps = offsets(window, width)
        at = found["start"].to_numpy(np.float64)
        low, high = self.span
        slack = 1e-9 * max(1.0, abs(high))
        inside = (at + steps[0] * width >= low - slack) & (at + (steps[-1] + 1) * width <= high + slack)
        extent = f"{low:g} to {high:g} s"
        if self._observed is not None:
            inside &= self._observed.covers(self._units, at + steps[0] * width, at + (steps[-1] + 1) * width)
            extent += ", where all units were observed"
        kept = keep(found, inside, window, outside, extent)
        found, at = found[kept].reset_index(drop=True), at[kept]
        start = (at[:, None] + steps * width).ravel()
        stop = (at[:, None] + (steps + 1) * width).ravel()
        each = np.repeat(np.arange(len(found)), len(steps))
        labels, names = event_labels(found)
        columns: dict[str, Any] = {"doc": each, "position": np.tile(np.arange(len(steps)), len(found))}
        columns |= {"label": labels[each], "group": each, "session_time": start + width / 2}
        columns |= {"time": np.tile((steps + 0.5) * width, len(found)), "trial": np.flatnonzero(kept)[each]}
        return self._recording(start, stop, columns | numbers_of(found, each, columns), width, names)

    def around(self, unit: int, events: Any, window: tuple[float, float]) -> list[Floats]:
        """Times of one unit's spikes relative to each event, one array an event: the rows of a raster."""
        times = self[unit]
        at = events_table(events, self._tables, "around")["start"].to_numpy(np.float64)
        low, high = np.searchsorted(times, at + window[0]), np.searchsorted(times, at + window[1])
        return [times[a:b] - t for a, b, t in zip(low, high, at, strict=True)]

    def _recording(
        self, start: Floats, stop: Floats, columns: dict[str, Any], width: float, names: list[str]
    ) -> Recording:
        from patchclamp.nouns.recording.events import plain_table
        from patchclamp.nouns.recording.recording import Recording

        source = Counted(self._times, self._units, start, stop)
        site = Site(self.name)
        array = SiteArray(site, source, torch.float32, range(len(start)))
        columns.setdefault("token", np.full(len(start), -1))
        columns.setdefault("content", np.ones(len(start), bool))
        whole = {name: np.asarray(columns[name], bool if name == "content" else np.int64) for name in COLUMNS}
        when = columns.get("session_time", columns["time"])
        traces = trace_columns(self.behaviour, when)
        rest = {name: column for name, column in columns.items() if name not in COLUMNS}
        about = {**self.manifest, "quantity": "count", "time_step": width}
        about["tables"] = {key: plain_table(events_table(table, {})) for key, table in self._tables.items()}
        if names:
            about["label_names"] = names
        labels = {key: [column[i] for i in self._units] for key, column in self._labels.items()}
        if not np.array_equal(self._units, np.arange(len(self._units))):
            labels["index"] = self._units.tolist()
        return Recording({site: array}, {**whole, **traces, **rest}, range(len(start)), about, {site: labels})

    def save(self, path: str | Path) -> Path:
        """Write times, span and labels of units to a ``.npz`` file that `open_recording` reads."""
        return write_arrays(path, **self._columns())

    def _columns(self) -> dict[str, Any]:
        parts = [self[i] for i in range(self.n_units)]
        return {
            **self._observed_columns(),
            "span": np.array(self.span),
            "n_units": np.array(self.n_units),
            "spike_times": np.concatenate(parts),
            "spike_units": np.repeat(np.arange(self.n_units), [len(part) for part in parts]),
            **{f"unit_{key}": np.asarray([c[i] for i in self._units]) for key, c in self._labels.items()},
        }

    def _observed_columns(self) -> dict[str, Any]:
        if self._observed is None:
            return {}
        known = [(i, self._observed.intervals[u]) for i, u in enumerate(self._units)]
        some = [(i, one) for i, one in known if one is not None]
        return {
            "observed": np.concatenate([np.zeros((0, 2)), *(one for _, one in some)]),
            "observed_units": np.array([i for i, one in some for _ in one], np.int64),
        }
