"""AUROC of scores against a known truth with an interval over items, and the false finds of negative controls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from patchclamp._statistics import permutation_p, resamples, sign_flip_max_null

Array = NDArray[np.float64]
DIGITS = 6
"""Scores nearer to each other than 1e-6 of the largest count as equal: rounding is no order."""


def area(size: Array, real: NDArray[np.bool_]) -> Array:
    """AUROC of each row of (draw, candidate) scores: U / (n1 n0), ties at one half."""
    ranks = rankdata(size, axis=-1)
    n, others = int(real.sum()), int((~real).sum())
    return np.asarray((ranks[..., real].sum(-1) - n * (n + 1) / 2) / (n * others))


def rounded(scores: Array) -> Array:
    """Sizes of scores relative to the largest of their row, to `DIGITS` digits."""
    size = np.abs(scores)
    top = size.max(-1, keepdims=True)
    return np.round(np.divide(size, top, out=np.zeros_like(size), where=top > 0), DIGITS)


def area_over_items(
    values: Array, real: NDArray[np.bool_], groups: Sequence[str] = (), n_boot: int = 400, seed: int = 0
) -> tuple[float, float, float]:
    """AUROC of |mean over items| with a percentile interval by resampling items (or groups of them).

    Parameters
    ----------
    values
        (item, candidate) scores.
    real
        (candidate,) whether it belongs to the mechanism; both classes occur.

    Examples
    --------
    >>> area_over_items(np.array([[3.0, 0.0], [2.0, 0.0]]), np.array([True, False]))
    (1.0, 1.0, 1.0)
    """
    value = float(area(rounded(values.mean(0)[None]), real)[0])
    weights = resamples(len(values), groups or None, n_boot, seed)
    draws = area(rounded(weights @ values / weights.sum(1, keepdims=True)), real)
    low, high = np.quantile(draws, [0.025, 0.975])
    return value, float(low), float(high)


def area_over_pairs(
    scores: Array, real: NDArray[np.bool_], n_boot: int = 400, seed: int = 0
) -> tuple[float, float, float]:
    """AUROC of |score| with an interval by resampling candidates within each class."""
    size = rounded(scores[None])[0]
    value = float(area(size[None], real)[0])
    above, below = size[real], size[~real]
    rng = np.random.default_rng(seed)
    picked = [part[rng.integers(len(part), size=(n_boot, len(part)))] for part in (above, below)]
    classes = np.arange(len(size)) < len(above)
    low, high = np.quantile(area(np.concatenate(picked, axis=1), classes), [0.025, 0.975])
    return value, float(low), float(high)


def permuted_area(values: Array, real: NDArray[np.bool_], seed: int = 0, n_perm: int = 999) -> float:
    """p of the AUROC of |mean over items| when the candidates that belong to the mechanism are drawn at random."""
    size = rounded(values.mean(0)[None])
    rng = np.random.default_rng(seed)
    ranks = rankdata(size[0])
    drawn = [ranks[rng.permutation(len(real))[: int(real.sum())]].sum() for _ in range(n_perm)]
    return permutation_p(float(ranks[real].sum()), drawn)


def chance_of_largest(values: Array, seed: int = 0) -> float:
    """p of the largest |mean over items| against the maximum over candidates with signs of items flipped.

    One item, or items that are all alike, cannot speak about it: 1 where all scores are 0, else 1 / (n_perm + 1)
    is out of reach and the smallest p that signs allow comes out.
    """
    observed = float(np.abs(values.mean(0)).max())
    if observed == 0.0:
        return 1.0
    return permutation_p(observed, sign_flip_max_null(values, n_perm=999, seed=seed))
