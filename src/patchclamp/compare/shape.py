"""Shape metrics: how far apart are two populations after the best rotation?"""

from __future__ import annotations

from typing import Any, Literal, Unpack

import numpy as np

from patchclamp.base.arrays import as_array
from patchclamp.base.errors import PatchclampError
from patchclamp.compare.inputs import Matrix, pair
from patchclamp.compare.result import Result
from patchclamp.nouns.recording.matrix import MatrixLike, Reading


def procrustes(
    a: MatrixLike,
    b: MatrixLike,
    *,
    alpha: float = 1.0,
    metric: Literal["angular", "euclidean"] = "angular",
    test: tuple[Any, Any] | None = None,
    **reading: Unpack[Reading],
) -> Result:
    """Generalised shape distance: the least distance of two populations over rotations.

    Columns are centred and partially whitened, Xw = Xc V diag(alpha + (1 - alpha) / sqrt(lambda)) V' with
    Xc'Xc = V diag(lambda) V'. With s the nuclear norm of Xw'Yw: angular arccos(s / (|Xw| |Yw|)), Euclidean
    sqrt(|Xw|^2 + |Yw|^2 - 2 s). Both obey the triangle inequality, which 1 - similarity does not.

    Parameters
    ----------
    a, b
        (sample, unit); the narrower is padded with zeros.
    alpha
        1: rotations only (Procrustes); 0: any invertible linear map (as in canonical correlation). With alpha 0 and
        as many units as samples everything matches everything: give `test`.
    metric
        ``"angular"`` in radians, 0 to pi/2, or ``"euclidean"``.
    test
        Two populations on other samples: whitening and rotation are then fitted on `a`, `b` and scored on these.
    reading
        As in `cka`.

    Notes
    -----
    Williams et al. 2021. Verified: zero under rotation and shift, invariance to invertible maps at alpha 0, triangle
    inequality.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(30, 4))
    >>> q, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))
    >>> abs(procrustes(x, x @ q + 3).value) < 1e-6
    True
    """
    if not 0 <= alpha <= 1:
        raise PatchclampError(f"alpha={alpha}: 0 (any linear map) to 1 (rotations only)")
    if metric not in ("angular", "euclidean"):
        raise PatchclampError(f"metric {metric!r}: give 'angular' or 'euclidean'")
    x, y, about = pair(a, b, **reading)
    x, y = _padded(x, y)
    mean_x, mean_y = x.mean(0), y.mean(0)
    whiten_x, whiten_y = _whitening(x - mean_x, alpha), _whitening(y - mean_y, alpha)
    xw, yw = (x - mean_x) @ whiten_x, (y - mean_y) @ whiten_y
    left, _, right = np.linalg.svd(xw.T @ yw)
    rotation = left @ right
    if test is not None:
        x, y = _padded(*pair(*test, **reading)[:2])
        if x.shape[1] != len(whiten_x):
            raise PatchclampError(f"test: {x.shape[1]} units, fitted on {len(whiten_x)}")
        xw, yw = (x - mean_x) @ whiten_x, (y - mean_y) @ whiten_y
    return _distance(xw @ rotation, yw, metric, alpha, about)


def _distance(x: Matrix, y: Matrix, metric: str, alpha: float, about: list[dict[str, Any]]) -> Result:
    size_x, size_y, inner = np.linalg.norm(x), np.linalg.norm(y), float(np.sum(x * y))
    if min(size_x, size_y) == 0:
        raise PatchclampError("a population that does not vary over samples has no shape")
    if metric == "angular":
        # arccos loses half the digits near 1; the chord does not.
        chord = np.linalg.norm(x / size_x - y / size_y)
        value, scale = 2 * np.arcsin(min(1.0, float(chord) / 2)), "radians"
    else:
        value, scale = np.linalg.norm(x - y), "distance"
    method, meta = f"procrustes ({metric}, alpha {alpha:g})", {"inner": inner, "reading": about}
    return Result(float(value), n=len(x), method=method, scale=scale, meta=meta)


def bures(a: MatrixLike, b: MatrixLike) -> float:
    """Squared Bures distance of two covariance matrices: tr A + tr B - 2 tr (A^1/2 B A^1/2)^1/2.

    Examples
    --------
    >>> round(bures(np.diag([1.0, 4.0]), np.diag([4.0, 1.0])), 6)
    2.0
    """
    x, y = (as_array(one, "covariance") for one in (a, b))
    root = _power(x, 0.5)
    return float(np.trace(x) + np.trace(y) - 2 * np.trace(_power(root @ y @ root, 0.5)))


def _power(symmetric: Matrix, exponent: float) -> Matrix:
    values, vectors = np.linalg.eigh(symmetric)
    return np.asarray((vectors * np.clip(values, 0, None) ** exponent) @ vectors.T)


def _whitening(x: Matrix, alpha: float) -> Matrix:
    if alpha == 1:
        return np.eye(x.shape[1])
    values, vectors = np.linalg.eigh(x.T @ x)
    kept = values > 1e-7 * values.max(initial=0)
    inverse = np.where(kept, 1 / np.sqrt(np.where(kept, values, 1)), 0)
    return np.asarray((vectors * (alpha * kept + (1 - alpha) * inverse)) @ vectors.T)


def _padded(x: Matrix, y: Matrix) -> tuple[Matrix, Matrix]:
    width = max(x.shape[1], y.shape[1])
    return tuple(np.pad(m, ((0, 0), (0, width - m.shape[1]))) for m in (x, y))  # type: ignore[return-value]
