"""Canonical correlation: the shared subspace of two populations, exactly or by stochastic descent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import torch

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import torch_rng
from patchclamp.compare.inputs import Matrix, pair
from patchclamp.compare.result import Result
from patchclamp.draw.cards import shown
from patchclamp.nouns.recording.matrix import MatrixLike, Reading

LONGEST = 0.1  # step of the descent, as a share of the weights


@shown
@dataclass(frozen=True)
class CCA:
    """Weights (unit, k) of both sides and the correlations of the pairs, largest first."""

    a: Matrix
    b: Matrix
    correlations: Matrix
    mean_a: Matrix
    mean_b: Matrix

    def score(self, a: MatrixLike, b: MatrixLike, **reading: Unpack[Reading]) -> Matrix:
        """Correlation of each pair of components on other samples."""
        x, y, _ = pair(a, b, **reading)
        left, right = (x - self.mean_a) @ self.a, (y - self.mean_b) @ self.b
        left, right = left - left.mean(0), right - right.mean(0)
        return np.asarray(
            (left * right).sum(0) / np.linalg.norm(left, axis=0) / np.linalg.norm(right, axis=0)
        )


def fit_cca(
    a: MatrixLike, b: MatrixLike, k: int = 2, *, ridge: float = 0.0, **reading: Unpack[Reading]
) -> CCA:
    """Exact canonical correlation, with (1 - ridge) C + ridge I in place of each side's covariance C.

    Raises
    ------
    PatchclampError
        For more components than units.
    """
    x, y, _ = pair(a, b, least=3, **reading)
    if not 1 <= k <= min(x.shape[1], y.shape[1]):
        raise PatchclampError(f"k={k}: 1 to {min(x.shape[1], y.shape[1])}, the smaller number of units")
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    root_x, root_y = _inverse_root(x, ridge), _inverse_root(y, ridge)
    left, values, right = np.linalg.svd(root_x @ (x.T @ y / len(x)) @ root_y)
    return CCA(root_x @ left[:, :k], root_y @ right[:k].T, np.clip(values[:k], 0, 1), mean_x, mean_y)


def fit_stochastic_cca(
    batches: Callable[[], Iterable[tuple[Any, Any]]],
    k: int = 2,
    *,
    epochs: int = 10,
    learning_rate: float = 1e-2,
    momentum: float = 0.9,
    seed: int = 0,
) -> CCA:
    """Canonical correlation without holding the samples: descent on -2 tr C + tr V V over batches of whitened activity.

    C is the mean over both orders of the cross-covariance of the projections, V the mean of their covariances; C
    leaves out a side with itself, so that the minimum is minus the sum of squared correlations (another convention
    includes it). Only the subspace is determined by the loss; it is put into ordered pairs by an exact analysis of
    the k-dimensional projections of the last epoch. A first pass takes each side's covariance (units x units), by which activity
    is whitened: descent on raw units leaves for infinity as soon as one of them is large. No step is longer than a tenth
    of the weights.

    Parameters
    ----------
    batches
        Called once an epoch, and once before; gives pairs of (sample, unit) activity.

    Notes
    -----
    Chapman et al. 2024.
    """
    means, roots = _whitening(batches)
    if not 1 <= k <= min(root.shape[1] for root in roots):
        raise PatchclampError(
            f"k={k}: 1 to {min(root.shape[1] for root in roots)}, the smaller number of dimensions"
        )
    state = _Descent.start([root.shape[1] for root in roots], k, learning_rate, momentum, seed)
    for _ in range(epochs):
        for pair_ in batches():
            white = [
                torch.from_numpy((np.asarray(part, np.float64) - mean) @ root)
                for part, mean, root in zip(pair_, means, roots, strict=True)
            ]
            state.step(*(part - part.mean(0) for part in white))
    return _ordered(state, batches, k, means, roots)


def cca(
    a: MatrixLike,
    b: MatrixLike,
    k: int = 2,
    *,
    ridge: float = 0.0,
    test: tuple[Any, Any] | None = None,
    **reading: Unpack[Reading],
) -> Result:
    """Mean canonical correlation of k pairs, on `test` where it is given.

    Without `test` the value is that of the samples that were fitted: with as many units as samples it is 1 whatever
    the populations are. `reading` is as in `cka`.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(200, 3))
    >>> round(cca(x, x @ np.diag([1.0, 2.0, 3.0])).value, 6)
    1.0
    """
    x, y, about = pair(a, b, **reading)
    found = fit_cca(x, y, k, ridge=ridge)
    if test is not None:
        x, y, _ = pair(*test, **reading)
    values = found.correlations if test is None else found.score(x, y)
    where = "fitted samples" if test is None else "held-out samples"
    meta = {"correlations": values.tolist(), "on": where, "reading": about}
    return Result(float(values.mean()), n=len(x), method=f"cca (k={k}, {where})", scale="r", meta=meta)


@dataclass
class _Descent:
    weights: list[torch.Tensor]
    optimiser: torch.optim.Optimizer

    @classmethod
    def start(cls, sizes: Sequence[int], k: int, rate: float, momentum: float, seed: int) -> _Descent:
        generator = torch_rng(seed)
        weights = []
        for size in sizes:
            start = torch.randn(size, k, dtype=torch.float64, generator=generator)
            weights.append(torch.linalg.qr(start)[0].requires_grad_(True))
        return cls(weights, torch.optim.SGD(weights, lr=rate, momentum=momentum))

    def step(self, x: torch.Tensor, y: torch.Tensor) -> float:
        z = [part @ w for part, w in zip((x, y), self.weights, strict=True)]
        n = len(x) - 1
        cross = z[0].T @ z[1] / n
        auto = (z[0].T @ z[0] + z[1].T @ z[1]) / (2 * n)
        # Mean over both orders of the two sides: C = (Z1'Z2 + Z2'Z1) / 2, whose trace is that of one of them.
        loss = -2 * torch.trace(cross) + torch.sum(auto * auto.T)
        self.optimiser.zero_grad()
        loss.backward()
        before = [w.detach().clone() for w in self.weights]
        self.optimiser.step()
        with torch.no_grad():
            for w, old in zip(self.weights, before, strict=True):
                step = w - old
                new = old + step * min(1.0, LONGEST * float(old.norm() / step.norm().clamp_min(1e-300)))
                # The minimum has columns no longer than 1: beyond twice that the fourth power in the loss runs away.
                w.copy_(new * min(1.0, 2 * w.shape[1] ** 0.5 / float(new.norm())))
        return float(loss.detach())


def _whitening(batches: Callable[[], Iterable[tuple[Any, Any]]]) -> tuple[list[Matrix], list[Matrix]]:
    """Mean (unit,) and inverse root (unit, dimension) of the covariance of both sides, by a pass over the batches."""
    n, sums, first = 0, list[Matrix](), list[Matrix]()
    squares = list[Matrix]()
    for pair_ in batches():
        parts = [np.asarray(part, np.float64) for part in pair_]
        for part in parts:
            if not np.isfinite(part).all():
                raise PatchclampError("a batch holds NaN or Inf; leave these samples out")
        if not n:
            first = [part.mean(0) for part in parts]  # near the mean, so that squares lose no digits
            sums, squares = (
                [np.zeros(p.shape[1]) for p in parts],
                [np.zeros((p.shape[1],) * 2) for p in parts],
            )
        n += len(parts[0])
        for side, part in enumerate(parts):
            moved = part - first[side]
            sums[side] += moved.sum(0)
            squares[side] += moved.T @ moved
    if not n:
        raise PatchclampError("no batch was given")
    roots = []
    for total, square in zip(sums, squares, strict=True):
        spread = np.sqrt(np.maximum(np.diag(square) / n - (total / n) ** 2, 0))
        scale = np.where(spread > 0, 1 / np.where(spread > 0, spread, 1), 0)
        covariance = (square / n - np.outer(total, total) / n**2) * scale[:, None] * scale
        values, vectors = np.linalg.eigh(covariance)
        kept = values > 1e-8 * values.max()
        roots.append(scale[:, None] * vectors[:, kept] / np.sqrt(values[kept]))
    return [start + total / n for start, total in zip(first, sums, strict=True)], roots


def _ordered(
    state: _Descent,
    batches: Callable[[], Iterable[tuple[Any, Any]]],
    k: int,
    means: Sequence[Matrix],
    roots: Sequence[Matrix],
) -> CCA:
    u, v = (root @ w.detach().numpy() for root, w in zip(roots, state.weights, strict=True))
    parts = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in batches()]
    mean_a, mean_b = means
    small = fit_cca(
        np.concatenate([(a - mean_a) @ u for a, _ in parts]),
        np.concatenate([(b - mean_b) @ v for _, b in parts]),
        k,
    )
    return CCA(u @ small.a, v @ small.b, small.correlations, mean_a, mean_b)


def _inverse_root(x: Matrix, ridge: float) -> Matrix:
    if not 0 <= ridge <= 1:
        raise PatchclampError(f"ridge={ridge}: 0 to 1")
    values, vectors = np.linalg.eigh((1 - ridge) * x.T @ x / len(x) + ridge * np.eye(x.shape[1]))
    kept = values > 1e-10 * values.max()
    return np.asarray((vectors[:, kept] / np.sqrt(values[kept])) @ vectors[:, kept].T)
