"""Ridge regression with a penalty per target, and banded ridge with a penalty per feature space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from patchclamp.base.errors import PatchclampError
from patchclamp.base.folds import Blocked
from patchclamp.base.seeds import numpy_rng
from patchclamp.compare.encoding._himalaya import search_himalaya
from patchclamp.compare.inputs import Matrix, matrix
from patchclamp.draw.cards import shown

ALPHAS = tuple(float(a) for a in np.logspace(-3, 7, 21))


@shown
@dataclass
class Ridge:
    """Linear encoding model: minimises ||Y - XB||^2 + alpha ||B||^2 for each target, alpha chosen by inner folds.

    Features and targets are centred (features also scaled) on the training samples alone.

    Parameters
    ----------
    alphas
        Grid of penalties.
    cv
        Splitter, or a number of contiguous folds.
    scale
        Whether features are brought to unit variance.

    Attributes
    ----------
    alpha_ : (target,)
    coef_ : (feature, target)
        In units of the raw features.
    intercept_ : (target,)

    Notes
    -----
    Solved through one singular value decomposition a fold, shared by all penalties and targets. scikit-learn's
    interface.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(100, 3))
    >>> model = Ridge().fit(x, x @ [1.0, 2.0, 3.0])
    >>> bool(model.score(x, x @ [1.0, 2.0, 3.0])[0] > 0.999)
    True
    """

    alphas: Sequence[float] = ALPHAS
    cv: Any = 5
    scale: bool = True

    def fit(self, X: Any, Y: Any, groups: Any = None) -> Ridge:
        """Choose a penalty a target and fit on all samples."""
        x, y = _both(X, Y)
        grid = np.asarray(self.alphas, np.float64)
        if not len(grid) or (grid <= 0).any():
            raise PatchclampError("alphas must be positive numbers")
        loss = np.zeros((len(grid), y.shape[1]))
        splitter = Blocked.of(self.cv)
        for train, test in splitter.split(x, y, groups):
            parts = _Standard.of(x[train], y[train], self.scale)
            solver = _Solver(parts.x(x[train]), y[train] - parts.y_mean)
            loss += solver.errors(grid, parts.x(x[test]), y[test] - parts.y_mean)
        self.cv_loss_ = loss / len(x)
        self.alpha_ = grid[loss.argmin(0)]
        parts = _Standard.of(x, y, self.scale)
        weights = _Solver(parts.x(x), y - parts.y_mean).weights(self.alpha_)
        self.coef_ = weights / parts.x_scale[:, None]
        self.intercept_ = parts.y_mean - parts.x_mean @ self.coef_
        return self

    def predict(self, X: Any) -> Matrix:
        """Predicted targets (sample, target)."""
        return np.asarray(matrix(X, "features") @ self.coef_ + self.intercept_)

    def score(self, X: Any, Y: Any) -> Matrix:
        """R^2 of every target; not bounded below."""
        return r2(matrix(Y, "targets"), self.predict(X))


@shown
@dataclass
class BandedRidge:
    """Ridge with one penalty for each feature space, so that a large useless space does not drown a small good one.

    Each space k is scaled by sqrt(gamma_k), gamma on the simplex, and one ridge is fitted on all. The gammas
    are drawn at random (Dirichlet with concentrations .1 and 1 by turns, after the corners and the centre), for
    each the whole grid of alphas is tried, and every target keeps its best pair.

    Parameters
    ----------
    n_draws, seed
        Random search.
    solver
        ``"own"``, or ``"himalaya"``: the same draws, penalties and folds searched by that package (on a GPU
        where its backend is set to one). It standardises features over all samples given to `fit`, ours anew in
        every fold.

    Attributes
    ----------
    gamma_ : (space, target)
    alpha_ : (target,)
    coef_ : dict of (feature, target)

    Notes
    -----
    Dupré la Tour et al. 2022. The product-measure split of R^2 (`split_r2`) adds up to R^2 exactly.
    """

    alphas: Sequence[float] = ALPHAS
    n_draws: int = 100
    cv: Any = 5
    seed: int = 0
    solver: Literal["own", "himalaya"] = "own"

    def fit(self, spaces: Mapping[str, Any], Y: Any, groups: Any = None) -> BandedRidge:
        """Fit on feature spaces {name: (sample, feature)}."""
        x, y = self._spaces(spaces), matrix(Y, "targets")
        if any(len(part) != len(y) for part in x.values()):
            raise PatchclampError(
                f"the feature spaces have {[len(p) for p in x.values()]} samples, the targets {len(y)}"
            )
        splitter = Blocked.of(self.cv)
        folds = list(splitter.split(y, y, groups))
        grid, draws = np.asarray(self.alphas, np.float64), self._draws(len(x))
        if self.solver not in ("own", "himalaya"):
            raise PatchclampError(f"solver={self.solver!r}: give 'own' or 'himalaya'")
        search = _search if self.solver == "own" else search_himalaya
        self.gamma_, self.alpha_, self.cv_loss_ = search(x, y, folds, draws, grid)
        self._finish(x, y)
        return self

    def _draws(self, k: int) -> Matrix:
        rng = numpy_rng(self.seed)
        corners = np.eye(k) * (1 - 1e-6) + 1e-6 / k
        drawn = [rng.dirichlet(np.full(k, (0.1, 1.0)[i % 2])) for i in range(max(0, self.n_draws - k - 1))]
        return np.stack([np.full(k, 1 / k), *corners, *drawn])

    def _finish(self, x: Mapping[str, Matrix], y: Matrix) -> None:
        """Weights of each target at its own penalties; targets with equal penalties are solved together."""
        standard = {name: _Standard.of(part, y, True) for name, part in x.items()}
        scaled = {name: standard[name].x(part) for name, part in x.items()}
        kernels = np.stack([part @ part.T for part in scaled.values()])
        centred = y - y.mean(0)
        self.coef_ = {name: np.zeros((part.shape[1], y.shape[1])) for name, part in x.items()}
        settings = np.vstack([self.gamma_, self.alpha_])
        for setting in np.unique(settings, axis=1).T:
            targets = np.flatnonzero((settings == setting[:, None]).all(0))
            both = np.tensordot(setting[:-1], kernels, 1)
            dual = np.linalg.solve(both + setting[-1] * np.eye(len(y)), centred[:, targets])
            for weight, (name, part) in zip(setting[:-1], scaled.items(), strict=True):
                self.coef_[name][:, targets] = weight * (part.T @ dual) / standard[name].x_scale[:, None]
        self.mean_ = {name: part.x_mean for name, part in standard.items()}
        self.intercept_ = y.mean(0)

    def _spaces(self, spaces: Mapping[str, Any]) -> dict[str, Matrix]:
        if not spaces:
            raise PatchclampError("no feature space was given; pass {name: samples x features}")
        return {name: matrix(part, f"feature space {name!r}") for name, part in spaces.items()}

    def predict_parts(self, spaces: Mapping[str, Any]) -> dict[str, Matrix]:
        """What each space contributes, (sample, target); with `intercept_` they add up to the prediction."""
        lost = set(self.coef_) ^ set(spaces)
        if lost:
            raise PatchclampError(
                f"feature space {min(lost)!r}: the model was fitted on {', '.join(self.coef_)}"
            )
        return {n: (matrix(spaces[n]) - self.mean_[n]) @ w for n, w in self.coef_.items()}

    def predict(self, spaces: Mapping[str, Any]) -> Matrix:
        """Predicted targets (sample, target)."""
        return np.asarray(sum(self.predict_parts(spaces).values()) + self.intercept_)

    def score(self, spaces: Mapping[str, Any], Y: Any) -> Matrix:
        """R^2 of every target."""
        return r2(matrix(Y, "targets"), self.predict(spaces))

    def split_r2(self, spaces: Mapping[str, Any], Y: Any) -> dict[str, Matrix]:
        """Product measure: R^2_k = sum_t p_k (2 y - p) / sum_t y^2 over centred y and parts; adds up to R^2.

        Parts can be negative. This is not variance partitioning: see `partition`.
        """
        y = matrix(Y, "targets")
        centre = y.mean(0)
        parts = self.predict_parts(spaces)
        shift = (self.intercept_ - centre) / len(parts)
        parts = {name: part + shift for name, part in parts.items()}
        whole = sum(parts.values())
        under = ((y - centre) ** 2).sum(0)
        return {name: (part * (2 * (y - centre) - whole)).sum(0) / under for name, part in parts.items()}


def r2(y: Matrix, predicted: Matrix) -> Matrix:
    """1 - squared error / variance of every column; NaN for a constant one."""
    total = ((y - y.mean(0)) ** 2).sum(0)
    return np.asarray(1 - ((y - predicted) ** 2).sum(0) / np.where(total > 0, total, np.nan))


def delayed(x: Any, delays: Sequence[int], groups: Any = None) -> Matrix:
    """Copies of features shifted by each delay in samples, side by side; zeros where a run begins.

    Examples
    --------
    >>> delayed([[1.0], [2.0], [3.0]], [0, 1]).tolist()
    [[1.0, 0.0], [2.0, 1.0], [3.0, 2.0]]
    """
    values = matrix(x, "features")
    labels = (
        np.zeros(len(values), int)
        if groups is None
        else np.unique(np.asarray(groups), return_inverse=True)[1]
    )
    out = []
    for delay in delays:
        moved = np.roll(values, delay, axis=0)
        same = np.roll(labels, delay) == labels
        index = np.arange(len(values)) - delay
        moved[~same | (index < 0) | (index >= len(values))] = 0
        out.append(moved)
    return np.hstack(out)


@dataclass(frozen=True)
class _Standard:
    x_mean: Matrix
    x_scale: Matrix
    y_mean: Matrix

    @classmethod
    def of(cls, x: Matrix, y: Matrix, scale: bool) -> _Standard:
        spread = x.std(0) if scale else np.ones(x.shape[1])
        return cls(x.mean(0), np.where(spread > 1e-12, spread, 1.0), y.mean(0))

    def x(self, x: Matrix) -> Matrix:
        return np.asarray((x - self.x_mean) / self.x_scale)


class _Solver:
    """All penalties of one training set by one decomposition."""

    def __init__(self, x: Matrix, y: Matrix) -> None:
        if len(x) < x.shape[1]:
            values, left = np.linalg.eigh(x @ x.T)
            kept = values > 1e-12 * max(values.max(), 1e-300)
            self.s2, left = values[kept], left[:, kept]
            self.right = (x.T @ left) / np.sqrt(self.s2)
            self.target = left.T @ y * np.sqrt(self.s2)[:, None]
        else:
            values, right = np.linalg.eigh(x.T @ x)
            self.s2, self.right = np.clip(values, 0, None), right
            self.target = right.T @ (x.T @ y)

    def weights(self, alpha: Matrix) -> Matrix:
        return np.asarray(self.right @ (self.target / (self.s2[:, None] + alpha[None, :])))

    def errors(self, grid: Matrix, x: Matrix, y: Matrix) -> Matrix:
        seen = x @ self.right
        return np.stack([((y - seen @ (self.target / (self.s2[:, None] + a))) ** 2).sum(0) for a in grid])


def _search(
    x: Mapping[str, Matrix], y: Matrix, folds: Sequence[Any], draws: Matrix, grid: Matrix
) -> tuple[Matrix, Matrix, Matrix]:
    """Best (gamma, alpha) of every target and its loss a sample."""
    kernels = [_Kernels.of(x, y, train, test) for train, test in folds]
    best = np.full(y.shape[1], np.inf)
    gamma, alpha = np.zeros((len(x), y.shape[1])), np.ones(y.shape[1])
    for draw in draws:
        loss = sum(fold.errors(draw, grid) for fold in kernels)
        assert isinstance(loss, np.ndarray)
        chosen, least = loss.argmin(0), loss.min(0)
        better = least < best
        best[better] = least[better]
        gamma[:, better] = draw[:, None]
        alpha[better] = grid[chosen[better]]
    return gamma, alpha, best / len(y)


@dataclass(frozen=True)
class _Kernels:
    """One fold: kernels of every space among training samples, and of test with training samples."""

    train: Matrix
    test: Matrix
    y: Matrix
    y_test: Matrix

    @classmethod
    def of(cls, x: Mapping[str, Matrix], y: Matrix, train: Any, test: Any) -> _Kernels:
        own, across = [], []
        for part in x.values():
            standard = _Standard.of(part[train], y[train], True)
            left, right = standard.x(part[train]), standard.x(part[test])
            own.append(left @ left.T)
            across.append(right @ left.T)
        mean = y[train].mean(0)
        return cls(np.stack(own), np.stack(across), y[train] - mean, y[test] - mean)

    def errors(self, gamma: Matrix, grid: Matrix) -> Matrix:
        values, vectors = np.linalg.eigh(np.tensordot(gamma, self.train, 1))
        values = np.clip(values, 0, None)
        seen = np.tensordot(gamma, self.test, 1) @ vectors
        target = vectors.T @ self.y
        return np.stack([((self.y_test - seen @ (target / (values[:, None] + a))) ** 2).sum(0) for a in grid])


def _both(X: Any, Y: Any) -> tuple[Matrix, Matrix]:
    x, y = matrix(X, "features"), matrix(Y, "targets")
    if len(x) != len(y):
        raise PatchclampError(f"{len(x)} samples of features and {len(y)} of targets: they must be the same")
    return x, y
