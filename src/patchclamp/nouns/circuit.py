"""`CircuitGraph`: a graph inside a live network, its edges kept per item, sparsely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import ArrayLike, NDArray

from patchclamp.base.errors import PatchclampError, did_you_mean
from patchclamp.base.statistics import bootstrap_interval
from patchclamp.draw.circuit import circuit_card, circuit_figure, circuit_page, circuit_picture, circuit_svg
from patchclamp.draw.graphs import weights_figure
from patchclamp.nouns.graph import Graph


@dataclass(frozen=True, eq=False, repr=False)
class CircuitGraph(Graph):
    """Which units of a network act on which, on the items of a task; positive means that an edge raises the metric.

    Parameters
    ----------
    nodes, weights, directed, method, limits, node_data, params
        As in `Graph`; ``weights[target, source]`` is the mean over items, NaN where there can be no edge.
    ends
        (edge, 2): target and source of each edge, as places in `nodes`.
    items
        (item, edge), float32, in units of the metric where `params` says nothing else.
    groups
        The unit of dependence of each item; intervals resample these.

    Examples
    --------
    >>> graph = CircuitGraph.of(["a", "b"], [(1, 0)], [[1.0], [2.0]], method="by hand")
    >>> graph.edge("a", "b").tolist()
    [1.0, 2.0]
    >>> graph.edges()[["source", "target", "weight"]].values.tolist()
    [['a', 'b', 1.5]]
    """

    ends: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    items: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    groups: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        nodes: Sequence[str],
        ends: ArrayLike,
        items: ArrayLike,
        *,
        method: str,
        groups: Sequence[str] = (),
        limits: str = "",
        node_data: pd.DataFrame | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> CircuitGraph:
        """A graph from its edges; `weights` is filled in from the mean over items.

        Raises
        ------
        PatchclampError
            For values that are not finite, and for ends that do not fit the items.
        """
        places, values = np.asarray(ends, np.int64).reshape(-1, 2), np.asarray(items, np.float32)
        if values.ndim != 2 or values.shape[1] != len(places):
            raise PatchclampError(f"{method}: items of shape {values.shape} for {len(places)} edges")
        if not np.isfinite(values).all():
            target, source = places[np.flatnonzero(~np.isfinite(values).all(0))[0]]
            raise PatchclampError(
                f"{method}: {nodes[source]} -> {nodes[target]} is not finite; the model may overflow"
            )
        weights = np.full((len(nodes), len(nodes)), np.nan)
        weights[places[:, 0], places[:, 1]] = values.mean(0, dtype=np.float64)
        groups = tuple(groups) if any(groups) else ()
        return cls(
            tuple(nodes), weights, True, method, limits=limits, node_data=node_data, params=dict(params or {}),
            ends=places, items=values, groups=groups,
        )  # fmt: skip

    def edge(self, source: str, target: str) -> NDArray[np.float32]:
        """(item,) the edge from one node to another.

        Raises
        ------
        PatchclampError
            For a name that is no node, and a pair without an edge.
        """
        for name in (source, target):
            if name not in self.nodes:
                raise PatchclampError(f"{name}: not a node of this graph{did_you_mean(name, self.nodes)}")
        at = (self.nodes.index(target), self.nodes.index(source))
        found = np.flatnonzero((self.ends == at).all(1))
        if not len(found):
            raise PatchclampError(f"{source} -> {target}: there is no such edge")
        values: NDArray[np.float32] = self.items[:, found[0]]
        return values

    def intervals(self, n: int = 50, n_boot: int = 1000, seed: int = 0) -> pd.DataFrame:
        """The n largest edges with 95 % intervals over groups of items.

        Returns
        -------
        DataFrame
            source, target, weight, low, high. NaN ends where there are fewer than 8 groups. The edges were chosen for
            their size on these very items: intervals of a choice hold on other items only.
        """
        mean = self.items.mean(0, dtype=np.float64)
        order = np.argsort(-np.abs(mean), kind="stable")[:n]
        low, high = bootstrap_interval(self.items[:, order], self.groups or None, n_boot=n_boot, seed=seed)
        names = np.array(self.nodes, dtype=object)
        return pd.DataFrame(
            {
                "source": names[self.ends[order, 1]],
                "target": names[self.ends[order, 0]],
                "weight": mean[order],
                "low": low,
                "high": high,
            }
        )

    # ---- pictures

    def picture(
        self, *, n: int = 40, links: int | None = None, significant: float | None = None, title: str = ""
    ) -> dict[str, Any]:
        """What is drawn of the circuit, as plain data: the `n` largest nodes, and the largest edges among them.

        Parameters
        ----------
        n, links
            Nodes and edges at most; twice as many edges as nodes by default, and the largest of each node besides.
        significant
            As in `edges`.
        title
            Above it; by default the method, task and metric.

        Notes
        -----
        Columns of `node_data` that are shown, where present: ``score`` (ranks nodes; the frame's colour is its sign),
        ``role`` (the place in the text they stand at), ``layer``, ``group``, ``label`` (a few words), ``written``
        (tokens that a node writes) and ``exemplars`` (texts it answers to).
        """
        words = [self.method.replace("_", " "), str(self.params.get("task", ""))]
        means = str(self.params.get("means", "what the source does to the target, in units of the metric"))
        return circuit_picture(
            self.nodes, self.edges(significant), self.node_data, n=n, links=links, means=means, limits=self.limits,
            title=title or " of ".join(word for word in words if word),
        )  # fmt: skip

    def _picture(self) -> Markup:
        return circuit_card(self.picture(n=20))

    def plot(
        self,
        *,
        order: ArrayLike | None = None,
        significant: float | None = None,
        n: int = 40,
        links: int | None = None,
        opened: Sequence[str] = (),
    ) -> Any:
        """A matplotlib figure in layers: places of the text across, layers up, edges signed and as thick as they are large.

        An edge that raises the metric ends in an arrow, one that lowers it is dashed and ends in a bar.

        Parameters
        ----------
        order
            Given: the matrix of weights in this order of nodes instead, as `Graph.plot` draws it.
        significant, n, links
            As in `picture`.
        opened
            Groups whose members are drawn; the others are one node each.
        """
        return (
            weights_figure(*self._pictures(significant), order)
            if order is not None
            else circuit_figure(self.picture(n=n, links=links, significant=significant), opened)
        )

    def to_svg(self, path: str | Path, *, opened: Sequence[str] = (), **options: Any) -> None:
        """Write the same drawing as SVG; `options` are those of `picture`."""
        circuit_svg(self.picture(**options), path, opened)

    def to_html(self, path: str | Path, **options: Any) -> None:
        """Write a page of its own: the drawing, groups that open, and what is known of each node. It loads nothing."""
        circuit_page(self.picture(**options), path)

    def on_items(self, rows: ArrayLike) -> CircuitGraph:
        """The same edges on some of the items."""
        index = np.asarray(rows, dtype=int)
        groups = [self.groups[i] for i in index] if self.groups else ()
        return CircuitGraph.of(
            self.nodes, self.ends, self.items[index], method=self.method, groups=groups, limits=self.limits,
            node_data=self.node_data, params=self.params,
        )  # fmt: skip

    def subgraph(self, names: Sequence[str]) -> CircuitGraph:
        """The graph of some of the nodes."""
        small = Graph.subgraph(self, names)
        assert isinstance(small, CircuitGraph)
        place = {self.nodes.index(name): i for i, name in enumerate(names)}
        kept = np.array([t in place and s in place for t, s in self.ends], dtype=bool)
        ends = np.array([(place[t], place[s]) for t, s in self.ends[kept]], np.int64).reshape(-1, 2)
        return replace(small, ends=ends, items=self.items[:, kept])
