"""Which unit of one population is which unit of another?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchclamp.base.assignment import match
from patchclamp.base.seeds import numpy_rng
from patchclamp.compare.inputs import Matrix, pair
from patchclamp.compare.result import Comparison
from patchclamp.draw.cards import shown
from patchclamp.nouns.recording.matrix import MatrixLike, Reading


@shown
@dataclass(frozen=True)
class UnitMatching(Comparison):
    """Pairs of units.

    Attributes
    ----------
    table : DataFrame
        Columns a, b (indices), r (correlation), best (largest |r| of unit a with any unit of b), unique (whether the
        one-to-one partner is the best one).
    value : float
        Mean matched |r|, or r.
    semi : float
        Mean of the best: the gap to `value` is what several units share.
    null : float
        Mean matched value after the samples of b were rolled in time, or permuted: what matching finds in noise.
    dropped : (int, int)
        Units that do not vary, in a and in b.
    meta : dict
        ``reading``: how each population was read.
    """

    table: pd.DataFrame
    value: float
    semi: float
    null: float
    dropped: tuple[int, int]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            f"{len(self.table)} pairs: mean r {self.value:.3f} one to one, {self.semi:.3f} at best, "
            f"{self.null:.3f} by chance"
        )


def match_units(
    a: MatrixLike,
    b: MatrixLike,
    *,
    signed: bool = True,
    n_null: int = 5,
    seed: int = 0,
    **reading: Unpack[Reading],
) -> UnitMatching:
    """Match units one to one by correlation over the same samples (Hungarian algorithm).

    Parameters
    ----------
    a, b
        (sample, unit), or recordings of one site.
    signed
        Whether a unit and its negative are different units.
    n_null, seed
        Permutations of samples for the value that chance gives.
    reading
        As in `cka`.

    Notes
    -----
    Li et al. 2016, convergent learning. Verified: a permuted, scaled copy is matched in full, a rotated one is not
    although one population is a linear map of the other.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(200, 4))
    >>> match_units(x, x[:, [2, 0, 3, 1]]).table["b"].tolist()
    [1, 3, 0, 2]
    """
    x, y, about = pair(a, b, least=3, **reading)
    left, keep_x = _standard(x)
    right, keep_y = _standard(y)
    similarity = left.T @ right / len(x)
    seen = similarity if signed else np.abs(similarity)
    rows, columns, matched = match(seen)
    best = seen.max(1)
    rng = numpy_rng(seed)
    null = [_matched(left, right[rng.permutation(len(x))], signed) for _ in range(n_null)]
    table = pd.DataFrame(
        {
            "a": keep_x[rows],
            "b": keep_y[columns],
            "r": similarity[rows, columns],
            "best": best[rows],
            "unique": matched >= best[rows] - 1e-12,
        }
    )
    return UnitMatching(
        table,
        float(matched.mean()),
        float(best.mean()),
        float(np.mean(null)) if null else float("nan"),
        (x.shape[1] - len(keep_x), y.shape[1] - len(keep_y)),
        {"reading": about},
    )


def _standard(x: Matrix) -> tuple[Matrix, NDArray[np.intp]]:
    centred = x - x.mean(0)
    spread = centred.std(0)
    kept = np.flatnonzero(spread > 1e-12 * max(1.0, float(np.abs(x).max(initial=0))))
    return centred[:, kept] / spread[kept], kept


def _matched(left: Matrix, right: Matrix, signed: bool) -> float:
    similarity = left.T @ right / len(left)
    return float(match(similarity if signed else np.abs(similarity)).values.mean())
