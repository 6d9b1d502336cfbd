"""M/EEG by MNE: FIF (raw, epochs, averages), EDF, BDF, BrainVision; channels with positions, bad ones masked."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.recording.events import numbers_of
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.recording.sources import Computed, Ramp, Read
from patchclamp.record.files.base import Contents, FileItem, build, checked, need, unreadable
from patchclamp.record.files.mat import refuse_hostile

_TROUBLE = ("outside", "does not match", "truncat", "incomplete", "corrupt", "unexpected")
_PARTS = (
    (".eeg", "a BrainVision", ".vhdr"),
    (".vmrk", "a BrainVision", ".vhdr"),
    (".fdt", "an EEGLAB", ".set"),
)
_BROKEN = (
    OSError, EOFError, zlib.error, ValueError, TypeError, RuntimeError, KeyError, IndexError, AttributeError, AssertionError,
)  # fmt: skip
_OTHER = {
    "cov": "a noise covariance",
    "ica": "a decomposition (ICA)",
    "events": "events",
    "src": "a source space",
    "bem solution": "a head model",
    "bem surfaces": "surfaces of a head",
    "forward": "a forward solution",
    "inverse": "an inverse operator",
    "trans": "a coordinate transformation",
    "transform": "a coordinate transformation",
    "fiducials": "fiducial points",
}


def contents(path: Path) -> Contents:
    """What the file holds."""
    kind, found = _opened(path, False)
    one = found[0] if kind == "averages" else found
    info, types = one.info, pd.Series(one.get_channel_types())
    about = {"sampling_rate": float(info["sfreq"]), "channels": types.value_counts().to_dict()}
    about |= {"bad_channels": list(info["bads"])}
    n = len(info["ch_names"])
    if kind == "raw":
        notes = {"events": len(found.annotations)} if len(found.annotations) else {}
        item = FileItem("meeg", "activity", (int(found.n_times), n), f"continuous, {info['sfreq']:g} Hz")
        return Contents(str(path), "M/EEG", (item,), notes, {}, about)
    size = (len(found), len(one.times), n)
    tables = {"trials": len(found)} if kind == "epochs" and found.metadata is not None else {}
    return Contents(str(path), "M/EEG", (FileItem("meeg", "activity", size, kind),), tables, {}, about)


def read(
    path: Path,
    what: str | None = None,
    *,
    picks: Any = "data",
    stim_channel: str | None = None,
    tolerate: bool = False,
) -> Recording:
    """Open an M/EEG file: continuous data lazily, epochs and averages as trials x time x channels.

    The table `events` holds the annotations, or the onsets found in a trigger channel; segments annotated as
    ``BAD...`` have ``content`` False. Metadata of epochs are the table `trials`, and their numbers columns of the samples. Channels marked bad have ``present`` False. Units carry name, type, unit and
    position (x, y, z in metres in the head's frame; NaN where the file has none).

    Parameters
    ----------
    path
        The file; of BrainVision the ``.vhdr``.
    what
        There is one recording in such a file: ``"meeg"``.
    picks
        Channels: ``"data"``, ``"all"``, a type such as ``"eeg"``, or names.
    stim_channel
        Take the events from this trigger channel instead of the annotations.
    tolerate
        Open a file of which MNE reports damage (truncated, annotations outside the data), which is else refused.
    """
    kind, found = _opened(path, tolerate)
    contents_name = "meeg"
    if what not in (None, contents_name):
        raise PatchclampError(f"{path}: what={what!r}; an M/EEG file holds one recording, {contents_name!r}")
    if kind == "averages":
        return _averages(path, found, picks)
    chosen = _picked(path, found, picks)
    units = _channels(found.info, chosen)
    present = np.array(units["present"])
    if kind == "epochs":
        return _epochs(path, found, chosen, units)
    rate, n = float(found.info["sfreq"]), int(found.n_times)
    time = Ramp(n, 0.0, 1.0 / rate)

    def rows(start: int, stop: int) -> NDArray[Any]:
        try:
            values = found.get_data(picks=chosen, start=start, stop=stop, verbose="error").T
        except _BROKEN as error:
            raise unreadable(path, "M/EEG", error) from error
        return checked(values, start, str(path), present)

    events, bad = _events(path, found, stim_channel, n / rate, tolerate)
    columns = {"content": Computed(time, partial(_outside, intervals=bad))} if len(bad) else {}
    tables = {"events": events} if len(events) else {}
    return build(
        contents_name, Read((n, len(chosen)), rows), where=str(path), time=time, step=1.0 / rate,
        columns=columns, units=units, tables=tables, manifest=_facts(found.info),
    )  # fmt: skip


def _opened(path: Path, tolerate: bool) -> tuple[str, Any]:
    mne = need("mne")
    name = path.name
    for ending, program, whole in _PARTS:
        if name.endswith(ending) and path.with_suffix(whole).exists():
            raise PatchclampError(f"{path}: a part of {program} recording; open {path.with_suffix(whole)}")
    if name.lower().endswith(".set"):
        refuse_hostile(path, "M/EEG")
    readers: list[tuple[str, Callable[[], Any]]] = [
        ("raw", lambda: mne.io.read_raw(path, preload=False, verbose="warning"))
    ]
    if name.endswith((".fif", ".fif.gz")):
        readers += [
            ("epochs", lambda: mne.read_epochs(path, preload=False, verbose="error")),
            ("averages", lambda: mne.read_evokeds(path, verbose="error")),
        ]
        order = {"epo": 1, "ave": 2}.get(name.split(".fif")[0][-3:], 0)
        readers = [readers[order], *(r for i, r in enumerate(readers) if i != order)]
    if name.endswith(".set"):
        readers.append(("epochs", lambda: mne.read_epochs_eeglab(path, verbose="error")))
    first: BaseException | None = None
    for kind, reader in readers:
        try:
            with _refusing(path, tolerate, mne):
                return kind, reader()
        except PatchclampError:
            raise
        except _BROKEN as error:
            first = first or error
    assert first is not None
    other = _other(mne, path) if name.endswith((".fif", ".fif.gz")) else None
    if other:
        raise PatchclampError(
            f"{path}: a readable FIF file, but it holds {other} and no recorded activity; open the recording that it was made of"
        )
    raise unreadable(path, "M/EEG", first) from first


def _other(mne: Any, path: Path) -> str | None:
    """What a FIF file holds that is neither continuous, epochs nor averages; None where it is damaged or not known."""
    try:
        with mne.utils.use_log_level("error"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _OTHER.get(mne.what(path))
    except _BROKEN:
        return None


@contextmanager
def _refusing(path: Path, tolerate: bool, mne: Any) -> Any:
    """Turn MNE's warnings of damage into refusals."""
    with warnings.catch_warnings(record=True) as caught, mne.utils.use_log_level("warning"):
        warnings.simplefilter("always")
        yield
    for one in caught:
        text = str(one.message)
        if not tolerate and any(word in text.lower() for word in _TROUBLE):
            raise PatchclampError(f"{path}: {text.splitlines()[0]}; tolerate=True opens it all the same")


def _picked(path: Path, found: Any, picks: Any) -> NDArray[np.int64]:
    from mne.io.pick import _picks_to_idx

    try:
        return np.asarray(_picks_to_idx(found.info, picks, none="data", exclude=()), np.int64)
    except ValueError as error:
        types = sorted(set(found.get_channel_types()))
        raise PatchclampError(
            f"{path}: picks={picks!r} selects no channel; types: {', '.join(types)}; names: "
            f"{', '.join(found.ch_names[:10])} ..."
        ) from error


def _channels(info: Any, chosen: Sequence[int] | NDArray[np.int64]) -> dict[str, list[Any]]:
    import mne
    from mne.io.constants import FIFF

    places = np.array([info["chs"][i]["loc"][:3] for i in chosen], np.float64)
    places[(places == 0).all(1)] = np.nan  # all zeros is how a file says that it does not know
    units = {int(FIFF.FIFF_UNIT_V): "V", int(FIFF.FIFF_UNIT_T): "T", int(FIFF.FIFF_UNIT_T_M): "T/m"}
    names = [info["ch_names"][i] for i in chosen]
    return {
        "name": names,
        "type": [mne.channel_type(info, int(i)) for i in chosen],
        "measured_in": [units.get(int(info["chs"][i]["unit"]), "") for i in chosen],
        "x": places[:, 0].tolist(),
        "y": places[:, 1].tolist(),
        "z": places[:, 2].tolist(),
        "present": [name not in info["bads"] for name in names],
    }


def _events(
    path: Path, raw: Any, stim_channel: str | None, length: float, tolerate: bool
) -> tuple[pd.DataFrame, list[tuple[float, float]]]:
    import mne

    notes = raw.annotations
    # With a measurement date, onsets count from it, and the first sample need not be at zero.
    shift = float(raw.first_time) if notes.orig_time is not None else 0.0
    onset = np.asarray(notes.onset, np.float64) - shift
    table = pd.DataFrame({"start": onset, "stop": onset + np.asarray(notes.duration, np.float64)})
    table["label"] = list(notes.description)
    bad = [
        (float(a), float(b))
        for a, b, text in table.itertuples(index=False)
        if text.upper().startswith(("BAD", "EDGE"))
    ]
    if stim_channel is not None:
        if stim_channel not in raw.ch_names:
            raise PatchclampError(f"{path}: no channel {stim_channel!r}; {', '.join(raw.ch_names[-10:])}")
        found = mne.find_events(raw, stim_channel, verbose="error", initial_event=True)
        start = (found[:, 0] - raw.first_samp) / float(raw.info["sfreq"])
        table = pd.DataFrame({"start": start, "label": found[:, 2].astype(str)})
    lost = np.flatnonzero((table["start"] < -1e-6) | (table["start"] >= length))
    if len(lost) and not tolerate:
        raise PatchclampError(
            f"{path}: event {lost[0]} ({table['label'][lost[0]]}) at {table['start'][lost[0]]:g} s is outside the "
            f"recording, 0 to {length:g} s ({len(lost)} such); tolerate=True keeps them in the table"
        )
    return table, bad


def _outside(time: NDArray[Any], intervals: list[tuple[float, float]]) -> NDArray[np.bool_]:
    good = np.ones(len(time), bool)
    for start, stop in intervals:
        good &= ~((time >= start) & (time < stop))
    return good


def _epochs(path: Path, epochs: Any, chosen: NDArray[np.int64], units: dict[str, list[Any]]) -> Recording:
    names = {code: name for name, code in epochs.event_id.items()}
    labels = [names[code] for code in epochs.events[:, 2]]
    values = epochs.get_data(picks=chosen, verbose="error")
    start = epochs.events[:, 0] / float(epochs.info["sfreq"])
    about = None
    if epochs.metadata is not None:
        about = pd.DataFrame(
            {
                "start": start + epochs.times[0],
                "stop": start + epochs.times[-1],
                "onset": start,
                "label": labels,
            }
        )
        own = epochs.metadata.reset_index(drop=True)
        about = about.join(
            own.rename(columns=lambda name: f"metadata_{name}" if name in about else str(name))
        )
    return _trials(path, values.transpose(0, 2, 1), epochs.times, labels, units, epochs.info, start, about)


def _averages(path: Path, averages: list[Any], picks: Any) -> Recording:
    chosen = _picked(path, averages[0], picks)
    if len({(len(a.times), tuple(a.ch_names)) for a in averages}) > 1:
        raise PatchclampError(
            f"{path}: its averages differ in length or channels, so they are not one recording"
        )
    values = np.stack([a.data[chosen].T for a in averages])
    labels = [a.comment or f"average {i}" for i, a in enumerate(averages)]
    units = _channels(averages[0].info, chosen)
    return _trials(path, values, averages[0].times, labels, units, averages[0].info, None)


def _trials(
    path: Path,
    values: NDArray[Any],
    times: NDArray[Any],
    labels: list[str],
    units: dict[str, list[Any]],
    info: Any,
    start: NDArray[Any] | None,
    about: pd.DataFrame | None = None,
) -> Recording:
    trials, length, width = values.shape
    each = np.repeat(np.arange(trials), length)
    flat = checked(values.reshape(-1, width), 0, str(path), np.array(units["present"]))
    columns: dict[str, Any] = {"trial": each}
    if start is not None:
        columns["session_time"] = start[each] + np.tile(times, trials)
    if about is not None:
        columns |= numbers_of(about, each, (*columns, "time", "run", "onset"))
    source = torch.from_numpy(np.ascontiguousarray(flat, np.float32))
    return build(
        "meeg", source, where=str(path), time=np.tile(times, trials), step=1.0 / float(info["sfreq"]),
        run=each.tolist(), label=[labels[i] for i in each], columns=columns, units=units, manifest=_facts(info),
        tables=None if about is None else {"trials": about},
    )  # fmt: skip


def _facts(info: Any) -> dict[str, Any]:
    out: dict[str, Any] = {"sampling_rate": float(info["sfreq"]), "bad_channels": list(info["bads"])}
    if info["meas_date"] is not None:
        out["measured"] = str(info["meas_date"])
    return out
