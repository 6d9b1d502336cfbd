"""Graphs as networkx, GraphML and circuit-tracer's JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from patchclamp._optional import optional
from patchclamp.errors import PatchclampError
from patchclamp.units import parse_unit

if TYPE_CHECKING:
    from patchclamp.connect.graph import Graph


def _networkx() -> Any:
    return optional("networkx", "measures and files of graphs need")


def _plain(value: Any) -> Any:
    """A value that GraphML and JSON can hold."""
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, (str, int, float, bool)) else str(value)


def networkx_graph(graph: Graph, significant: float | None) -> Any:
    """The graph with one networkx edge for each row of `edges`."""
    networkx = _networkx()
    out = networkx.DiGraph() if graph.directed else networkx.Graph()
    out.graph.update(method=graph.method, limits=graph.limits)
    for place, name in enumerate(graph.nodes):
        row = {} if graph.node_data is None else graph.node_data.iloc[place].to_dict()
        out.add_node(name, **{str(key): _plain(value) for key, value in row.items()})
    for row in graph.edges(significant).to_dict("records"):
        facts = {str(key): float(value) for key, value in row.items() if key not in ("source", "target")}
        out.add_edge(row["source"], row["target"], **facts)
    return out


def graph_measures(graph: Graph, significant: float | None, seed: int) -> pd.DataFrame:
    """See `Graph.measures`."""
    networkx = _networkx()
    net = networkx_graph(graph, significant)
    for _, _, facts in net.edges(data=True):
        facts["size"] = abs(facts["weight"])
        facts["distance"] = 1 / facts["size"]
    table: dict[str, Any] = {"node": list(net)}
    kinds = {"": ""} if not graph.directed else {"in_": "in_", "out_": "out_"}
    for kind in kinds:
        table[f"{kind}degree"] = list(dict(getattr(net, f"{kind}degree")()).values())
        table[f"{kind}strength"] = list(dict(getattr(net, f"{kind}degree")(weight="size")).values())
    table["clustering"] = list(networkx.clustering(net, weight="size").values())
    table["betweenness"] = list(networkx.betweenness_centrality(net, weight="distance").values())
    both = _undirected(networkx, net)
    found = networkx.community.louvain_communities(both, weight="size", seed=seed)
    member = {name: k for k, names in enumerate(sorted(found, key=len, reverse=True)) for name in names}
    table["community"] = [member[name] for name in net]
    out = pd.DataFrame(table)
    out.attrs["modularity"] = (
        float(networkx.community.modularity(both, found, weight="size"))
        if both.number_of_edges()
        else float("nan")
    )
    return out


def _undirected(networkx: Any, net: Any) -> Any:
    """Sizes of both directions added: networkx's own conversion keeps only one of them."""
    out = networkx.Graph()
    out.add_nodes_from(net)
    for one, other, facts in net.edges(data=True):
        size = facts["size"] + (out[one][other]["size"] if out.has_edge(one, other) else 0.0)
        out.add_edge(one, other, size=size)
    return out


def write_graphml(graph: Graph, path: str | Path, significant: float | None) -> None:
    """See `Graph.to_graphml`."""
    _networkx().write_graphml(networkx_graph(graph, significant), str(path))


def _places(nodes: tuple[str, ...]) -> list[tuple[int, int]]:
    """(layer, index) of each node: those of its address where all nodes are addresses and no two coincide."""
    try:
        units = [parse_unit(name) for name in nodes]
    except PatchclampError:
        return [(0, place) for place in range(len(nodes))]
    places = [(-1 if unit.site.layer is None else unit.site.layer, unit.index) for unit in units]
    usable = len(set(places)) == len(places) and all(layer >= 0 for layer, _ in places)
    return places if usable else [(0, place) for place in range(len(nodes))]


def _node(name: str, layer: int, index: int, influence: float) -> dict[str, Any]:
    return {
        "node_id": f"{layer}_{index}_0",
        "feature": (layer + index) * (layer + index + 1) // 2 + index,
        "layer": str(layer),
        "ctx_idx": 0,
        "feature_type": "cross layer transcoder",
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": f"{layer}_{index}-0",
        "clerp": name,
        "influence": influence,
        "activation": None,
    }


def write_circuit_tracer(graph: Graph, path: str | Path, significant: float | None) -> None:
    """See `Graph.to_circuit_tracer`."""
    slug = re.sub(r"[^a-z0-9]+", "-", graph.method.lower()).strip("-")
    table = graph.edges(significant)
    places = dict(zip(graph.nodes, _places(graph.nodes), strict=True))
    order = {name: rank for rank, name in enumerate(graph.nodes)}
    size = table.assign(weight=table["weight"].abs()).groupby("source")["weight"].sum()
    nodes = [_node(name, *place, float(size.get(name, 0.0))) for name, place in places.items()]
    links = []
    for row in table.to_dict("records"):
        ends = [row["source"], row["target"]]
        if not graph.directed:
            ends.sort(key=order.__getitem__)
        source, target = (f"{places[end][0]}_{places[end][1]}_0" for end in ends)
        links.append({"source": source, "target": target, "weight": float(row["weight"])})
    info = {
        "directed": graph.directed,
        "method": graph.method,
        "limits": graph.limits,
        "source": "patchclamp",
    }
    metadata = {
        "slug": slug,
        "scan": "patchclamp",
        "transcoder_list": [],
        "prompt_tokens": [""],
        "prompt": "",
        "node_threshold": None,
        "schema_version": 1,
        "info": info,
    }
    view = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
    Path(path).write_text(
        json.dumps({"metadata": metadata, "qParams": view, "nodes": nodes, "links": links}, indent=1)
    )
