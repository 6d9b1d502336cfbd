"""Which units tell a label's texts from the others': average precision against a null of the maximum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.base.statistics import permutation_p
from patchclamp.nouns.units import Unit, Units

__all__ = ["Experts", "find_experts"]


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
    ranks = _ranks(values)
    rng = np.random.default_rng(seed)
    found = []
    for label in sorted(set(labels)):
        positive = torch.from_numpy(member == label)
        precision = _average_precision(ranks, positive).numpy()
        null = np.array(
            [
                float(
                    _average_precision(
                        ranks, torch.from_numpy(_shuffled(positive.numpy(), groups, rng))
                    ).max()
                )
                for _ in range(n_permutations)
            ]
        )
        order = np.argsort(-precision, kind="stable")[:keep]
        p = permutation_p(precision[order], null)
        threshold = float(np.quantile(null, 0.95)) if n_permutations else float("nan")
        table = pd.DataFrame(
            {
                "unit": [str(units[i]) for i in order],
                "average_precision": precision[order],
                "p": p,
                "prevalence": float(positive.float().mean()),
            }
        )
        found.append(Experts(label, table, int((precision > threshold).sum()), threshold))
    return found


def _ranks(values: Tensor) -> Tensor:
    """(unit, text) rank of each text in a unit's order, 1 at the highest. Equal values keep the order of the texts."""
    order = values.T.contiguous().argsort(dim=1, descending=True, stable=True)
    ranks = torch.empty_like(order, dtype=torch.int16 if len(values) < 2**15 else torch.int32)
    return ranks.scatter_(1, order, torch.arange(1, len(values) + 1, dtype=ranks.dtype).expand_as(order))


def _average_precision(ranks: Tensor, positive: Tensor) -> Tensor:
    """Mean over the positives of the share of positives at or above each, for every unit.

    With the ranks r_1 < r_2 < ... of the positives it is the mean of j / r_j.
    """
    own = ranks[:, positive].sort(dim=1).values.float()
    return (torch.arange(1, own.shape[1] + 1, dtype=torch.float32) / own).mean(1)


def _shuffled(positive: np.ndarray, groups: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """Labels shuffled between groups where every group has one label, else freely."""
    if groups:
        names, place = np.unique(np.array(groups), return_inverse=True)
        first = np.zeros(len(names), bool)
        first[place] = positive
        if len(names) < len(positive) and (first[place] == positive).all():
            return np.asarray(rng.permutation(first)[place])
    return np.asarray(rng.permutation(positive))
