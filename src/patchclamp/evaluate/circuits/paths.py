"""Random circuits of edges: unions of paths from input to output, since other random edges carry nothing."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

import numpy as np
from numpy.typing import NDArray

from patchclamp.base.errors import PatchclampError

Node = Hashable
Edge = tuple[Node, Node]
_TRIES = 60


def path_connected(
    edges: Iterable[Edge],
    n: int,
    rng: np.random.Generator,
    *,
    inputs: Sequence[Node] = (),
    outputs: Sequence[Node] = (),
) -> list[Edge]:
    """Draw a random circuit of `n` edges that is a union of paths from an input to an output.

    Paths are drawn uniformly among all paths (counted by dynamic programming) and joined until the union has n edges; a
    path that would exceed n is left out, and the draw begins anew when no path fits any more.

    Parameters
    ----------
    edges
        (source, target) of a graph without circles.
    n
        Number of edges wanted.
    rng
        Source of randomness; the same state gives the same circuit.
    inputs, outputs
        Where paths begin and end; by default nodes that nothing enters, and nodes that nothing leaves.

    Returns
    -------
    list
        Edges in the order given. Fewer than `n` only where no union of paths with n edges was found in 60 draws; then
        the largest found.

    Raises
    ------
    PatchclampError
        For a graph with a circle, one without a path, or an n that no path fits.

    Examples
    --------
    >>> diamond = [("in", "a"), ("in", "b"), ("a", "out"), ("b", "out")]
    >>> drawn = path_connected(diamond, 2, np.random.default_rng(0))
    >>> drawn in ([("in", "a"), ("a", "out")], [("in", "b"), ("b", "out")])
    True
    """
    listed = list(dict.fromkeys(edges))
    ways = Paths(listed, inputs, outputs)
    if not 1 <= n <= len(listed):
        raise PatchclampError(f"n={n}: the graph has {len(listed)} edges")
    best: set[Edge] = set()
    for _ in range(_TRIES):
        union: set[Edge] = set()
        idle = 0
        while len(union) < n and idle < _TRIES:
            wider = union | set(ways.draw(rng))
            idle = 0 if union < wider and len(wider) <= n else idle + 1
            union = wider if len(wider) <= n else union
        best = max(best, union, key=len)
        if len(best) == n:
            break
    if not best:
        raise PatchclampError(f"n={n}: no path from input to output is as short as that; take more edges")
    return [edge for edge in listed if edge in best]


def on_paths(edges: Iterable[Edge], inputs: Sequence[Node] = (), outputs: Sequence[Node] = ()) -> list[Edge]:
    """The edges that lie on a path from an input to an output; the others carry nothing to the end.

    A circuit of the n largest edges has dangling ones: state how many survive beside n.

    Parameters
    ----------
    edges
        (source, target) of a graph without circles.
    inputs, outputs
        As for `path_connected`; those that no edge has are left out.

    Examples
    --------
    >>> on_paths([("in", "a"), ("a", "out"), ("a", "b"), ("c", "out")], ["in"], ["out"])
    [('in', 'a'), ('a', 'out')]
    """
    listed = list(dict.fromkeys(edges))
    after = _reached(listed, inputs or [s for s, _ in listed if s not in {t for _, t in listed}])
    backward = [(target, source) for source, target in listed]
    before = _reached(backward, outputs or [t for _, t in listed if t not in {s for s, _ in listed}])
    return [(source, target) for source, target in listed if source in after and target in before]


def _reached(edges: Sequence[Edge], starts: Iterable[Node]) -> set[Node]:
    following: dict[Node, list[Node]] = {}
    for source, target in edges:
        following.setdefault(source, []).append(target)
    found, waiting = set(starts), list(starts)
    while waiting:
        new = [node for node in following.get(waiting.pop(), ()) if node not in found]
        found.update(new)
        waiting += new
    return found


class Paths:
    """All paths of a graph without circles, counted, so that one can be drawn with equal chance."""

    def __init__(
        self, edges: Sequence[Edge], inputs: Sequence[Node] = (), outputs: Sequence[Node] = ()
    ) -> None:
        self.following: dict[Node, list[Node]] = {}
        for source, target in edges:
            self.following.setdefault(source, []).append(target)
            self.following.setdefault(target, [])
        entered = {target for _, target in edges}
        self.inputs = list(inputs) or [node for node in self.following if node not in entered]
        ends = set(outputs) or {node for node, after in self.following.items() if not after}
        unknown = [node for node in (*self.inputs, *ends) if node not in self.following]
        if unknown:
            raise PatchclampError(f"{unknown[0]!r}: no edge has this node")
        self.count = _counts(self.following, ends)
        self.ends = ends
        self._shares: dict[Node | None, tuple[list[Node], NDArray[np.float64]]] = {}
        self.inputs = [node for node in self.inputs if self.count[node]]
        self.total = sum(self.count[node] for node in self.inputs)
        if not self.total:
            raise PatchclampError("no path leads from an input to an output; give inputs= and outputs=")

    def draw(self, rng: np.random.Generator) -> list[Edge]:
        """One path, each with the same chance."""
        node = self._pick(None, rng)
        path: list[Edge] = []
        while True:
            stop = node in self.ends
            if stop and (not self.following[node] or rng.random() * self.count[node] < 1):
                return path
            step = self._pick(node, rng)
            path.append((node, step))
            node = step

    def _pick(self, node: Node | None, rng: np.random.Generator) -> Node:
        """A node to go on to (or to begin at), with a chance in proportion to the paths from it."""
        if node not in self._shares:
            nodes = self.inputs if node is None else [n for n in self.following[node] if self.count[n]]
            total = sum(self.count[n] for n in nodes)  # may exceed any float, so shares are taken first
            self._shares[node] = nodes, np.cumsum([self.count[n] / total for n in nodes])
        nodes, shares = self._shares[node]
        return nodes[min(int(np.searchsorted(shares, rng.random(), side="right")), len(nodes) - 1)]


def _counts(following: Mapping[Node, Sequence[Node]], ends: set[Node]) -> dict[Node, int]:
    """Number of paths from each node to an output."""
    try:
        order = list(TopologicalSorter(following).static_order())
    except CycleError as error:
        raise PatchclampError(f"the edges form a circle: {' -> '.join(map(str, error.args[1]))}") from error
    count: dict[Node, int] = {}
    for node in order:  # what follows a node comes before it, since it was given as what the node depends on
        count[node] = (node in ends) + sum(count[after] for after in following[node])
    return count
