"""CSV, TSV and Parquet: one row a sample (wide) or one row a spike (long), by the small schema."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.recording.spikes import SpikeTrains
from patchclamp.record.files.base import Contents, foreign, unreadable
from patchclamp.record.files.fields import assembled, listed
from patchclamp.record.files.header import FIXED, refuse_equal, text_table


def contents(path: Path, header: bool | None = None) -> Contents:
    """What the file holds; columns beside the fixed ones count as units until `behaviour` names them."""
    table = _Table(path, header)
    names, n = table.names, len(table)
    found: dict[str, Any] = {name: np.empty(0) for name in names if name in FIXED}
    units = [name for name in names if name not in FIXED]
    if {"unit", "time"} <= set(names):
        found = {"spike_times": np.empty(n), "spike_units": np.empty(n)}
    elif units:
        found["activity"] = np.broadcast_to(0.0, (n, len(units)))
    held = listed(path, "table", found)
    return replace(held, about={**held.about, **table.facts})


def read(
    path: Path,
    what: str | None = None,
    *,
    behaviour: Sequence[str] = (),
    skip: Sequence[str] = (),
    step: float | None = None,
    sort: bool = False,
    missing: str = "refuse",
    header: bool | None = None,
) -> Recording | SpikeTrains:
    """Open a table.

    Long, with the columns `unit` and `time` (seconds): spike trains, one row a spike. Wide, one row a sample: the
    columns `time` (seconds), `run`, `group`, `label`, `trial` and `repeat` have their meaning, those that
    `behaviour` names are kept as columns of the samples, and every other column is a unit of that name.

    Parameters
    ----------
    path
        A ``.csv``, ``.tsv`` or ``.parquet`` file. Parquet is read by row groups, text as a whole.
    what
        There is one recording in a table: ``"activity"`` or ``"units"``.
    behaviour
        Columns that are behaviour, not units.
    skip
        Columns to leave out.
    step
        Seconds between rows, where there is no `time`.
    sort
        Sort spikes that are not in order, instead of refusing them.
    missing
        ``"refuse"`` NaN in the activity where it is read, or ``"keep"``.
    header
        Whether the first row of a text file names the columns; by default as `header.first_row` finds, and where numbers
        were the names or the first sample, ``manifest["first_row"]`` says why. Without names they are "0", "1", "2" ...
    """
    table = _Table(path, header, skip)
    names = [name for name in table.names if name not in skip]
    lost = [name for name in behaviour if name not in names]
    if lost:
        raise PatchclampError(f"{path}: behaviour={lost}: no such columns; there are {', '.join(names[:20])}")
    if {"unit", "time"} <= set(names):
        with foreign(path, "a table"):
            return _long(table, str(path), sort)
    units = [name for name in names if name not in FIXED and name not in behaviour]
    if not units:
        raise PatchclampError(f"{path}: no column is a unit; its columns are {', '.join(names)}")
    with foreign(path, "a table"):
        found: dict[str, Any] = {n: table.column(n) for n in names if n in FIXED or n in behaviour}
    found |= {"activity": _Units(table, units), "unit_name": np.array(units)}
    return assembled(found, str(path), step=step, missing=missing, manifest=table.facts)


def _long(table: _Table, where: str, sort: bool) -> SpikeTrains:
    owners = table.column("unit")
    lost = np.flatnonzero(pd.isna(owners))
    if len(lost):
        raise PatchclampError(
            f"{where}: the spike in row {lost[0]} has no unit; leave it out, or say which unit it is of"
        )
    names, owner = np.unique(owners.astype(str) if owners.dtype == object else owners, return_inverse=True)
    found: dict[str, Any] = {"spike_times": table.column("time"), "spike_units": owner, "unit_name": names}
    trains = assembled(found, where, sort=sort)
    assert isinstance(trains, SpikeTrains)
    return trains


class _Table:
    """Columns of a file: of Parquet by row groups, of text as a whole.

    `facts` say what is not plain of the names: whether the first row is one, and columns that were left out.
    """

    def __init__(self, path: Path, header: bool | None, skip: Sequence[str] = ()) -> None:
        self.path = path
        self.facts: dict[str, str] = {}
        self._frame: Any = None
        self._parquet: Any = None
        with path.open("rb") as file:
            packed = file.read(4) == b"PAR1"
        if packed or path.suffix.lower() == ".parquet":
            if header is not None:
                raise PatchclampError(f"{path}: header={header}; Parquet always has names")
            self._parquet = _parquet(path)
            groups = range(self._parquet.num_row_groups)
            self.ends = np.cumsum([self._parquet.metadata.row_group(i).num_rows for i in groups])
            self.names = list(self._parquet.schema_arrow.names)
            refuse_equal([name for name in self.names if name not in skip], path)
        else:
            self._frame = self._text(header, skip)
            self.names = [str(name) for name in self._frame.columns]

    def _text(self, header: bool | None, skip: Sequence[str]) -> Any:
        with foreign(self.path, "a table", csv.Error):
            frame, self.facts = text_table(
                self.path, "\t" if self.path.suffix.lower() == ".tsv" else ",", header, skip
            )
        return frame

    def __len__(self) -> int:
        return int(self._parquet.metadata.num_rows if self._parquet is not None else len(self._frame))

    def column(self, name: str) -> NDArray[Any]:
        """One whole column."""
        if self._parquet is None:
            return np.asarray(self._frame[name].to_numpy())
        return np.asarray(self._parquet.read([name])[name].to_numpy())

    def rows(self, start: int, stop: int, names: list[str]) -> NDArray[Any]:
        """Rows of some columns, (rows, columns)."""
        if self._parquet is None:
            return np.asarray(self._frame[names].iloc[start:stop].to_numpy(np.float64))
        first, last = np.searchsorted(self.ends, [start, stop - 1], side="right")
        begin = int(self.ends[first - 1]) if first else 0
        found = self._parquet.read_row_groups(list(range(int(first), int(last) + 1)), columns=names)
        values = np.stack([found[name].to_numpy() for name in names], 1)
        return values[start - begin : stop - begin]

    def numeric(self, name: str) -> bool:
        """Whether a column holds numbers."""
        if self._parquet is None:
            return bool(self._frame[name].dtype.kind in "iufb")
        import pyarrow.types as kinds

        kind = self._parquet.schema_arrow.field(name).type
        return bool(kinds.is_floating(kind) or kinds.is_integer(kind) or kinds.is_boolean(kind))


class _Units:
    """The columns that are units, as an array (samples, units) that is read when it is sliced."""

    def __init__(self, table: _Table, names: list[str]) -> None:
        words = [name for name in names if not table.numeric(name)]
        if words:
            raise PatchclampError(
                f"{table.path}: column {words[0]!r} holds text, so it is no unit; leave it out with skip=[...]"
            )
        self.table, self.names = table, names
        self.shape = (len(table), len(names))
        self.dtype = np.dtype("float64")

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[Any]:
        start, stop, _ = key[0].indices(self.shape[0])
        return self.table.rows(start, stop, self.names)


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, "Parquet", error) from error
