"""Communities of a weighted graph: Leiden's three phases on a dense matrix, in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.seeds import numpy_rng

Matrix = NDArray[np.float64]
Labels = NDArray[np.int64]


def modularity(weights: Matrix, labels: Labels, resolution: float = 1.0) -> float:
    """Newman's Q = sum over communities of (inside / 2m - resolution * (degree / 2m)^2).

    Examples
    --------
    >>> blocks = np.kron(np.eye(2), np.ones((3, 3)) - np.eye(3))
    >>> modularity(blocks, np.array([0, 0, 0, 1, 1, 1]))
    0.5
    """
    total = weights.sum()
    if total <= 0:
        return 0.0
    member = np.eye(int(labels.max()) + 1)[labels]
    inside = member.T @ weights @ member / total
    return float(np.trace(inside) - resolution * np.sum(inside.sum(1) ** 2))


def leiden(weights: Matrix, resolution: float = 1.0, iterations: int = 10, seed: int = 0) -> Labels:
    """Partition of a symmetric, not negative weight matrix that locally maximises Newman's Q.

    Traag et al. 2019: nodes are moved, each community is refined from single nodes, the graph is aggregated over the
    refined partition. Refinement is greedy (the paper draws at random among improvements). Labels are numbered by
    first appearance.
    """
    rng = numpy_rng(seed)
    labels = np.arange(len(weights))
    for _ in range(iterations):
        better = _pass(weights, labels, resolution, rng)
        if modularity(weights, better, resolution) <= modularity(weights, labels, resolution) + 1e-12:
            break
        labels = better
    return labels


def _pass(weights: Matrix, labels: Labels, resolution: float, rng: np.random.Generator) -> Labels:
    graph, node = weights, np.arange(len(weights))
    labels = labels.copy()
    while True:
        labels = _move(graph, labels, resolution, rng, np.zeros(len(graph), dtype=np.int64))
        if len(np.unique(labels)) == len(graph):
            return _numbered(labels[node])
        refined = _numbered(_move(graph, np.arange(len(graph)), resolution, rng, labels))
        if len(np.unique(refined)) == len(graph):
            return _numbered(labels[node])
        member = np.eye(int(refined.max()) + 1)[refined]
        graph = member.T @ graph @ member
        first = np.array([np.flatnonzero(refined == c)[0] for c in range(member.shape[1])])
        labels, node = _numbered(labels[first]), refined[node]


def _move(
    graph: Matrix, labels: Labels, resolution: float, rng: np.random.Generator, within: Labels
) -> Labels:
    """Move nodes to the neighbouring community of largest gain (inside `within`) until nothing gains."""
    labels = _numbered(labels)
    degree = graph.sum(1)
    total = max(graph.sum(), np.finfo(float).tiny)
    for _ in range(100):
        moved = False
        for node in rng.permutation(len(graph)):
            links = np.where(within == within[node], graph[node], 0.0)
            links[node] = 0.0
            mass = np.bincount(labels, degree, minlength=len(graph))
            mass[labels[node]] -= degree[node]
            gain = np.bincount(labels, links, minlength=len(graph)) - resolution * degree[node] * mass / total
            allowed = np.bincount(labels, links > 0, minlength=len(graph)) > 0
            allowed[labels[node]] = True
            best = int(np.argmax(np.where(allowed, gain, -np.inf)))
            if gain[best] > gain[labels[node]] + 1e-12 * max(1.0, abs(degree[node])):
                labels[node], moved = best, True
        if not moved:
            break
    return labels


def _numbered(labels: Labels) -> Labels:
    _, first, back = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    return np.asarray(rank[back], dtype=np.int64)
