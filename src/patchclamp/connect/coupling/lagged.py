"""Lagged correlation: what goes before what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.connect.coupling.correlation import as_baseline
from patchclamp.connect.nulls import Array, Correction, graph_with_null
from patchclamp.connect.series import Series, series
from patchclamp.connect.surrogates import Null
from patchclamp.nouns.graph import Graph
from patchclamp.nouns.recording.matrix import MatrixLike, Reading

LIMITS = (
    "direct connection (a chain, or a common input that arrives at different delays, lags too), causation; smooth "
    "signals correlate at every lag, so direction needs a sharp peak"
)


def lagged_correlation(
    data: MatrixLike,
    groups: Sequence[Any] | None = None,
    *,
    lags: Sequence[int] = (1,),
    null: Null | None = "auto",
    null_samples: int = 200,
    correction: Correction = "max",
    seed: int = 0,
    **reading: Unpack[Reading],
) -> Graph:
    """Correlation of unit j now with unit i `lag` samples later; over several lags the largest by size.

    w_ij = r(x_j(t), x_i(t + lag)), samples of one group only; the maximum over lags is taken in the null as well.

    Parameters
    ----------
    data, groups, null, null_samples, correction, seed, reading
        As in `correlation`; samples must be in time order.
    lags
        In samples, from 1 on.

    Returns
    -------
    Graph
        Directed; `params["lag"]` (targets, sources) is the lag of each weight; the baseline is the correlation at lag
        0, which cannot tell direction.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> a = rng.normal(size=1000)
    >>> x = np.stack([a, np.roll(a, 2) + rng.normal(size=1000)], 1)
    >>> found = lagged_correlation(x, lags=(1, 2, 3))
    >>> found.edges(significant=0.05)[["source", "target"]].values.tolist(), int(found.params["lag"][1, 0])
    ([['unit[0]', 'unit[1]']], 2)
    """
    steps = tuple(int(lag) for lag in lags)
    if not steps or min(steps) < 1:
        raise PatchclampError(f"lags={tuple(lags)}: lags count samples, from 1 on; lag 0 is `correlation`")
    units = series(data, groups, what="lagged_correlation", time=True, **reading)
    longest = max(part.stop - part.start for part in units.segments)
    if longest <= max(steps) + 2:
        raise PatchclampError(f"lags={steps}: the longest group has {longest} samples")

    def measure(one: Series) -> Array:
        return _largest(one, steps)[0]

    return graph_with_null(
        measure,
        units,
        "lagged_correlation",
        LIMITS,
        (null, null_samples, correction, seed),
        directed=True,
        reach=max(steps),
        baseline=as_baseline(units),
        lags=steps,
        lag=_largest(units, steps)[1],
    )


def _largest(units: Series, lags: Sequence[int]) -> tuple[Array, Array]:
    """(target, source) weights of largest size over lags, and their lags."""
    x = units.centred().values
    each = np.stack([_one(x, *units.lagged(lag)) for lag in lags])
    best = np.abs(each).argmax(0)
    weights = np.take_along_axis(each, best[None], 0)[0]
    np.fill_diagonal(weights, 0)
    return weights, np.asarray(lags)[best]


def _one(x: Array, earlier: NDArray[np.int64], later: NDArray[np.int64]) -> Array:
    """Correlations (later unit, earlier unit)."""
    a, b = x[earlier], x[later]
    a, b = a - a.mean(0), b - b.mean(0)
    scale = np.sqrt((b**2).sum(0))[:, None] * np.sqrt((a**2).sum(0))
    return np.asarray(b.T @ a / np.where(scale > 0, scale, np.inf))
