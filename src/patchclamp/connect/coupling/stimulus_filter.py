"""What a neuron waits for: the spike-triggered average of a stimulus, and the filter of a regression beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.folds import Fold, blocked_folds
from patchclamp.base.seeds import numpy_rng
from patchclamp.connect.coupling.glm_basis import design, history_basis
from patchclamp.connect.coupling.glm_fit import Family, family_of, fit_ridge, log_likelihood
from patchclamp.connect.series import Series, series

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StimulusFilter:
    """A neuron's filter of a stimulus, with its null.

    Parameters
    ----------
    lags
        (lag,) samples before the spike, from 0 on.
    average
        (lag,) spike-triggered average minus the stimulus' mean, in units of the stimulus.
    filter
        (lag,) of the regression: log-odds (log-rate) per unit of the stimulus.
    average_band, filter_band
        (2, lag) 2.5 % and 97.5 % over stimuli shifted against the spikes.
    average_p, filter_p
        Of the largest value by size, over the largest of each draw.
    gain, gain_interval
        Held-out nats per sample over rate and own past alone; its 95 % interval over folds.
    params
        Settings, `n_spikes`, `strength` chosen.
    """

    lags: NDArray[np.int64]
    average: Array
    filter: Array
    average_band: Array
    filter_band: Array
    average_p: float
    filter_p: float
    gain: float
    gain_interval: tuple[float, float]
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def average_peak(self) -> int:
        """Lag of the largest value (by size) of the average."""
        return int(self.lags[np.abs(self.average).argmax()])

    @property
    def filter_peak(self) -> int:
        """Lag of the largest value (by size) of the filter."""
        return int(self.lags[np.abs(self.filter).argmax()])

    @property
    def agreement(self) -> float:
        """Cosine of the average and the filter over lags."""
        return float(self.average @ self.filter / np.linalg.norm(self.average) / np.linalg.norm(self.filter))


def stimulus_filter(
    spikes: ArrayLike,
    stimulus: ArrayLike,
    groups: Sequence[Any] | None = None,
    *,
    lags: int = 30,
    history: int = 10,
    family: str = "auto",
    strength: float | Sequence[float] = (1.0, 10.0, 100.0, 1000.0),
    folds: int = 5,
    null_samples: int = 200,
    seed: int = 0,
) -> StimulusFilter:
    """Fit eta(t) = b + sum_l k_l s(t - l) + own past to a neuron's spikes, and average s before each spike.

    The average of a stimulus that is correlated in time is smeared by that correlation; the filter k is not, and has
    the neuron's refractoriness beside it rather than in it.

    Parameters
    ----------
    spikes, stimulus
        (sample,) counts and values in the same bins.
    groups
        One entry a sample (trials); no lag crosses from one to the next.
    lags
        Samples before the spike: 0 .. lags - 1.
    history
        Lags of the own past (`history_basis`, three functions); 0 for none.
    family
        As in `glm_coupling`.
    strength
        Ridge on k, with the stimulus in units of its standard deviation; several: the one of the best held-out likelihood.
    folds, seed
        As in `glm_coupling`.
    null_samples
        Number of stimuli, each rolled in each group by a random step of at least `lags`; average and filter are computed
        anew on each.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> s = rng.normal(size=4000)
    >>> spikes = rng.random(4000) < 1 / (1 + np.exp(2.5 - 1.5 * np.roll(s, 4)))
    >>> found = stimulus_filter(spikes, s, lags=10, null_samples=39)
    >>> found.average_peak, found.filter_peak, found.filter_p
    (4, 4, 0.025)
    """
    units = _read(spikes, stimulus, groups)
    counts = units.values[:, 0]
    kind = family_of(counts, family)
    x, rows = _design(units, lags, history)
    strengths = tuple(float(s) for s in np.atleast_1d(np.asarray(strength, np.float64)))
    gains = np.stack(
        [
            _gain(
                x, counts[rows], kind, s, lags, blocked_folds(units.group[rows], rows, folds, lags + history)
            )
            for s in strengths
        ]
    )
    chosen = strengths[int(gains.sum(1).argmax())]
    average, found = _both(x, counts[rows], kind, chosen, lags)
    rng = numpy_rng([seed, 6201])
    draws = []
    for _ in range(null_samples):
        moved, _ = _design(_rolled(units, rng, lags), lags, history)
        draws.append(_both(moved, counts[rows], kind, chosen, lags, tol=1e-3))
    scale = units.values[:, 1].std()
    null = np.asarray(draws)
    gain = gains[strengths.index(chosen)]
    error = 1.96 * gain.std(ddof=1) / np.sqrt(len(gain))
    return StimulusFilter(
        lags=np.arange(lags),
        average=average * scale,
        filter=found / scale,
        average_band=np.quantile(null[:, 0], (0.025, 0.975), axis=0) * scale,
        filter_band=np.quantile(null[:, 1], (0.025, 0.975), axis=0) / scale,
        average_p=_p_of_largest(average, null[:, 0]),
        filter_p=_p_of_largest(found, null[:, 1]),
        gain=float(gain.mean()),
        gain_interval=(float(gain.mean() - error), float(gain.mean() + error)),
        params={"family": kind, "strength": chosen, "n_spikes": int(counts.sum()), "seed": seed},
    )


def _read(spikes: ArrayLike, stimulus: ArrayLike, groups: Sequence[Any] | None) -> Series:
    one, two = np.asarray(spikes, np.float64), np.asarray(stimulus, np.float64)
    if one.ndim != 1 or one.shape != two.shape:
        raise PatchclampError(
            f"spikes of shape {one.shape} and a stimulus of shape {two.shape}: wanted one value a bin of each"
        )
    return series(np.column_stack([one, two]), groups, what="stimulus_filter", time=True)


def _design(units: Series, lags: int, history: int) -> tuple[Array, NDArray[np.int64]]:
    """Columns: the stimulus at lags 0 .. lags - 1 in units of its deviation, then the own past."""
    stimulus = units.values[:, 1:]
    scaled = (stimulus - stimulus.mean()) / stimulus.std()
    deep = max(lags - 1, history)
    moved = units.with_values(np.column_stack([units.values[:, 0], scaled[:, 0]]))
    past, rows = design(moved, np.eye(deep))
    past = past.reshape(len(past), 2, deep)
    columns = [scaled[rows], past[:, 1, : lags - 1]]
    if history:
        columns.append(past[:, 0, :history] @ history_basis("cosine", min(3, history), history))
    return np.concatenate(columns, 1), rows


def _both(
    x: Array, y: Array, kind: Family, strength: float, lags: int, tol: float = 1e-7
) -> tuple[Array, Array]:
    """The spike-triggered average and the filter, both on the scaled stimulus."""
    average = y @ x[:, :lags] / y.sum() - x[:, :lags].mean(0)
    fit = fit_ridge(x, y[:, None], kind, _penalty(x, strength, lags), tol=tol)
    return average, fit.coefficients[1 : 1 + lags, 0]


def _penalty(x: Array, strength: float, lags: int) -> Array:
    return np.where(np.arange(x.shape[1]) < lags, strength, 1e-3)


def _gain(x: Array, y: Array, kind: Family, strength: float, lags: int, splits: Sequence[Fold]) -> Array:
    """(fold,) held-out nats per sample over the model without the stimulus."""
    out = []
    for train, test in splits:
        values = []
        for columns in (slice(0, None), slice(lags, None)):
            part = x[:, columns]
            penalty = _penalty(x, strength, lags)[columns]
            fit = fit_ridge(part[train], y[train, None], kind, penalty)
            eta = fit.coefficients[0] + part[test] @ fit.coefficients[1:]
            values.append(log_likelihood(eta, y[test, None], kind).mean())
        out.append(values[0] - values[1])
    return np.asarray(out)


def _rolled(units: Series, rng: np.random.Generator, least: int) -> Series:
    values = units.values.copy()
    for part in units.segments:
        length = part.stop - part.start
        far = min(least, (length - 1) // 2)
        values[part, 1] = np.roll(values[part, 1], int(rng.integers(far, length - far + 1)))
    return units.with_values(values)


def _p_of_largest(observed: Array, null: Array) -> float:
    """Of max over lags of |value|; draws and data share the spread of each lag."""
    both = np.concatenate([observed[None], null])
    far = (np.abs(both) / both.std(0)).max(1)
    return float((1 + (far[1:] >= far[0]).sum()) / len(far))
