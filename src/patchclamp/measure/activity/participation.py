"""Inverse participation ratio: is a unit tuned to one frequency, or to all?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng
from patchclamp.base.statistics import permutation_p
from patchclamp.nouns.measure import Measure, require

if TYPE_CHECKING:
    from patchclamp.nouns.recording.recording import Samples

Array = NDArray[np.float64]


def inverse_participation(curves: ArrayLike | Sequence[ArrayLike], r: int = 2) -> Array:
    """Inverse participation ratio of curves in frequency: sum of (|x_k| / ||x||)^(2r) over frequencies k > 0.

    1 for a pure sinusoid, 1 / m for m frequencies of equal power, small for noise (about 2 / m over m frequencies,
    at r = 2). Frequency 0 is left out: the mean of a curve says nothing about its shape and would pass for tuning.
    NaN for a constant curve.

    Parameters
    ----------
    curves
        (..., positions), real and periodic over the last axis: weights of a neuron on a cyclic input, its mean
        activity over phases, angles or laps. A list of such arrays (input weights U, V and output weights W of a network
        for modular arithmetic) gives the mean of their ratios.
    r
        The power; 2 as published.

    References
    ----------
    Doshi et al. (2024), To grok or not to grok: disentangling generalization and memorization on corrupted algorithmic
    datasets.

    Examples
    --------
    >>> phase = np.arange(97) * 2 * np.pi / 97
    >>> inverse_participation(np.stack([np.cos(3 * phase) + 5, np.cos(3 * phase) + np.sin(7 * phase)])).round(6).tolist()
    [1.0, 0.5]
    """
    if isinstance(curves, list | tuple) and len(curves) and np.ndim(curves[0]) >= 2:
        found = [inverse_participation(one, r) for one in curves]
        shapes = {one.shape for one in found}
        require(len(shapes) == 1, f"inverse_participation: arrays for different numbers of neurons: {shapes}")
        return np.asarray(np.mean(found, axis=0))
    values = np.asarray(curves, dtype=np.float64)
    require(
        values.ndim >= 1 and values.shape[-1] >= 4,
        f"inverse_participation: {values.shape}; 4 positions at least",
    )
    require(r >= 2, f"inverse_participation: r={r}; at least 2 (1 is 1 for every curve)")
    require(bool(np.isfinite(values).all()), "inverse_participation: NaN or Inf in a curve")
    return _ratio(_power(values), r)


def _power(values: Array) -> Array:
    """Power at frequencies above 0; what rounding leaves of a constant is 0."""
    centred = values - values.mean(-1, keepdims=True)
    noise = 1e-13 * np.abs(values).max(-1, keepdims=True)
    centred = np.where(np.abs(centred).max(-1, keepdims=True) > noise, centred, 0)
    return np.asarray(np.abs(np.fft.rfft(centred, axis=-1)[..., 1:]) ** 2)


def _ratio(power: Array, r: int) -> Array:
    total = power.sum(-1, keepdims=True)
    share = np.divide(power, total, out=np.full_like(power, np.nan), where=total > 0)
    return np.asarray((share**r).sum(-1))


class TuningSpectrum(Measure):
    """Inverse participation ratio of each unit's tuning curve: its mean activity over the labels 0 to bins - 1, which are
    positions on a circle (angle, phase, residue, place on a track that closes).

    ``ipr`` near 1 = tuned to one ``frequency`` (cycles over the circle). ``null_mean``, ``null_high`` (95 %) and ``p`` come
    from curves of independent noise with as many samples in each bin as the recording has: a p-value against
    white noise for one unit, not against activity that is smooth in time. Samples without a label (-1) do not count.

    Parameters
    ----------
    bins
        Number of positions; every one must occur.
    r
        The power (see `inverse_participation`).
    n_surrogates, seed
        Noise curves.
    """

    name = "ipr"
    fields = ("total", "count")

    total: Tensor
    count: Tensor

    def __init__(
        self, *, bins: int | None = None, r: int = 2, n_surrogates: int = 999, seed: int = 0
    ) -> None:
        require(bins is None or bins >= 4, f"TuningSpectrum: bins={bins}; at least 4 positions")
        require(r >= 2, f"TuningSpectrum: r={r}; at least 2")
        require(n_surrogates >= 1, f"TuningSpectrum: n_surrogates={n_surrogates}; at least 1")
        self.bins, self.r = None if bins is None else int(bins), int(r)
        self.n_surrogates, self.seed = int(n_surrogates), int(seed)

    def _update(self, values: Float[Tensor, "n units"], samples: Samples) -> None:
        label = samples.label.cpu()
        known = label >= 0
        label, rows = label[known], values.cpu().double()[known]
        size = int(label.max()) + 1 if len(label) else 0
        if self.bins is not None and size > self.bins:
            raise PatchclampError(f"{self._who}: label {size - 1}, but bins={self.bins}")
        total = torch.zeros(size, values.shape[1], dtype=torch.float64).index_add_(0, label, rows)
        self._add(total=total, count=label.bincount(minlength=size))

    def _add(self, **part: Tensor) -> None:
        """Add sums of labels 0, 1, ...; the shorter one has zeros behind."""
        if self.n_samples:
            size = max(len(part["count"]), len(self.count))
            part = {name: _padded(value, size) for name, value in part.items()}
            self.total, self.count = _padded(self.total, size), _padded(self.count, size)
        super()._add(**part)

    def curves(self) -> Float[Tensor, "bins units"]:
        """Mean activity at each position."""
        self._need_data()
        bins = len(self.count) if self.bins is None else self.bins
        count = _padded(self.count, bins)
        missing = (count == 0).nonzero()[:, 0].tolist()
        if bins < 4 or missing:
            raise PatchclampError(
                f"{self._who}: labels 0..{bins - 1} are positions on a circle, 4 at least, and each must occur; "
                f"missing: {missing[:5]}"
            )
        return _padded(self.total, bins) / count[:, None]

    def result(self) -> xr.Dataset:
        """Dataset over `unit`: ipr, frequency (of the largest power; -1 where constant), p; null_mean, null_high."""
        curves = self.curves().numpy().T
        power = _power(curves)
        ratio = _ratio(power, self.r)
        rng = numpy_rng(self.seed)
        noise = rng.standard_normal((self.n_surrogates, curves.shape[1]))
        noise /= np.sqrt(_padded(self.count, curves.shape[1]).numpy())
        null = _ratio(_power(noise), self.r)
        p = permutation_p(ratio, null)
        frequency = np.where(np.isnan(ratio), -1, power.argmax(1) + 1)
        return self._dataset(
            {
                "ipr": (("unit",), ratio),
                "frequency": (("unit",), frequency),
                "p": (("unit",), np.where(np.isnan(ratio), np.nan, p)),
                "null_mean": ((), float(null.mean())),
                "null_high": ((), float(np.quantile(null, 0.95))),
            },
            bins=curves.shape[1],
            seed=self.seed,
        )


def _padded(values: Tensor, size: int) -> Tensor:
    out = torch.zeros(size, *values.shape[1:], dtype=values.dtype)
    out[: len(values)] = values
    return out
