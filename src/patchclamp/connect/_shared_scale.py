"""Nulls of weights that share one scale: sparse ones, and those of methods too slow for many surrogates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from patchclamp._statistics import benjamini_hochberg
from patchclamp.connect._nulls import MAKE, NULLS
from patchclamp.connect._series import Series
from patchclamp.errors import PatchclampError

Array = NDArray[np.float64]
SharedCorrection = Literal["max", "pooled"]


def shared_scale_null(
    measure: Callable[[Series], Array],
    units: Series,
    observed: Array,
    *,
    null: str | None,
    samples: int,
    seed: int,
    correction: SharedCorrection = "max",
) -> dict[str, Any] | None:
    """`measure` on `samples` surrogates, all pairs of which are on one scale (log-odds, attention).

    `make_null` divides each pair by its own spread. Where most draws of a pair are exactly 0 that spread says nothing: one
    draw that is not 0 lies as far out as the data can. Here sizes are compared as they are.

    ``"max"``: p from the pair's own draws; q = (1 + #{draws whose largest pair is at least as large}) / (samples + 1), which bounds the
    family-wise error; needs 19 samples for .05. ``"pooled"``: p = (1 + #{pairs of all draws at least as large}) /
    (1 + their number), q by Benjamini and Hochberg; assumes that pairs have the same null, and makes do with few samples.
    """
    if null is None:
        return None
    if null not in MAKE or correction not in ("max", "pooled"):
        raise PatchclampError(
            f"null={null!r}, correction={correction!r}: nulls are {', '.join(NULLS)}; max or pooled"
        )
    least = 19 if correction == "max" else 1
    if samples < least:
        raise PatchclampError(
            f"null_samples={samples}: correction {correction!r} needs at least {least} for p = .05"
        )
    rng = np.random.default_rng([seed, 6001])
    drawn = np.stack([measure(MAKE[null](units, rng)) for _ in range(samples)])
    return {"name": null, "samples": samples, "correction": correction, **bands(drawn, observed, correction)}


def bands(drawn: Array, observed: Array, correction: SharedCorrection) -> dict[str, Array]:
    """low, high (95 % of each pair's draws), p and q of (draw, target, source) draws.

    The diagonal and pairs that were not measured (NaN) are NaN and do not count.
    """
    off = ~np.eye(len(observed), dtype=bool) & np.isfinite(observed)
    flat = np.abs(drawn[:, off])
    beyond = np.abs(observed[off]) * (1 - 1e-9)  # a draw that equals the data up to rounding counts
    if correction == "max":
        p = (1 + (flat >= beyond).sum(0)) / (1 + len(flat))
        largest = flat.max(1)
        q = (1 + (largest[:, None] >= beyond).sum(0)) / (1 + len(flat))
    else:
        sorted_ = np.sort(flat.ravel())
        p = (1 + len(sorted_) - np.searchsorted(sorted_, beyond)) / (1 + len(sorted_))
        q = benjamini_hochberg(p)
    low, high = np.quantile(drawn[:, off], (0.025, 0.975), axis=0)
    out = {}
    for name, values in (("low", low), ("high", high), ("p", p), ("q", q)):
        out[name] = np.full(observed.shape, np.nan)
        out[name][off] = values
    return out
