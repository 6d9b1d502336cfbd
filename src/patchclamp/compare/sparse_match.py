"""How many units of one network does it take to make one of the other?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng
from patchclamp.compare.encoding.ridge import r2
from patchclamp.compare.inputs import Matrix, pair
from patchclamp.compare.matching import _standard
from patchclamp.compare.result import Comparison
from patchclamp.draw.cards import shown
from patchclamp.nouns.recording.matrix import MatrixLike, Reading


@shown
@dataclass(frozen=True)
class SparseMatching(Comparison):
    """Each unit of b from a few units of a.

    Attributes
    ----------
    table : DataFrame
        Columns b (unit), predictors (number used), r2 (held out, of the refitted predictors), best (held-out r2
        of the single best unit of a), dense (held-out r2 of all units of a, ridge), null (held-out r2 with the
        samples of a permuted).
    weights : (unit of a, unit of b)
        In units of standard deviations; zero where not used.
    value : float
        Mean r2.
    predictors : float
        Median number of predictors: 1 for a copy whose units are permuted, many for a rotated one.
    dropped : (int, int)
        Units that do not vary.
    meta : dict
        ``reading``: how each population was read.
    """

    table: pd.DataFrame
    weights: Matrix
    value: float
    predictors: float
    dropped: tuple[int, int]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        mean = self.table[["best", "dense", "null"]].mean()
        return (
            f"r2 {self.value:.3f} from {self.predictors:g} units (median); one unit {mean['best']:.3f}, "
            f"all {mean['dense']:.3f}, by chance {mean['null']:.3f}"
        )


def sparse_match(
    a: MatrixLike,
    b: MatrixLike,
    *,
    tolerance: float = 0.02,
    n_penalties: int = 12,
    held_out: float = 0.3,
    seed: int = 0,
    **reading: Unpack[Reading],
) -> SparseMatching:
    """Predict each unit of b from as few units of a as do nearly as well as any number (L1 path, then least squares).

    On the fitted samples the lasso min |y - Xw|^2 / 2n + penalty |w|_1 is solved along falling penalties; at
    each the units chosen are refitted by least squares. A first part of the held-out samples takes the sparsest
    fit whose r2 is within `tolerance` of the best; the second scores it.

    Parameters
    ----------
    a, b
        (sample, unit), or recordings of one site.
    tolerance
        Loss of r2 that fewer units are worth.
    held_out, seed
        Share of samples, drawn at random, for choosing and for scoring (half each). For time series the two
        populations should be averaged over trials or thinned first: neighbouring samples would stand on both
        sides.
    reading
        As in `cka`.

    Notes
    -----
    Li et al. 2016, convergent learning. Units that share a subspace without being aligned need many predictors
    although the dense r2 is 1.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(300, 4))
    >>> sparse_match(x, x[:, [2, 0, 3, 1]]).predictors
    1.0
    """
    x, y, about = pair(a, b, least=12, **reading)
    wide = (x.shape[1], y.shape[1])
    if not 0 < held_out < 1:
        raise PatchclampError(f"held_out={held_out}: a share between 0 and 1")
    x, keep_x = _standard(x)
    y, keep_y = _standard(y)
    rng = numpy_rng(seed)
    order = rng.permutation(len(x))
    cut = max(3, round(len(x) * held_out / 2))
    choose, score, fit = order[:cut], order[cut : 2 * cut], order[2 * cut :]
    path = units_on_path(x[fit], y[fit], n_penalties)
    weights = _sparsest(path, x, y, fit, choose, tolerance)
    shuffled = x[rng.permutation(len(x))]
    null = _sparsest(units_on_path(shuffled[fit], y[fit], n_penalties), shuffled, y, fit, choose, tolerance)
    correlation = x[fit].T @ y[fit] / len(fit)
    single = np.abs(correlation).argmax(0)
    one = np.zeros_like(weights)
    one[single, np.arange(y.shape[1])] = correlation[single, np.arange(y.shape[1])]
    gram = x[fit].T @ x[fit] + 1e-3 * len(fit) * np.eye(x.shape[1])
    table = pd.DataFrame(
        {
            "b": keep_y,
            "predictors": (weights != 0).sum(0),
            "r2": r2(y[score], x[score] @ weights),
            "best": r2(y[score], x[score] @ one),
            "dense": r2(y[score], x[score] @ np.linalg.solve(gram, x[fit].T @ y[fit])),
            "null": r2(y[score], shuffled[score] @ null),
        }
    )
    full = np.zeros((wide[0], y.shape[1]))
    full[keep_x] = weights
    dropped = (wide[0] - len(keep_x), wide[1] - len(keep_y))
    value, predictors = float(table["r2"].mean()), float(table["predictors"].median())
    return SparseMatching(table, full, value, predictors, dropped, {"reading": about})


def units_on_path(x: Matrix, y: Matrix, steps: int) -> list[NDArray[np.bool_]]:
    """Units used (unit of a, unit of b) at falling penalties."""
    from sklearn.linear_model import lasso_path  # slow to import, and needed here alone

    x, gram, cross = np.asfortranarray(x), x.T @ x, x.T @ y
    falling = np.geomspace(0.95, 0.01, steps)
    used = np.zeros((steps + 1, *cross.shape), dtype=bool)  # first no unit at all, where none helps
    for unit, own in enumerate(cross.T):
        alphas = falling * np.abs(own).max() / len(x)
        weights = lasso_path(
            x, y[:, unit], alphas=alphas, precompute=gram, Xy=own, tol=1e-5, max_iter=10_000
        )[1]
        used[1:, :, unit] = (weights != 0).T
    return list(used)


def _sparsest(
    supports: list[NDArray[np.bool_]], x: Matrix, y: Matrix, fit: Any, choose: Any, tolerance: float
) -> Matrix:
    """Least-squares weights of the sparsest support that is nearly the best on the samples `choose`."""
    chosen = np.zeros((x.shape[1], y.shape[1]))
    for unit in range(y.shape[1]):
        tried: list[tuple[int, float, Matrix]] = []
        for support in supports:
            used = np.flatnonzero(support[:, unit])
            if len(used) >= len(fit) or (tried and len(used) == tried[-1][0]):
                continue
            weight = np.zeros((x.shape[1], 1))
            if len(used):
                weight[used, 0] = np.linalg.lstsq(x[fit][:, used], y[fit, unit], rcond=None)[0]
            reached = r2(y[choose][:, [unit]], x[choose] @ weight).item()
            tried.append((len(used), reached, weight))
        if tried:
            best = max(r for _, r, _ in tried)
            chosen[:, [unit]] = min((t for t in tried if t[1] >= best - tolerance), key=lambda t: t[0])[2]
    return chosen
