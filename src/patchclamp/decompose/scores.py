"""How alike two dictionaries are, and how stable one is over restarts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.base import assignment
from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng
from patchclamp.decompose.base import Decomposer, Source
from patchclamp.draw.cards import shown
from patchclamp.nouns.dictionary import Dictionary
from patchclamp.nouns.recording.matrix import Reading
from patchclamp.nouns.units import Site


@shown
@dataclass(frozen=True)
class Matching:
    """Features of two dictionaries, paired one to one so that the sum of cosines is largest (Hungarian).

    Parameters
    ----------
    pairs
        int64 (pairs, 2): feature of the first, feature of the second; as many as the smaller has live features.
    cosines
        (pairs,): cosine of each pair's directions.
    best
        (features of the first,): largest cosine with any feature of the second, NaN for dead ones.
    null_mcc, null_best
        Mean of the same two figures where the entries of every direction of the second are permuted over the units:
        what directions with these values give by chance.
    """

    pairs: np.ndarray
    cosines: np.ndarray
    best: np.ndarray
    null_mcc: float
    null_best: float

    @property
    def mcc(self) -> float:
        """Mean cosine of the pairs."""
        return float(self.cosines.mean())

    @property
    def mean_max(self) -> float:
        """Mean over the first's live features of the largest cosine; several may choose the same one."""
        return float(np.nanmean(self.best))


def match(
    first: Dictionary | Tensor,
    second: Dictionary | Tensor,
    signed: bool = True,
    null: int = 5,
    seed: int = 0,
) -> Matching:
    """Match the directions of two dictionaries of the same units.

    Parameters
    ----------
    first, second
        Dictionaries, or directions (features, units). Features with no direction take no part.
    signed
        Whether a direction and its opposite differ. They do where codes are never negative (SNMF, sparse
        autoencoders), and not for PCA and ICA: pass False there.
    null
        Number of permutations behind the null figures; 0 for NaN.
    seed
        Of the permutations.

    Raises
    ------
    PatchclampError
        If the numbers of units differ, or one has no live feature.

    Examples
    --------
    >>> found = match(torch.eye(3), torch.eye(3)[[2, 0, 1]] * 5, null=0)
    >>> found.mcc, found.pairs.tolist()
    (1.0, [[0, 1], [1, 2], [2, 0]])
    """
    (a, alive_a), (b, alive_b) = _unit(first), _unit(second)
    if a.shape[1] != b.shape[1]:
        raise PatchclampError(f"directions over {a.shape[1]} and {b.shape[1]} units cannot be matched")
    cosine = _cosine(a, b, signed)
    pairs = assignment.match(cosine)
    best = np.full(len(_directions(first)), np.nan)
    best[alive_a] = cosine.max(1)
    nulls = [_cosine(a, _permuted(b, seed + i), signed) for i in range(null)]
    return Matching(
        np.stack([alive_a[pairs.rows], alive_b[pairs.columns]], axis=1),
        pairs.values,
        best,
        float(np.mean([assignment.match(one).values.mean() for one in nulls])) if nulls else float("nan"),
        float(np.mean([one.max(1).mean() for one in nulls])) if nulls else float("nan"),
    )


def _directions(what: Dictionary | Tensor) -> Tensor:
    return what.directions if isinstance(what, Dictionary) else what


def _unit(what: Dictionary | Tensor) -> tuple[Tensor, np.ndarray]:
    """Unit directions of the live features, and which those are."""
    directions = _directions(what).detach().double().cpu()
    norm = directions.norm(dim=1)
    alive = norm > 0
    if not bool(alive.any()):
        raise PatchclampError(f"{what!r}: no feature has a direction")
    return directions[alive] / norm[alive, None], alive.nonzero().flatten().numpy()


def _cosine(a: Float[Tensor, "f unit"], b: Float[Tensor, "g unit"], signed: bool) -> np.ndarray:
    cosine = a @ b.T
    return (cosine if signed else cosine.abs()).numpy()


def _permuted(directions: Tensor, seed: int) -> Tensor:
    random = numpy_rng([seed, 5])
    order = random.permuted(np.tile(np.arange(directions.shape[1]), (len(directions), 1)), axis=1)
    return directions.gather(1, torch.from_numpy(order))


@shown
@dataclass(frozen=True)
class FeatureStability:
    """Restarts of one method, all pairs matched.

    Parameters
    ----------
    dictionaries
        One for each seed.
    mcc
        float (seeds, seeds): mean cosine of matched features, NaN on the diagonal.
    null
        Mean null figure of the same (see `Matching`).
    features
        (features of the first dictionary,): mean over the others of its match's cosine; NaN without a match.
    """

    dictionaries: tuple[Dictionary, ...]
    mcc: np.ndarray
    null: float
    features: np.ndarray

    @property
    def mean(self) -> float:
        """Mean of `mcc` over pairs of seeds."""
        return float(np.nanmean(self.mcc))


def stability(
    method: Decomposer[Any],
    source: Source,
    site: Site | str | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    signed: bool = True,
    **reading: Unpack[Reading],
) -> FeatureStability:
    """Fit a method with several seeds and match the results.

    The held-out groups differ with the seed too, so that the figure says how much both matter together.
    `reading` is as in `Decomposer.fit`.

    Raises
    ------
    PatchclampError
        For fewer than two seeds.

    Examples
    --------
    >>> from patchclamp.decompose.factor.snmf import SNMF
    >>> random = torch.Generator().manual_seed(0)
    >>> groups = torch.eye(3).repeat_interleave(4, 1)
    >>> codes = torch.rand(300, 3, generator=random) * (torch.rand(300, 3, generator=random) > 0.7)
    >>> round(stability(SNMF(n_features=3, sparsity=0.3), codes @ groups).mean, 3)
    1.0
    """
    if len(set(seeds)) < 2:
        raise PatchclampError(f"seeds={list(seeds)}: stability takes two different seeds or more")
    found = tuple(method.seeded(seed).fit(source, site, **reading) for seed in seeds)
    mcc = np.full((len(found), len(found)), np.nan)
    nulls, features = [], np.full((len(found), found[0].n_features), np.nan)
    for i, one in enumerate(found):
        for j in range(i + 1, len(found)):
            matching = match(one, found[j], signed)
            mcc[i, j] = mcc[j, i] = matching.mcc
            nulls.append(matching.null_mcc)
            if i == 0:
                features[j, matching.pairs[:, 0]] = matching.cosines
    seen = np.isfinite(features).sum(0)
    mean = np.where(seen > 0, np.nansum(features, axis=0) / np.maximum(seen, 1), np.nan)
    return FeatureStability(found, mcc, float(np.mean(nulls)), mean)
