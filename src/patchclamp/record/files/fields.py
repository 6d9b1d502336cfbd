"""The small schema of array files (.npz, .npy, .mat, tables): names of fields and what they mean.

=================  =====================================================================================
`activity`         (samples, units), or (trials, time, units)
`spike_times`      (spikes,) seconds, with `spike_units` (spikes,), instead of activity; or
`spikes`           a list (a cell array) of times, one array a unit
`observed`         (intervals, 2) seconds in which `observed_units` (intervals,) were observed, of spikes
`time` or `step`   (samples,) or (time,) seconds; or the seconds between samples
`run`, `group`     (samples,) numbers or names; the document, and the unit of dependence (default: the run)
`label`, `trial`,  (samples,) condition; numbers of trial and repeat; of activity with three axes one
`repeat`           entry a trial is enough
`unit_NAME`        (units,) a label of the units: unit_region, unit_x, unit_present ...
any other name     (samples,) or (samples, k) numbers: a behaviour, kept as a column of the samples
=================  =====================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.nouns.recording.observed import Observed
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.recording.samples import COLUMNS
from patchclamp.nouns.recording.sources import Read, stretches
from patchclamp.nouns.recording.spikes import SpikeTrains
from patchclamp.nouns.recording.times import Ragged, trace_names
from patchclamp.record.files.base import Contents, FileItem, build, checked, even_step, foreign, increasing
from patchclamp.record.files.suite2p import turned

KNOWN = ("activity", "spike_times", "spike_units", "spikes", "n_units", "span", "observed", "observed_units", "time", "step", "run", "group",
         "label", "trial", "repeat")  # fmt: skip
MOST_UNITS = 1 << 24
_PER_SAMPLE = ("run", "group", "label", "trial", "repeat")


def wanted_names(what: str | None, fields: Mapping[str, str] | None) -> dict[str, str]:
    """Schema name -> name in the file: the caller's `fields`, and `what`, short for the activity's."""
    return {**({"activity": what} if what not in (None, "activity", "units") else {}), **(fields or {})}


def renamed(found: Mapping[str, Any], fields: Mapping[str, str] | None, where: str) -> dict[str, Any]:
    """Apply the caller's names: schema name -> name in the file. Fields that others replace are left out."""
    out = dict(found)
    for ours, theirs in (fields or {}).items():
        if theirs not in found:
            raise PatchclampError(
                f"{where}: no field {theirs!r} for {ours}; there are {', '.join(found)[:300]}{did_you_mean(theirs, found)}"
            )
        out.pop(theirs, None)
        out[ours] = found[theirs]
    return out


def read_fields(
    found: Mapping[str, Any],
    path: Path,
    names: Mapping[str, str],
    skip: Sequence[str],
    axes: str | None,
    **options: Any,
) -> Recording | SpikeTrains:
    """What `assembled` makes of the fields of a file under the caller's names, without those that are skipped."""
    kept = {name: value for name, value in found.items() if name not in skip}
    fields, axes, facts = turned(renamed(kept, names, str(path)), path, axes)
    return assembled(fields, str(path), axes=axes, manifest=facts, **options)


def listed(path: Path, kind: str, found: Mapping[str, Any], axes: str | None = None) -> Contents:
    """What a set of fields holds, by their shapes."""
    items, behaviour = [], {}
    fields = list(found)
    found, axes, facts = turned(found, path, axes)
    for name, value in found.items():
        shape = tuple(int(i) for i in np.shape(value))
        if name in ("activity", "spike_times", "spikes"):
            spikes = name != "activity"
            if axes is not None and not spikes:
                shape = tuple(shape[i] for i in _order(len(shape), axes, shape, str(path)))
            items.append(
                FileItem("units" if spikes else "activity", "spikes" if spikes else "activity", shape, name)
            )
        elif name not in KNOWN and not name.startswith("unit_"):
            behaviour[name] = shape
    return Contents(str(path), kind, tuple(items), {}, behaviour, {"fields": fields, **facts})


def assembled(
    found: Mapping[str, Any], where: str, *, step: float | None = None, axes: str | None = None, sort: bool = False,
    missing: str = "refuse", manifest: Mapping[str, Any] | None = None,
) -> Recording | SpikeTrains:  # fmt: skip
    """A recording, or spike trains, of the fields of a file.

    `axes` names the axes of the activity in their order in the file, such as ``"unit sample"`` or ``"trial unit time"``.
    """
    if "activity" not in found:
        if "spike_times" in found or "spikes" in found:
            return _trains(found, where, sort)
        raise PatchclampError(
            f"{where}: no field `activity`, `spike_times` or `spikes` among {', '.join(found)[:300] or 'no fields'}; say which "
            'it is with fields={"activity": NAME}'
        )
    source, trials = _source(found["activity"], axes, where, missing)
    n = source.shape[0]
    columns: dict[str, Any] = {}
    for name in _PER_SAMPLE:
        if name in found:
            columns[name] = _per_sample(found[name], n, trials, name, where)
    run = columns.pop("run", None)
    if trials is not None and run is None:
        run = np.repeat(np.arange(trials[0]), trials[1])
    time, dt = _time(found, step, n, trials, run, where)
    more: dict[str, Any] = {
        name: _whole(columns[name], name, where) for name in ("trial", "repeat") if name in columns
    }
    if trials is not None and "trial" not in more:
        more["trial"] = np.repeat(np.arange(trials[0]), trials[1])
    units = {name.removeprefix("unit_"): np.ravel(v) for name, v in found.items() if name.startswith("unit_")}
    for name, value in found.items():
        if name not in KNOWN and not name.startswith("unit_"):
            more |= _behaviour(name, np.asarray(value), n, where)
    return build(
        "activity", source, where=where, time=time, step=dt, run=run, group=columns.get("group"),
        label=columns.get("label"), columns=more, units=units, manifest=manifest,
    )  # fmt: skip


