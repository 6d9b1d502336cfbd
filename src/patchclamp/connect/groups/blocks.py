"""Weighted block model of an undirected graph with weights from 0 on, by its evidence; flat, exponential weights.

With a Gamma(alpha, beta) prior on the rate of each pair of blocks, m node pairs of total weight x have log-evidence
log G(m + alpha) - log G(alpha) + alpha log beta - (m + alpha) log(beta + x), alpha = 1, beta = the mean weight. The prior on
partitions of N nodes into B blocks of sizes n_r is -log N - log C(N - 1, B - 1) - log(N! / prod n_r!).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.special import gammaln

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng
from patchclamp.draw.cards import shown

Array = NDArray[np.float64]
Labels = NDArray[np.int64]


@shown
@dataclass(frozen=True, eq=False)
class Blocks:
    """A partition of nodes.

    Parameters
    ----------
    labels
        (node,) block of each, the block with the largest weight within first.
    means
        (block, block) mean weight of a pair; NaN where there is no pair.
    evidence
        Log-evidence with the prior, in nats.
    gain
        The same minus that of a single block; 0 where there is no structure.
    structure
        Sum over pairs of (mean of its pair of blocks - mean of all)^2: how much of the weights' energy the partition
        explains beyond their mean. The gain is free of scale and so rewards patterns of tiny weights; this is not.
    """

    labels: Labels
    means: Array
    evidence: float
    gain: float
    structure: float

    @property
    def n(self) -> int:
        """Number of blocks."""
        return len(self.means)

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


def weighted_blocks(weights: ArrayLike, *, starts: int = 10, most: int = 12, seed: int = 0) -> Blocks:
    """Partition the nodes of a weighted graph by greedy moves of single nodes and merges of blocks, from several starts.

    Parameters
    ----------
    weights
        (node, node), symmetric, from 0 on; NaN for pairs that were not measured. The diagonal is ignored.
    starts
        Random starts, beside one block, cuts of a hierarchical clustering, and strong nodes against weak ones.
    most
        Largest number of blocks.
    seed
        Of starts and order.

    Returns
    -------
    Blocks

    Notes
    -----
    After Peixoto's weighted stochastic block model, flat and without correction for degree: a few strong nodes may
    become a block of their own. Node pairs are taken as independent, which pairs of one recording are not: hold the gain
    against that of a null.

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
    seen = (np.isfinite(w) & ~np.eye(len(w), dtype=bool)).astype(np.float64)
    w = np.where(seen > 0, w, 0.0)
    if w.sum() == 0:
        return Blocks(np.zeros(len(w), np.int64), np.zeros((1, 1)), 0.0, 0.0, 0.0)
    beta = float(w.sum() / seen.sum())
    one = _State(w, seen, np.zeros(len(w), np.int64), 1, beta)
    best = one.labels, one.evidence()
    for k, start in enumerate(_starts(w, starts, most, seed)):
        state = _State(w, seen, start, most, beta)
        state.search(numpy_rng([seed, 6201, k]))
        value = state.evidence()
        if value > best[1] + 1e-9:
            best = state.labels, value
    return _result(w, seen, best[0], best[1], best[1] - one.evidence())


