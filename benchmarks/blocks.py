"""How well the block model finds planted groups of nodes, beside Louvain, on graphs of every kind that either is good at.

python -m benchmarks.blocks [SEEDS] [FIRST SEED]

Numbers are adjusted mutual information with the planted groups (1: found; 0: no more than chance), mean over seeds, and in
brackets normalised mutual information, which favours many small groups. Louvain is networkx's, with the weights and its own seed.
A random graph has no groups: there the columns are numbers of groups. The method was developed on seeds 0 to 4.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

from benchmarks.common import save, show
from patchclamp.connect import weighted_blocks

Array = NDArray[np.float64]
Planted = tuple[Array, NDArray[np.int64]]


def blocks(
    sizes: list[int], affinity: Any, degree: float, rng: np.random.Generator, tail: float = 0.0
) -> Planted:
    """A graph of mean `degree`, pairs of nodes as likely as the affinity of their groups, times both nodes' propensities.

    `tail` > 0: propensities are Pareto of that exponent (cut at 30), else all 1.
    """
    truth = np.repeat(np.arange(len(sizes)), sizes)
    own = np.minimum((1 - rng.random(len(truth))) ** (-1 / tail), 30.0) if tail else np.ones(len(truth))
    chance = np.asarray(affinity, float)[np.ix_(truth, truth)] * np.outer(own, own)
    np.fill_diagonal(chance, 0)
    chance = np.minimum(chance * degree * len(truth) / chance.sum(), 1)
    edges = np.tril(rng.random(chance.shape) < chance, -1).astype(float)
    return edges + edges.T, truth


def planted(
    groups: int, size: int, degree: float, mixing: float, rng: np.random.Generator, tail: float = 0.0
) -> Planted:
    """Equal groups; `mixing` is the share of edges that leave their group."""
    ratio = mixing / (1 - mixing) / max(groups - 1, 1)
    affinity = np.full((groups, groups), ratio) + (1 - ratio) * np.eye(groups)
    return blocks([size] * groups, affinity, degree, rng, tail)


def lfr(n: int, degree: float, mixing: float, seed: int) -> Planted:
    """The benchmark of Lancichinetti, Fortunato and Radicchi by networkx: power laws of degrees (2.5) and of sizes (1.5)."""
    import networkx as nx

    for attempt in range(50):
        try:
            graph = nx.LFR_benchmark_graph(
                n, 2.5, 1.5, mixing, average_degree=degree, max_degree=n // 8, min_community=15,
                max_community=n // 5, seed=1000 * attempt + seed,
            )  # fmt: skip
            break
        except nx.ExceededMaxIterations:
            continue
    else:
        raise RuntimeError(f"networkx made no LFR graph of {n} nodes in 50 tries")
    graph.remove_edges_from(nx.selfloop_edges(graph))
    truth = np.zeros(n, np.int64)
    for k, members in enumerate({frozenset(graph.nodes[i]["community"]) for i in graph}):
        truth[list(members)] = k
    return nx.to_numpy_array(graph), truth


def weighted(graph: Planted, inside: float, rng: np.random.Generator) -> Planted:
    """Exponential weights on the edges, of mean `inside` within a group and 1 between."""
    edges, truth = graph
    mean = np.where(truth[:, None] == truth, inside, 1.0)
    w = np.tril(edges * rng.exponential(mean), -1)
    return w + w.T, truth


def dense(rng: np.random.Generator, hubs: bool) -> Planted:
    """All pairs have weights: 4 groups of 40, exponential, three times as large within; with `hubs` times both nodes' strengths."""
    truth = np.repeat(np.arange(4), 40)
    strength = rng.lognormal(0, 0.8, 160) if hubs else np.ones(160)
    w = np.tril(
        rng.exponential(np.where(truth[:, None] == truth, 3.0, 1.0) * np.outer(strength, strength)), -1
    )
    return w + w.T, truth


