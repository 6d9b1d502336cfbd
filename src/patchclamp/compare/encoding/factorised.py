"""Factorised readout: where a unit looks times what it looks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from patchclamp.base.arrays import as_array
from patchclamp.base.errors import PatchclampError
from patchclamp.compare.encoding.ridge import r2
from patchclamp.compare.inputs import Matrix, matrix
from patchclamp.draw.cards import shown


@shown
@dataclass
class FactorisedReadout:
    """y_u = b_u + sum_{l,c} mask_u[l] w_u[c] map[l, c]: a non-negative spatial mask times channel weights.

    A flattened ridge has locations x channels weights a unit, this has locations + channels. Fitted by turns:
    for fixed channel weights, non-negative ridge for the mask (coordinate descent); for a fixed mask, ridge for
    the weights. The mask has norm 1; being non-negative it leaves no freedom of sign.

    Parameters
    ----------
    alphas
        Penalties on the mask relative to the mean diagonal of its normal equations; each unit keeps the best of
        these on a held-out fifth of the samples, and is then fitted on all.
    iterations
        Turns.
    channel_alpha
        Relative penalty on the channel weights.

    Attributes
    ----------
    mask_ : (unit, *locations)
    weight_ : (unit, channel)
    intercept_ : (unit,)
    alpha_ : (unit,)

    Notes
    -----
    Klindt et al. 2017. Verified on planted
    masks: see `tests/compare/test_encoding_readouts.py`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> maps = rng.normal(size=(200, 3, 4, 4))                      # image, channel, height, width
    >>> y = maps[:, 1, 2, 2] - maps[:, 0, 2, 2]
    >>> model = FactorisedReadout().fit(maps, y)
    >>> int(model.mask_[0].argmax())                                 # 2 * 4 + 2
    10
    """

    alphas: Sequence[float] = (1e-2, 1e-1, 1.0, 10.0)
    iterations: int = 12
    channel_alpha: float = 1e-3

    def fit(self, X: Any, Y: Any) -> FactorisedReadout:
        """Fit on maps (sample, channel, *locations) and responses (sample, unit)."""
        maps, y = _maps(X), matrix(Y, "targets")
        if len(maps) != len(y):
            raise PatchclampError(
                f"{len(maps)} samples of maps and {len(y)} of targets: they must be the same"
            )
        if len(y) < 10:
            raise PatchclampError(f"{len(y)} samples: a readout needs at least 10")
        self.shape_ = np.shape(X)[2:]
        grid = np.asarray(self.alphas, np.float64)
        test = np.arange(len(y)) % 5 == 4
        losses = []
        for alpha in grid if len(grid) > 1 else ():
            part = self._alternate(maps[~test], y[~test], np.full(y.shape[1], alpha))
            losses.append(((_predict(maps[test], *part) - y[test]) ** 2).sum(0))
        self.alpha_ = grid[np.argmin(losses, 0)] if losses else np.full(y.shape[1], grid[0])
        mask, self.weight_, self.intercept_ = self._alternate(maps, y, self.alpha_)
        self.mask_ = mask.reshape(len(mask), *self.shape_)
        return self

    def predict(self, X: Any) -> Matrix:
        """Predicted responses (sample, unit)."""
        maps = _maps(X)
        mask = self.mask_.reshape(len(self.mask_), -1)
        if maps.shape[1:] != (self.weight_.shape[1], mask.shape[1]):
            raise PatchclampError(
                f"maps of shape {np.shape(X)}: fitted on {self.weight_.shape[1]} channels x {self.shape_} locations"
            )
        return _predict(maps, mask, self.weight_, self.intercept_)

    def score(self, X: Any, Y: Any) -> Matrix:
        """R^2 of every unit."""
        return r2(matrix(Y, "targets"), self.predict(X))

    def _alternate(self, maps: Matrix, y: Matrix, alpha: Matrix) -> tuple[Matrix, Matrix, Matrix]:
        centre, mean = maps.mean(0), y.mean(0)
        x, target = maps - centre, y - mean
        n, _, places = x.shape
        mask = np.full((y.shape[1], places), places**-0.5)
        weight = self._channels(x, target, mask)
        block = max(1, 20_000_000 // (n * places))
        for _ in range(self.iterations):
            for start in range(0, len(mask), block):
                part = slice(start, start + block)
                seen = np.tensordot(weight[part], x, ([1], [1]))  # (unit, sample, place)
                gram = seen.transpose(0, 2, 1) @ seen
                cross = np.einsum("unl,nu->ul", seen, target[:, part], optimize=True)
                mask[part] = _non_negative(gram, cross, alpha[part], mask[part])
            size = np.linalg.norm(mask, axis=1, keepdims=True)
            # A unit that finds nothing keeps an even mask, so that the next turn can still find something.
            mask = np.where(size > 0, mask / np.where(size > 0, size, 1), places**-0.5)
            weight = self._channels(x, target, mask)
        intercept = mean - np.einsum("ul,cl,uc->u", mask, centre, weight)
        return mask, weight, intercept

    def _channels(self, x: Matrix, target: Matrix, mask: Matrix) -> Matrix:
        weight = np.empty((len(mask), x.shape[1]))
        for u, one in enumerate(mask):
            seen = x @ one
            gram = seen.T @ seen
            ridge = self.channel_alpha * np.trace(gram) / len(gram) + 1e-12
            weight[u] = np.linalg.solve(gram + ridge * np.eye(len(gram)), seen.T @ target[:, u])
        return weight


def _non_negative(gram: Matrix, cross: Matrix, alpha: Matrix, mask: Matrix, sweeps: int = 8) -> Matrix:
    """Coordinate descent on (m' G m / 2 - b'm + ridge |m|^2 / 2), m >= 0, for all units at once."""
    diagonal = np.einsum("ull->ul", gram)
    ridge = (alpha * diagonal.mean(1))[:, None]
    under = np.maximum(diagonal + ridge, 1e-300)
    mask = mask.copy()
    slope = np.einsum("ulk,uk->ul", gram, mask) - cross
    for _ in range(sweeps):
        for place in range(mask.shape[1]):
            old = mask[:, place]
            step = (slope[:, place] + ridge[:, 0] * old) / under[:, place]
            new = np.maximum(0, old - step)
            slope += gram[:, :, place] * (new - old)[:, None]
            mask[:, place] = new
    return mask


def _predict(maps: Matrix, mask: Matrix, weight: Matrix, intercept: Matrix) -> Matrix:
    out = np.empty((len(maps), len(mask)))
    for u in range(len(mask)):
        out[:, u] = (maps @ mask[u]) @ weight[u] + intercept[u]
    return out


def _maps(X: Any) -> Matrix:
    maps = as_array(X, "maps")
    if maps.ndim < 3:
        raise PatchclampError(f"maps: wanted samples x channels x locations, got shape {maps.shape}")
    if not np.isfinite(maps).all():
        raise PatchclampError("maps: hold NaN or Inf; leave these samples out")
    return maps.reshape(len(maps), maps.shape[1], -1)