def _source(activity: Any, axes: str | None, where: str, missing: str) -> tuple[Any, tuple[int, int] | None]:
    if getattr(activity, "dtype", np.dtype(object)).kind not in "iufb":
        kind = getattr(activity, "dtype", type(activity).__name__)
        raise PatchclampError(f"{where}: activity is of type {kind}; wanted numbers")
    ndim = len(activity.shape)
    order = _order(ndim, axes, tuple(activity.shape), where)
    shape = tuple(int(activity.shape[i]) for i in order)
    if not all(shape):
        raise PatchclampError(f"{where}: activity is empty, {' x '.join(map(str, shape))}")
    dtype = torch.float64 if activity.dtype.kind == "f" and activity.dtype.itemsize >= 8 else torch.float32
    kind = np.float64 if dtype == torch.float64 else np.float32
    width, length = shape[-1], shape[1] if ndim == 3 else 1

    def rows(start: int, stop: int) -> NDArray[Any]:
        first = start // length
        cut: list[Any] = [slice(None)] * ndim
        cut[order[0]] = slice(first, -(-stop // length))
        with foreign(where, "activity"):
            values = np.transpose(np.asarray(activity[tuple(cut)]), order).reshape(-1, width)
        # Of this machine's byte order, and no wider than torch knows.
        values = values[start - first * length : stop - first * length].astype(kind, copy=False)
        return values if missing == "keep" else checked(values, start, where, None)

    n = shape[0] * length
    return Read((n, width), rows, dtype), (shape[0], shape[1]) if ndim == 3 else None


def _order(ndim: int, axes: str | None, shape: tuple[int, ...], where: str) -> list[int]:
    """Which axis of the file is the sample and the unit, or the trial, time and unit."""
    wanted = ("sample", "unit") if ndim == 2 else ("trial", "time", "unit")
    names = tuple((axes or " ".join(wanted)).replace(",", " ").split())
    if ndim not in (2, 3) or sorted(names) != sorted(wanted):
        raise PatchclampError(
            f"{where}: activity is {shape} with axes {' x '.join(names)}; wanted sample x unit or "
            "trial x time x unit, in any order that axes='...' names"
        )
    return [names.index(name) for name in wanted]


def _per_sample(value: Any, n: int, trials: tuple[int, int] | None, name: str, where: str) -> NDArray[Any]:
    column = np.ravel(np.asarray(value))
    if trials is not None and len(column) == trials[0] != n:
        column = np.repeat(column, trials[1])
    if len(column) != n:
        raise PatchclampError(f"{where}: {len(column)} entries of {name} for {n} samples")
    return column


def _numbers(value: Any, name: str, where: str) -> NDArray[np.float64]:
    """A field as numbers in one row; dates, spans of time and text are none, whatever NumPy makes of them."""
    column = np.ravel(np.asarray(value))
    if column.dtype.kind not in "iufb":
        raise PatchclampError(f"{where}: {name} is of type {column.dtype}; wanted numbers (times in seconds)")
    return column.astype(np.float64)


def _one(value: Any, name: str, where: str) -> float:
    """A field that is a single number."""
    column = _numbers(value, name, where)
    if len(column) != 1 or not np.isfinite(column[0]):
        raise PatchclampError(f"{where}: {name} is {_few(column)}; wanted one number")
    return float(column[0])


def _whole(column: Any, name: str, where: str) -> NDArray[np.int64]:
    numbers = _numbers(column, name, where)
    # Beyond 2^53 not every whole number is a double, beyond 2^63 none is an int64.
    if not (np.abs(numbers) <= 1 << 53).all() or not np.array_equal(numbers, np.rint(numbers)):
        raise PatchclampError(f"{where}: {name} must be whole numbers, and is {_few(numbers)}")
    return numbers.astype(np.int64)


def _few(values: NDArray[Any]) -> str:
    return (
        "nothing"
        if not len(values)
        else ", ".join(f"{v:g}" for v in values[:3]) + ("" if len(values) < 4 else " ...")
    )


def _time(
    found: Mapping[str, Any], step: float | None, n: int, trials: tuple[int, int] | None, run: Any, where: str
) -> tuple[Any, float | None]:
    if "time" in found:
        time = _numbers(found["time"], "time", where)
        if trials is not None and len(time) == trials[1] != n:
            time = np.tile(time, trials[0])
        if len(time) != n:
            raise PatchclampError(f"{where}: {len(time)} times for {n} samples")
        codes = None if run is None else np.unique(np.asarray(run), return_inverse=True)[1]
        increasing(time, where, codes)
        return time, even_step(time, codes)
    dt = step if step is not None else found.get("step")
    if dt is None:
        return None, None
    dt = _one(dt, "step", where)
    if not dt > 0:
        raise PatchclampError(f"{where}: step={dt:g} s; wanted seconds between samples, above zero")
    if run is None:
        return None, dt
    return (np.arange(n) - stretches([np.asarray(run)])[0]) * dt, dt


def _behaviour(name: str, value: NDArray[Any], n: int, where: str) -> dict[str, Any]:
    value = value[:, 0] if value.ndim == 2 and value.shape[1] == 1 else value
    value = value[0] if value.ndim == 2 and value.shape[0] == 1 and n != 1 else value
    if value.dtype.kind not in "iufb" or value.ndim not in (1, 2) or len(value) != n:
        raise PatchclampError(
            f"{where}: field {name[:60]!r} is {value.shape} of {value.dtype}, neither of the schema nor a behaviour of {n} "
            "samples; leave it out with skip=[...], or say what it is with fields={...}"
        )
    if name in COLUMNS:
        raise PatchclampError(
            f"{where}: field {name!r} has the name of a column that every recording has; give it another, such as "
            f'fields={{"my_{name}": "{name}"}}'
        )
    flat = value.reshape(n, -1)
    return {column: flat[:, i] for i, column in enumerate(trace_names(name, flat.shape[1]))}


def _trains(found: Mapping[str, Any], where: str, sort: bool) -> SpikeTrains:
    if "spikes" in found:
        if not np.shape(found["spikes"]):
            raise PatchclampError(f"{where}: spikes is one number; wanted a list of times, one array a unit")
        parts = [np.ravel(np.asarray(one)) for one in found["spikes"]]
        odd = [i for i, part in enumerate(parts) if part.dtype.kind not in "iuf"]
        if odd:
            raise PatchclampError(
                f"{where}: entry {odd[0]} of spikes is of type {parts[odd[0]].dtype}, not a list of times; take the times "
                "out of the file's nesting and pass them to SpikeTrains.from_times"
            )
    else:
        times = _numbers(found["spike_times"], "spike_times", where)
        if "spike_units" not in found:
            raise PatchclampError(f"{where}: spike_times without spike_units, the unit of each spike")
        owner = _whole(found["spike_units"], "spike_units", where)
        if len(owner) != len(times):
            raise PatchclampError(f"{where}: {len(times)} spike_times but {len(owner)} spike_units")
        if not len(times):
            raise PatchclampError(f"{where}: no spike")
        count = int(_one(found["n_units"], "n_units", where)) if "n_units" in found else int(owner.max()) + 1
        if count > MOST_UNITS:
            raise PatchclampError(
                f"{where}: {count:,} units, of which {len(np.unique(owner)):,} have a spike; number the units 0, 1, 2 ..., and "
                "keep their own numbers as a label, unit_NAME"
            )
        if owner.min() < 0 or owner.max() >= count:
            raise PatchclampError(
                f"{where}: spike_units run from {owner.min()} to {owner.max()}; wanted 0..{count - 1}"
            )
        order = np.argsort(owner, kind="stable")
        parts = np.split(times[order], np.cumsum(np.bincount(owner, minlength=count))[:-1])
    bounds = _numbers(found["span"], "span", where) if "span" in found else None
    if bounds is not None and not (len(bounds) == 2 and np.isfinite(bounds).all() and bounds[0] < bounds[1]):
        raise PatchclampError(f"{where}: span is {_few(bounds)}; wanted its beginning and end in seconds")
    span = None if bounds is None else (float(bounds[0]), float(bounds[1]))
    labels = {
        n.removeprefix("unit_"): np.ravel(v).tolist() for n, v in found.items() if n.startswith("unit_")
    }
    ragged = Ragged.of(parts, where, sort)
    trains = SpikeTrains(
        ragged, span, labels, manifest={"file": where}, observed=_observed(found, len(parts), where)
    )
    ragged.check()
    return trains


def _observed(found: Mapping[str, Any], n: int, where: str) -> Observed | None:
    """The intervals of every unit, where there are any."""
    if "observed" not in found:
        return None
    intervals = np.asarray(found["observed"], np.float64)
    owner = np.ravel(np.asarray(found.get("observed_units", ()))).astype(np.int64)
    if intervals.shape != (len(owner), 2) or (len(owner) and not 0 <= owner.min() <= owner.max() < n):
        raise PatchclampError(
            f"{where}: observed is {intervals.shape} with {len(owner)} observed_units; wanted (intervals, 2), and the unit of "
            f"each, 0..{n - 1}"
        )
    return Observed([intervals[owner == unit] for unit in range(n)], where)
