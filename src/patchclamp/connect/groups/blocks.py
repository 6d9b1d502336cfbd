"""Blocks of an undirected graph with weights from 0 on: nested and corrected for degree where that describes it shorter."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from patchclamp.base.errors import PatchclampError
from patchclamp.connect.groups.block_description import WORDS, Array, BlockModel, BlockSums, Labels, hierarchy
from patchclamp.connect.groups.block_search import beginnings, search
from patchclamp.draw.cards import shown


@shown
@dataclass(frozen=True, eq=False)
class Blocks:
    """A partition of nodes.

    Parameters
    ----------
    labels
        (node,) block of each on the finest level, the block with the largest weight within first.
    means
        (block, block) mean weight of a pair; NaN where there is no pair.
    evidence
        Log-evidence with the prior, in nats.
    gain
        The same minus that of a single block; 0 where there is no structure.
    structure
        Sum over pairs of (mean of its pair of blocks - mean of all)^2: how much of the weights' energy the partition
        explains beyond their mean. The gain is free of scale and so rewards patterns of tiny weights; this is not.
    levels
        (node,) block of each on every level of the hierarchy, finest first, as far as there are two blocks; the levels
        above the first are those of the nested description, also where another one is shorter.
    model
        The description that was shortest: what it corrects for, and "nested", "communities" or "equal communities".
    """

    labels: Labels
    means: Array
    evidence: float
    gain: float
    structure: float
    levels: tuple[Labels, ...] = ()
    model: str = ""

    @property
    def n(self) -> int:
        """Number of blocks."""
        return len(self.means)

    def hierarchy(self) -> pd.DataFrame:
        """One row a block of a level: level, block, size, and the block of the level above (-1: all nodes)."""
        rows = []
        for k, labels in enumerate(self.levels):
            above = self.levels[k + 1] if k + 1 < len(self.levels) else np.full(len(labels), -1)
            for block in range(int(labels.max()) + 1):
                inside = labels == block
                rows.append(
                    {"level": k, "block": block, "size": int(inside.sum()), "within": int(above[inside][0])}
                )
        return pd.DataFrame(rows)

    def dense(self) -> list[int]:
        """Blocks of two nodes or more whose weight within exceeds the mean of all pairs and that to any other block."""
        if self.n < 2:
            return []
        sizes = np.bincount(self.labels)
        pairs = sizes[:, None] * (sizes - np.eye(self.n))
        overall = np.nansum(self.means * pairs) / pairs[np.isfinite(self.means)].sum()
        off = np.where(np.eye(self.n, dtype=bool), -np.inf, np.nan_to_num(self.means, nan=-np.inf))
        within = np.diag(self.means)
        return [r for r in range(self.n) if sizes[r] > 1 and within[r] > max(overall, off[r].max())]


def weighted_blocks(
    weights: ArrayLike, *, starts: int = 10, most: int | None = None, seed: int = 0
) -> Blocks:
    """The partition of the nodes of a weighted graph, and of its blocks, that describes the graph shortest.

    Ten descriptions are compared (fewer where all pairs have edges or all edges one weight): edges plain or corrected for
    degree, exponential weights plain or divided by the nodes' strengths, numbers of edges between blocks nested or those of
    communities; the formulas are in `patchclamp.connect.groups.block_description`.

    Parameters
    ----------
    weights
        (node, node), symmetric, from 0 on; NaN for pairs that were not measured (the correction for degree takes them as
        pairs without an edge). 0 is no edge. The diagonal is ignored.
    starts
        Random starts, beside one block, spectral clusters, cuts of a hierarchical clustering, and strong nodes against weak
        ones.
    most
        Largest number of blocks; None: no limit.
    seed
        Of starts and order.

    Returns
    -------
    Blocks

    Notes
    -----
    After Peixoto's nested weighted stochastic block model; the search is not his (moves of many nodes at once, merges down
    to one block, splits; the best of three starts a description) and gives one partition, not a posterior. Where groups
    are so faint that naming every node's costs more than it saves, the answer is one block, though Louvain, which finds
    a dozen communities in a random graph too, may be near. Node pairs are taken as independent, which pairs of one
    recording are not: hold the gain against that of a null.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> group = np.arange(20) < 6
    >>> rate = np.where(np.outer(group, group), 5.0, 1.0)
    >>> weights = np.tril(rng.exponential(rate), -1)
    >>> weighted_blocks(weights + weights.T).labels.tolist()
    [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    """
    w = np.array(weights, dtype=np.float64)
    if w.ndim != 2 or w.shape[0] != w.shape[1] or len(w) < 2:
        raise PatchclampError(f"weighted_blocks: wanted node x node, got shape {w.shape}")
    if not np.allclose(w, w.T, equal_nan=True) or np.nanmin(w) < 0 or np.isinf(w).any():
        raise PatchclampError("weighted_blocks: weights must be symmetric, finite and not negative")
    if most is not None and most < 1:
        raise PatchclampError(f"weighted_blocks: most={most}; at least one block")
    seen = (np.isfinite(w) & ~np.eye(len(w), dtype=bool)).astype(np.float64)
    w = np.where(seen > 0, w, 0.0)
    if w.sum() == 0:
        none = np.zeros(len(w), np.int64)
        return Blocks(none, np.zeros((1, 1)), 0.0, 0.0, 0.0, (none,), "no edges")
    most = min(most or len(w), len(w))
    begin = beginnings(w, seen, starts, most, seed) if most > 1 else []
    complete, equal = bool((w > 0).sum() == seen.sum()), bool(np.ptp(w[w > 0]) == 0)
    kinds = product((False,) if complete else (False, True), (False,) if equal else (False, True), WORDS)
    models = [BlockModel(w, seen, *kind) for kind in kinds if kind[0] or kind[2] != "uneven"]
    evidence, labels, model = search(models, begin, most, seed)
    one = max(each.evidence(np.zeros(len(w), np.int64)) for each in models)
    return _result(w, seen, labels, model, evidence, evidence - one)


def _result(w: Array, seen: Array, labels: Labels, model: BlockModel, evidence: float, gain: float) -> Blocks:
    hot = np.eye(labels.max() + 1)[labels]
    x, m = hot.T @ w @ hot, hot.T @ seen @ hot
    means = np.where(m > 0, x / np.where(m > 0, m, 1), np.nan)
    order = np.argsort(-np.nan_to_num(np.diag(means), nan=-1.0), kind="stable")
    structure = np.nansum(m * (means - w.sum() / seen.sum()) ** 2) / 2  # m counts each pair twice
    levels = [np.argsort(order)[labels]]
    member = labels
    for above in hierarchy(BlockSums.of(model, labels).m.astype(np.float64))[1]:
        member = above[member]
        if member.max() > 0:
            levels.append(member)
    return Blocks(
        levels[0], means[np.ix_(order, order)], evidence, gain, float(structure), tuple(levels), model.name
    )
