"""Graphs, as names of nodes and tables of edges, to networkx, GraphML and circuit-tracer's JSON."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from patchclamp.base.files import write_text
from patchclamp.base.optional import optional
from patchclamp.base.version import __version__


def _networkx() -> Any:
    return optional("networkx", "measures and files of graphs need")


def _plain(value: Any) -> Any:
    """A value that GraphML and JSON can hold."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, (list, tuple)):
        return " | ".join(map(str, value))
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
        out.add_node(name, **{str(key): _plain(value) for key, value in row.items() if value is not None})
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


def write_graphml(net: Any, path: str | Path) -> None:
    """Write a networkx graph as GraphML."""
    _networkx().write_graphml(net, str(path))


FEATURE, ERROR, EMBEDDING, LOGIT = "cross layer transcoder", "mlp reconstruction error", "embedding", "logit"


@dataclass(frozen=True)
class TracerNode:
    """A node of circuit-tracer's JSON.

    Parameters
    ----------
    name, label
        What it is called here, and a few words; both are its ``clerp``.
    layer
        None where it is in no layer: tokens, and what comes out.
    index
        Of the feature, neuron, head or token.
    place
        Of its token in the prompt.
    kind
        Feature type.
    part
        What sets its id apart from the feature of the same layer, index and place; empty for that feature.
    size
        How much of the graph it carries.
    group
        Its supernode.
    """

    name: str
    layer: int | None
    index: int
    place: int = 0
    kind: str = FEATURE
    part: str = ""
    size: float = 0.0
    label: str = ""
    group: str = ""

    def written(self, last: int) -> tuple[str, str]:
        """Its layer, and an id that is unique unless two nodes share all of layer, part, index and place."""
        if self.kind == EMBEDDING:
            return "E", f"E_{self.index}_{self.place}"
        layer = str(last if self.layer is None else self.layer)
        # circuit-tracer calls the error of layer 5 and feature 5 of layer 0 both 0_5_POSITION
        part = "error" if self.kind == ERROR else f"{self.part}{self.index}"
        return layer, f"{layer}_{part}_{self.place}"


def _cantor(layer: int, index: int) -> int:
    return (layer + index) * (layer + index + 1) // 2 + index


def write_circuit_tracer(
    path: str | Path,
    nodes: Sequence[TracerNode],
    edges: pd.DataFrame,
    *,
    directed: bool,
    method: str,
    limits: str,
    tokens: Sequence[str] = ("",),
    prompt: str = "",
) -> None:
    """Write circuit-tracer's JSON: metadata, qParams, a node each with an id of its own, a link for each row of `edges`.

    The file is the same on every run. `influence` is the share of all sizes down to this node, the largest first, which
    is what the slider of viewers cuts at.
    """
    last = 1 + max((node.layer for node in nodes if node.layer is not None), default=0)
    ids: dict[str, str] = {}
    features: set[int] = set()
    share = _cumulative([node.size for node in nodes])
    out = []
    for node, influence in zip(nodes, share, strict=True):
        layer, one = node.written(last)
        again, taken = one, set(ids.values())
        for k in itertools.count(2):
            if again not in taken:
                break
            again = f"{one}-{k}"
        ids[node.name] = again
        feature = {ERROR: -1, EMBEDDING: node.place, LOGIT: node.index}.get(node.kind)
        if feature is None:
            feature = _cantor(node.layer or 0, node.index)
            feature = (
                feature if not node.part and feature not in features else max(features, default=10**9) + 10**9
            )
            features.add(feature)
        out.append(
            {
                "node_id": again, "feature": feature, "layer": layer, "ctx_idx": node.place, "feature_type": node.kind,
                "token_prob": 0.0, "is_target_logit": node.kind == LOGIT, "run_idx": 0, "reverse_ctx_idx": 0,
                "jsNodeId": again, "clerp": f"{node.name}: {node.label}" if node.label else node.name,
                "influence": influence, "activation": None,
            }
        )  # fmt: skip
    order = {name: rank for rank, name in enumerate(ids)}
    links = []
    for row in edges.to_dict("records"):
        ends = [row["source"], row["target"]]
        if not directed:
            ends.sort(key=order.__getitem__)
        links.append({"source": ids[ends[0]], "target": ids[ends[1]], "weight": float(row["weight"])})
    groups: dict[str, list[str]] = {}
    for node in nodes:
        if node.group:
            groups.setdefault(node.group, []).append(ids[node.name])
    metadata = {
        "slug": re.sub(r"[^a-z0-9]+", "-", f"{method} {prompt}".lower()).strip("-"), "scan": "patchclamp",
        "transcoder_list": [], "prompt_tokens": list(tokens), "prompt": prompt, "node_threshold": None,
        "schema_version": 1,
        "info": {
            "directed": directed, "method": method, "limits": limits, "source": "patchclamp",
            "generator": {"name": "patchclamp", "version": __version__},
        },
    }  # fmt: skip
    view = {
        "pinnedIds": [one for members in groups.values() for one in members],
        "supernodes": [[name, *members] for name, members in groups.items()],
        "linkType": "both", "clickedId": "", "sg_pos": "",
    }  # fmt: skip
    whole = {"metadata": metadata, "qParams": view, "nodes": out, "links": links}
    write_text(Path(path), json.dumps(whole, indent=1))


def _cumulative(sizes: Sequence[float]) -> list[float]:
    """The share of the whole that a size and all larger ones make."""
    size = np.abs(np.nan_to_num(np.asarray(sizes, np.float64)))
    order = np.argsort(-size, kind="stable")
    out = np.zeros(len(size))
    out[order] = np.cumsum(size[order]) / (size.sum() or 1.0)
    return [round(float(one), 6) for one in np.minimum(out, 1.0)]
