"""Shuffles of labels that respect groups."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchclamp.base.errors import PatchclampError

_FEWEST_GROUPS = 6  # 6! = 720 orders: enough for a p-value near .01


@dataclass(frozen=True)
class Shuffle:
    """A way to permute labels under which they are exchangeable if units know nothing of them.

    Parameters
    ----------
    kind
        ``"examples"``: no two share a group, labels move freely. ``"between groups"``: most examples are in
        groups with one label (set); a group takes the labels of another one, repeated or cut to its size.
        ``"within groups"``: labels differ inside groups, and stay there.
    place
        Group of each example, numbered from 0.
    """

    kind: str
    place: Int[Tensor, " examples"]

    @classmethod
    def of(cls, member: Float[Tensor, "labels examples"], group: Int[Tensor, " examples"]) -> Shuffle:
        """Choose the way from labels and groups."""
        names, place = group.unique(return_inverse=True)
        if len(names) == len(group):
            return cls("examples", place)
        some = torch.zeros_like(names).scatter_(0, place, torch.arange(len(group)))
        odd = (member != member[:, some][:, place]).any(0).long()
        mixed = torch.zeros_like(names).index_add_(0, place, odd) > 0
        if float(mixed[place].double().mean()) > 0.5:
            return cls("within groups", place)
        if len(names) < _FEWEST_GROUPS:
            raise PatchclampError(
                f"Selectivity: {len(names)} groups leave too few ways to shuffle labels between them; "
                f"give at least {_FEWEST_GROUPS} groups, or n_permutations=0 for no null"
            )
        return cls("between groups", place)

    def __call__(
        self, member: Float[Tensor, "labels examples"], generator: torch.Generator
    ) -> Float[Tensor, "labels examples"]:
        """A shuffled copy."""
        n = member.shape[1]
        chance = torch.randperm(n, generator=generator)
        if self.kind == "examples":
            return member[:, chance]
        # Examples by group, at random in each: paired with the plain order, this shuffles inside groups.
        drawn = chance[self.place[chance].argsort(stable=True)]
        plain = self.place.argsort(stable=True)
        out = torch.empty_like(member)
        if self.kind == "within groups":
            out[:, plain] = member[:, drawn]
            return out
        sizes = self.place.bincount()
        starts = sizes.cumsum(0) - sizes
        source = torch.randperm(len(sizes), generator=generator)[self.place[plain]]
        nth = torch.arange(n) - starts[self.place[plain]]
        out[:, plain] = member[:, drawn[starts[source] + nth % sizes[source]]]
        return out
