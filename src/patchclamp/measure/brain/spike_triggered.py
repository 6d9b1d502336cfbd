"""Spike-triggered averages: what the stimulus did before a spike, against spikes shifted in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from patchclamp.base.arrays import as_array
from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng
from patchclamp.base.statistics import permutation_p
from patchclamp.draw.tuning import triggered_figure

if TYPE_CHECKING:
    from patchclamp.nouns.recording.spikes import SpikeTrains


@dataclass(frozen=True)
class SpikeTriggered:
    """Spike-triggered averages with their null.

    Parameters
    ----------
    data
        Over (unit, lag) ``average``, ``low`` and ``high`` (central 95 % of the null at each lag); over unit ``spikes``,
        ``peak_lag`` (seconds; negative is before the spike), ``peak``, ``band`` (95 % quantile of the null's largest
        departure over all lags) and ``p``.
    about
        Settings of the call.
    """

    data: xr.Dataset
    about: dict[str, Any]

    def plot(self, unit: int = 0, ax: Any = None) -> Any:
        """Draw one unit's average and the null's band; return the matplotlib figure."""
        return triggered_figure(*self._unit(unit), ax)

    def _unit(self, unit: int) -> tuple[Any, Any, Any, Any, int, float]:
        one = self.data.isel(unit=unit)
        band = (one["average"], one["low"], one["high"])
        return one["lag"].values * 1e3, *band, int(one["spikes"]), float(one["peak_lag"]) * 1e3

    def __repr__(self) -> str:
        d = self.data
        units = "; ".join(
            f"unit {int(u)}: peak {float(d['peak'].sel(unit=u)):.3g} at {float(d['peak_lag'].sel(unit=u)) * 1e3:.2f} ms, "
            f"null band {float(d['band'].sel(unit=u)):.3g}, p {float(d['p'].sel(unit=u)):.3g}"
            for u in d["unit"].values[:5]
        )
        return f"SpikeTriggered({units})"


def spike_triggered_average(
    stimulus: ArrayLike,
    spikes: SpikeTrains,
    *,
    step: float,
    start: float = 0.0,
    window: tuple[float, float] = (-0.05, 0.01),
    n_shuffles: int = 200,
    seed: int = 0,
) -> SpikeTriggered:
    """Mean stimulus at each lag from a unit's spikes, less the stimulus' mean.

    sta(lag) = (1 / n) sum over spikes i of s(t_i + lag) - mean(s), where s is taken at the sample nearest to the
    spike. Spikes whose window leaves the stimulus are not used, and counted out. The null shifts all spikes of a unit
    by one random time around the stimulus (circularly, at least the window's length), which keeps their own rhythm and
    the stimulus' autocorrelation; ``p`` compares the largest departure over all lags with that of the shifts, so
    that no lag was chosen.

    It is the first-order kernel up to scale where the stimulus is white and Gaussian; with a correlated stimulus it is
    that kernel smeared by the autocorrelation. It is no evidence that the unit responds to nothing else.

    Parameters
    ----------
    stimulus
        (samples,), evenly spaced.
    spikes
        Spike trains of the same clock.
    step, start
        Seconds between samples of the stimulus, and the time of its first.
    window
        Lags in seconds from the spike: negative is before.
    n_shuffles, seed
        Shifts of the null.

    Examples
    --------
    >>> from patchclamp.nouns.recording.spikes import SpikeTrains
    >>> s = np.zeros(1000); s[100::200] = 1.0
    >>> trains = SpikeTrains.from_times([(np.arange(100, 1000, 200) + 4) * 0.001])
    >>> sta = spike_triggered_average(s, trains, step=0.001, n_shuffles=20)
    >>> round(float(sta.data["peak_lag"][0]), 6)
    -0.004
    """
    values = as_array(stimulus, "stimulus")
    if values.ndim != 1 or not np.isfinite(values).all():
        raise PatchclampError(f"stimulus: {values.shape}; wanted (samples,) of finite numbers")
    lags = np.arange(np.ceil(window[0] / step - 1e-6), np.floor(window[1] / step + 1e-6) + 1).astype(np.int64)
    if not step > 0 or len(lags) < 1 or len(lags) * 2 > len(values):
        raise PatchclampError(
            f"window={window} at step={step:g} s: {len(lags)} lags for {len(values)} samples of stimulus"
        )
    centred = values - values.mean()
    rng = numpy_rng(seed)
    rows = [
        _one(centred, _places(spikes[u], start, step, lags, len(values), u), lags, n_shuffles, rng)
        for u in range(len(spikes))
    ]
    average, low, high = (np.stack([row[key] for row in rows]) for key in ("average", "low", "high"))
    best = np.abs(average).argmax(1)
    each = np.arange(len(rows))
    data = xr.Dataset(
        {
            "average": (("unit", "lag"), average),
            "low": (("unit", "lag"), low),
            "high": (("unit", "lag"), high),
            "spikes": ("unit", np.array([row["n"] for row in rows])),
            "peak_lag": ("unit", lags[best] * step),
            "peak": ("unit", average[each, best]),
            "band": ("unit", np.array([row["band"] for row in rows])),
            "p": ("unit", np.array([row["p"] for row in rows])),
        },
        {"unit": each, "lag": lags * step},
    )
    return SpikeTriggered(data, {"window": window, "step": step, "n_shuffles": n_shuffles, "seed": seed})


def _places(
    times: NDArray[np.float64], start: float, step: float, lags: NDArray[np.int64], n: int, unit: int
) -> NDArray[np.int64]:
    places = np.rint((times - start) / step).astype(np.int64)
    inside = (places + lags[0] >= 0) & (places + lags[-1] < n)
    if not inside.any():
        raise PatchclampError(
            f"unit {unit}: none of {len(times)} spikes has its window inside the stimulus, {start:g} to "
            f"{start + (n - 1) * step:g} s; are both in seconds of one clock?"
        )
    return np.asarray(places[inside])


def _one(
    stimulus: NDArray[np.float64],
    places: NDArray[np.int64],
    lags: NDArray[np.int64],
    n_shuffles: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    n, length = len(places), len(stimulus)
    # By convolution with the train of spikes: all circular shifts are one transform.
    train = np.bincount(places, minlength=length).astype(np.float64)
    every = np.fft.irfft(np.fft.rfft(stimulus) * np.conj(np.fft.rfft(train)), length) / n
    average = np.array([stimulus[places + lag].mean() for lag in lags])
    least = int(lags[-1] - lags[0]) + 1
    shifts = rng.integers(least, max(least + 1, length - least), n_shuffles)
    null = every[(lags[None, :] + shifts[:, None]) % length]
    top = np.abs(null).max(1)
    low, high = np.quantile(null, [0.025, 0.975], axis=0)
    p = permutation_p(float(np.abs(average).max()), top)
    return {
        "average": average,
        "low": low,
        "high": high,
        "n": n,
        "band": float(np.quantile(top, 0.95)),
        "p": p,
    }
