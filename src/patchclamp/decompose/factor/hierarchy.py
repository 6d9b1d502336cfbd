"""A hierarchy of features: the directions of one factorisation are the samples of the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.progress import Progress
from patchclamp.decompose.base import Source
from patchclamp.decompose.dictionaries.non_negative import SNMFDictionary
from patchclamp.decompose.factor.snmf import SNMF
from patchclamp.draw.cards import shown
from patchclamp.nouns.dictionary import Dictionary
from patchclamp.nouns.units import Site


@shown
@dataclass(frozen=True)
class Hierarchy:
    """Levels of features over one site, finest first, and the tree between them.

    Parameters
    ----------
    levels
        Dictionaries over the same site, with fewer features each.
    weights
        For each level but the last (features, features of the next level): the non-negative codes of its directions
        over those of the next.
    """

    levels: tuple[Dictionary, ...]
    weights: tuple[Tensor, ...]

    @property
    def parents(self) -> tuple[Tensor, ...]:
        """For each level but the last (features,): the feature of the next level with the largest weight; -1 = none."""
        return tuple(torch.where(w.amax(1) > 0, w.argmax(1), -1) for w in self.weights)

    def children(self, level: int, feature: int) -> list[int]:
        """Features of the level below whose parent this is, the one of largest weight first.

        Raises
        ------
        PatchclampError
            For the finest level, or a feature that is not there.
        """
        if not 1 <= level < len(self.levels):
            raise PatchclampError(f"level {level}: levels 1..{len(self.levels) - 1} have children")
        if not 0 <= feature < self.levels[level].n_features:
            raise PatchclampError(f"feature {feature}: level {level} has {self.levels[level].n_features}")
        mine = (self.parents[level - 1] == feature).nonzero().flatten()
        order = self.weights[level - 1][mine, feature].argsort(descending=True)
        return [int(one) for one in mine[order]]

    def table(self) -> Any:
        """A pandas table with a row for each feature: level, feature, parent (-1 = none), weight, share.

        `share` is the parent's part of the sum of the feature's weights: 1 in a pure tree.
        """
        import pandas as pd

        parts = []
        for level, dictionary in enumerate(self.levels):
            rows = pd.DataFrame({"level": level, "feature": range(dictionary.n_features)})
            if level < len(self.weights):
                w, total = self.weights[level].amax(1), self.weights[level].sum(1)
                rows = rows.assign(
                    parent=self.parents[level].tolist(),
                    weight=w.tolist(),
                    share=torch.where(total > 0, w / total.clamp_min(1e-30), 0.0).tolist(),
                )
            else:
                rows = rows.assign(parent=-1, weight=0.0, share=0.0)
            parts.append(rows)
        return pd.concat(parts, ignore_index=True)


def refine(
    dictionary: Dictionary, ks: Sequence[int], sparsity: float | None = 0.01, seed: int = 0
) -> Hierarchy:
    """Put coarser levels above a dictionary: its directions are factored by `SNMF`, theirs again, and so on.

    Directions are given norm 1, so that every feature counts the same. A coarser feature unites several: the
    fraction of units that it may use grows as the number of features falls, to sparsity * (features at the bottom) /
    (features at its level), at most 1.

    Parameters
    ----------
    dictionary
        The finest level.
    ks
        Features of the coarser levels, falling.
    sparsity
        Of the finest level; None for no winner-take-all.
    seed
        As in `SNMF`.

    References
    ----------
    The recursion is that of the paper of `SNMF`; its optional joint fine-tuning by Adam is not built. The rule for
    the sparsity is ours.
    """
    sizes = [dictionary.n_features, *ks]
    if not ks or any(small >= large or small < 1 for large, small in pairwise(sizes)):
        raise PatchclampError(f"ks={list(ks)}: falling numbers of features, below {dictionary.n_features}")
    levels: list[Dictionary] = [dictionary]
    weights = []
    for k in ks:
        rows = torch.nn.functional.normalize(levels[-1].directions.float(), dim=1)
        alive = rows.norm(dim=1) > 0
        if int(alive.sum()) < k:
            raise PatchclampError(
                f"ks={list(ks)}: only {int(alive.sum())} features of the level below are not dead"
            )
        part = None if sparsity is None else min(1.0, sparsity * dictionary.n_features / k)
        settings = SNMF(n_features=k, sparsity=part, seed=seed, held_out=0.0, polish=50, restarts=8)
        found = settings.fit(rows[alive], dictionary.site)
        level = SNMFDictionary(dictionary.site, found.directions, {**found.meta, "level": len(levels)})
        levels.append(level)
        weights.append(level.encode(rows))
    return Hierarchy(tuple(levels), tuple(weights))


def hierarchy(
    source: Source,
    ks: Sequence[int],
    site: Site | str | None = None,
    settings: SNMF | None = None,
    progress: Progress | None = None,
    resume: str | Path | None = None,
) -> Hierarchy:
    """Factor activity into ``ks[0]`` features, those into ``ks[1]``, and so on.

    Parameters
    ----------
    source, site, progress, resume
        As in `SNMF.fit`, for the finest level; the others take no time.
    ks
        Features of each level, finest first, falling.
    settings
        Of the finest level; its `n_features` is replaced.

    Examples
    --------
    >>> random = torch.Generator().manual_seed(0)
    >>> groups = torch.eye(4).repeat_interleave(3, 1)
    >>> kinds = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]])[torch.randint(2, (600,), generator=random)]
    >>> codes = kinds * torch.rand(600, 4, generator=random)
    >>> tree = hierarchy(codes @ groups, [4, 2], settings=SNMF(sparsity=0.25))
    >>> [len(level.directions) for level in tree.levels]
    [4, 2]
    """
    if len(ks) < 2:
        raise PatchclampError(f"ks={list(ks)}: a hierarchy has two levels or more")
    fine = replace(settings or SNMF(), n_features=ks[0])
    return refine(fine.fit(source, site, progress, resume), ks[1:], fine.sparsity, fine.seed)
