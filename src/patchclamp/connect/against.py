"""A graph against a known one, with the null that fits matrices: nodes are permuted, not pairs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchclamp.base.errors import PatchclampError
from patchclamp.base.estimate import Estimate, Null
from patchclamp.base.seeds import numpy_rng
from patchclamp.base.statistics import pearson, permutation_p, spearman
from patchclamp.draw.cards import shown
from patchclamp.nouns.graph import Graph

Array = NDArray[np.float64]


@shown
@dataclass(frozen=True)
class Against:
    """Agreement of a graph with a known one.

    `estimate` has the null of permuted nodes; its p is one-sided, (1 + #{null >= value}) / (n + 1). There is no interval: a
    graph is one, and its pairs are not independent.
    """

    method: str
    statistic: str
    estimate: Estimate
    pairs: int

    @property
    def value(self) -> float:
        """The agreement."""
        return self.estimate.value

    @property
    def null(self) -> Null:
        """What permuted nodes give."""
        assert self.estimate.null is not None
        return self.estimate.null

    @property
    def p(self) -> float:
        """Of the agreement among permuted nodes."""
        assert self.null.p is not None
        return self.null.p

    def __str__(self) -> str:
        band = f"[{self.null.low:.3f}, {self.null.high:.3f}]"
        return f"{self.method}: {self.statistic} {self.value:.3f}, null {band}, p={self.p:.3g}, {self.pairs} pairs"


def against(
    graph: Graph,
    truth: ArrayLike,
    statistic: Literal["auroc", "pearson", "spearman", "direction"] = "auroc",
    *,
    n_perm: int = 1000,
    seed: int = 0,
) -> Against:
    """Hold a graph against a known matrix, with a null in which its nodes change places.

    Permuting nodes keeps each matrix's hubs, blocks and symmetry and breaks only which node is which; permuting pairs would
    take the pairs of one node for independent and find anything significant (Mantel's test, the quadratic assignment
    procedure).

    Parameters
    ----------
    graph
        Weights; ``"auroc"`` and ``"direction"`` take their size, the correlations take them as they are.
    truth
        (targets, sources); NaN is left out. For ``"auroc"`` and ``"direction"`` an edge where not 0.
    statistic
        What is computed, over ordered pairs (each pair once where both are symmetric: the same number).
    n_perm, seed
        Permutations.

    Returns
    -------
    Against

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.random((12, 12)) < 0.2
    >>> graph = Graph(tuple("abcdefghijkl"), truth + 0.3 * rng.normal(size=(12, 12)), True, "noisy copy")
    >>> against(graph, truth, n_perm=99).p
    0.01
    """
    true = np.asarray(truth, dtype=np.float64)
    if true.shape != graph.weights.shape:
        raise PatchclampError(f"{graph.method}: truth of shape {true.shape} for {graph.n} nodes")
    if n_perm < 1:
        raise PatchclampError(f"n_perm={n_perm}: at least one")
    if statistic not in ("auroc", "pearson", "spearman", "direction"):
        raise PatchclampError(f"statistic={statistic!r}: one of auroc, pearson, spearman, direction")

    def measure(weights: Array) -> float:
        if statistic in ("auroc", "direction"):
            moved = Graph(graph.nodes, weights, True, graph.method)
            return moved.auroc(true) if statistic == "auroc" else moved.direction(true)
        use = np.isfinite(weights) & np.isfinite(true) & ~np.eye(graph.n, dtype=bool)
        return float((pearson if statistic == "pearson" else spearman)(weights[use], true[use]))

    value = measure(graph.weights)
    rng = numpy_rng([seed, 6501])
    draws = np.empty(n_perm)
    for k in range(n_perm):
        order = rng.permutation(graph.n)
        draws[k] = measure(graph.weights[np.ix_(order, order)])
    null = Null.of(draws[np.isfinite(draws)], "permuted nodes")
    null = replace(null, n=n_perm, p=permutation_p(value - 1e-12, draws))
    use = np.isfinite(graph.weights) & np.isfinite(true) & ~np.eye(graph.n, dtype=bool)
    return Against(graph.method, statistic, Estimate(value, null=null), int(use.sum()))
