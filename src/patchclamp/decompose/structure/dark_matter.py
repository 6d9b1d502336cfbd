"""Dark matter of a dictionary: how much of its error is a linear function of its input, on held-out data.

With e = x - decode(encode(x)), the linear part is [x, 1] B, B fitted by least squares on one half of the groups (documents)
and judged on the other; the rest cannot be read off the input linearly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate
from patchclamp.base.folds import drawn_groups
from patchclamp.base.seeds import torch_rng
from patchclamp.base.statistics import bootstrap_statistic
from patchclamp.decompose.base import activity
from patchclamp.draw.cards import shown
from patchclamp.nouns.dictionary import Dictionary
from patchclamp.nouns.recording.matrix import ActivityMatrix, Reading
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.units import Site


@shown
@dataclass(frozen=True)
class DarkMatter:
    """The split of a dictionary's error; every figure but `n_fit` is of held-out samples, intervals by bootstrap over groups.

    Attributes
    ----------
    fvu : Estimate
        ||e||^2 / ||x - mean||^2, pooled over units: all the error.
    fvu_nonlinear : Estimate
        The same of e - [x, 1] B.
    r2_error : Estimate
        1 - ||e - [x, 1] B||^2 / ||e - mean||^2, pooled.
    r2_error_mean : float
        The same as a plain mean over units (which weighs units without error as much as others).
    r2_norm : Estimate
        R2 of ||e||^2 predicted linearly from [x, 1].
    r2_size, r2_l0 : float
        R2 of ||e||^2 predicted from [||x||^2, 1], and from [number of active features, 1]: what the other figures have
        to be compared with.
    r2_shuffled : float
        r2_error of a fit to errors of other samples of the same chunk: at or below zero, unless the fit is too small.
    weights : Tensor
        B, (units + 1, units), the intercept last, float64.
    n_fit, n_test : int
        Samples on either side.
    """

    fvu: Estimate
    fvu_nonlinear: Estimate
    r2_error: Estimate
    r2_error_mean: float
    r2_norm: Estimate
    r2_size: float
    r2_l0: float
    r2_shuffled: float
    weights: Tensor
    n_fit: int
    n_test: int
    seed: int

    def split(
        self, activity: Float[Tensor, "sample unit"], error: Float[Tensor, "sample unit"]
    ) -> tuple[Tensor, Tensor]:
        """The linear part of an error and the rest; they add up to it."""
        linear = (_with_one(activity) @ self.weights.to(activity.device)).to(error.dtype)
        return linear, error - linear

    def __str__(self) -> str:
        return (
            f"unexplained {self.fvu}, of it not linear {self.fvu_nonlinear}; R2 of the error {self.r2_error} "
            f"(shuffled {self.r2_shuffled:.3f}), of its squared norm {self.r2_norm}"
        )


def dark_matter(
    dictionary: Dictionary,
    recording: Recording,
    site: Site | str | None = None,
    *,
    test_share: float = 0.5,
    rcond: float = 1e-9,
    seed: int = 0,
    n_boot: int = 1000,
    rows: int | None = None,
    **reading: Unpack[Reading],
) -> DarkMatter:
    """Split a dictionary's error into what is linear in its input and what is not.

    Parameters
    ----------
    dictionary
        An autoencoder: its target is its site.
    recording, site
        Activity of the site (by default the dictionary's), in two streaming passes.
    test_share
        Share of the groups that judge; groups are never cut.
    rcond
        Singular values of [x, 1] below this share of the largest are left out of the fit.
    seed
        Of the split, the shuffling and the bootstrap.
    rows
        Samples at a time.
    reading
        As in `Decomposer.fit`.

    Raises
    ------
    PatchclampError
        For a transcoder, fewer than two groups a side, fewer samples than units on the side of the fit, or activity
        without variance.

    Notes
    -----
    Engels et al. 2024 (the dark matter of sparse autoencoders), who fit without an intercept and report the mean over
    units; both are given here. There, half of the error and over 90 % of its norm were linear (Gemma 2 9B, layer 20).

    Examples
    --------
    >>> print(dark_matter(sae, recording))                                      # doctest: +SKIP
    """
    if dictionary.target != dictionary.site:
        raise PatchclampError(
            f"{dictionary}: the error of a transcoder is not one of its input; give an autoencoder"
        )
    units = activity(recording, dictionary.site if site is None else site, **reading)
    step = rows or recording.chunk_rows
    testing, groups = _split(units, test_share, seed)
    fitted = _Fit(dictionary, seed)
    for part, x in _samples(units, step):
        fitted.add(x[~testing[part]])
    solved = fitted.solve(rcond)
    judged = _Judge(dictionary, solved, groups)
    for part, x in _samples(units, step):
        judged.add(x[testing[part]], part[testing[part]])
    return judged.result(int((~testing).sum()), seed, n_boot)


def _samples(units: ActivityMatrix, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, units.n, rows):
        yield torch.arange(start, min(start + rows, units.n)), units[start : start + rows].float()


def _split(units: ActivityMatrix, share: float, seed: int) -> tuple[Bool[Tensor, " sample"], np.ndarray]:
    names, member = np.unique(units.group, return_inverse=True)
    n = round(len(names) * share)
    if not 2 <= n <= len(names) - 2:
        raise PatchclampError(
            f"{len(names)} groups with test_share={share}: at least two groups are needed to fit and two to judge; "
            "record more documents"
        )
    return torch.from_numpy(drawn_groups(member, n, seed)), member


def _with_one(x: Tensor) -> Float[Tensor, "sample unit_and_one"]:
    return torch.cat([x.double(), x.new_ones(len(x), 1).double()], 1)


def _targets(dictionary: Dictionary, x: Tensor) -> tuple[Tensor, Tensor]:
    """The error and the number of active features, the arithmetic in the dictionary's own precision."""
    with torch.no_grad():
        z = dictionary.encode(x.to(dictionary.directions.dtype))
        return x.double() - dictionary.decode_at(z, x).double(), (z != 0).sum(-1).double()


class _Fit:
    """Normal equations of all fits at once, float64: [x, 1], [||x||^2, 1] and [L0, 1] against e, ||e||^2, shuffled e."""

    def __init__(self, dictionary: Dictionary, seed: int) -> None:
        self.dictionary, self.generator = dictionary, torch_rng(seed)
        self.n = 0
        self.gram, self.right = torch.zeros(()), torch.zeros(())
        self.small = [(torch.zeros(()), torch.zeros(())) for _ in range(2)]

    def add(self, x: Tensor) -> None:
        if not len(x):
            return
        error, l0 = _targets(self.dictionary, x)
        design, size = _with_one(x), (error**2).sum(1, keepdim=True)
        other = error[torch.randperm(len(error), generator=self.generator)]
        self.n += len(x)
        self.gram = self.gram + design.T @ design
        self.right = self.right + design.T @ torch.cat([error, size, other], 1)
        for place, one in enumerate(((x.double() ** 2).sum(1), l0)):
            table = torch.stack([one, torch.ones_like(one)], 1)
            gram, right = self.small[place]
            self.small[place] = gram + table.T @ table, right + table.T @ size

    def solve(self, rcond: float) -> tuple[Tensor, list[Tensor]]:
        width = len(self.gram)
        if self.n < 2 * width:
            raise PatchclampError(
                f"{self.n} samples fit {width} weights a unit; record at least {4 * width} samples in all"
            )
        return _solve(self.gram, self.right, rcond), [_solve(g, r, rcond) for g, r in self.small]


def _solve(gram: Tensor, right: Tensor, rcond: float) -> Tensor:
    """Least squares from the normal equations; singular values below rcond of the largest are dropped."""
    scale = gram.diagonal().clamp(min=torch.finfo(torch.float64).tiny).rsqrt()
    values, vectors = torch.linalg.eigh(gram * scale[:, None] * scale)
    kept = values > values[-1] * max(rcond**2, 1e-15)
    inverse: Tensor = vectors[:, kept] / values[kept] @ vectors[:, kept].T
    return scale[:, None] * (inverse @ (scale[:, None] * right))


class _Judge:
    """Sums over held-out samples, kept by group for the bootstrap."""

    # Of each group: samples, and sums of ||e||^2, ||e - linear||^2, ||x||^2, ||e||^4, (||e||^2 - predicted)^2.
    COUNT, ERROR, REST, ACTIVITY, SQUARES, MISSED = range(6)

    def __init__(
        self, dictionary: Dictionary, solved: tuple[Tensor, list[Tensor]], groups: np.ndarray
    ) -> None:
        self.dictionary, self.groups = dictionary, torch.from_numpy(groups)
        everything, (self.of_size, self.of_l0) = solved
        width = len(everything) - 1
        self.weights = everything[:, :width]
        self.of_norm, self.shuffled = everything[:, width], everything[:, width + 1 :]
        n = int(groups.max()) + 1
        self.sums = torch.zeros(n, 6).double()
        self.means = torch.zeros(n, 2, width).double()  # of x and e
        self.units = torch.zeros(
            3, width
        ).double()  # sum of e^2, of (e - linear)^2, of (e - shuffled linear)^2
        self.plain = torch.zeros(2).double()

    def add(self, x: Tensor, rows: Tensor) -> None:
        if not len(x):
            return
        error, l0 = _targets(self.dictionary, x)
        design = _with_one(x)
        rest, size = error - design @ self.weights, (error**2).sum(1)
        power = (x.double() ** 2).sum(1)
        missed = (size - design @ self.of_norm) ** 2
        table = torch.stack([torch.ones_like(size), size, (rest**2).sum(1), power, size**2, missed], 1)
        member = self.groups[rows]
        self.sums.index_add_(0, member, table)
        self.means.index_add_(0, member, torch.stack([x.double(), error], 1))
        self.units += torch.stack([(e**2).sum(0) for e in (error, rest, error - design @ self.shuffled)])
        for place, (one, fit) in enumerate(((power, self.of_size), (l0, self.of_l0))):
            self.plain[place] += ((size - torch.stack([one, torch.ones_like(one)], 1) @ fit[:, 0]) ** 2).sum()

    def result(self, n_fit: int, seed: int, n_boot: int) -> DarkMatter:
        seen = self.sums[:, self.COUNT] > 0
        sums, means = self.sums[seen].numpy(), self.means[seen].numpy()

        def figures(weights: Any) -> dict[str, float]:
            return _figures(weights @ sums, np.tensordot(weights, means, 1))

        total = figures(np.ones(len(sums)))
        if not np.isfinite(list(total.values())).all():
            raise PatchclampError(
                f"{self.dictionary.site}: the activity or the error has no variance to explain"
            )
        share = {
            name: Estimate(value, *bootstrap_statistic(lambda w, n=name: figures(w)[n], len(sums), n_boot=n_boot, seed=seed))  # type: ignore[misc]
            for name, value in total.items()
        }  # fmt: skip
        n = sums[:, self.COUNT].sum()
        spread = self.units[0] - torch.from_numpy(means.sum(0)[1]) ** 2 / n
        alive = spread > 0
        sizes = sums[:, self.SQUARES].sum() - sums[:, self.ERROR].sum() ** 2 / n
        of_size, of_l0 = (1 - self.plain.numpy() / sizes).tolist()
        return DarkMatter(
            **share,
            r2_error_mean=float((1 - self.units[1][alive] / spread[alive]).mean()),
            r2_size=of_size,
            r2_l0=of_l0,
            r2_shuffled=float(1 - self.units[2].sum() / spread.sum()),
            weights=self.weights,
            n_fit=n_fit,
            n_test=int(n),
            seed=seed,
        )


def _figures(sums: np.ndarray, means: np.ndarray) -> dict[str, Any]:
    """The pooled ratios, from sums weighted by group."""
    n, error, rest, activity, squares, missed = sums
    variance = activity - (means[0] ** 2).sum() / n
    spread = error - (means[1] ** 2).sum() / n
    sizes = squares - error**2 / n
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "fvu": float(np.divide(error, variance)),
            "fvu_nonlinear": float(np.divide(rest, variance)),
            "r2_error": float(1 - np.divide(rest, spread)),
            "r2_norm": float(1 - np.divide(missed, sizes)),
        }


__all__ = ["DarkMatter", "dark_matter"]
