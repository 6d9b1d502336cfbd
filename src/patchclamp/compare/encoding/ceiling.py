"""How well could any model predict these responses? Ceilings; each says on which scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from patchclamp.base.arrays import as_array
from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng
from patchclamp.base.statistics import pearson
from patchclamp.compare.inputs import Matrix


def noise_ceiling(responses: Any) -> Matrix:
    """Bound on r^2 of a model of the mean over repeats, for each target.

    Responses are brought to unit variance over all trials; with the noise variance s (mean over stimuli of the
    variance over repeats) and signal sqrt(max(0, 1 - s)), ncsnr = signal / sqrt(s) and NC = ncsnr^2 / (ncsnr^2 + 1/n).

    Parameters
    ----------
    responses
        (stimulus, repeat, target), at least 2 repeats.

    Notes
    -----
    Allen et al. 2022. The scale is r^2: take the square root to compare with r.
    """
    y = _repeats(responses)
    n = y.shape[1]
    spread = y.std((0, 1))
    y = y / np.where(spread > 0, spread, np.nan)
    noise = y.var(1, ddof=1).mean(0)
    signal2 = np.clip(1 - noise, 0, None)
    ratio = signal2 / noise
    return np.asarray(ratio / (ratio + 1 / n))


def spearman_brown(r: Any, n: int) -> Any:
    """Reliability of the mean of n repeats from that of one: n r / (1 + (n - 1) r). Its square root bounds r.

    Examples
    --------
    >>> round(spearman_brown(0.2, 3), 6)
    0.428571
    """
    values = np.asarray(r, np.float64)
    found = n * values / (1 + (n - 1) * values)
    return float(found) if found.ndim == 0 else found


def signal_power(responses: Any) -> Matrix:
    """Variance over stimuli that repeats share: (Var(sum of repeats) - sum of Var) / (n (n - 1)), each target."""
    y = _repeats(responses)
    n = y.shape[1]
    return np.asarray((y.sum(1).var(0, ddof=1) - y.var(0, ddof=1).sum(0)) / (n * (n - 1)))


def normalised_correlation(predicted: Any, responses: Any) -> Matrix:
    """Correlation with the noise-free response: Cov(p, mean) / sqrt(Var(p) signal power); NaN where there is none.

    Notes
    -----
    Schoppe et al. 2016. It grows without bound as the signal power goes to zero: state how many targets were left out.
    """
    y = _repeats(responses)
    p = as_array(predicted, "predictions").reshape(len(y), -1)
    power = signal_power(y)
    mean = y.mean(1)
    covariance = ((p - p.mean(0)) * (mean - mean.mean(0))).sum(0) / (len(y) - 1)
    under = p.var(0, ddof=1) * np.where(power > 0, power, np.nan)
    return np.asarray(covariance / np.sqrt(under))


def feve(predicted: Any, responses: Any) -> Matrix:
    """Fraction of explainable variance explained: 1 - (MSE on single trials - noise) / (variance - noise)."""
    y = _repeats(responses)
    p = as_array(predicted, "predictions").reshape(len(y), 1, -1)
    noise = y.var(1, ddof=1).mean(0)
    error = ((y - p) ** 2).mean((0, 1))
    total = ((y - y.mean((0, 1))) ** 2).mean((0, 1))
    return np.asarray(1 - (error - noise) / np.where(total > noise, total - noise, np.nan))


def split_half(responses: Any, *, n_splits: int = 20, seed: int = 0) -> Matrix:
    """Reliability of the mean over repeats: mean correlation of random halves, corrected to the full length.

    Odd numbers of repeats leave one out of each split.
    """
    y = _repeats(responses)
    found = [pearson(a, b) for a, b in half_means(y, n_splits, seed)]
    return np.asarray(spearman_brown(np.mean(found, axis=0), y.shape[1] / (y.shape[1] // 2)))


def half_means(trials: Matrix, n_splits: int, seed: int | Sequence[int]) -> list[tuple[Matrix, Matrix]]:
    """Means of two random halves of (stimulus, repeat, target) trials, drawn `n_splits` times; an odd repeat is left out."""
    rng, half = numpy_rng(seed), trials.shape[1] // 2
    orders = [rng.permutation(trials.shape[1]) for _ in range(n_splits)]
    return [(trials[:, o[:half]].mean(1), trials[:, o[half : 2 * half]].mean(1)) for o in orders]


def _repeats(responses: Any) -> Matrix:
    y = as_array(responses, "responses")
    y = y[..., None] if y.ndim == 2 else y
    if y.ndim != 3 or y.shape[1] < 2:
        raise PatchclampError(
            f"responses: wanted stimuli x repeats x targets with at least 2 repeats, got shape {y.shape}"
        )
    if not np.isfinite(y).all():
        raise PatchclampError("responses: hold NaN or Inf; leave these stimuli or targets out")
    return y
