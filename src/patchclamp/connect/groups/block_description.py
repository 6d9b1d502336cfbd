"""How short does a partition make the description of a graph? Microcanonical block models, in nats.

The log-evidence of a graph and a partition b of its N nodes in B blocks is the sum of

- edges: which pairs have one, given the number m_rs of edges between blocks r and s. Plain: -log C(M_rs, m_rs) a pair of
  blocks, M_rs node pairs that were measured. Corrected for degree: log m_rs! (and m_rr log 2) - log d_r! + log k_i!, d_r the
  degrees of a block together, with its degrees k_i as likely as their histogram among all that sum to d_r, and divided by the
  chance that no pair gets two edges and no node one to itself, as nothing else would be fair to the plain model;
- weights: log G(m_rs + 1) + log beta - (m_rs + 1) log(beta + x_rs), exponential weights of sum x_rs, their rate integrated over
  an exponential prior (beta is the mean weight), optionally of weights divided by a strength of both nodes;
- numbers of edges m_rs: nested (the blocks are nodes of a graph that is described by blocks, and so on), or communities: the
  number of edges within blocks against all, spread over blocks evenly, or unevenly (degrees have one histogram for all blocks,
  every end stays within its block with one chance, those that leave meet at random); then one rate of weights within and one
  between;
- the partition: -log N - log C(N - 1, B - 1) - log(N! / prod n_r!).

After Peixoto (Phys. Rev. X 4, 011047; Phys. Rev. E 95, 012317; 97, 012306) and Zhang and Peixoto (Phys. Rev. Research 2, 043271)
for the even spread. Uneven communities and strengths are not theirs; the latter are fitted to one block and paid for by Laplace's approximation with a
normal prior of variance 1 on their logarithm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import cut_tree, linkage
from scipy.sparse import csr_matrix
from scipy.special import gammaln, spence

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Numbers = NDArray[Any]
WORDS = {"nested": "nested", "even": "equal communities", "uneven": "communities"}
CUTS = (2, 3, 4, 5, 6, 8, 10, 13, 17, 22, 30, 40, 60)  # numbers of blocks that are tried on the levels above


class BlockModel:
    """A graph and the way in which it is described.

    Parameters
    ----------
    weights
        (node, node) from 0 on, 0 where there is no edge or none was measured.
    seen
        (node, node) 1 for pairs that were measured, 0 for others and on the diagonal.
    degrees
        Corrected for degree.
    strengths
        Weights divided by the nodes' strengths.
    spread
        How numbers of edges are described: "nested", "even" or "uneven" (the last goes with `degrees`).
    """

    def __init__(self, weights: Array, seen: Array, degrees: bool, strengths: bool, spread: str) -> None:
        self.seen, self.degrees, self.strengths, self.spread = seen, degrees, strengths, spread
        self.alike = spread != "nested"
        self.edges: Any = (weights > 0).astype(np.float64)
        self.n, self.k = len(weights), self.edges.sum(1)
        self.count = float(self.k.sum() / 2)
        self.pairs = float(seen.sum() / 2)
        values = weights[weights > 0]
        self.weighted = bool(np.ptp(values) > 0)
        self.constant = -log_factorial(self.n)
        y = weights if self.weighted else self.edges
        if degrees:
            self.constant += log_factorial(self.k).sum()
        if self.weighted and strengths:
            own = node_strengths(weights, self.edges)
            y = weights / np.outer(own, own)
            self.constant -= self.k @ np.log(own) + 0.5 * (np.log(own) ** 2 + np.log1p(self.k)).sum()
        self.beta, self.total = float(y.sum() / self.edges.sum()), float(y.sum() / 2)
        self.all_seen = bool(seen.sum() == self.n * (self.n - 1))
        sparse = self.edges.mean() < 0.25
        self.y = csr_matrix(y) if sparse else y
        self.edges = csr_matrix(self.edges) if sparse else self.edges
        degree, self.degree_class = np.unique(np.rint(self.k).astype(np.int64), return_inverse=True)
        self.class_degree = degree
        if spread == "uneven":
            self.constant += log_factorial(np.bincount(self.degree_class)).sum() - log_factorial(self.n)
            self.constant -= float(log_partitions(self.k.sum(), np.asarray(self.n)))

    @property
    def name(self) -> str:
        """What is corrected, and how blocks are described."""
        parts = [
            "corrected for degree" if self.degrees else "",
            "corrected for strength" if self.strengths and self.weighted else "",
        ]
        return ", ".join([*filter(None, parts), WORDS[self.spread]])

    def pair(self, m: Numbers, x: Numbers, pairs: Numbers) -> Array:
        """Of a pair of blocks: their edges and weights."""
        out = log_factorial(m) if self.degrees else -log_choose(pairs, m)
        return out if self.alike else out + self.weight(m, x)

    def weight(self, m: Numbers, x: Numbers) -> Array:
        """Of the weights of m edges that sum to x."""
        if not self.weighted:
            return np.zeros(np.shape(m))
        return np.asarray(log_factorial(m) + np.log(self.beta) - (m + 1) * np.log(self.beta + x))

    def block(self, size: Numbers, degree: Numbers, classes: Numbers) -> Array:
        """Of a block: its degrees and its share of the prior on partitions; `classes` is sum log(count!) of its degrees."""
        if not self.degrees:
            return log_factorial(size)
        if self.spread == "uneven":
            return np.asarray(log_factorial(size) - log_factorial(degree))
        return np.asarray(classes - log_factorial(degree) - log_partitions(degree, size))

    def partition(self, blocks: Numbers | int) -> Array:
        """Of the number of blocks; the rest of the prior is in `block` and `constant`."""
        return np.asarray(-np.log(self.n) - log_choose(self.n - 1.0, np.asarray(blocks) - 1.0))

    def inside(self, m: Numbers, degree: Numbers) -> Array:
        """Of a block with m edges within and degrees that sum to `degree`, where communities are uneven."""
        ends = degree - 2 * m
        return np.asarray(log_factorial(m) + m * np.log(2) + log_factorial(ends) + log_choose(degree // 2, m))

    def within(self, m: Numbers, x: Numbers, pairs: Numbers, blocks: Numbers | int) -> Array:
        """Where blocks are alike: edges and weights, of m within blocks of `pairs` pairs and all the rest between."""
        total, every = self.count, self.pairs
        out = self.weight(m, x) + np.where(
            blocks > 1, self.weight(total - m, np.maximum(self.total - x, 0)), 0.0
        )
        out = out - np.where(blocks > 1, np.log(total + 1), 0.0)
        if not self.degrees:
            return np.asarray(out - log_choose(pairs, m) - log_choose(every - pairs, total - m))
        count = np.asarray(blocks, np.float64)
        if self.spread == "uneven":
            outer = total - m
            out = out - np.where(count > 1, log_choose(total, m), 0.0)
            return np.asarray(out - log_factorial(2 * outer) + outer * np.log(2) + log_factorial(outer))
        apart = np.log(np.maximum(count * (count - 1) / 2, 1))
        out = out + log_factorial(m) + log_factorial(total - m) - m * (np.log(count) - np.log(2))
        return np.asarray(out - (total - m) * apart)

    def simple(self, sums: BlockSums) -> float:
        """log of the chance that pairs which get edges in proportion to degrees get one at most, and no node one to itself."""
        block, group = np.nonzero(sums.classes)
        count, k = sums.classes[block, group], self.class_degree[group]
        rate = (sums.m + np.diag(np.diag(sums.m))) / np.maximum(np.outer(sums.degree, sums.degree), 1)
        mean = rate[np.ix_(block, block)] * np.outer(k, k)
        own = np.diag(mean)
        twice = np.log1p(mean) - mean
        return float((count @ twice @ count - count @ np.diag(twice) - count @ own) / 2)

    def evidence(self, labels: Labels) -> float:
        """Of a partition, its blocks numbered without gaps."""
        return self.of_sums(BlockSums.of(self, labels))[0]

    def quick(self, labels: Labels) -> float:
        """The same where all blocks are one on the level above, and without `simple`."""
        sums = BlockSums.of(self, labels)
        flat = 0.0 if self.alike else _flat(len(sums.size), self.count)
        return self.of_sums(sums, nested=False)[0] + flat

    def of_sums(self, sums: BlockSums, nested: bool = True) -> tuple[float, list[Labels]]:
        """Log-evidence, and the block of every block on each level above; `nested=False` leaves these out."""
        out = self.constant + self.partition(sums.blocks)
        out += self.block(sums.size, sums.degree, log_factorial(sums.classes).sum(1)).sum()
        if nested and self.degrees:
            out -= self.simple(sums)
        if self.alike:
            if self.spread == "uneven":
                own = np.diag(sums.m)
                out += self.inside(own, sums.degree).sum()
                outer = sums.degree - 2 * own
                if nested and sums.blocks > 1 and outer.sum() > 0:  # ends that meet none of their own block
                    out -= outer.sum() / 2 * np.log(max(1 - ((outer / outer.sum()) ** 2).sum(), 0.5))
            parts = (np.trace(sums.m), np.trace(sums.x), np.trace(sums.pairs), sums.blocks)
            return float(out + self.within(*map(np.asarray, parts))), []
        inside = np.trace(sums.m) * np.log(2) if self.degrees else 0.0
        out += np.tril(self.pair(sums.m, sums.x, sums.pairs)).sum() + inside
        prior, above = hierarchy(sums.m.astype(np.float64)) if nested else (0.0, [])
        return float(out + prior), above


@dataclass
class BlockSums:
    """BlockSums over pairs of blocks (each node pair within a block once) and over blocks."""

    m: Labels
    x: Array
    pairs: Labels
    size: Labels
    degree: Labels
    classes: Labels
    near: Labels  # (node, block) edges, weights and pairs
    weight: Array
    c: Labels

    @classmethod
    def of(cls, model: BlockModel, labels: Labels) -> BlockSums:
        """Of a partition, its blocks numbered without gaps."""
        hot = np.eye(int(labels.max()) + 1)[labels]
        size = np.rint(hot.sum(0)).astype(np.int64)
        near, weight = model.edges @ hot, model.y @ hot if model.weighted else None
        c = size - hot if model.all_seen else model.seen @ hot
        m, pairs = (np.rint(hot.T @ one).astype(np.int64) for one in (near, c))
        x = m.astype(np.float64) if weight is None else hot.T @ weight
        x[np.diag_indices(len(x))] /= 2
        for one in (m, pairs):
            one[np.diag_indices(len(one))] //= 2
        classes = np.zeros((len(size), int(model.degree_class.max()) + 1), np.int64)
        np.add.at(classes, (labels, model.degree_class), 1)
        degree = np.rint(hot.T @ model.k).astype(np.int64)
        to = [np.rint(near).astype(np.int64), near if weight is None else weight, np.rint(c).astype(np.int64)]
        return cls(m, x, pairs, size, degree, classes, to[0], to[1], to[2])

    @property
    def blocks(self) -> int:
        """Number of blocks with nodes."""
        return int((self.size > 0).sum())


# ---- levels above the first


def hierarchy(m: Array) -> tuple[float, list[Labels]]:
    """Log-prior of the edges between blocks, and the partition of blocks on each level above, by cuts of a clustering."""
    blocks = len(m)
    if blocks == 1:
        return 0.0, []
    edges = np.tril(m).sum()
    top: Labels = np.zeros(blocks, np.int64)
    best, labels = _level(m, top, edges), top
    if blocks > 2:
        degree = m.sum(0) + np.diag(m)
        profile = np.log((m + 0.5) / (np.outer(degree, degree) / max(2 * edges, 1) + 0.5))
        cuts = cut_tree(linkage(profile, "average"), [c for c in CUTS if c < blocks])
        for trial in cuts.T.astype(np.int64):
            value = _level(m, trial, edges)
            if value > best + 1e-9:
                best, labels = value, trial
    if labels.max() == 0:
        return best, [top]
    hot = np.eye(labels.max() + 1)[labels]
    upper = hot.T @ m @ hot
    np.fill_diagonal(upper, (np.diag(upper) + np.diag(m) @ hot) / 2)
    without_top = best - _flat(len(upper), edges)
    prior, above = hierarchy(upper)
    return without_top + prior, [labels, *above]


def _level(m: Array, labels: Labels, edges: float) -> float:
    """Of the edges between blocks that are in these blocks, which are described as one."""
    count = int(labels.max()) + 1
    hot = np.eye(count)[labels]
    size = hot.sum(0)
    upper, slots = hot.T @ m @ hot, np.outer(size, size)
    np.fill_diagonal(upper, (np.diag(upper) + np.diag(m) @ hot) / 2)
    np.fill_diagonal(slots, size * (size + 1) / 2)
    out = -np.tril(log_choose(slots + upper - 1, upper)).sum()
    n = float(len(labels))
    out -= np.log(n) + log_choose(n - 1, count - 1.0) + log_factorial(n) - log_factorial(size).sum()
    return float(out + (_flat(count, edges) if count > 1 else 0.0))


def _flat(blocks: int, edges: float) -> float:
    """Of the edges between blocks, any numbers being as likely; the level above has one block."""
    return float(-log_choose(blocks * (blocks + 1) / 2 + edges - 1, edges) - np.log(blocks))


# ---- numbers


def log_factorial(n: NDArray[Any] | float) -> Array:
    """log n! of whole numbers, from a table where they are not huge."""
    whole = np.asarray(n)
    whole = whole if whole.dtype == np.int64 else np.rint(whole).astype(np.int64)
    table = _factorials()
    if whole.size and whole.max() >= len(table):
        return np.asarray(gammaln(whole + 1.0))
    return np.asarray(table[whole])


@cache
def _factorials() -> Array:
    return np.asarray(gammaln(np.arange(2.0**20) + 1))


def log_choose(n: NDArray[Any] | float, k: NDArray[Any] | float) -> Array:
    """log of the binomial coefficient."""
    return np.asarray(log_factorial(n) - log_factorial(k) - log_factorial(np.asarray(n) - k))


def log_partitions(m: Numbers, n: Numbers) -> Array:
    """log of the number of ways to write m as a sum of at most n positive numbers, by Szekeres' asymptotic formula."""
    m, n = np.maximum(m, 1.0), np.maximum(n, 1.0)
    few = log_choose(m - 1, np.minimum(n, m) - 1) - log_factorial(n)  # orders of few parts hardly repeat
    grid, front, slope = _szekeres()
    at = np.log(n) - np.log(m) / 2
    many = np.interp(at, grid, front) - np.log(m) + np.sqrt(m) * np.interp(at, grid, slope)
    return np.asarray(np.maximum(np.where(n < m**0.25, few, many), 0.0))


