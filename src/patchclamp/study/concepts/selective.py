"""Which units tell a label's texts from the others': average precision against a null of the maximum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from patchclamp.base.areas import Ranked, average_precision
from patchclamp.base.seeds import numpy_rng
from patchclamp.base.statistics import permutation_p
from patchclamp.draw.cards import shown
from patchclamp.nouns.units import Unit, Units

__all__ = ["Experts", "find_experts"]


@shown
@dataclass(frozen=True)
class Experts:
    """The units that are selective for one label.

    Parameters
    ----------
    label
        The label.
    table
        unit, average_precision, p (over all units), prevalence: the best first, as many as were kept.
    n_significant
        Units beyond the 95 % quantile of the largest average precision that shuffled labels give.
    threshold
        That quantile.
    """

    label: str
    table: pd.DataFrame
    n_significant: int
    threshold: float

    def units(self, k: int) -> Units:
        """The best k."""
        return Units.parse(self.table["unit"].tolist()[:k])


def find_experts(
    values: Float[Tensor, "text unit"],
    units: Sequence[Unit],
    labels: Sequence[str],
    groups: Sequence[str] = (),
    *,
    keep: int = 500,
    n_permutations: int = 200,
    seed: int = 0,
) -> list[Experts]:
    """Rank all units for every label by average precision, one label against the rest.

    Average precision depends on the labels' ranks in a unit's order alone; ties share it, as in the mean over their
    orders. Labels are shuffled `n_permutations` times (between groups, where texts of a group have one label) and the
    largest value over all units is kept each time: beyond it a unit is selective, whatever the number of units.

    Notes
    -----
    Suau et al. 2020. With ten positives the best of 2,000 random units reaches .6: without this null such figures say
    nothing.
    """
    member = np.array(labels)
    ranked = Ranked.of(values)
    rng = numpy_rng(seed)
    found = []
    for label in sorted(set(labels)):
        positive = member == label
        precision = _precision(ranked, positive)
        null = np.array(
            [_precision(ranked, _shuffled(positive, groups, rng)).max() for _ in range(n_permutations)]
        )
        order = np.argsort(-precision, kind="stable")[:keep]
        p = permutation_p(precision[order], null)
        threshold = float(np.quantile(null, 0.95)) if n_permutations else float("nan")
        table = pd.DataFrame(
            {
                "unit": [str(units[i]) for i in order],
                "average_precision": precision[order],
                "p": p,
                "prevalence": float(positive.mean()),
            }
        )
        found.append(Experts(label, table, int((precision > threshold).sum()), threshold))
    return found


def _precision(ranked: Ranked, positive: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Average precision of every unit."""
    return average_precision(ranked, torch.from_numpy(positive)[None])[0].numpy()


def _shuffled(positive: np.ndarray, groups: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """Labels shuffled between groups where every group has one label, else freely."""
    if groups:
        names, place = np.unique(np.array(groups), return_inverse=True)
        first = np.zeros(len(names), bool)
        first[place] = positive
        if len(names) < len(positive) and (first[place] == positive).all():
            return np.asarray(rng.permutation(first)[place])
    return np.asarray(rng.permutation(positive))
