"""Diffusion spectral information along layers or epochs: at one scale for all of them, beside what other scales say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor

from patchclamp.base.arrays import as_tensor
from patchclamp.base.statistics import spearman
from patchclamp.draw.profiles import lines_figure
from patchclamp.measure.activity.distances import quantile_distance, squared
from patchclamp.measure.brain.diffusion import SWEEP, diffusion_entropy, diffusion_information
from patchclamp.nouns.measure import require

_SATURATED = 0.9  # share of its ceiling above which an entropy has no room: nearly every sample is far from every other


@dataclass(frozen=True)
class DiffusionCurve:
    """What `diffusion_curve` returns.

    Parameters
    ----------
    data
        Over (stage, sigma): entropy, information (bits), saturated; own_sigma (stage); trend (sigma): Spearman's correlation
        of information with `against`, or with the order of the stages.
    sigma
        The one that was chosen.
    """

    data: xr.Dataset
    sigma: float

    def table(self) -> pd.DataFrame:
        """Information of every stage (rows) at every sigma (columns), and the trend of each sigma as the last row."""
        found = self.data["information"].to_pandas()
        found.loc["trend"] = self.data["trend"].values
        return found

    def __repr__(self) -> str:
        at = self.data.sel(sigma=self.sigma)
        low, high = (float(at["information"].isel(stage=i)) for i in (0, -1))
        signs = np.sign(self.data["trend"].values)
        other = self.data["sigma"].values[signs == -np.sign(float(at["trend"]))]
        but = (
            f"; the other way at sigma {', '.join(f'{s:.3g}' for s in other)}"
            if len(other)
            else "; the same way at all sigmas"
        )
        return (
            f"DiffusionCurve({self.data.sizes['stage']} stages at sigma {self.sigma:.3g}: {low:.2f} to {high:.2f} bits, trend "
            f"{float(at['trend']):+.2f}{but})"
        )

    def plot(self) -> Any:
        """Information along the stages, one line a sigma, the chosen one thick."""
        return lines_figure(
            [str(name) for name in self.data["stage"].values],
            {
                f"sigma {s:.3g}": self.data["information"].sel(sigma=s).values
                for s in self.data["sigma"].values
            },
            f"sigma {self.sigma:.3g}",
            "information, bits",
        )


def diffusion_curve(
    stages: Mapping[str, ArrayLike | Tensor],
    labels: ArrayLike | Tensor,
    sigma: float | None = None,
    *,
    against: Sequence[float] | None = None,
    t: float = 1.0,
    alpha: float = 0.0,
    quantile: float = 0.1,
    sweep: Sequence[float] = SWEEP,
    seed: int = 0,
) -> DiffusionCurve:
    """Diffusion spectral mutual information of layers or epochs, at one sigma, and how sigma changes the curve.

    A sigma far below the distances of a stage makes every sample a cluster of its own: entropy is at its ceiling with and without
    the labels, and information falls to 0 because the activity grew, not because it lost the labels. So one sigma is taken for
    all stages, the widest of theirs: the distance below which a share `quantile` of pairs lies, of the stage where it is largest.

    Parameters
    ----------
    stages
        Name -> (samples, units), the same samples in each.
    labels
        (samples,), see `diffusion_information`.
    sigma
        Width of the kernel; None = as above.
    against
        A number a stage, such as its accuracy, that the trend is taken with; by default their order.
    t, alpha, quantile, seed
        See `diffusion_information`.
    sweep
        Multiples of sigma at which the curve is measured too.

    References
    ----------
    Liao et al. (2024), Assessing neural network representations during training using noise-resilient diffusion
    spectral entropy.

    Examples
    --------
    >>> import torch
    >>> label = torch.arange(80) % 4
    >>> apart = {str(k): 9.0 * k * torch.eye(4)[label] + torch.randn(80, 4, generator=torch.manual_seed(0)) for k in range(4)}
    >>> diffusion_curve(apart, label, sweep=(1.0,)).data["information"].values.round(1).ravel().tolist()
    [0.1, 1.2, 1.2, 1.2]
    """
    values = {str(name): as_tensor(stage, str(name)) for name, stage in stages.items()}
    require(len(values) > 1, f"diffusion_curve: {len(values)} stages; a curve has at least two")
    sizes = {len(stage) for stage in values.values()}
    require(
        len(sizes) == 1,
        f"diffusion_curve: stages of {sorted(sizes)} samples; entropies need one number of samples",
    )
    require(
        1.0 in sweep and all(s > 0 for s in sweep),
        f"diffusion_curve: sweep={sweep}; multiples of sigma, 1 among them",
    )
    order = np.arange(len(values)) if against is None else np.asarray(against, np.float64)
    require(
        order.shape == (len(values),),
        f"diffusion_curve: against has {order.shape} entries for {len(values)} stages",
    )
    own = [quantile_distance(squared(stage), quantile) for stage in values.values()]
    chosen = max(own) if sigma is None else float(sigma)
    require(chosen > 0, f"diffusion_curve: sigma={sigma}; the width of the kernel is positive")
    sigmas = [chosen * factor for factor in sorted(sweep)]
    how: dict[str, Any] = {"t": t, "alpha": alpha}
    entropy = np.array([[diffusion_entropy(v, s, **how) for s in sigmas] for v in values.values()])
    found = np.array(
        [[diffusion_information(v, labels, s, **how, seed=seed) for s in sigmas] for v in values.values()]
    )
    trend = [spearman(column, order) for column in found.T]
    return DiffusionCurve(
        xr.Dataset(
            {
                "information": (("stage", "sigma"), found),
                "entropy": (("stage", "sigma"), entropy),
                "saturated": (("stage", "sigma"), entropy > _SATURATED * np.log2(sizes.pop())),
                "own_sigma": (("stage",), own),
                "trend": (("sigma",), trend),
            },
            {"stage": list(values), "sigma": sigmas, "against": ("stage", order)},
        ),
        chosen,
    )