@cache
def _szekeres() -> tuple[Array, Array, Array]:
    grid = np.linspace(np.log(1e-3), np.log(1e4), 4000)
    u = np.exp(grid)
    v = u.copy()
    for _ in range(2000):
        new = u * np.sqrt(spence(np.exp(-v)))
        if np.abs(new - v).max() < 1e-10:
            break
        v = new
    rest = np.log1p(-np.exp(-v) * (1 + u**2 / 2))
    front = np.log(v) - rest / 2 - 1.5 * np.log(2) - np.log(u) - np.log(np.pi)
    return grid, front, 2 * v / u - u * np.log1p(-np.exp(-v))


def node_strengths(weights: Array, edges: Array) -> Array:
    """(node,) with weights / outer(strengths) of the same mean at every node; geometric mean 1."""
    k = edges.sum(1)
    own = np.sqrt(np.where(k > 0, weights.sum(1) / np.maximum(k, 1), 1.0))
    for _ in range(100):
        mean = (weights @ (1 / own)) / np.maximum(k, 1)
        new = np.where(k > 0, np.sqrt(own * np.maximum(mean, 1e-300)), 1.0)
        if np.abs(np.log(new / own)).max() < 1e-8:
            break
        own = new
    own[k > 0] /= np.exp(np.log(own[k > 0]).mean())
    own[k == 0] = 1.0
    return np.asarray(own)
