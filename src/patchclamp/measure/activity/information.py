"""Mutual information of a whole layer, with bins or noise that adapt to the layer's own range."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from patchclamp.base.errors import did_you_mean
from patchclamp.measure.activity.distances import squared
from patchclamp.measure.activity.kept import Kept, Variable
from patchclamp.nouns.measure import require

PROPORTIONAL = ("std", "variance")


def adaptive_edges(values: Float[Tensor, "n units"], bins: int) -> Float[Tensor, " edges"]:
    """Edges between bins that hold equally many of the distinct levels that the layer takes (EBAB).

    Distinct levels, not samples: a level that a thousand samples share (the zero of a ReLU) counts once. A value
    equal to an edge is in the bin above. With fewer levels than bins each level has a bin of its own.

    Parameters
    ----------
    values
        Samples x units; the levels of all units are pooled.
    bins
        Number of bins.

    Examples
    --------
    >>> adaptive_edges(torch.tensor([[0.0], [0.0], [0.0], [1.0], [10.0], [100.0]]), bins=2).tolist()
    [10.0]
    """
    require(bins >= 2, f"adaptive_edges: bins={bins}; at least 2")
    levels: Tensor = values.double().unique()
    if len(levels) <= bins:
        return levels[1:]
    # Ceilings of len * b / bins, in whole numbers.
    at = torch.tensor([-(-len(levels) * b // bins) for b in range(1, bins)])
    return levels[at]


def joint_codes(values: Float[Tensor, "n units"], edges: Float[Tensor, " edges"]) -> Int[Tensor, " n"]:
    """Number of each sample's joint code: equal where all units are in equal bins."""
    codes: Tensor = torch.bucketize(values.double(), edges, right=True).unique(dim=0, return_inverse=True)[1]
    return codes


def code_entropy(codes: Int[Tensor, " n"]) -> float:
    """Entropy in bits of the codes' frequencies (plug-in: too small when samples are few)."""
    p = codes.unique(return_counts=True)[1].double() / len(codes)
    return max(0.0, float(-torch.special.xlogy(p, p).sum() / math.log(2)))


def code_information(codes: Int[Tensor, " n"], label: Int[Tensor, " n"]) -> float:
    """I(T; Y) = H(T) - sum of p(y) H(T | y) in bits; plug-in: too large when samples are few."""
    parts = [codes[label == y] for y in label.unique()]
    return code_entropy(codes) - sum(len(part) / len(codes) * code_entropy(part) for part in parts)


def kde_bounds(square: Float[Tensor, "n n"], variance: float) -> tuple[float, float]:
    """Lower and upper bound in bits on what a layer with Gaussian noise says about which sample it saw.

    The layer's output with noise is a mixture of n Gaussians; with d_ij^2 the squared distance of samples,
    I = - mean_i log2 mean_j exp(-d_ij^2 / (c variance)), c = 8 for the lower bound (Bhattacharyya), 2 for the
    upper one (Kullback-Leibler).

    Parameters
    ----------
    square
        Squared distances of all pairs.
    variance
        Of the noise in each unit.

    References
    ----------
    Kolchinsky, Tracey (2017), Estimating mixture entropy with pairwise distances.
    """
    require(variance > 0, f"kde_bounds: variance={variance}; without noise the information is infinite")

    def bound(c: float) -> float:
        inside = torch.logsumexp(square / (-c * variance), 1) - math.log(len(square))
        return max(0.0, float(-inside.mean() / math.log(2)))

    return bound(8), bound(2)


class AdaptiveInformation(Kept):
    """Information of a layer as a whole about its input and about labels, by two estimators that adapt.

    **Adaptive bins** (`adaptive_edges`, chosen once for the layer and used for every label): ``entropy`` H(T) of
    the joint code, which is I(X; T) of a deterministic network; ``information`` I(T; Y) = H(T) - sum p(y) H(T | y).
    Neither can exceed ``ceiling`` = log2 n: a layer wide enough to give every sample a code of its own sits there, and
    then I(T; Y) = H(Y) whatever the labels. ``distinct`` codes and the null under shuffled labels show this.

    **Adaptive noise** (`kde_bounds`): ``kde_lower``, ``kde_upper`` bound I(X; T) of the layer with Gaussian noise, whose
    standard deviation is `noise` times the layer's largest absolute value.

    ``unit_entropy`` and ``unit_information`` are the binned figures of each unit by itself.

    Estimates under different bins or noise do not compare; nor do those of different n.

    Parameters
    ----------
    bins
        Bins of the layer.
    noise, proportional
        With ``"std"`` the noise has the standard deviation noise x max|a|, so that the unit of measurement does not
        matter. ``"variance"``: the variance is noise x max|a|, as published.
    max_samples, seed
        Rows kept (see `Kept`).
    n_permutations
        Shuffles of the labels, which respect groups; p = (1 + #{shuffles >= value}) / (1 + shuffles).

    References
    ----------
    Chelombiev, Houghton, O'Donnell (2019), Adaptive estimators show information compression in deep neural networks.
    """

    name = "information"

    def __init__(
        self,
        *,
        bins: int = 30,
        noise: float = 0.03,
        proportional: str = "std",
        max_samples: int = 1024,
        n_permutations: int = 99,
        seed: int = 0,
    ) -> None:
        super().__init__(max_samples=max_samples, n_permutations=n_permutations, seed=seed)
        require(bins >= 2, f"AdaptiveInformation: bins={bins}; at least 2")
        require(noise > 0, f"AdaptiveInformation: noise={noise}; without noise the information is infinite")
        require(
            proportional in PROPORTIONAL,
            f"AdaptiveInformation: proportional={proportional!r}; one of {', '.join(PROPORTIONAL)}"
            + did_you_mean(proportional, PROPORTIONAL),
        )
        self.bins, self.noise, self.proportional = int(bins), float(noise), proportional

    def result(self) -> xr.Dataset:
        """Dataset: entropy, distinct, ceiling, kde_lower, kde_upper, unit_entropy (unit); where samples have labels
        information, label_entropy, unit_information (unit), information_null, information_p.
        """
        rows = self.kept()
        edges = adaptive_edges(rows, self.bins)
        codes = joint_codes(rows, edges)
        low, high = kde_bounds(squared(rows), self._variance(rows))
        by_unit = torch.bucketize(rows, edges, right=True)
        out: dict[str, Variable] = {
            "entropy": ((), code_entropy(codes)),
            "distinct": ((), int(codes.max()) + 1),
            "ceiling": ((), math.log2(len(rows))),
            "kde_lower": ((), low),
            "kde_upper": ((), high),
            "unit_entropy": (("unit",), np.array([code_entropy(column) for column in by_unit.T])),
        }
        known = self.label >= 0
        _, place, numbers, group = self.labelled()
        if len(numbers) > 1:
            told = partial(code_information, codes[known])
            out |= self.tested("information", told, place, group, slack=1e-9)
            each = [code_information(column[known], place) for column in by_unit.T]
            out["label_entropy"] = ((), code_entropy(place))
            out["unit_information"] = (("unit",), np.array(each))
        return self._dataset(out, n_kept=len(rows), bins=self.bins, noise=self.noise, seed=self.seed)

    def _variance(self, rows: Tensor) -> float:
        largest = float(rows.abs().max())
        if largest == 0:  # a dead layer: equal samples carry nothing, whatever the noise
            return 1.0
        return self.noise * largest if self.proportional == "variance" else (self.noise * largest) ** 2
