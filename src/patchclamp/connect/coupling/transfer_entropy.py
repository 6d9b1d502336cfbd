"""Transfer entropy: how much the past of one unit says about another beyond that one's own past."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Unpack

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.connect.coupling.lagged import lagged_correlation
from patchclamp.connect.nulls import Array, Correction, graph_with_null
from patchclamp.connect.series import Series, series
from patchclamp.connect.surrogates import Null
from patchclamp.nouns.graph import Graph
from patchclamp.nouns.recording.matrix import MatrixLike, Reading

LIMITS = (
    "direct connection (pairs are taken one by one, so a chain or a common input counts), causation; it is biased "
    "upwards, so only its distance from the null says anything"
)


def transfer_entropy(
    data: MatrixLike,
    groups: Sequence[Any] | None = None,
    *,
    lag: int = 1,
    history: int = 1,
    estimator: Literal["gaussian", "binned"] = "gaussian",
    bins: int = 2,
    null: Null | None = "auto",
    null_samples: int = 100,
    correction: Correction = "max",
    seed: int = 0,
    **reading: Unpack[Reading],
) -> Graph:
    """Transfer entropy of every ordered pair, in bits: T_{j -> i} = I(x_i(t); x_j(t - lag) | x_i(t - 1 .. t - history)).

    Parameters
    ----------
    data, groups, null, null_samples, correction, seed, reading
        As in `correlation`; samples must be in time order. The test is one-sided.
    lag
        In samples, from 1 on.
    history
        Samples of the target's own past that are conditioned on.
    estimator
        ``"gaussian"``: -log2(1 - r^2) / 2 with r the partial correlation given the target's past (half of Granger's
        log ratio at one lag). ``"binned"``: plug-in estimate over `bins` equally filled bins (or the values themselves,
        where a unit has no more than that many, as spikes do); it sees relations of any shape, and its bias grows with
        bins^(history + 2) / samples.

    Returns
    -------
    Graph
        Directed; weights are not negative; the baseline is the correlation at the same lag.

    Notes
    -----
    Schreiber 2000. For Gaussian variables it equals Granger causality (Barnett, Barrett and Seth 2009).
    """
    if estimator not in ("gaussian", "binned") or lag < 1 or history < 0 or bins < 2:
        raise PatchclampError(
            f"estimator={estimator!r}, lag={lag}, history={history}, bins={bins}: 'gaussian' or 'binned', from 1, 0 and 2 on"
        )
    units = series(data, groups, what="transfer_entropy", time=True, **reading)
    if estimator == "binned":
        if bins ** (history + 2) > len(units.values):
            raise PatchclampError(
                f"bins={bins}, history={history}: {bins ** (history + 2)} cells for {len(units.values)} samples; take fewer"
            )
        units = units.with_values(_codes(units.values, bins))

    def measure(one: Series) -> Array:
        return _gaussian(one, lag, history) if estimator == "gaussian" else _binned(one, lag, history, bins)

    return graph_with_null(
        measure,
        units,
        "transfer_entropy",
        LIMITS,
        (null, null_samples, correction, seed),
        directed=True,
        reach=max(lag, history),
        tail="upper",
        baseline=lagged_correlation(data, groups, lags=(lag,), null=None, **reading),
        lag=lag,
        history=history,
        estimator=estimator,
        bins=bins,
    )


def _past(units: Series, lag: int, history: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(source samples, target samples) such that the source and all of the target's history lie in the segment."""
    reach = max(lag, history)
    _, later = units.lagged(reach)
    return later - lag, later


def _gaussian(units: Series, lag: int, history: int) -> Array:
    x = units.centred().values
    source, target = _past(units, lag, history)
    ones = np.ones((len(target), 1))
    out = np.zeros((units.n_units, units.n_units))
    for i in range(units.n_units):
        past = np.concatenate([ones, *(x[target - k, i : i + 1] for k in range(1, history + 1))], 1)
        basis = np.linalg.qr(past)[0]
        future, others = x[target, i], x[source]
        future = future - basis @ (basis.T @ future)
        others = others - basis @ (basis.T @ others)
        scale = np.sqrt((future**2).sum() * (others**2).sum(0))
        r = future @ others / np.where(scale > 1e-12, scale, np.inf)
        out[i] = -0.5 * np.log2(np.maximum(1 - r**2, 1e-300))
    np.fill_diagonal(out, 0)
    return out


def _codes(x: Array, bins: int) -> Array:
    """Each unit as 0 .. bins - 1: its values where it has few of them, else equally filled bins."""
    out = np.empty_like(x)
    for unit, column in enumerate(x.T):
        values, code = np.unique(column, return_inverse=True)
        if len(values) > bins:
            edges = np.quantile(column, np.arange(1, bins) / bins)
            code = np.searchsorted(edges, column, side="right")
        out[:, unit] = code
    return out


def _binned(units: Series, lag: int, history: int, bins: int) -> Array:
    x = units.values.astype(np.int64)
    source, target = _past(units, lag, history)
    n, cells = units.n_units, bins**history
    hot = (x[source][:, :, None] == np.arange(bins)).reshape(len(source), -1).astype(np.float64)
    out = np.zeros((n, n))
    for i in range(n):
        past = sum(
            (x[target - k, i] * bins ** (k - 1) for k in range(1, history + 1)),
            np.zeros(len(target), np.int64),
        )
        joint = past * bins + x[target, i]
        # counts (past, future, source unit, source value) by one product
        rows = np.zeros((len(joint), cells * bins))
        rows[np.arange(len(joint)), joint] = 1
        counts = (rows.T @ hot).reshape(cells, bins, n, bins)
        out[i] = _information(counts, len(joint))
    np.fill_diagonal(out, 0)
    return out


def _information(counts: Array, total: int) -> Array:
    """I(future; source | past) in bits for each source, from counts (past, future, unit, value)."""

    def entropy(c: Array) -> Array:
        p = c / total
        return -np.where(p > 0, p * np.log2(np.where(p > 0, p, 1)), 0)

    joint = entropy(counts).sum((0, 1, 3))
    past_source = entropy(counts.sum(1)).sum((0, 2))
    past_future = entropy(counts.sum(3)).sum((0, 1))
    past = entropy(counts.sum((1, 3))).sum(0)
    return np.asarray(np.maximum(past_source + past_future - joint - past, 0))
