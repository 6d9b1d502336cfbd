"""What a measure gives on surrogates, in which each unit keeps its own statistics: low, high, p and q of every pair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng
from patchclamp.base.statistics import benjamini_hochberg
from patchclamp.connect.series import Series
from patchclamp.connect.surrogates import Null, Surrogates
from patchclamp.nouns.graph import Graph

Array = NDArray[np.float64]
Correction = Literal["max", "bh"]
Tail = Literal["both", "upper"]
Options = tuple[Null | None, int, Correction, int]  # null, samples, correction, seed
MOST = 2**30  # bytes that draws may take


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
    reach: int = 0,
) -> dict[str, Any] | None:
    """The null of every pair: `measure` on `samples` surrogates.

    p = w + (1 - w) x the share of draws at least as far from the pair's mean, w = 1 / (samples + 1), or 1 / the number of
    places that a pair's shift has (`Surrogates.places`) where these are fewer. ``"max"``: weights are put in units of the
    pair's own spread (mean and standard deviation over the draws and, with weight w, the observed value, which makes the
    test exact when draws and data are exchangeable), and q = (1 + #{draws whose largest pair is as far}) / (samples + 1), which
    bounds the family-wise error over pairs, dependence included. ``"bh"``: Benjamini and Hochberg over pairs, which
    needs more samples (and places) than pairs / .05.

    Raises
    ------
    PatchclampError
        For an unknown null or none that is valid here, too few draws, or draws that do not fit into memory.
    """
    if null is None:
        return None
    if correction not in ("max", "bh"):
        raise PatchclampError(f"correction={correction!r}: max or bh")
    if samples < 19:
        raise PatchclampError(f"null_samples={samples}: at least 19 draws are needed for p = .05")
    n = len(observed)
    pairs = ~np.eye(n, dtype=bool) if directed else np.tri(n, k=-1, dtype=bool)
    if samples * int(pairs.sum()) * 4 > MOST:
        raise PatchclampError(
            f"null_samples={samples}: draws of {int(pairs.sum())} pairs take more than 1 GiB; take fewer or pass null=None"
        )
    made = Surrogates.of(series, null, reach)
    rng = numpy_rng([seed, 6001])
    drawn = np.empty((samples + 1, int(pairs.sum())), np.float32)
    drawn[0] = observed[pairs]
    for draw in range(1, samples + 1):
        drawn[draw] = measure(made.draw(rng))[pairs]
    return {
        "name": made.name,
        "samples": samples,
        "correction": correction,
        "tail": tail,
        **_bands(drawn, pairs, tail, correction, directed, made.places()[pairs]),
    }


def graph_with_null(
    measure: Callable[[Series], Array],
    units: Series,
    method: str,
    limits: str,
    options: Options,
    *,
    directed: bool = False,
    reach: int = 0,
    tail: Tail = "both",
    baseline: Graph | None = None,
    **settings: Any,
) -> Graph:
    """The graph that `measure` gives, with its null; `reach` is the largest lag that `measure` looks at."""
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
        reach=reach,
    )
    about = {**settings, "seed": seed, "reading": units.about}
    return Graph(units.names, weights, directed, method, found, baseline, limits, units.table, about)


def _bands(
    drawn: NDArray[np.float32],
    pairs: NDArray[np.bool_],
    tail: Tail,
    correction: Correction,
    directed: bool,
    places: Array,
) -> dict[str, Array]:
    """`drawn[0]` is the data, which is one of `places` places that a pair's shift could have taken."""
    low, high = np.quantile(drawn[1:], (0.025, 0.975), axis=0)
    own = 1 / np.minimum(places, len(drawn))
    mean = own * drawn[0] + (1 - own) * drawn[1:].mean(0, dtype=np.float64)
    far = drawn - mean
    spread = np.sqrt(own * far[0] ** 2 + (1 - own) * (far[1:] ** 2).mean(0, dtype=np.float64))
    far = far / np.where(spread > 0, spread, 1)
    far = np.abs(far) if tail == "both" else far
    beyond = far[0] * (1 - 1e-6) - 1e-9  # a draw that equals the data up to rounding counts
    p = own + (1 - own) * (far[1:] >= beyond).mean(0)
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
    null: Null | None,
    samples: int,
    seed: int,
    correction: SharedCorrection = "max",
    reach: int = 0,
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
    if correction not in ("max", "pooled"):
        raise PatchclampError(f"correction={correction!r}: max or pooled")
    least = 19 if correction == "max" else 1
    if samples < least:
        raise PatchclampError(
            f"null_samples={samples}: correction {correction!r} needs at least {least} for p = .05"
        )
    made = Surrogates.of(units, null, reach)
    rng = numpy_rng([seed, 6001])
    drawn = np.stack([measure(made.draw(rng)) for _ in range(samples)])
    return bands(drawn, observed, correction, made.name)


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
