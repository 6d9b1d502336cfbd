"""Diffusion spectral entropy: how many directions a cloud of samples has, at a scale; and what labels take away."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from patchclamp.base.arrays import as_tensor
from patchclamp.base.seeds import check_seed, torch_rng
from patchclamp.measure.activity.distances import quantile_distance, squared
from patchclamp.measure.activity.kept import Kept, Variable
from patchclamp.nouns.measure import require

SWEEP = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)  # multiples of sigma that are looked at beside it
_SUBSETS = 5  # random subsets a label is compared with; the authors' number


def diffusion_spectrum(
    values: Float[Tensor, "n units"], sigma: float, *, alpha: float = 0.0
) -> Float[Tensor, " n"]:
    """Eigenvalues of the diffusion operator over samples, falling; the first is 1.

    G_ij = exp(-|z_i - z_j|^2 / 2 sigma^2). With alpha = 0: D^-1/2 G D^-1/2, which has the spectrum of the random walk
    D^-1 G. With alpha = 1, G is first divided by the density at both ends (D^-1 G D^-1, the anisotropic kernel of
    diffusion maps) and then normalised. The authors' text defines the latter, their code computes the former;
    figures from it are those of alpha = 0, the default here.

    Parameters
    ----------
    values
        Samples x units. Memory: 3 n^2 numbers of 8 bytes.
    sigma
        Width of the kernel, in the units of activity.
    alpha
        How far the density of samples is divided out, 0 to 1.
    """
    require(sigma > 0, f"diffusion_spectrum: sigma={sigma}; the width of the kernel is positive")
    return _spectrum(squared(values), sigma, alpha)


def _spectrum(square: Tensor, sigma: float, alpha: float) -> Tensor:
    kernel = torch.exp(square / (-2 * sigma**2))
    if alpha:
        density = kernel.sum(1) ** -alpha
        kernel = kernel * density[:, None] * density
    root = kernel.sum(1) ** -0.5
    falling: Tensor = torch.linalg.eigvalsh(kernel * root[:, None] * root).flip(0)
    return falling


def _entropy(square: Tensor, sigma: float, t: float, alpha: float) -> float:
    size = _spectrum(square, sigma, alpha).abs()
    # What rounding leaves of a zero eigenvalue is zero: n of them would add up at small t.
    size = torch.where(size > 1e-13 * len(size), size, 0) ** t
    p = size / size.sum()
    return max(0.0, float(-torch.special.xlogy(p, p).sum() / math.log(2)))


def diffusion_entropy(
    values: Float[Tensor, "n units"],
    sigma: float | None = None,
    *,
    t: float = 1.0,
    alpha: float = 0.0,
    quantile: float = 0.1,
) -> float:
    """Diffusion spectral entropy in bits: Shannon's entropy of |eigenvalue|^t / sum (see `diffusion_spectrum`).

    0 for identical samples, log2(c) for c tight clusters of equal size that are far apart, log2(n) for n samples all far
    apart: the ceiling. sigma decides everything: keep one for all layers or times that are compared.

    Parameters
    ----------
    values
        Samples x units.
    sigma
        Width of the kernel; None = the distance below which a share `quantile` of pairs lies.
    t
        Steps of the diffusion: small eigenvalues, which are noise, fade as it grows.
    alpha
        See `diffusion_spectrum`.
    quantile
        For sigma=None.

    References
    ----------
    Liao et al. (2024), Assessing neural network representations during training using noise-resilient diffusion
    spectral entropy.

    Examples
    --------
    >>> two = torch.tensor([[0.0], [0.0], [100.0], [100.0]])
    >>> diffusion_entropy(two, sigma=1.0), diffusion_entropy(two, sigma=1e4) < 1e-3
    (1.0, True)
    """
    square = squared(as_tensor(values))
    require(t > 0, f"diffusion_entropy: t={t}; the number of steps is positive")
    return _entropy(square, quantile_distance(square, quantile) if sigma is None else sigma, t, alpha)


def diffusion_information(
    values: Float[Tensor, "n units"],
    second: ArrayLike | Tensor,
    sigma: float | None = None,
    *,
    t: float = 1.0,
    alpha: float = 0.0,
    quantile: float = 0.1,
    bins: int = 10,
    seed: int = 0,
) -> float:
    """Diffusion spectral mutual information in bits between samples and labels, a scalar or a vector.

    Sum over labels c of p_c [mean entropy of 5 random subsets of n_c samples - entropy of the samples of c]. Subsets
    of the same size are taken because the entropy of few samples is smaller whatever their label. 0 on
    average for labels that say nothing; the entropy of the labels for tight, far clusters.

    Parameters
    ----------
    second
        (n,) whole numbers: labels. (n,) other numbers: cut into `bins` bins of equal width. (n, m): grouped into `bins`
        clusters by spectral clustering.
    sigma, t, alpha, quantile
        See `diffusion_entropy`; sigma is chosen once, from all samples.
    seed
        Of the random subsets.
    """
    label = _as_labels(second, bins, seed)
    square = squared(as_tensor(values))
    require(
        len(label) == len(square), f"diffusion_information: {len(square)} samples but {len(label)} labels"
    )
    sigma = quantile_distance(square, quantile) if sigma is None else sigma
    baseline = _Baseline(square, sigma, t, alpha, seed)
    return baseline.information(label)


def _as_labels(second: ArrayLike | Tensor, bins: int, seed: int) -> Int[Tensor, " n"]:
    array = np.asarray(second)
    require(array.ndim in (1, 2), f"diffusion_information: second variable of shape {array.shape}")
    require(bool(np.isfinite(array).all()), "diffusion_information: NaN or Inf in the second variable")
    if array.ndim == 2:
        from sklearn.cluster import SpectralClustering

        found = SpectralClustering(
            bins, random_state=check_seed(seed, 2**32 - 1), assign_labels="kmeans"
        ).fit_predict(array)
        return torch.from_numpy(found).long()
    if array.dtype.kind in "iub":
        return torch.from_numpy(np.unique(array, return_inverse=True)[1]).long()
    edges = np.linspace(array.min(), array.max(), bins + 1)[1:-1]
    return torch.from_numpy(np.searchsorted(edges, array, side="right")).long()


class _Baseline:
    """Entropies of random subsets, by size; drawn once, since shuffled labels have labels of the same sizes."""

    def __init__(self, square: Tensor, sigma: float, t: float, alpha: float, seed: int) -> None:
        self.square, self.sigma, self.t, self.alpha, self.seed = square, sigma, t, alpha, seed
        self._of_size: dict[int, float] = {}

    def entropy(self, at: Tensor) -> float:
        return _entropy(self.square[at][:, at], self.sigma, self.t, self.alpha)

    def random(self, size: int) -> float:
        if size not in self._of_size:
            generator = torch_rng(check_seed(self.seed) * 1_000_003 + size)
            n = len(self.square)
            drawn = [torch.randperm(n, generator=generator)[:size] for _ in range(_SUBSETS)]
            self._of_size[size] = sum(self.entropy(at) for at in drawn) / _SUBSETS
        return self._of_size[size]

    def information(self, label: Int[Tensor, " n"]) -> float:
        total = 0.0
        for number in label.unique().tolist():
            at = (label == number).nonzero()[:, 0]
            total += len(at) / len(label) * (self.random(len(at)) - self.entropy(at))
        return total


class DiffusionEntropy(Kept):
    """Diffusion spectral entropy of a site, and its mutual information with the samples' labels (`diffusion_entropy`).

    The figures say how samples spread at the scale sigma, not how many units are at work. They can be compared between
    layers, times or networks only at one sigma and one number of samples (``ceiling`` = log2 n bits).

    With a sigma far below a site's distances every sample is a cluster of its own, and its information falls to 0 because
    activity grew. So sites that are measured together share one sigma, and the result has the figures at others too.

    Parameters
    ----------
    sigma
        Width of the kernel; None = the distance below which a share `quantile` of pairs lies, at the site where it is largest
        of those measured together. For epochs, or parts measured apart, give one, or take `diffusion_curve`.
    t, alpha, quantile
        See `diffusion_entropy` and `diffusion_spectrum`.
    max_samples, seed
        Rows kept (see `Kept`); time grows with its cube.
    n_permutations
        Shuffles of the labels, which respect groups; p = (1 + #{shuffles >= value}) / (1 + shuffles).

    References
    ----------
    Liao et al. (2024), Assessing neural network representations during training using noise-resilient diffusion
    spectral entropy.
    """

    name = "diffusion"

    def __init__(
        self,
        *,
        sigma: float | None = None,
        t: float = 1.0,
        alpha: float = 0.0,
        quantile: float = 0.1,
        max_samples: int = 512,
        n_permutations: int = 99,
        seed: int = 0,
    ) -> None:
        super().__init__(max_samples=max_samples, n_permutations=n_permutations, seed=seed)
        require(sigma is None or sigma > 0, f"DiffusionEntropy: sigma={sigma}; the width is positive")
        require(t > 0, f"DiffusionEntropy: t={t}; the number of steps is positive")
        require(0 <= alpha <= 1, f"DiffusionEntropy: alpha={alpha}; between 0 and 1")
        require(0 < quantile < 1, f"DiffusionEntropy: quantile={quantile}; between 0 and 1")
        self.sigma = None if sigma is None else float(sigma)
        self._shared: float | None = None
        self.t, self.alpha, self.quantile = float(t), float(alpha), float(quantile)

    def _add(self, **part: Tensor) -> None:
        super()._add(**part)
        self._shared = None  # other rows, another sigma

    def together(self, measures: Sequence[DiffusionEntropy]) -> None:
        """Take one sigma for all of these measures: the largest of theirs, so that none is too narrow for its site."""
        if self.sigma is None:
            seen = [measure for measure in measures if measure.n_samples]
            widest = max((quantile_distance(squared(m.kept()), m.quantile) for m in seen), default=None)
            for measure in seen:
                measure._shared = widest

    def result(self) -> xr.Dataset:
        """Dataset: entropy, ceiling (bits), sigma, and own_sigma, which this site alone would have; where samples have labels
        information, information_null, information_p, and label_entropy (label): the entropy of the samples of each.
        entropy_at and information_at are over `times_sigma`, the multiples of sigma at which they were taken too.
        """
        rows = self.kept()
        square = squared(rows)
        own = quantile_distance(square, self.quantile)
        sigma = self.sigma if self.sigma is not None else self._shared or own
        how = (self.t, self.alpha)
        out: dict[str, Variable] = {
            "entropy": ((), _entropy(square, sigma, self.t, self.alpha)),
            "ceiling": ((), math.log2(len(rows))),
            "sigma": ((), sigma),
            "own_sigma": ((), own),
            "entropy_at": (("times_sigma",), np.array([_entropy(square, sigma * k, *how) for k in SWEEP])),
        }
        labelled, place, numbers, group = self.labelled()
        coords: dict[str, object] = {"unit": np.arange(self.n_units or 0), "times_sigma": list(SWEEP)}
        if len(numbers) > 1:
            baseline = _Baseline(squared(labelled), sigma, self.t, self.alpha, self.seed)
            out |= self.tested("information", baseline.information, place, group)
            each = [baseline.entropy((place == i).nonzero()[:, 0]) for i in range(len(numbers))]
            others = [
                _Baseline(squared(labelled), sigma * k, *how, self.seed).information(place) for k in SWEEP
            ]
            out["information_at"] = (("times_sigma",), np.array(others))
            out["label_entropy"] = (("label",), np.array(each))
            coords["label"] = numbers.numpy()
        return self._dataset(out, coords, n_kept=len(rows), alpha=self.alpha, t=self.t, seed=self.seed)