def _starts(w: Array, starts: int, most: int, seed: int) -> Iterator[Labels]:
    if most < 2:
        return
    tree = linkage(w + np.eye(len(w)) * w.max(1), "ward")
    for n in sorted({2, 3, 5, most}):
        if n <= min(most, len(w)):
            yield fcluster(tree, n, "maxclust").astype(np.int64) - 1
    strong = np.argsort(np.argsort(-w.sum(1), kind="stable"), kind="stable")
    for part in (5, 3, 2):
        yield (strong >= max(2, len(w) // part)).astype(np.int64)
    rng = numpy_rng([seed, 6202])
    for _ in range(starts):
        yield rng.integers(0, rng.integers(2, most + 1), len(w))


class _State:
    """A partition with sums of weights and numbers of pairs between blocks; within a block each pair counts once."""

    def __init__(self, w: Array, seen: Array, labels: Labels, most: int, beta: float) -> None:
        self.w, self.seen, self.beta, self.most = w, seen, beta, most
        self.labels = labels.copy()
        self.factorial = gammaln(np.arange(len(labels) + 2.0) + 1)  # log k!
        self.eye = np.eye(most)
        self.shape_term = gammaln(np.arange(len(labels) ** 2 + 2.0) + 1) + np.log(beta)  # by number of pairs
        self.recount()

    def recount(self) -> None:
        hot = np.eye(self.most)[self.labels]
        self.x, self.m = hot.T @ self.w @ hot, hot.T @ self.seen @ hot
        for sums in (self.x, self.m):
            np.fill_diagonal(sums, np.diag(sums) / 2)
        self.sizes = hot.sum(0)

    def term(self, m: Array, x: Array) -> Array:
        return np.asarray(self.shape_term[m.astype(np.int64)] - (m + 1) * np.log(self.beta + x))

    def prior(self, sizes: Array) -> Array:
        """Of partitions with these sizes (..., block)."""
        n, blocks = len(self.labels), (sizes > 0).sum(-1)
        f = self.factorial
        choose = f[n - 1] - f[blocks - 1] - f[n - blocks]
        return np.asarray(-np.log(n) - choose - f[n] + f[sizes.astype(np.int64)].sum(-1))

    def evidence(self) -> float:
        return float(np.tril(self.term(self.m, self.x)).sum() + self.prior(self.sizes))

    def search(self, rng: np.random.Generator) -> None:
        for _ in range(50):
            moved = sum([self.move(int(i)) for i in rng.permutation(len(self.labels))])
            if not moved and not self.merge():
                return

    def move(self, i: int) -> bool:
        """Put node i where the evidence is largest."""
        k = np.bincount(self.labels, self.w[i], self.most).astype(np.float64)
        c = np.bincount(self.labels, self.seen[i], self.most).astype(np.float64)
        old = int(self.labels[i])
        self._add(old, -k, -c, -1)
        gain = (self.term(self.m + c, self.x + k) - self.term(self.m, self.x)).sum(1)
        gain += self.prior(self.sizes + self.eye)
        empty = np.flatnonzero(self.sizes == 0)
        gain[empty[1:]] = -np.inf
        new = int(gain.argmax())
        new = old if gain[new] <= gain[old] + 1e-9 else new
        self._add(new, k, c, 1)
        self.labels[i] = new
        return new != old

    def _add(self, block: int, k: Array, c: Array, count: int) -> None:
        for sums, part in ((self.x, k), (self.m, c)):
            own = sums[block, block] + part[block]
            sums[block] += part
            sums[:, block] += part
            sums[block, block] = own
        self.sizes[block] += count

    def merge(self) -> bool:
        """Merge the two blocks whose union raises the evidence most."""
        used = np.flatnonzero(self.sizes)
        now, best, found = self.evidence(), 1e-9, None
        for a in used:
            for b in used[used < a]:
                trial = _State(
                    self.w, self.seen, np.where(self.labels == a, b, self.labels), self.most, self.beta
                )
                if trial.evidence() - now > best:
                    best, found = trial.evidence() - now, trial.labels
        if found is None:
            return False
        self.labels = found
        self.recount()
        return True


def _result(w: Array, seen: Array, labels: Labels, evidence: float, gain: float) -> Blocks:
    _, labels = np.unique(labels, return_inverse=True)
    hot = np.eye(labels.max() + 1)[labels]
    x, m = hot.T @ w @ hot, hot.T @ seen @ hot
    means = np.where(m > 0, x / np.where(m > 0, m, 1), np.nan)
    order = np.argsort(-np.nan_to_num(np.diag(means), nan=-1.0), kind="stable")
    structure = np.nansum(m * (means - w.sum() / seen.sum()) ** 2) / 2  # m counts each pair twice
    return Blocks(np.argsort(order)[labels], means[np.ix_(order, order)], evidence, gain, float(structure))
