"""Reliability over repeats and the ceiling it puts on any model's prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from patchclamp.base.errors import PatchclampError
from patchclamp.base.optional import new_figure
from patchclamp.base.seeds import numpy_rng
from patchclamp.base.statistics import pearson
from patchclamp.measure.brain.psth import ByCondition
from patchclamp.nouns.measure import require
from patchclamp.nouns.recording.matrix import content_only

if TYPE_CHECKING:
    from patchclamp.nouns.recording.recording import Recording


class Reliability(ByCondition):
    """How much of each unit's variance repeats, and the noise ceiling of its mean over n repeats.

    A condition is a (label, position); each of its samples is a repeat. With MSB and MSW the mean squares between
    and within conditions and n the repeats a condition (n0 = (N - sum n_i^2 / N) / (C - 1) where they differ):

    * noise variance s_n^2 = MSW, signal variance s_s^2 = max(0, (MSB - MSW) / n0),
    * ``single`` = s_s^2 / (s_s^2 + s_n^2): reliability of one trial, the intraclass correlation,
    * ``ceiling_r2`` = s_s^2 / (s_s^2 + s_n^2 / n): of the mean of n repeats. It bounds the r2, not the r, of any
      prediction of that mean; ``ceiling_r`` is its square root, which bounds r. It equals ncsnr^2 / (ncsnr^2 + 1 / n)
      and Spearman and Brown's n r / (1 + (n - 1) r) of ``single``.

    Where the time course is the same for all conditions it counts as signal, since it repeats. Several samples of one
    trial are not repeats: bin a window to one sample first. Memory is conditions x units.

    Parameters
    ----------
    repeats
        n of the ceiling; by default the mean number of repeats found.

    References
    ----------
    Allen et al. (2022), A massive 7T fMRI dataset to bridge cognitive neuroscience and artificial intelligence (the
    ceiling); Shrout and Fleiss (1979), Intraclass correlations (one-way random effects).

    Examples
    --------
    >>> from patchclamp.nouns.recording.recording import Samples
    >>> m = Reliability()
    >>> m.update(torch.tensor([[0.0], [2.0], [4.0], [6.0]]), Samples.of(torch.arange(4), torch.zeros(4), label=torch.tensor([0, 0, 1, 1])))
    >>> round(float(m.result()["single"][0]), 4)  # MSB 16, MSW 2, n 2: signal 7, noise 2
    0.7778
    """

    name = "reliability"

    def __init__(self, *, repeats: int | None = None) -> None:
        require(repeats is None or repeats >= 1, f"Reliability: repeats={repeats}; at least 1")
        self.repeats = repeats

    def result(self) -> xr.Dataset:
        """Dataset over `unit`: signal and noise variance, single, ceiling_r2, ceiling_r, ncsnr; scalars n."""
        self._need_data()
        kept = self._kept()
        n, mean, m2 = self.count[kept], self.mean[kept], self.m2[kept]
        conditions, total = len(n), n.sum()
        if conditions < 2 or total <= conditions:
            raise PatchclampError(
                f"{self._who}: {conditions} conditions with {int(total)} samples in all; reliability needs two conditions "
                "or more (label and position), and some of them repeated"
            )
        grand = (mean * n[:, None]).sum(0) / total
        between = (n[:, None] * (mean - grand) ** 2).sum(0) / (conditions - 1)
        noise = m2.sum(0) / (total - conditions)
        size = (total - (n**2).sum() / total) / (conditions - 1)
        signal = ((between - noise) / size).clamp_min(0)
        k = float(self.repeats or total / conditions)
        alive = (signal + noise) > 0
        nothing = torch.full_like(signal, torch.nan)
        ceiling = torch.where(alive, signal / (signal + noise / k), nothing)
        unit = ("unit",)
        return self._dataset(
            {
                "signal_variance": (unit, signal),
                "noise_variance": (unit, noise),
                "single": (unit, torch.where(alive, signal / (signal + noise), nothing)),
                "ceiling_r2": (unit, ceiling),
                "ceiling_r": (unit, ceiling.sqrt()),
                "ncsnr": (unit, torch.where(alive, (signal / noise).sqrt(), nothing)),
                "repeats": ((), k),
                "conditions": ((), conditions),
            }
        )


def split_half(
    trials: Recording, site: str | None = None, *, n_splits: int = 100, seed: int = 0
) -> xr.Dataset:
    """Correlation of the means of two random halves of the trials, over conditions, corrected to full length.

    Trials (documents) of each label are dealt into halves of equal size; the correlation r over (label, position) is
    averaged over splits and raised to the full number of trials by Spearman and Brown: 2 r / (1 + r). Reads all of it.

    Returns
    -------
    Dataset over `unit`: half (r of the halves), reliability (corrected), ceiling_r (its square root; of a negative
    one 0), low and high (2.5 and 97.5 % of the corrected value over splits, not an interval over trials).
    """
    trials = content_only(trials)  # bins that are not full do not count
    chosen = trials.sites[0] if site is None else trials.site(site)
    values = trials[chosen].numpy().astype(np.float64)
    label, doc, place = trials.numbers("label"), trials.column("doc"), trials.column("position")
    keys, condition = np.unique(np.stack([label, place], 1), axis=0, return_inverse=True)
    condition = condition.ravel()
    if len(keys) < 3:
        raise PatchclampError(
            f"split_half: {len(keys)} conditions; a correlation over them needs three or more"
        )
    names, first = np.unique(doc, return_index=True)
    of_trial = label[first]
    few = [int(c) for c in np.unique(of_trial) if (of_trial == c).sum() < 2]
    if few:
        raise PatchclampError(f"split_half: label {few[0]} has a single trial, which cannot be halved")
    rng = numpy_rng(seed)
    own = np.searchsorted(names, doc)
    draws = []
    for _ in range(n_splits):
        half = _dealt(of_trial, rng)[own]
        means = [_means(values[half == h], condition[half == h], len(keys)) for h in (0, 1)]
        draws.append(pearson(*means))
    r = np.array(draws)
    full = 2 * r / (1 + r)
    mean = r.mean(0)
    corrected = 2 * mean / (1 + mean)
    bounds = np.quantile(full, [0.025, 0.975], axis=0)
    found = {"half": mean, "reliability": corrected, "ceiling_r": np.sqrt(np.clip(corrected, 0, None))}
    found |= {"low": bounds[0], "high": bounds[1]}
    return xr.Dataset(
        {name: ("unit", column) for name, column in found.items()},
        {"unit": np.arange(values.shape[1])},
        {"site": str(chosen), "n_splits": n_splits, "seed": seed, "conditions": len(keys)},
    )


def _dealt(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    half = np.full(len(labels), -1)
    for one in np.unique(labels):
        mine = rng.permutation(np.flatnonzero(labels == one))
        size = len(mine) // 2
        half[mine[:size]], half[mine[size : 2 * size]] = 0, 1  # an odd trial sits out
    return half


def _means(values: np.ndarray, condition: np.ndarray, n: int) -> np.ndarray:
    total = np.zeros((n, values.shape[1]))
    np.add.at(total, condition, values)
    return total / np.bincount(condition, minlength=n)[:, None]


def plot_reliability(found: xr.Dataset, ax: Any = None) -> Any:
    """Draw the units' ceilings, sorted; return the matplotlib figure."""
    figure = new_figure(4.6, 3.0) if ax is None else ax.figure
    ax = figure.subplots() if ax is None else ax
    for name, label in (("ceiling_r2", "ceiling of r² (mean of repeats)"), ("single", "one trial")):
        if name in found:
            ax.plot(np.sort(found[name].values)[::-1], lw=1.4, label=label)
    ax.set(xlabel="unit, sorted", ylabel="share of variance that repeats", ylim=(0, 1.02))
    ax.legend(frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return figure
