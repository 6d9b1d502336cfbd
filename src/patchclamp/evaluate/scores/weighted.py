"""Measures of agreement between two vectors of which every entry stands for so many others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.statistics import ranks

Array = NDArray[np.float64]
MEASURES = ("pearson", "spearman", "slope", "correction", "scale", "sign", "top")
SMALL = 0.01


def weighted_compare(
    guess: Array, true: Array, weight: Array, first: NDArray[np.bool_], top: float
) -> dict[str, float]:
    """The measures of `compare` with weights: an entry of weight w counts as w entries like it.

    Parameters
    ----------
    guess, true, weight
        (entry,) estimate, exact effect, number of units it stands for.
    first
        Whether the entry is in the top share by |estimate| of all units.
    top
        That share.
    """
    share = weight / weight.sum()
    spread, other = _cov(true, true, share), _cov(guess, guess, share)
    together = _cov(guess, true, share)
    size = float(share @ np.abs(true))
    clear = np.abs(true) > SMALL * np.abs(true).max()
    best = top_share(np.abs(true), share, top)
    placed = ranks(guess, weight), ranks(true, weight)
    return {
        "pearson": _ratio(together, np.sqrt(spread * other)),
        "spearman": _ratio(
            _cov(*placed, share),
            np.sqrt(_cov(placed[0], placed[0], share) * _cov(placed[1], placed[1], share)),
        ),
        "slope": _ratio(together, spread),
        "correction": _ratio(together, other),
        "scale": _ratio(float(share @ np.abs(guess)), size),
        "sign": _ratio(
            float(share[clear] @ (np.sign(guess) == np.sign(true))[clear]), float(share[clear].sum())
        ),
        "top": _ratio(float((share * best) @ first), float((share * best).sum())),
    }


def top_share(size: Array, share: Array, top: float) -> Array:
    """How much of each entry is in the top share of all that they stand for: 1, 0, or a part at the edge.

    Entries of one size at the edge share what is left in proportion to their weights.
    """
    levels, level = np.unique(-size, return_inverse=True)
    mass = np.bincount(level, share, minlength=len(levels))
    before = np.concatenate([[0.0], np.cumsum(mass)[:-1]])
    part = np.clip((top - before) / np.where(mass > 0, mass, 1), 0, 1)
    return part[level]


def counted(measure: str, true: Array, weight: Array, top: float) -> Array:
    """How much of each entry is in the denominator of ``"sign"`` or ``"top"``."""
    if measure == "sign":
        return np.asarray((np.abs(true) > SMALL * np.abs(true).max()).astype(np.float64))
    return top_share(np.abs(true), weight / weight.sum(), top)


def wilson(share: float, part: Array, weight: Array) -> Array:
    """Wilson's interval of a weighted share, with n = 1 / sum s^2 (1 - 1 / w), s the entries' shares of the denominator.

    An entry of weight one stands for itself alone and adds no error. Where there are others, one more check of their mean
    weight is imagined, so that a miss that no check happened to find is not taken for impossible.
    """
    open_ = weight > 1 + 1e-9
    if not open_.any():
        return np.array([share, share])
    part, weight = np.append(part, 1.0), np.append(weight, weight[open_].mean())
    s = part * weight / (part @ weight)
    inverse = float(np.sum(s**2 * (1 - 1 / np.maximum(weight, 1))))
    z = 1.96**2 * inverse
    half = np.sqrt(z * share * (1 - share) + z**2 / 4)
    low, high = (share + z / 2 - half) / (1 + z), (share + z / 2 + half) / (1 + z)
    return np.array([max(0.0, min(low, share)), min(1.0, max(high, share))])


def _cov(a: Array, b: Array, share: Array) -> float:
    return float(share @ ((a - share @ a) * (b - share @ b)))


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else float("nan")
