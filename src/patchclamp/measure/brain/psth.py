"""Peri-stimulus time histograms: mean activity for each condition and place in the window; rasters and pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.optional import new_figure
from patchclamp.nouns.measure import Measure, host, require
from patchclamp.nouns.recording.matrix import content_only

if TYPE_CHECKING:
    from patchclamp.nouns.recording.recording import Recording, Samples
    from patchclamp.nouns.recording.spikes import SpikeTrains

_PLACES = 1 << 32  # conditions and positions are kept as one key, label * 2^32 + position


class ByCondition(Measure):
    """Count, mean and sum of squared deviations of every unit for each (label, position), joined in float64.

    Samples without a label (-1) are one condition of their own when there are no others, and left out otherwise.
    Memory is conditions x positions x units.
    """

    fields: ClassVar[tuple[str, ...]] = ("keys", "count", "mean", "m2")

    keys: Tensor
    count: Tensor
    mean: Tensor
    m2: Tensor

    def _update(self, values: Float[Tensor, "n units"], samples: Samples) -> None:
        raw = samples.label.long() * _PLACES + samples.position.long()
        keys, own = torch.unique(raw.cpu(), return_inverse=True)
        x = host(values)
        count = torch.bincount(own, minlength=len(keys)).double()
        mean = torch.zeros(len(keys), x.shape[1], dtype=torch.float64).index_add_(0, own, x) / count[:, None]
        m2 = torch.zeros_like(mean).index_add_(0, own, (x - mean[own]) ** 2)
        self._add(keys=keys, count=count, mean=mean, m2=m2)

    def _add(self, *, keys: Tensor, count: Tensor, mean: Tensor, m2: Tensor) -> None:  # type: ignore[override]
        if not hasattr(self, "keys"):
            self.keys, self.count, self.mean, self.m2 = keys, count, mean, m2
            return
        every, place = torch.unique(torch.cat([self.keys, keys]), return_inverse=True)
        mine, theirs = place[: len(self.keys)], place[len(self.keys) :]
        n_a, n_b = torch.zeros(len(every), dtype=torch.float64), torch.zeros(len(every), dtype=torch.float64)
        n_a[mine], n_b[theirs] = self.count, count
        parts = [torch.zeros(len(every), mean.shape[1], dtype=torch.float64) for _ in range(4)]
        mean_a, mean_b, m2_a, m2_b = parts
        mean_a[mine], mean_b[theirs], m2_a[mine], m2_b[theirs] = self.mean, mean, self.m2, m2
        total, delta = n_a + n_b, mean_b - mean_a
        self.keys, self.count = every, total
        self.mean = mean_a + delta * (n_b / total)[:, None]
        self.m2 = m2_a + m2_b + delta**2 * (n_a * n_b / total)[:, None]

    def _kept(self) -> Tensor:
        """Mask of the keys that count: those with a label, or all where none has one."""
        labelled = self.keys >= 0
        return labelled if bool(labelled.any()) else torch.ones_like(labelled)


class PSTH(ByCondition):
    """Mean activity and its standard error over trials, for each condition and place in the window.

    mean[c, t] = sum over trials of condition c of x(t) / n(c, t); its standard error is the standard deviation over
    trials (n - 1) over sqrt(n), NaN for a single trial. Trials come from ``recording.epoch(...)``: the condition is the
    samples' label and t their position. Of counts the mean divided by the width of a bin is a rate.

    Parameters
    ----------
    step
        Seconds between positions; times are then in seconds.
    start
        Time of position 0.

    Examples
    --------
    >>> from patchclamp.nouns.recording.recording import Samples
    >>> m = PSTH()
    >>> m.update(torch.tensor([[1.0], [2.0], [3.0], [6.0]]), Samples.of(torch.tensor([0, 0, 1, 1]), torch.arange(4) % 2))
    >>> m.result()["mean"].sel(unit=0).values.tolist()
    [[2.0, 4.0]]
    """

    name = "psth"

    def __init__(self, *, step: float | None = None, start: float = 0.0) -> None:
        require(step is None or step > 0, f"PSTH: step={step}; seconds, above zero")
        self.step, self.start = step, start

    def result(self) -> xr.Dataset:
        """Dataset over (condition, time, unit): mean, sem; count over (condition, time)."""
        self._need_data()
        kept = self._kept()
        keys, count, mean, m2 = self.keys[kept], self.count[kept], self.mean[kept], self.m2[kept]
        label = torch.div(keys, _PLACES, rounding_mode="floor")
        names, row = torch.unique(label, return_inverse=True)
        places, column = torch.unique(keys - label * _PLACES, return_inverse=True)
        shape = (len(names), len(places), mean.shape[1])
        full, error = torch.full(shape, torch.nan).double(), torch.full(shape, torch.nan).double()
        n = torch.zeros(shape[:2], dtype=torch.float64)
        full[row, column], n[row, column] = mean, count
        error[row, column] = (m2 / (count - 1).clamp_min(1)[:, None] / count[:, None]).sqrt()
        error[n < 2] = torch.nan
        time = places.numpy() if self.step is None else self.start + places.numpy() * self.step
        return self._dataset(
            {
                "mean": (("condition", "time", "unit"), full),
                "sem": (("condition", "time", "unit"), error),
                "count": (("condition", "time"), n.long()),
            },
            {"condition": names.numpy(), "time": time},
        )


def psth(trials: Recording, site: str | None = None, *, rate: bool | None = None) -> xr.Dataset:
    """`PSTH` of a recording cut into trials, with times, names of conditions and, of counts, rates in Hz.

    Parameters
    ----------
    trials
        What ``epoch`` returned.
    site
        Site; by default the first.
    rate
        Divide by the bin's width; by default for counts.
    """
    trials = content_only(trials)  # bins that are not full do not count
    chosen = trials.sites[0] if site is None else trials.site(site)
    time = trials.column("time") if "time" in trials.columns else None
    step = trials.time_step if time is not None else None
    start = float(time[trials.column("position") == 0][0]) if time is not None else 0.0
    measure = PSTH(step=step, start=start)
    measure.site = str(chosen)
    for samples, arrays in trials.chunks():
        measure.update(arrays[chosen], samples)
    found = measure.result()
    names = trials.manifest.get("label_names") or []
    labels = [names[c] if 0 <= c < len(names) else str(c) for c in found["condition"].values.tolist()]
    found = found.assign_coords(condition=labels)
    counts = trials.manifest.get("quantity") == "count"
    if rate if rate is not None else counts and step is not None:
        if step is None:
            raise PatchclampError("psth: rate=True needs trials with times; cut them with epoch(...)")
        found["mean"], found["sem"] = found["mean"] / step, found["sem"] / step
        found.attrs["unit_of_mean"] = "Hz"
    return found


def plot_psth(found: xr.Dataset, unit: int = 0, ax: Any = None) -> Any:
    """Draw one unit's mean with its standard error, a line a condition; return the matplotlib figure."""
    figure = new_figure(5.2, 3.2) if ax is None else ax.figure
    ax = figure.subplots() if ax is None else ax
    mean, sem = found["mean"].isel(unit=unit), found["sem"].isel(unit=unit)
    time = found["time"].values
    for i, condition in enumerate(found["condition"].values):
        line = ax.plot(time, mean[i], lw=1.4, label=str(condition))[0]
        band = np.nan_to_num(sem[i].values)
        ax.fill_between(time, mean[i] - band, mean[i] + band, color=line.get_color(), alpha=0.2, lw=0)
    if time.min() <= 0 <= time.max():
        ax.axvline(0, color="0.5", lw=0.8, ls="--")
    ax.set_xlabel("time from the event (s)")
    ax.set_ylabel("rate (Hz)" if found.attrs.get("unit_of_mean") == "Hz" else "activity")
    ax.set_title(f"{found.attrs.get('site', '')}[{int(found['unit'][unit])}]", fontsize=10, loc="left")
    if len(found["condition"]) > 1:
        ax.legend(frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def raster(
    trains: SpikeTrains, events: Any, window: tuple[float, float], unit: int = 0, ax: Any = None
) -> Any:
    """Draw one unit's spikes around every event, a row an event; return the matplotlib figure.

    Parameters
    ----------
    trains
        Spike trains.
    events
        Name of a table, a table, or times in seconds.
    window
        Seconds before (negative) and after the event.
    unit
        Unit to draw.
    ax
        Axes to draw into.
    """
    rows = trains.around(unit, events, window)
    if ax is None:
        figure = new_figure(5.2, min(8.0, 1.2 + 0.06 * len(rows) + 1.0))
        ax = figure.subplots()
    ax.eventplot(rows, colors="0.1", linelengths=0.8, linewidths=0.8)
    ax.axvline(0, color="tab:red", lw=0.8)
    ax.set(xlim=window, ylim=(-0.6, len(rows) - 0.4), xlabel="time from the event (s)", ylabel="event")
    ax.set_title(f"{trains.name}[{unit}]", fontsize=10, loc="left")
    ax.spines[["top", "right"]].set_visible(False)
    return ax.figure
