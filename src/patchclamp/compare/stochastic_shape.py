"""Shape distance of noisy populations: their means and the shape of their noise, after one rotation."""

from __future__ import annotations

import numpy as np

from patchclamp.base.arrays import as_array
from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng
from patchclamp.compare.inputs import Matrix
from patchclamp.compare.result import Result
from patchclamp.compare.shape import _power
from patchclamp.nouns.recording.matrix import MatrixLike


def stochastic_procrustes(
    a: MatrixLike,
    b: MatrixLike,
    *,
    alpha: float = 1.0,
    iterations: int = 2000,
    restarts: int = 5,
    seed: int = 0,
) -> Result:
    """Least distance over rotations of two populations whose responses to a condition are a mean and a covariance.

    d^2 = min over orthogonal Q of the mean over conditions of alpha |m_i - Q n_i|^2 + (2 - alpha) B^2(S_i, Q
    T_i Q') with the squared Bures distance B^2. alpha 1 is the 2-Wasserstein distance of the two Gaussians, 2
    sees the means only, 0 the covariances only.

    Solved by turns: B^2(S, QTQ') = min over orthogonal R of |S^1/2 - R T^1/2 Q'|^2, so that for fixed Q each R,
    and for fixed R the one Q, is a singular value decomposition. Each turn lowers the distance; it may stop at
    a local minimum, so that the best of several starts is taken.

    Parameters
    ----------
    a, b
        (condition, repeat, unit) single responses, or pairs of means (condition, unit) and covariances
        (condition, unit, unit). The narrower is padded with zeros. Means are centred over conditions.
    alpha
        0 to 2.
    iterations, restarts, seed
        Turns at most, and starts: the rotation that fits the means, then random ones.

    Returns
    -------
    Result
        Not below 0, on the scale of the activity; `meta` holds the values of all starts and the rotation.

    Raises
    ------
    PatchclampError
        For unequal numbers of conditions, fewer than 2 repeats, an alpha out of range.

    Notes
    -----
    Duong et al. 2023. Covariances of few repeats are noisy, which adds to the distance: compare with the
    distance of two halves of one population.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(6, 50, 3))
    >>> turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    >>> stochastic_procrustes(x, x @ turn).value < 1e-5
    True
    """
    if not 0 <= alpha <= 2:
        raise PatchclampError(f"alpha={alpha}: 0 (covariances only) to 2 (means only)")
    (m, s), (n, t) = _padded(_moments(a, "the first population"), _moments(b, "the second population"))
    if len(m) != len(n):
        raise PatchclampError(f"the populations have {len(m)} and {len(n)} conditions; they must be the same")
    m, n = m - m.mean(0), n - n.mean(0)
    roots = np.stack([_power(one, 0.5) for one in s]), np.stack([_power(one, 0.5) for one in t])
    rng = numpy_rng(seed)
    starts = [_rotation(m.T @ n)]
    starts += [np.linalg.qr(rng.normal(size=(m.shape[1],) * 2))[0] for _ in range(max(0, restarts - 1))]
    found = [_descend(m, n, *roots, start, alpha, iterations) for start in starts]
    value, rotation = min(found, key=lambda one: one[0])
    return Result(
        value,
        n=len(m),
        method=f"stochastic_procrustes (alpha {alpha:g})",
        scale="distance",
        meta={"starts": [one[0] for one in found], "rotation": rotation.tolist()},
    )


def _descend(
    m: Matrix, n: Matrix, s: Matrix, t: Matrix, turn: Matrix, alpha: float, iterations: int
) -> tuple[float, Matrix]:
    last = np.inf
    for _ in range(iterations):
        inner = np.stack([_rotation(a @ turn @ b) for a, b in zip(s, t, strict=True)])
        moved = np.einsum("kij,kjl->kil", inner, t)  # R_i T_i^1/2
        turn = _rotation(alpha * m.T @ n + (2 - alpha) * np.einsum("kij,kil->jl", s, moved))
        means = ((m - n @ turn.T) ** 2).sum()
        noise = ((s - moved @ turn.T) ** 2).sum()
        value = float((alpha * means + (2 - alpha) * noise) / len(m))
        if np.isfinite(last) and last - value <= 1e-12 * last:
            break
        last = value
    return float(np.sqrt(max(0.0, value))), turn


def _rotation(cross: Matrix) -> Matrix:
    """Orthogonal Q with the largest trace of Q' cross."""
    left, _, right = np.linalg.svd(cross)
    return np.asarray(left @ right)


def _moments(population: MatrixLike, what: str) -> tuple[Matrix, Matrix]:
    if isinstance(population, tuple):
        mean, covariance = (as_array(part, what) for part in population)
        if mean.ndim != 2 or covariance.shape != (*mean.shape, mean.shape[1]):
            raise PatchclampError(
                f"{what}: means of shape {mean.shape} and covariances of shape {covariance.shape}; wanted "
                "(condition, unit) and (condition, unit, unit)"
            )
    else:
        x = as_array(population, what)
        if x.ndim != 3 or x.shape[1] < 2:
            raise PatchclampError(
                f"{what}: wanted conditions x repeats x units with at least 2 repeats, got shape {x.shape}"
            )
        mean = x.mean(1)
        centred = x - mean[:, None]
        covariance = np.einsum("kri,krj->kij", centred, centred) / (x.shape[1] - 1)
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise PatchclampError(f"{what}: holds NaN or Inf; leave these conditions or units out")
    return mean, covariance


def _padded(a: tuple[Matrix, Matrix], b: tuple[Matrix, Matrix]) -> tuple[tuple[Matrix, Matrix], ...]:
    width = max(a[0].shape[1], b[0].shape[1])
    out = []
    for mean, covariance in (a, b):
        more = width - mean.shape[1]
        out.append((np.pad(mean, ((0, 0), (0, more))), np.pad(covariance, ((0, 0), (0, more), (0, more)))))
    return tuple(out)
