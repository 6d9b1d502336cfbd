"""Surrogates that keep each unit's own statistics, and what a measure gives on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.statistics import benjamini_hochberg
from patchclamp.connect.series import Series
from patchclamp.nouns.graph import Graph

Array = NDArray[np.float64]
Null = Literal["circular_shift", "phase_randomised", "permutation"]
Correction = Literal["max", "bh"]
Tail = Literal["both", "upper"]
Options = tuple[Null | None, int, Correction, int]  # null, samples, correction, seed
NULLS = ("circular_shift", "phase_randomised", "permutation")
MOST = 2**30  # bytes that draws may take


def circular_shift(series: Series, rng: np.random.Generator) -> Series:
    """Roll each unit in each segment by a random step of its own: keeps rate, distribution and autocorrelation.

    With few short segments a pair is now and then rolled by nearly the same step, so that p of a smooth pair cannot fall
    below its autocorrelation width / length; `phase_randomised` has no such floor.
    """
    out = np.empty_like(series.values)
    for part in series.segments:
        length = part.stop - part.start
        shift = rng.integers(0, length, series.n_units)
        rows = part.start + (np.arange(length)[:, None] + shift) % length
        out[part] = np.take_along_axis(series.values, rows, axis=0)
    return series.with_values(out)


def phase_randomised(series: Series, rng: np.random.Generator) -> Series:
    """Give each Fourier component of each unit a random phase: keeps the spectrum, makes the distribution Gaussian."""
    out = np.empty_like(series.values)
    for part in series.segments:
        spectrum = np.fft.rfft(series.values[part], axis=0)
        phase = np.exp(2j * np.pi * rng.random(spectrum.shape))
        phase[0] = 1
        if (part.stop - part.start) % 2 == 0:
            phase[-1] = rng.choice([-1.0, 1.0], spectrum.shape[1])
        out[part] = np.fft.irfft(spectrum * phase, n=part.stop - part.start, axis=0)
    return series.with_values(out)


def permutation(series: Series, rng: np.random.Generator) -> Series:
    """Permute each unit over all samples: for samples that do not depend on each other."""
    return series.with_values(rng.permuted(series.values, axis=0))


MAKE: dict[str, Callable[[Series, np.random.Generator], Series]] = {
    "circular_shift": circular_shift,
    "phase_randomised": phase_randomised,
    "permutation": permutation,
}


def make_null(
    measure: Callable[[Series], Array],
    series: Series,
    observed: Array,
    *,
    null: Null | None,
    samples: int,
    seed: int,
    tail: Tail = "both",
    correction: Correction = "max",
    directed: bool = False,
) -> dict[str, Any] | None:
    """The null of every pair: `measure` on `samples` surrogates.

    p = (1 + #{draws at least as far from the pair's mean}) / (samples + 1). ``"max"``: weights are put in units of
    the pair's own spread (mean and standard deviation over the draws *and* the observed value, which makes the test
    exact when draws and data are exchangeable), and q = (1 + #{draws whose largest pair is as far}) / (samples + 1), which
    bounds the family-wise error over pairs, dependence included. ``"bh"``: Benjamini and Hochberg over pairs, which
    needs more samples than pairs / .05.

    Raises
    ------
    PatchclampError
        For an unknown null, too few samples, or draws that do not fit into memory.
    """
    if null is None:
        return None
    if null not in MAKE or correction not in ("max", "bh"):
        raise PatchclampError(
            f"null={null!r}, correction={correction!r}: nulls are {', '.join(NULLS)}; max or bh"
        )
    if samples < 19:
        raise PatchclampError(f"null_samples={samples}: at least 19 draws are needed for p = .05")
    n = len(observed)
    pairs = ~np.eye(n, dtype=bool) if directed else np.tri(n, k=-1, dtype=bool)
    if samples * int(pairs.sum()) * 4 > MOST:
        raise PatchclampError(
            f"null_samples={samples}: draws of {int(pairs.sum())} pairs take more than 1 GiB; take fewer or pass null=None"
        )
    rng = np.random.default_rng([seed, 6001])
    drawn = np.empty((samples + 1, int(pairs.sum())), np.float32)
    drawn[0] = observed[pairs]
    for draw in range(1, samples + 1):
        drawn[draw] = measure(MAKE[null](series, rng))[pairs]
    return {
        "name": null,
        "samples": samples,
        "correction": correction,
        "tail": tail,
        **_bands(drawn, pairs, tail, correction, directed),
    }


def graph_with_null(
    measure: Callable[[Series], Array],
    units: Series,
    method: str,
    limits: str,
    options: Options,
    *,
    directed: bool = False,
    tail: Tail = "both",
    baseline: Graph | None = None,
    **settings: Any,
) -> Graph:
    """The graph that `measure` gives, with its null."""
    null, samples, correction, seed = options
    weights = measure(units)
    found = make_null(
        measure,
        units,
        weights,
        null=null,
        samples=samples,
        seed=seed,
        tail=tail,
        correction=correction,
        directed=directed,
    )
    about = {**settings, "seed": seed, "reading": units.about}
    return Graph(units.names, weights, directed, method, found, baseline, limits, units.table, about)


def _bands(
    drawn: NDArray[np.float32], pairs: NDArray[np.bool_], tail: Tail, correction: Correction, directed: bool
) -> dict[str, Array]:
    low, high = np.quantile(drawn[1:], (0.025, 0.975), axis=0)
    spread = drawn.std(0, dtype=np.float64)
    far = (drawn - drawn.mean(0, dtype=np.float64)) / np.where(spread > 0, spread, 1)
    far = np.abs(far) if tail == "both" else far
    beyond = far[0] * (1 - 1e-6) - 1e-9  # a draw that equals the data up to rounding counts
    p = (1 + (far[1:] >= beyond).sum(0)) / len(drawn)
    if correction == "bh":
        q = benjamini_hochberg(p)
    else:
        largest = np.sort(far[1:].max(1))
        q = (1 + len(largest) - np.searchsorted(largest, beyond)) / len(drawn)
    return {
        name: _square(v, pairs, directed) for name, v in (("low", low), ("high", high), ("p", p), ("q", q))
    }


def _square(values: Array, pairs: NDArray[np.bool_], directed: bool) -> Array:
    out = np.full(pairs.shape, np.nan)
    out[pairs] = values
    if not directed:
        out.T[pairs] = values
    return out


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
    return bands(drawn, observed, correction, null)


def bands(drawn: Array, observed: Array, correction: SharedCorrection, name: str = "") -> dict[str, Any]:
    """A `Graph.null` of (draw, target, source) draws: low, high (95 % of each pair's draws), p and q.

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
    out: dict[str, Any] = {"name": name, "samples": len(drawn), "correction": correction}
    for band, values in (("low", low), ("high", high), ("p", p), ("q", q)):
        out[band] = np.full(observed.shape, np.nan)
        out[band][off] = values
    return out
