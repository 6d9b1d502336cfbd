"""Graphs: what `connect` returns. Units are nodes; weights[i, j] is the effect of unit j on unit i."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import ArrayLike, NDArray

from patchclamp.base.areas import roc_auc
from patchclamp.base.errors import PatchclampError
from patchclamp.base.graphs import (
    EMBEDDING,
    ERROR,
    FEATURE,
    LOGIT,
    TracerNode,
    graph_measures,
    networkx_graph,
    write_circuit_tracer,
    write_graphml,
)
from patchclamp.base.tables import edge_dataset
from patchclamp.draw.cards import shown
from patchclamp.draw.charts import heat_map
from patchclamp.draw.graphs import weights_figure
from patchclamp.draw.svg import Svg

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[np.float64]
BANDS = ("low", "high", "p", "q")


@shown
@dataclass(frozen=True, eq=False)
class Graph:
    """Units and how they act on each other (or go together), with the null and the baseline of every edge.

    Parameters
    ----------
    nodes
        Names of the units (addresses where the data is a recording).
    weights
        (targets, sources): ``weights[i, j]`` is the effect of j on i; symmetric for measures without a direction. NaN
        where a pair was not measured. The diagonal is never an edge.
    directed
        Whether the method can tell j -> i from i -> j.
    method
        Its name.
    null
        ``{"name", "samples", "low", "high", "p", "q", ...}``: what the same method gives on surrogates that keep
        each unit's own statistics and break what units have to do with each other. `low`, `high` (95 % band), `p` and
        `q` (adjusted over pairs) are (targets, sources). None where there is none.
    baseline
        The same data under a simpler method.
    limits
        What the graph is not evidence for.
    node_data
        A table with one row a node.
    params
        Settings of the method.

    Examples
    --------
    >>> graph = Graph(("a", "b", "c"), [[0, 0, 0], [0.9, 0, 0], [0, 0.5, 0]], True, "by hand")
    >>> graph.edges()[["source", "target", "weight"]].values.tolist()
    [['a', 'b', 0.9], ['b', 'c', 0.5]]
    >>> graph.auroc([[0, 0, 0], [1, 0, 0], [0, 1, 0]])
    1.0
    """

    nodes: tuple[str, ...]
    weights: Array
    directed: bool
    method: str
    null: Mapping[str, Any] | None = None
    baseline: Graph | None = None
    limits: str = ""
    node_data: pd.DataFrame | None = None
    params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple(str(name) for name in self.nodes))
        object.__setattr__(self, "weights", np.asarray(self.weights, dtype=np.float64))
        n = len(self.nodes)
        if self.weights.shape != (n, n):
            raise PatchclampError(f"{self.method}: weights of shape {self.weights.shape} for {n} nodes")
        if len(set(self.nodes)) < n:
            twice = next(name for name in self.nodes if self.nodes.count(name) > 1)
            raise PatchclampError(f"{self.method}: two nodes are named {twice!r}; names must differ")
        if not self.directed and not np.allclose(self.weights, self.weights.T, equal_nan=True):
            raise PatchclampError(f"{self.method}: weights are not symmetric, yet directed=False")
        if self.node_data is not None and len(self.node_data) != n:
            raise PatchclampError(f"{self.method}: node_data has {len(self.node_data)} rows for {n} nodes")
        for name in BANDS:
            band = None if self.null is None else self.null.get(name)
            if band is not None and np.shape(band) != (n, n):
                raise PatchclampError(
                    f"{self.method}: null[{name!r}] has shape {np.shape(band)} for {n} nodes"
                )

    @property
    def n(self) -> int:
        """Number of nodes."""
        return len(self.nodes)

    @property
    def pairs(self) -> NDArray[np.bool_]:
        """(targets, sources) bool: what counts as a pair, finite and off the diagonal; a pair without direction once."""
        mask = np.isfinite(self.weights) & ~np.eye(self.n, dtype=bool)
        return mask if self.directed else mask & np.tri(self.n, dtype=bool)

    def significant(self, level: float = 0.05) -> NDArray[np.bool_]:
        """(targets, sources) bool: edges whose adjusted p (`null["q"]`) is at most `level`.

        Raises
        ------
        PatchclampError
            If the graph has no null.
        """
        if self.null is None or self.null.get("q") is None:
            raise PatchclampError(
                f"{self.method}: this graph has no null, so no edge can be called significant; give the method a null"
            )
        with np.errstate(invalid="ignore"):
            found = np.asarray(self.null["q"]) <= level
        return found & np.isfinite(self.weights) & ~np.eye(self.n, dtype=bool)

    def edges(self, significant: float | None = None) -> pd.DataFrame:
        """A table of edges, largest weight (by size) first.

        Parameters
        ----------
        significant
            Keep edges whose adjusted p is at most this; None keeps every pair whose weight is not 0.

        Returns
        -------
        DataFrame
            source, target, weight and, where there is a null, low, high (its band), p, q. An edge without direction
            has one row.
        """
        kept = self.pairs & (self.weights != 0)
        if significant is not None:
            kept = kept & self.significant(significant)
        target, source = np.nonzero(kept)
        names = np.array(self.nodes, dtype=object)
        table = pd.DataFrame(
            {"source": names[source], "target": names[target], "weight": self.weights[target, source]}
        )
        for name in BANDS:
            band = None if self.null is None else self.null.get(name)
            if band is not None:
                table[name] = np.asarray(band, dtype=np.float64)[target, source]
        order = np.argsort(-table["weight"].abs().to_numpy(), kind="stable")
        return table.iloc[order].reset_index(drop=True)

    # ---- against a known answer

    def auroc(self, truth: ArrayLike) -> float:
        """Area under the curve of |weight| as a score of true edges, over ordered pairs; ties count half.

        Parameters
        ----------
        truth
            (targets, sources): an edge where not 0, left out where NaN. `Population.coupling` is (source, target):
            hand over its transpose.

        Raises
        ------
        PatchclampError
            If the shape differs, or every pair is an edge, or none.
        """
        true = self._truth(truth)
        use = np.isfinite(self.weights) & np.isfinite(true) & ~np.eye(self.n, dtype=bool)
        label = true[use] != 0
        positive, negative = int(label.sum()), int((~label).sum())
        if not positive or not negative:
            raise PatchclampError(
                f"{self.method}: {positive} true edges, {negative} absent ones; an area needs both"
            )
        return float(roc_auc(np.abs(self.weights[use]), label))

    def direction(self, truth: ArrayLike) -> float:
        """Share of true one-way edges j -> i for which |weights[i, j]| > |weights[j, i]|; a tie counts half.

        A measure without a direction scores .5.

        Raises
        ------
        PatchclampError
            If the shape differs, or no true edge runs one way.
        """
        true = self._truth(truth)
        size = np.abs(self.weights)
        one_way = (true != 0) & (true.T == 0) & ~np.eye(self.n, dtype=bool)
        one_way &= np.isfinite(true) & np.isfinite(true.T) & np.isfinite(size) & np.isfinite(size.T)
        if not one_way.any():
            raise PatchclampError(
                f"{self.method}: no true edge runs one way, so there is no direction to find"
            )
        return float(np.mean((np.sign(size - size.T)[one_way] + 1) / 2))

    def _truth(self, truth: ArrayLike) -> Array:
        true = np.asarray(truth, dtype=np.float64)
        if true.shape != self.weights.shape:
            raise PatchclampError(f"{self.method}: truth of shape {true.shape} for {self.n} nodes")
        return true

    # ---- as something else

    def to_networkx(self, significant: float | None = None) -> Any:
        """A `networkx.DiGraph` (or `Graph`) with edge attributes weight, low, high, p, q and the columns of `node_data`."""
        return networkx_graph(
            self.nodes,
            self.edges(significant),
            self.directed,
            self.node_data,
            method=self.method,
            limits=self.limits,
        )

    def measures(self, significant: float | None = None, seed: int = 0) -> pd.DataFrame:
        """Degree, strength, clustering, betweenness and community of every node, by networkx.

        Parameters
        ----------
        significant
            As in `edges`.
        seed
            Of the search for communities (Louvain).

        Returns
        -------
        DataFrame
            One row a node: degree, strength (sum of |weight|; for a directed graph in_ and out_ of both), clustering,
            betweenness (distance 1 / |weight|), community. `attrs["modularity"]` is that of the communities.

        Notes
        -----
        Weights enter by their size. Thresholds of a correlation matrix make triangles by themselves: compare with the
        same measure on the graph of surrogates before calling a network clustered.
        """
        return graph_measures(self.to_networkx(significant), seed)

    def to_graphml(self, path: str | Path, significant: float | None = None) -> None:
        """Write GraphML, which Gephi, Cytoscape and networkx read."""
        write_graphml(self.to_networkx(significant), path)

    def to_circuit_tracer(self, path: str | Path, significant: float | None = None) -> None:
        """Write circuit-tracer's JSON (its schema of 2026: metadata, qParams, nodes, links), the same on every run.

        A node that is the address of a unit keeps its layer and index (feature is Cantor's pairing of the two, where no
        other node has it), its role is its token, its group its supernode; ids are unique (circuit-tracer's own are not:
        the error of layer 5 and feature 5 of layer 0 share one). Where some name is no address all nodes are put in
        layer 0 in order. An edge without direction, which the format does not know, becomes one link from the earlier to the
        later node, and ``metadata.info.directed`` says so.
        """
        write_circuit_tracer(
            path,
            **tracer_nodes(self),
            directed=self.directed,
            method=self.method,
            limits=self.limits,
            edges=self.edges(significant),
            prompt=str(self.params.get("task", "")),
        )

    def plot(self, *, order: ArrayLike | None = None, significant: float | None = None) -> Any:
        """A matplotlib figure of the weights (targets down, sources across), the baseline beside them.

        Parameters
        ----------
        order
            (node,) order of nodes, such as the argsort of a region or community.
        significant
            Blank what is not below this adjusted p.
        """
        return weights_figure(*self._pictures(significant), order)

    def _pictures(self, significant: float | None) -> tuple[list[Array], list[str]]:
        own = self.weights
        if significant is not None:
            own = np.where(self.significant(significant), own, np.nan)
        beside = [] if self.baseline is None else [self.baseline]
        return [own, *(one.weights for one in beside)], [one.method for one in (self, *beside)]

    def to_xarray(self) -> xr.Dataset:
        """A dataset (target, source): weight and, where there is a null, low, high, p, q."""
        return edge_dataset(
            self.nodes,
            {"weight": self.weights, **{name: (self.null or {}).get(name) for name in BANDS}},
            self.node_data,
            {"method": self.method, "directed": int(self.directed), "limits": self.limits},
        )

    def _picture(self) -> Svg | Markup | None:
        """The weights as a map, where they fit one."""
        if self.n > 48:
            return None
        return heat_map(self.weights.tolist(), self.nodes, self.nodes, "source", "target", str(self))

    def _preview(self) -> pd.DataFrame | None:
        return self.edges().head(6) if self.n > 48 else None

    def subgraph(self, names: Sequence[str]) -> Graph:
        """The graph of some of the nodes; its null keeps the adjustment made over all pairs."""
        lost = [name for name in names if name not in self.nodes]
        if lost:
            raise PatchclampError(f"{lost[0]!r}: not a node of this graph, which has {self.n}")
        places = [self.nodes.index(name) for name in names]
        cut = np.ix_(places, places)
        null = None if self.null is None else dict(self.null)
        for name in BANDS if null is not None else ():
            if null is not None and null.get(name) is not None:
                null[name] = np.asarray(null[name])[cut]
        table = None if self.node_data is None else self.node_data.iloc[places].reset_index(drop=True)
        baseline = None if self.baseline is None else self.baseline.subgraph(names)
        weights = self.weights[cut]
        return replace(
            self, nodes=tuple(names), weights=weights, null=null, baseline=baseline, node_data=table
        )

    def __str__(self) -> str:
        kind = "directed" if self.directed else "undirected"
        text = f"{self.method}: {self.n} nodes, {int(self.pairs.sum())} pairs, {kind}"
        if self.null is not None and self.null.get("q") is not None:
            found = int((self.significant() & self.pairs).sum())
            text += f"; {found} beyond {self.null.get('name', 'null')} ({self.null.get('samples')} draws, q <= .05)"
        return f"{text}. Not evidence for {self.limits}" if self.limits else text

    __repr__ = __str__


_ADDRESS = re.compile(r"([a-z_]+)\.(\d+)(/[^\[]*)?(?:\[(\d+)\])?([+-]?)(?:@(.+))?")
TOKENS, OUTPUTS = "tokens:", ("logits", "metric")


def tracer_nodes(graph: Graph) -> dict[str, Any]:
    """Nodes as circuit-tracer's JSON knows them, and the tokens: the roles, or one without a name."""
    table = pd.DataFrame(index=range(graph.n)) if graph.node_data is None else graph.node_data
    own = {
        name: table[name].tolist() for name in ("role", "kind", "label", "group", "score") if name in table
    }

    def cell(name: str, row: int) -> Any:
        return "" if name not in own or pd.isna(own[name][row]) else own[name][row]

    found = [_ADDRESS.fullmatch(name) for name in graph.nodes]
    outside = [name in OUTPUTS or name.startswith((TOKENS, "embeddings")) for name in graph.nodes]
    known = all(out or match is not None for out, match in zip(outside, found, strict=True))
    roles = [
        name.removeprefix(TOKENS)
        if name.startswith(TOKENS)
        else (match[6] if match else "") or str(cell("role", i))
        for i, (name, match) in enumerate(zip(graph.nodes, found, strict=True))
    ]
    tokens = list(dict.fromkeys(role for role in roles if role)) or [""]
    strength = np.nan_to_num(np.abs(graph.weights)).sum(0)
    nodes = []
    for i, (name, match) in enumerate(zip(graph.nodes, found, strict=True)):
        place = tokens.index(roles[i]) if roles[i] else (len(tokens) - 1 if name in OUTPUTS else 0)
        score = cell("score", i)
        facts: dict[str, Any] = {
            "place": place, "size": float(strength[i] if score == "" else score), "label": str(cell("label", i)),
            "group": str(cell("group", i)),
        }  # fmt: skip
        if name in OUTPUTS and known:
            nodes.append(TracerNode(name, None, OUTPUTS.index(name), kind=LOGIT, **facts))
        elif outside[i] and known:
            nodes.append(TracerNode(name, None, i, kind=EMBEDDING, **facts))
        elif match is not None and known:
            part = (
                ""
                if match[3] or match[1] in ("mlp_act", "resid_pre", "resid_post", "resid_mid")
                else match[1]
            )
            part += "n" if match[5] == "-" else ""
            kind = ERROR if cell("kind", i) == "error" else FEATURE
            nodes.append(TracerNode(name, int(match[2]), int(match[4] or 0), part=part, kind=kind, **facts))
        else:
            nodes.append(TracerNode(name, 0, i, **facts))
    return {"nodes": nodes, "tokens": tokens}
