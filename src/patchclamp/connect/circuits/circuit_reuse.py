"""Do two circuits share their parts, and does a circuit find those of a known one? Both against what chance gives."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import hypergeom

from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.base.seeds import numpy_rng
from patchclamp.base.statistics import expected_jaccard, permutation_p
from patchclamp.draw.cards import shown
from patchclamp.nouns.circuit import CircuitGraph
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.units import Units

# Nodes at the ends of every graph, which any two circuits share.
ENDS = re.compile(r"embeddings|logits|tokens:.*")


@shown
@dataclass(frozen=True)
class CircuitReuse:
    """What two circuits share at each size.

    Attributes
    ----------
    table : DataFrame
        One row a level and size: level (``"nodes"``, ``"edges"``), size, pool, shared, share (of `size`), jaccard, chance
        (expected Jaccard index of two sets of this size out of the pool), p (hypergeometric: at least as many shared),
        matched_chance and matched_p (second set drawn with as many of each kind and layer, `n_draws` times).
    shared : dict
        (level, size) -> names, edges as ``"source -> target"``.
    """

    table: pd.DataFrame
    shared: dict[tuple[str, int], tuple[str, ...]] = field(repr=False)


def circuit_reuse(
    a: CircuitGraph,
    b: CircuitGraph,
    sizes: Sequence[float] = (0.02, 0.05, 0.1),
    *,
    n_draws: int = 1000,
    seed: int = 0,
) -> CircuitReuse:
    """How much of one behaviour's circuit another behaviour's uses too, beside what chance would share.

    Nodes are ranked by the sum of |weight| of their edges, edges by |weight| (means over items); the first k of
    both graphs are compared, |A and B| / |A or B|.

    Parameters
    ----------
    a, b
        Graphs over the same nodes, such as two of `edge_attribution` on two tasks.
    sizes
        Numbers of nodes and edges; below 1, shares of the pool.
    n_draws, seed
        Of the matched null: sets with as many of each kind and layer as B has, so that "both use late heads" is
        not read as reuse.

    Returns
    -------
    CircuitReuse

    Raises
    ------
    PatchclampError
        For graphs over other nodes: chance is not known for pools that were themselves chosen by each behaviour.

    Notes
    -----
    Merullo et al. 2023 (circuit component reuse), who print the shared share alone. Two of size k of n drawn at random share
    k^2 / n on average. Shared parts need not do the same in both: intervene on one task's circuit in the other.

    Examples
    --------
    >>> graph = CircuitGraph.of(["head.0[0]", "head.0[1]", "logits"], [(2, 0), (2, 1)], [[2.0, 1.0]], method="by hand")
    >>> circuit_reuse(graph, graph, [1]).table.loc[0, ["shared", "jaccard", "chance"]].tolist()
    [1, 1.0, 0.3333333333333333]
    """
    if set(a.nodes) != set(b.nodes):
        apart = sorted(set(a.nodes) ^ set(b.nodes))
        raise PatchclampError(
            f"circuit_reuse: {len(apart)} nodes are in one graph only ({apart[0]}), so what chance shares is not known; "
            "give graphs over the same nodes, such as those of edge_attribution"
        )
    rows, shared = [], {}
    rng = numpy_rng(seed)
    for level, one, other in (("nodes", _nodes(a), _nodes(b)), ("edges", _edges(a), _edges(b))):
        pool = sorted(set(one) & set(other))
        if not pool:
            raise PatchclampError(f"circuit_reuse: the graphs have no {level} in common to choose from")
        for size in _counts(sizes, len(pool)):
            best, rival = (set(_first(ranked, pool, size)) for ranked in (one, other))
            both = best & rival
            drawn = _matched(rival, pool, best, n_draws, rng)
            jaccards = drawn / (2 * size - drawn)
            jaccard = len(both) / (2 * size - len(both))
            rows.append(
                {"level": level, "size": size, "pool": len(pool), "shared": len(both), "share": len(both) / size,
                 "jaccard": jaccard, "chance": expected_jaccard(len(pool), size, size),
                 "p": float(hypergeom.sf(len(both) - 1, len(pool), size, size)),
                 "matched_chance": float(jaccards.mean()), "matched_p": float(permutation_p(jaccard, jaccards))}
            )  # fmt: skip
            shared[level, size] = tuple(sorted(both))
    return CircuitReuse(pd.DataFrame(rows), shared)


def circuit_recovery(
    found: Scores | Collection[str], known: Collection[str], pool: Collection[str] | None = None
) -> dict[str, float]:
    """Precision and recall of found nodes against those of a known circuit, beside chance.

    Parameters
    ----------
    found
        Names of nodes, or scores: then as many as are known are taken, and the area under the curve is of all.
    known
        Names of the nodes that carry the behaviour, such as ``["head.0[0]", "head.1[0]"]``.
    pool
        All nodes that could have been found. Of scores those scored, and with a pool only those of them that are in it.

    Returns
    -------
    dict
        precision, recall, f1, chance (expected precision of a random set), p (hypergeometric), and of scores auroc.

    Raises
    ------
    PatchclampError
        For known or found nodes that are not in the pool, and nodes of a pool that have no score.

    Notes
    -----
    What O'Neill and Bui 2024 report for codes of heads: ``circuit_recovery(discrete_codes(...).scores, known)``.

    Examples
    --------
    >>> pool = [f"head.0[{i}]" for i in range(10)]
    >>> {k: round(v, 2) for k, v in circuit_recovery(pool[:2], pool[1:5], pool).items()}
    {'precision': 0.5, 'recall': 0.25, 'f1': 0.33, 'chance': 0.4, 'p': 0.67}
    """
    area = {}
    truth = set(known)
    if isinstance(found, Scores):
        ranked = found.ranked("abs")
        names = [str(Units({site: None if i is None else (i,)})) for site, i in ranked]
        if pool is not None:
            unscored = sorted(set(pool) - set(names))
            if unscored:
                raise PatchclampError(
                    f"circuit_recovery: {unscored[0]} of the pool has no score{did_you_mean(unscored[0], names)}; give a pool of "
                    "nodes that are scored, or none"
                )
            allowed = set(pool)
            ranked = [one for one, name in zip(ranked, names, strict=True) if name in allowed]
            names = [name for name in names if name in allowed]
        summed = found.summed()
        size = {s: dict(zip(found.index(s), np.abs(summed.mean(s)), strict=True)) for s in found.sites}
        values = np.array([size[site][i] for site, i in ranked])
        inside = np.array([name in truth for name in names])
        if inside.any() and not inside.all():
            above = (values[inside][:, None] > values[~inside]) + 0.5 * (
                values[inside][:, None] == values[~inside]
            )
            area = {"auroc": float(above.mean())}
        chosen, everything = set(names[: len(truth)]), set(names)
    else:
        chosen, everything = set(found), set(pool if pool is not None else ())
        if pool is None:
            raise PatchclampError("circuit_recovery: give pool=, all nodes that could have been found")
    for name in (*truth, *chosen):
        if name not in everything:
            raise PatchclampError(
                f"{name}: is not among the {len(everything)} nodes of the pool{did_you_mean(name, everything)}"
            )
    if not truth or not chosen:
        raise PatchclampError("circuit_recovery: give at least one known and one found node")
    hits = len(truth & chosen)
    precision, recall = hits / len(chosen), hits / len(truth)
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * hits / (len(chosen) + len(truth)),
        "chance": len(truth) / len(everything),
        "p": float(hypergeom.sf(hits - 1, len(everything), len(truth), len(chosen))),
    } | area


def _nodes(graph: CircuitGraph) -> dict[str, float]:
    size = np.abs(np.nan_to_num(graph.weights))
    total = size.sum(0) + size.sum(1)
    return {name: total[i] for i, name in enumerate(graph.nodes) if not ENDS.fullmatch(name)}


def _edges(graph: CircuitGraph) -> dict[str, float]:
    mean = np.abs(graph.items.mean(0, dtype=np.float64))
    return {
        f"{graph.nodes[s]} -> {graph.nodes[t]}": size for (t, s), size in zip(graph.ends, mean, strict=True)
    }


def _first(ranked: dict[str, float], pool: Sequence[str], size: int) -> list[str]:
    return sorted(pool, key=lambda name: (-ranked[name], name))[:size]


def _counts(sizes: Sequence[float], pool: int) -> list[int]:
    found = sorted({max(1, round(k * pool)) if 0 < k < 1 else int(k) for k in sizes})
    if not found or found[0] < 1 or found[-1] > pool:
        raise PatchclampError(f"sizes {list(sizes)}: there are 1..{pool} to choose from")
    return found


def _stratum(name: str) -> str:
    """Kind and layer of a node, or of both ends of an edge."""
    return re.sub(r"\[\d+\][+-]?", "", name)


def _matched(
    chosen: set[str], pool: Sequence[str], other: set[str], n: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """How many of `other` are in sets that have as many of each stratum as `chosen`."""
    strata: dict[str, list[str]] = {}
    for name in pool:
        strata.setdefault(_stratum(name), []).append(name)
    total = np.zeros(n)
    for names in strata.values():
        wanted, good = sum(name in chosen for name in names), sum(name in other for name in names)
        if wanted and good:
            total += rng.hypergeometric(good, len(names) - good, wanted, size=n)
    return total
