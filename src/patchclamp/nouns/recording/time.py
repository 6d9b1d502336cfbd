"""What a recording can do along its sample axis: times, binning, smoothing, epochs, z-scores, folds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError, check_choice, did_you_mean
from patchclamp.base.folds import WIDTHS, Fold, autocorrelation, group_folds, shuffled_folds, time_folds
from patchclamp.nouns.recording.events import coded, events_table
from patchclamp.nouns.recording.lazy import Rows, SiteArray, pick
from patchclamp.nouns.recording.samples import COLUMNS, named_column
from patchclamp.nouns.recording.sources import Picked, Pooled, Scaled, Smoothed, stretches, take_column
from patchclamp.nouns.units import Site

if TYPE_CHECKING:
    from patchclamp.nouns.recording.samples import Samples

_SOME_UNITS, _SOME_SAMPLES = 64, 20_000  # what the autocorrelation is measured on


class TimeAxis:
    """The sample axis of a recording, in seconds where the samples have times. Every change is lazy, a view."""

    if TYPE_CHECKING:
        _arrays: dict[Site, SiteArray]
        _columns: Mapping[str, Any]
        _rows: Rows
        _labels: dict[Site, dict[str, Any]]
        manifest: dict[str, Any]
        path: Path | None
        complete: bool
        chunk_rows: int

        @property
        def n_samples(self) -> int: ...
        @property
        def samples(self) -> Samples: ...
        @property
        def sites(self) -> list[Site]: ...
        def site(self, site: Site | str) -> Site: ...
        def units(self, site: Site | str | None = None) -> pd.DataFrame: ...
        def __getitem__(self, site: Site | str) -> SiteArray: ...
        def _kept_labels(self, site: Site) -> dict[str, Any]: ...

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    # ---- columns and tables

    @property
    def columns(self) -> list[str]:
        """Names of what is known of every sample: the fixed columns, and time, trial, repeat, behaviour."""
        return [*COLUMNS, *(name for name in self._columns if name not in COLUMNS)]

    def column(self, name: str) -> NDArray[Any]:
        """One column of the samples, (samples,): a fixed one, or time, trial, repeat, a behaviour.

        `label` and `group` come by name where the recording has names: text, "" for none; numbers, NaN for none, where all
        names are whole numbers. `numbers` gives the codes.

        Examples
        --------
        >>> from patchclamp import Recording, Samples
        >>> import torch
        >>> samples = Samples.of(torch.arange(3), torch.zeros(3), label=torch.tensor([1, 0, -1]))
        >>> r = Recording.from_arrays({"lfp": np.zeros((3, 2))}, samples, {"label_names": ["go", "stop"]})
        >>> r.column("label").tolist(), r.numbers("label").tolist()
        (['stop', 'go', ''], [1, 0, -1])
        """
        return named_column(name, self.numbers(name), self.manifest)

    def numbers(self, name: str) -> NDArray[Any]:
        """One column of the samples as numbers, (samples,); labels and groups as codes, places in ``manifest["label_names"]``.

        Raises
        ------
        PatchclampError
            For a column that is not there.
        """
        if name not in self._columns:
            raise PatchclampError(
                f"column {name!r}: the columns are {', '.join(self.columns)}{did_you_mean(name, self.columns)}"
            )
        return take_column(self._columns[name], self._rows)

    def with_columns(self, **columns: Any) -> Self:
        """Add columns with one entry a sample (time in seconds, trial, repeat, a behaviour), or replace them.

        `label` and `group` may be text; numbers given for them are the labels, and take the place of the names there were.

        Examples
        --------
        >>> from patchclamp.nouns.recording.recording import Recording
        >>> r = Recording.from_arrays({"lfp": np.zeros((1, 4, 2))}).with_columns(time=[0.0, 0.5, 1.0, 1.5])
        >>> r.column("time").tolist(), r.time_step
        ([0.0, 0.5, 1.0, 1.5], 0.5)
        """
        added: dict[str, Any] = {}
        names: dict[str, Any] = {}
        for name, values in columns.items():
            column = np.asarray(values)
            if name in ("label", "group"):
                names[f"{name}_names"] = None
                if column.dtype.kind in "US" and column.shape == (self.n_samples,):
                    column, names[f"{name}_names"] = coded(
                        [text or None for text in column.tolist()], self.n_samples
                    )
            if column.shape != (self.n_samples,) or column.dtype.kind not in "iufb":
                raise PatchclampError(
                    f"column {name!r}: {column.shape} of {column.dtype}; wanted numbers, ({self.n_samples},)"
                )
            if name in map(str, self.sites):
                raise PatchclampError(f"column {name!r}: a site has this name; choose another")
            added[name] = column.astype(self._kind(name) or column.dtype)
        return self._with(self._arrays, {**self._same_columns(), **added}, self.n_samples, **names)

    @staticmethod
    def _kind(name: str) -> str | None:
        return {"content": "bool", "time": "float64"}.get(name, "int64" if name in COLUMNS else None)

    @property
    def tables(self) -> list[str]:
        """Names of the tables that came with the recording: trials, epochs, events ..."""
        return list(self.manifest.get("tables") or {})

    def table(self, name: str) -> pd.DataFrame:
        """A table of events or intervals that came with the recording, times in seconds."""
        return events_table(name, self.manifest.get("tables") or {}, "table")

    @property
    def time_step(self) -> float:
        """Seconds between neighbouring samples of a run; refused where samples have no times, or uneven ones."""
        known = self.manifest.get("time_step")
        if known is not None:
            return float(known)
        if "time" not in self._columns:
            raise PatchclampError(
                "this recording has no times; add them with with_columns(time=...), in seconds"
            )
        time, doc = self.column("time"), self.column("doc")
        steps = np.diff(time)[doc[1:] == doc[:-1]]
        step = float(np.median(steps)) if len(steps) else 0.0
        # Holes are no unevenness: what runs over samples stops at them.
        if not step > 0 or not ((np.abs(steps - step) <= 0.01 * step) | (steps > 1.5 * step)).all():
            worst = f"{steps.min():g} to {steps.max():g} s" if len(steps) else "no two samples of a run"
            raise PatchclampError(f"samples are not evenly spaced in time ({worst}); resample them first")
        return step

    def _with(
        self, arrays: Mapping[Site, SiteArray], columns: Mapping[str, Any], n: int, **manifest: Any
    ) -> Self:
        about = {name: v for name, v in {**self.manifest, **manifest}.items() if v is not None}
        return self._like(arrays=arrays, columns=columns, rows=range(n), manifest=about, complete=True)

    def _like(self, **changes: Any) -> Self:
        """The same recording with other arguments of the constructor."""
        now = {
            "arrays": self._arrays,
            "columns": self._columns,
            "rows": self._rows,
            "manifest": self.manifest,
            "labels": self._labels,
            "path": self.path,
            "chunk_rows": self.chunk_rows,
            "complete": self.complete,
        }
        return type(self)(**{**now, **changes})

    def take(self, rows: Any) -> Self:
        """Return a view of some samples: a slice, a mask or indices, such as ``fold.train``."""
        arrays = {site: array.take(rows) for site, array in self._arrays.items()}
        return self._like(arrays=arrays, rows=pick(self._rows, rows))

    def _mask(self, where: Mapping[str, Any]) -> NDArray[np.bool_]:
        """Samples on which columns beyond the fixed ones hold a value, one of a list, or lie in a slice."""
        mask = np.ones(self.n_samples, bool)
        for name, value in where.items():
            column = self.column(name)
            if isinstance(value, slice):
                mask &= column >= (-np.inf if value.start is None else value.start)
                mask &= column < (np.inf if value.stop is None else value.stop)
            else:
                mask &= np.isin(column, np.atleast_1d(value))
        return mask

    def _view(self, make: Any, columns: Mapping[str, Any], n: int, **manifest: Any) -> Self:
        """A recording of what `make` computes of each site's array, all of its units."""
        arrays = {
            site: replace(array, source=make(array), rows=range(n), units=None)
            for site, array in self._arrays.items()
        }
        labels = {site: self._kept_labels(site) for site in self.sites}
        return self._with(arrays, columns, n, **manifest)._like(labels=labels, path=None)

    def _same_columns(self) -> dict[str, Any]:
        return {name: Picked(column, self._rows) for name, column in self._columns.items()}

    def _pieces(self, step: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Stretches that nothing may be mixed over: of one document and group, without a hole in time."""
        time = self.column("time")
        hole = np.cumsum(np.abs(np.diff(time, prepend=time[:1] - step) - step) > 0.5 * step)
        return stretches([self.column("doc"), self.numbers("group"), hole])

    # ---- changing the activity

    def bin(self, width: float, how: str | None = None) -> Self:
        """Pool neighbouring samples into bins of `width` seconds; a bin never leaves its document or group.

        A bin's time is the mean time of its samples. Its label, trial and repeat are those of its samples where they
        agree and -1 where not; a behaviour is averaged. The last bin of a stretch may hold fewer samples: it is
        kept, so that sums add up, and marked with ``content`` False.

        Parameters
        ----------
        width
            Seconds, at least the step between samples.
        how
            ``"sum"`` (the default for counts) or ``"mean"`` (for all else).
        """
        how = how or ("sum" if self.manifest.get("quantity") == "count" else "mean")
        check_choice("bin: how", how, ("sum", "mean"))
        step = self.time_step
        if not width >= step * (1 - 1e-9):
            raise PatchclampError(f"bin: width={width:g} s is below the step between samples, {step:g} s")
        time, doc = self.column("time"), self.column("doc")
        first, _ = self._pieces(step)
        within = np.floor((time - time[first]) / width + 1e-6).astype(np.int64)
        start, stop = stretches([first, within])
        begins = np.unique(start)
        ends = stop[begins]
        full = (ends - begins) >= int(np.floor(width / step + 1e-6))
        columns = {name: _pooled(self.numbers(name), begins, ends) for name in self.columns}
        columns["position"] = np.arange(len(begins)) - stretches([doc[begins]])[0]
        columns["content"] = columns["content"].astype(bool) & full
        return self._view(
            lambda array: Pooled(array, begins, ends, how == "mean"), columns, len(begins), time_step=width
        )

    def smooth(self, width: float, truncate: float = 4.0) -> Self:
        """Smooth with a Gaussian of standard deviation `width` seconds, never across a document or group.

        At an edge the weights inside it are scaled to sum to one, so a constant stays what it is.
        """
        if not width > 0:
            raise PatchclampError(f"smooth: width={width:g} s must be above zero")
        sigma = width / self.time_step
        half = max(1, int(np.ceil(truncate * sigma)))
        weights = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
        weights /= weights.sum()
        first, last = self._pieces(self.time_step)
        return self._view(
            lambda array: Smoothed(array, weights, first, last),
            self._same_columns(),
            self.n_samples,
            quantity=None,
        )

    def zscore(self, by: str = "group") -> Self:
        """Subtract the mean of each unit within each group and divide by its standard deviation (population).

        Mean and deviation come from one pass in float64. A unit that is constant in a group becomes 0 there. Labels
        are not used; but a group's own mean is, so where groups are smaller than folds z-score inside the fold.

        Parameters
        ----------
        by
            ``"group"``, ``"doc"``, ``"label"``, ``"trial"`` or any other whole-numbered column.
        """
        keys, own = np.unique(self.numbers(by), return_inverse=True)
        own = own.astype(np.int64)
        moments = {
            site: _group_moments(array, own, len(keys), self.chunk_rows)
            for site, array in self._arrays.items()
        }
        return self._view(
            lambda array: Scaled(array, *moments[array.site], own),
            self._same_columns(),
            self.n_samples,
            quantity="z-score",
        )

    def epoch(self, events: Any, window: tuple[float, float], *, outside: str = "refuse") -> Self:
        """Cut a window around every event: trials x time x units, as a view.

        Trial i has samples at ``k * step`` seconds from the sample nearest to event i, for whole k with
        ``window[0] <= k * step < window[1]``; an event that lies between two samples is met to half a step. In the
        result `doc` and `trial` are the event, `position` the sample in the window, `time` the seconds from the
        event, `label` that of the event (names in ``manifest["label_names"]``), and `group` that of the session.

        Parameters
        ----------
        events
            Name of a table of this recording, a table with times in seconds, or an array of times. A recording of
            several runs needs the column `doc` (or `run`), since every run has times of its own.
        window
            Seconds before (negative) and after the event.
        outside
            ``"refuse"`` events whose window leaves the recording (or its run), or ``"drop"`` them.
        """
        from patchclamp.nouns.recording.events import cut

        found = events_table(events, self.manifest.get("tables") or {}, "epoch")
        rows, columns, names = cut(self, found, window, outside)
        arrays = {site: array.take(rows.ravel()) for site, array in self._arrays.items()}
        return self._with(arrays, columns, rows.size, label_names=names or None, time_step=self.time_step)

    def to_trials(self, site: Site | str | None = None) -> Any:
        """Activity of one site as a `xarray.DataArray` (trial, time, unit), for trials of one length."""
        from patchclamp.nouns.recording.events import trials

        return trials(self, self.sites[0] if site is None else site)

    # ---- folds

    def split(
        self,
        by: str | None = None,
        n_splits: int | None = None,
        *,
        gap: float | str = "auto",
        shuffle: bool | str = False,
        seed: int = 0,
    ) -> list[Fold]:
        """Folds for fitting and testing, ready as scikit-learn's ``cv``; a group is never cut.

        Shuffled folds of a slow signal test on near-copies of the training samples: of independent noise smoothed
        over 8 bins they predict one from the other at r = .997, where blocks with a gap give .006. So folds are
        whole groups where there are any, else blocks in time with a gap; shuffling has to be asked for by name.

        Parameters
        ----------
        by
            A column whose values stay together (``"group"``, ``"trial"``, ``"label"`` ...), ``"time"`` for blocks in
            time, or None: groups where there are two or more, else time. Samples with a negative value belong
            to no group and are in no fold.
        n_splits
            Number of folds; by default each group is left out once, and time is cut into 5 blocks.
        gap
            Seconds (samples where there are no times) around a test block, within its own run, that are in neither
            part. ``"auto"``: 2.5 times the width at which the mean autocorrelation falls below .5.
        shuffle
            False, or ``"leaks"`` to get shuffled folds of a time series with a warning; True is for samples that each
            are a group, and refused otherwise.

        Raises
        ------
        PatchclampError
            For more folds than groups, an empty part, or shuffled folds of a time series.
        """
        by = by or ("group" if len(np.unique(self.numbers("group"))) > 1 else "time")
        run = self.column("doc")
        key = run if by == "time" else self.numbers(by).astype(np.int64)
        use = np.ones(self.n_samples, bool) if by == "time" else key >= 0
        if shuffle:
            alone = by != "time" and len(np.unique(key[use])) == use.sum()
            return shuffled_folds(
                shuffle, n_splits or 5, use, seed, None if alone else self._autocorrelation()
            )
        has_time = "time" in self._columns
        position = self.column("time" if has_time else "position")
        width = self._gap(gap, run, key if by != "time" else None, has_time)
        if by == "time":
            return time_folds(run, position, n_splits or 5, width, use)
        return group_folds(key, run, position, n_splits, width, use)

    def _gap(self, gap: float | str, run: NDArray[Any], key: Any, has_time: bool) -> float:
        if gap != "auto":
            if isinstance(gap, str) or not gap >= 0:
                raise PatchclampError(f"split: gap={gap!r}; give seconds from 0 up, or 'auto'")
            return float(gap)
        pairs = np.unique(run) if key is None else np.unique(np.stack([run, key], 1), axis=0)[:, 0]
        if key is not None and len(np.unique(pairs)) == len(pairs):
            return 0.0  # no run holds two groups: nothing to keep apart
        return WIDTHS * self._autocorrelation()[1] * (self.time_step if has_time else 1.0)

    def _autocorrelation(self) -> tuple[float, int]:
        """Mean autocorrelation at lag 1 and its width in samples, over some units of the beginning."""
        array = self._arrays[self.sites[0]]
        n = min(self.n_samples, _SOME_SAMPLES)
        values = array[:n]
        flat = values.float().flatten(1).numpy()
        some = np.linspace(0, flat.shape[1] - 1, min(_SOME_UNITS, flat.shape[1])).astype(int)
        flat = np.nan_to_num(flat[:, some])
        doc = self.column("doc")[:n]
        first, last = stretches([doc])
        begins = np.unique(first)
        return autocorrelation(flat, [(int(a), int(last[a])) for a in begins])


def _pooled(column: NDArray[Any], begins: NDArray[Any], ends: NDArray[Any]) -> NDArray[Any]:
    """Mean of a measured column over bins; of a whole-numbered one the value where all agree, else -1."""
    if column.dtype.kind == "f":
        return np.asarray(np.add.reduceat(column, begins) / (ends - begins))
    if column.dtype.kind == "b":
        return np.logical_and.reduceat(column, begins)
    low, high = np.minimum.reduceat(column, begins), np.maximum.reduceat(column, begins)
    return np.where(low == high, low, -1)


def _group_moments(
    array: SiteArray, own: NDArray[Any], n: int, rows: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and scale (groups, units) in float64, in one pass with the first row of a group as its origin."""
    shape = (n, *array.shape[1:])
    tail = [1] * (len(shape) - 1)
    origin = array[np.unique(own, return_index=True)[1]].double()
    total, square = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    for start in range(0, len(array), rows):
        group = torch.from_numpy(own[start : start + rows])
        centred = array[start : start + rows].double() - origin[group]
        total.index_add_(0, group, centred)
        square.index_add_(0, group, centred**2)
    count = torch.from_numpy(np.bincount(own, minlength=n)).double().reshape(-1, *tail)
    shift = total / count
    variance = (square / count - shift**2).clamp_min(0)
    small = variance <= 1e-12 * (square / count).clamp_min(1e-300)
    return origin + shift, torch.where(small, torch.ones_like(variance), variance.sqrt())