# name -> seed -> graph and groups
GRAPHS: dict[str, Callable[[int], Planted]] = {
    "planted, 10 x 50, degree 10, mixing .3": lambda s: planted(10, 50, 10, 0.3, np.random.default_rng(s)),
    "planted, 4 x 75, degree 6, mixing .35": lambda s: planted(4, 75, 6, 0.35, np.random.default_rng(s)),
    "planted, 25 x 20, degree 10, mixing .4": lambda s: planted(25, 20, 10, 0.4, np.random.default_rng(s)),
    "power-law degrees, 6 x 60, degree 10, mixing .3": lambda s: planted(6, 60, 10, 0.3, np.random.default_rng(s), 1.8),
    "power-law degrees, 5 x 200, degree 8, mixing .3": lambda s: planted(5, 200, 8, 0.3, np.random.default_rng(s), 1.8),
    "LFR, 300 nodes, degree 10, mixing .3": lambda s: lfr(300, 10, 0.3, s),
    "LFR, 500 nodes, degree 12, mixing .4": lambda s: lfr(500, 12, 0.4, s),
    "LFR, 1,000 nodes, degree 15, mixing .5": lambda s: lfr(1000, 15, 0.5, s),
    "two-sided, 2 x 100, degree 8, mixing .85": lambda s: planted(2, 100, 8, 0.85, np.random.default_rng(s)),
    "two-sided, power-law degrees, 2 x 150, degree 10": lambda s: planted(2, 150, 10, 0.85, np.random.default_rng(s), 1.8),
    "two-sided, power-law degrees, 4 x 75, degree 10": lambda s: planted(4, 75, 10, 0.85, np.random.default_rng(s), 1.8),
    "core and periphery, 60 + 240, degree 8": lambda s: blocks([60, 240], [[9, 3], [3, 1]], 8, np.random.default_rng(s)),
    "weights alone, 4 x 60, degree 24, 4 : 1": lambda s: weighted(
        planted(4, 60, 24, 0.75, np.random.default_rng(s)), 4, np.random.default_rng([s, 1])
    ),
    "weights alone, 4 x 60, degree 12, 4 : 1": lambda s: weighted(
        planted(4, 60, 12, 0.75, np.random.default_rng(s)), 4, np.random.default_rng([s, 1])
    ),
    "LFR with weights 2 : 1, 300 nodes, mixing .4": lambda s: weighted(lfr(300, 10, 0.4, s), 2, np.random.default_rng(s)),
    "all pairs, 4 x 40, weights 3 : 1": lambda s: dense(np.random.default_rng(s), False),
    "all pairs, hubs, 4 x 40, weights 3 : 1": lambda s: dense(np.random.default_rng(s), True),
    "random, 400 nodes, degree 8": lambda s: planted(1, 400, 8, 0.0, np.random.default_rng(s)),
    "random with power-law degrees, 400 nodes": lambda s: planted(1, 400, 8, 0.0, np.random.default_rng(s), 1.8),
}  # fmt: skip


def louvain(w: Array, seed: int) -> NDArray[np.int64]:
    import networkx as nx

    found = nx.community.louvain_communities(nx.from_numpy_array(w), weight="weight", seed=seed)
    labels = np.zeros(len(w), np.int64)
    for k, members in enumerate(found):
        labels[list(members)] = k
    return labels


def row(name: str, seeds: range) -> dict[str, Any]:
    scores: dict[str, list[tuple[float, float]]] = {"blocks": [], "louvain": []}
    spent, levels = 0.0, []
    for seed in seeds:
        w, truth = GRAPHS[name](seed)
        start = time.process_time()
        found = weighted_blocks(w)
        spent += time.process_time() - start
        levels.append(len(found.levels))
        for method, labels in (("blocks", found.labels), ("louvain", louvain(w, seed))):
            scores[method].append(
                (labels.max() + 1, labels.max() + 1)
                if truth.max() == 0
                else (adjusted_mutual_info_score(truth, labels), normalized_mutual_info_score(truth, labels))
            )
    ours, theirs = (np.array(scores[method]) for method in ("blocks", "louvain"))
    differs = ours[:, 0] - theirs[:, 0]
    return {
        "graph": name,
        "nodes": len(truth),
        "weighted_blocks": "{:.2f} ({:.2f})".format(*ours.mean(0)),
        "Louvain": "{:.2f} ({:.2f})".format(*theirs.mean(0)),
        "difference": f"{differs.mean():+.3f}",
        "better, worse": f"{int((differs > 0.005).sum())}, {int((differs < -0.005).sum())}",
        "levels": round(float(np.mean(levels)), 1),
        "CPU s": round(spent / len(seeds), 1),
    }


def main(seeds: int = 5, first: int = 0) -> None:
    """Run all graphs, show and store the figures."""
    rows = []
    for name in GRAPHS:
        rows.append(row(name, range(first, first + seeds)))
        print(rows[-1], flush=True)
    show("Blocks beside Louvain: adjusted mutual information with the planted groups", rows)
    save("blocks", rows, f"seeds {first} to {first + seeds - 1}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
