"""Generalised discrimination value: how far labels form clusters, in one number that scale and shift do not change."""

from __future__ import annotations

from functools import partial

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from patchclamp.base.arrays import as_tensor
from patchclamp.measure.activity.distances import squared
from patchclamp.measure.activity.kept import Kept
from patchclamp.nouns.measure import require


def discrimination(values: Float[Tensor, "n units"], label: Int[Tensor, " n"]) -> float:
    """Generalised discrimination value: 0 for no clusters, -1 for perfect ones.

    Each unit is z-scored (population standard deviation) and halved; (mean over labels of the mean distance within a
    label - mean over pairs of labels of the mean distance between them) / sqrt(units). Units that are constant
    have no z-score; they are left out and not counted. A label with one sample has a distance of 0 within it.

    A unit that knows nothing dilutes the value: one unit 6 standard deviations apart among ten reaches -.07, ten
    of them -.75. A value near 0 is therefore no evidence that labels cannot be told apart.

    Parameters
    ----------
    values
        Samples x units. Memory: n^2 numbers of 8 bytes.
    label
        Of each sample; at least two different ones.

    References
    ----------
    Schilling et al. (2021), Quantifying the separability of data classes in neural networks.

    Examples
    --------
    >>> discrimination(torch.tensor([[0.0, 5.0], [1.0, 7.0]]), torch.tensor([0, 1]))
    -1.0
    """
    values = as_tensor(values)
    require(
        values.ndim == 2 and len(values) == len(label),
        f"discrimination: activity of shape {tuple(values.shape)} and {len(label)} labels",
    )
    numbers, place = label.unique(return_inverse=True)
    require(len(numbers) > 1, f"discrimination: {len(numbers)} label among the samples; needs two")
    return _value(_distances(values), place)


def standardised(values: Float[Tensor, "n units"]) -> Float[Tensor, "n varying"]:
    """z-scores by half, of the units that vary."""
    values = values.double()
    values = values[:, values.amin(0) < values.amax(0)]
    centred = values - values.mean(0)
    return centred / (2 * centred.square().mean(0).sqrt())


def _distances(values: Tensor) -> Tensor:
    """Distances of all pairs of standardised rows, over the root of the number of units."""
    z = standardised(values)
    require(z.shape[1] > 0, "discrimination: every unit is constant; there is nothing to tell apart")
    distance: Tensor = squared(z).sqrt() / z.shape[1] ** 0.5
    return distance


def _value(distance: Float[Tensor, "n n"], place: Int[Tensor, " n"]) -> float:
    member = torch.nn.functional.one_hot(place).double()
    count = member.sum(0)
    sums = (
        member.T @ distance @ member
    )  # distances between labels, each pair of samples twice on the diagonal
    pairs = torch.outer(count, count) - torch.diag(count)
    means = sums / pairs.clamp_min(1)
    within = means.diagonal().mean()
    between = means[tuple(torch.triu_indices(len(count), len(count), 1))].mean()
    return float(within - between)


class Discrimination(Kept):
    """Generalised discrimination value of a site's labels (`discrimination`), beside its value under shuffled labels.

    At most `max_samples` samples of each label are kept, so that labels weigh the same and all pairs can be compared.
    ``unit_gdv`` is the value of every unit by itself: where few units carry the labels, it shows what ``gdv``
    dilutes.

    Parameters
    ----------
    max_samples, seed
        Rows kept of each label (see `Kept`).
    n_permutations
        Shuffles of the labels, which respect groups; p = (1 + #{shuffles at most the value}) / (1 + shuffles).

    References
    ----------
    Schilling et al. (2021), Quantifying the separability of data classes in neural networks.
    """

    name = "gdv"
    balanced = True

    def __init__(self, *, max_samples: int = 100, n_permutations: int = 199, seed: int = 0) -> None:
        super().__init__(max_samples=max_samples, n_permutations=n_permutations, seed=seed)

    def result(self) -> xr.Dataset:
        """Dataset: gdv, gdv_null, gdv_p; unit_gdv (unit; NaN where constant); count (label): samples kept."""
        values, place, numbers, group = self.labelled()
        require(
            len(numbers) > 1,
            f"{self._who}: {len(numbers)} label among the samples; needs two (samples.label)",
        )
        value = partial(_value, _distances(values))
        out = self.tested("gdv", value, place, group, sign=-1, slack=1e-12)
        out["unit_gdv"] = (("unit",), self._units(values, place))
        out["count"] = (("label",), place.bincount())
        return self._dataset(out, {"label": numbers.numpy()}, n_kept=len(values), seed=self.seed)

    def _units(self, values: Tensor, place: Tensor) -> Float[Tensor, " units"]:
        """The value of each unit alone."""
        out = torch.full((values.shape[1],), torch.nan, dtype=torch.float64)
        varies = values.amin(0) < values.amax(0)
        each = [_value((column[:, None] - column).abs(), place) for column in standardised(values).T]
        out[varies] = torch.tensor(each, dtype=torch.float64)
        return out
