"""Graphs, as names of nodes and tables of edges, to networkx, GraphML and circuit-tracer's JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from patchclamp.base.files import write_text
from patchclamp.base.optional import optional
from patchclamp.base.seeds import check_seed


def _networkx() -> Any:
    return optional("networkx", "measures and files of graphs need")


def _plain(value: Any) -> Any:
    """A value that GraphML and JSON can hold."""
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, (str, int, float, bool)) else str(value)


def networkx_graph(
    nodes: Sequence[str],
    edges: pd.DataFrame,
    directed: bool,
    node_data: pd.DataFrame | None = None,
    **facts: str,
) -> Any:
    """A networkx graph with one edge for each row of `edges` (source, target, numbers), one node a row of `node_data`."""
    networkx = _networkx()
    out = networkx.DiGraph() if directed else networkx.Graph()
    out.graph.update(facts)
    for place, name in enumerate(nodes):
        row = {} if node_data is None else node_data.iloc[place].to_dict()
        out.add_node(name, **{str(key): _plain(value) for key, value in row.items()})
    for row in edges.to_dict("records"):
        numbers = {str(key): float(value) for key, value in row.items() if key not in ("source", "target")}
        out.add_edge(row["source"], row["target"], **numbers)
    return out


def graph_measures(net: Any, seed: int) -> pd.DataFrame:
    """Degree, strength, clustering, betweenness and community of every node of a networkx graph with weights."""
    networkx = _networkx()
    for _, _, facts in net.edges(data=True):
        facts["size"] = abs(facts["weight"])
        facts["distance"] = 1 / facts["size"]
    table: dict[str, Any] = {"node": list(net)}
    for kind in ("in_", "out_") if net.is_directed() else ("",):
        table[f"{kind}degree"] = list(dict(getattr(net, f"{kind}degree")()).values())
        table[f"{kind}strength"] = list(dict(getattr(net, f"{kind}degree")(weight="size")).values())
    table["clustering"] = list(networkx.clustering(net, weight="size").values())
    table["betweenness"] = list(networkx.betweenness_centrality(net, weight="distance").values())
    both = _undirected(networkx, net)
    found = networkx.community.louvain_communities(both, weight="size", seed=check_seed(seed, 2**32 - 1))
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


def write_graphml(net: Any, path: str | Path) -> None:
    """Write a networkx graph as GraphML."""
    _networkx().write_graphml(net, str(path))


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


def write_circuit_tracer(
    path: str | Path,
    places: Mapping[str, tuple[int, int]],
    edges: pd.DataFrame,
    *,
    directed: bool,
    method: str,
    limits: str,
) -> None:
    """Write circuit-tracer's JSON: nodes at their `places` (layer, index), a link for each row of `edges`."""
    slug = re.sub(r"[^a-z0-9]+", "-", method.lower()).strip("-")
    order = {name: rank for rank, name in enumerate(places)}
    size = edges.assign(weight=edges["weight"].abs()).groupby("source")["weight"].sum()
    nodes = [_node(name, *place, float(size.get(name, 0.0))) for name, place in places.items()]
    links = []
    for row in edges.to_dict("records"):
        ends = [row["source"], row["target"]]
        if not directed:
            ends.sort(key=order.__getitem__)
        source, target = (f"{places[end][0]}_{places[end][1]}_0" for end in ends)
        links.append({"source": source, "target": target, "weight": float(row["weight"])})
    info = {
        "directed": directed,
        "method": method,
        "limits": limits,
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
    whole = {"metadata": metadata, "qParams": view, "nodes": nodes, "links": links}
    write_text(Path(path), json.dumps(whole, indent=1))
