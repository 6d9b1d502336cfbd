"""Files of circuits: circuit-tracer's JSON by its schema, golden, with ids that are unique; GraphML with typed attributes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from patchclamp.nouns.circuit import CircuitGraph
from patchclamp.nouns.graph import Graph

NUMBER = (int, float)
NODE: dict[str, Any] = {
    "node_id": str, "feature": int, "layer": str, "ctx_idx": int, "feature_type": str, "token_prob": NUMBER,
    "is_target_logit": bool, "run_idx": int, "reverse_ctx_idx": int, "jsNodeId": str, "clerp": str,
    "influence": (*NUMBER, type(None)), "activation": (*NUMBER, type(None)),
}  # fmt: skip
METADATA: dict[str, Any] = {
    "slug": str, "scan": str, "transcoder_list": list, "prompt_tokens": list, "prompt": str,
    "node_threshold": (*NUMBER, type(None)), "schema_version": (int, type(None)),
}  # fmt: skip
VIEW: dict[str, Any] = {
    "pinnedIds": list,
    "supernodes": list,
    "linkType": str,
    "clickedId": str,
    "sg_pos": str,
}
TYPES = {"cross layer transcoder", "mlp reconstruction error", "embedding", "logit"}


def written(graph: Graph, path: Path) -> dict[str, Any]:
    """The file, held against the models of circuit_tracer/frontend/graph_models.py (0.5.0)."""
    graph.to_circuit_tracer(path)
    data = json.loads(path.read_text())
    assert set(data) == {"metadata", "qParams", "nodes", "links"}
    for given, schema in [
        (data["metadata"], METADATA),
        (data["qParams"], VIEW),
        *((n, NODE) for n in data["nodes"]),
    ]:
        for key, kind in schema.items():
            assert isinstance(given[key], kind), key
    ids = [node["node_id"] for node in data["nodes"]]
    assert len(set(ids)) == len(ids) == graph.n and len({n["jsNodeId"] for n in data["nodes"]}) == graph.n
    assert {node["feature_type"] for node in data["nodes"]} <= TYPES
    assert all(0 <= node["ctx_idx"] < len(data["metadata"]["prompt_tokens"]) for node in data["nodes"])
    for link in data["links"]:
        assert set(link) == {"source", "target", "weight"} and {link["source"], link["target"]} <= set(ids)
    named = dict(zip(ids, graph.nodes, strict=True))
    found = {(named[e["source"]], named[e["target"]]): e["weight"] for e in data["links"]}
    assert found == {
        (e.source, e.target): e.weight for e in graph.edges().itertuples()
    }  # each link keeps its ends
    return dict(data)


def small() -> CircuitGraph:
    table = pd.DataFrame(
        {
            "role": ["subject", "end", "subject", "end", ""], "score": [np.nan, np.nan, 3.0, -1.0, np.nan],
            "label": ["", "", "plurals", "", ""], "group": ["", "", "nouns", "", ""],
            "written": [None, None, [" are"], [" is"], None],
        }
    )  # fmt: skip
    return CircuitGraph.of(
        ["tokens:subject", "tokens:end", "mlp_act.2[7]-", "head.5[1]", "logits"], [(2, 0), (3, 2), (4, 3)],
        [[1.0, -2.0, 0.5]], method="neuron_graph", limits="keys", node_data=table, params={"task": "agreement"},
    )  # fmt: skip


def node(
    one: str, feature: int, layer: str, place: int, kind: str, name: str, influence: float
) -> dict[str, Any]:
    return {
        "node_id": one, "feature": feature, "layer": layer, "ctx_idx": place, "feature_type": kind, "token_prob": 0.0,
        "is_target_logit": kind == "logit", "run_idx": 0, "reverse_ctx_idx": 0, "jsNodeId": one, "clerp": name,
        "influence": influence, "activation": None,
    }  # fmt: skip


def test_the_file_is_the_golden_one_on_every_run(tmp_path: Path) -> None:
    data = written(small(), tmp_path / "a.json")
    small().to_circuit_tracer(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    del data["metadata"]["info"]["generator"]["version"]
    feature = "cross layer transcoder"
    assert data == {
        "metadata": {
            "slug": "neuron-graph-agreement", "scan": "patchclamp", "transcoder_list": [],
            "prompt_tokens": ["subject", "end"], "prompt": "agreement", "node_threshold": None, "schema_version": 1,
            "info": {
                "directed": True, "method": "neuron_graph", "limits": "keys", "source": "patchclamp",
                "generator": {"name": "patchclamp"},
            },
        },
        "qParams": {
            "pinnedIds": ["2_n7_0"], "supernodes": [["nouns", "2_n7_0"]], "linkType": "both", "clickedId": "", "sg_pos": "",
        },
        "nodes": [
            node("E_0_0", 0, "E", 0, "embedding", "tokens:subject", 0.8),
            node("E_1_1", 1, "E", 1, "embedding", "tokens:end", 1.0),
            node("2_n7_0", 2 * 10**9, "2", 0, feature, "mlp_act.2[7]-: plurals", 0.6),
            node("5_head1_1", 3 * 10**9, "5", 1, feature, "head.5[1]", 1.0),
            node("6_0_1", 0, "6", 1, "logit", "logits", 1.0),
        ],
        "links": [
            {"source": "2_n7_0", "target": "5_head1_1", "weight": -2.0},
            {"source": "E_0_0", "target": "2_n7_0", "weight": 1.0},
            {"source": "5_head1_1", "target": "6_0_1", "weight": 0.5},
        ],
    }  # fmt: skip


def test_an_error_and_a_feature_that_circuit_tracer_gives_one_id_have_two(tmp_path: Path) -> None:
    names = ["resid_post.0/d[5]@b", "mlp_out.5/error@b", "resid_post.0/other[5]@b", "logits"]
    table = pd.DataFrame({"kind": ["feature", "error", "feature", "logits"]})
    graph = CircuitGraph.of(
        names, [(1, 0), (3, 0), (3, 1), (3, 2)], [[1.0, 2.0, 3.0, 4.0]], method="features", node_data=table
    )
    data = written(graph, tmp_path / "g.json")
    assert [one["node_id"] for one in data["nodes"]] == ["0_5_0", "5_error_0", "0_5_0-2", "6_0_0"]
    assert [one["feature"] for one in data["nodes"]][:2] == [20, -1]
    assert len({one["feature"] for one in data["nodes"][::2]}) == 2


@pytest.mark.parametrize(
    "names",
    [
        [
            "embeddings",
            "q.9[2]",
            "k.9[2]",
            "v.9[2]",
            "head.9[2]",
            "mlp_act.9[2]+",
            "mlp_act.9[2]-",
            "mlp_out.9",
            "logits",
        ],
        ["layer1.0.conv2.out[3]", "layer2.1.out[3]", "metric"],
        ["mlp_act.2[7]", "a name of its own"],
    ],
)
def test_nodes_of_every_method_have_an_id_of_their_own(tmp_path: Path, names: list[str]) -> None:
    n = len(names)
    ends = [(t, s) for t in range(n) for s in range(t)]
    written(
        CircuitGraph.of(names, ends, np.arange(1.0, 1 + len(ends))[None], method="m"), tmp_path / "g.json"
    )


def test_graphml_comes_back_with_typed_attributes(tmp_path: Path) -> None:
    nx = pytest.importorskip("networkx")
    small().to_graphml(tmp_path / "g.graphml")
    read = nx.read_graphml(tmp_path / "g.graphml")
    assert read.is_directed() and read["mlp_act.2[7]-"]["head.5[1]"] == {"weight": -2.0}
    facts = read.nodes["mlp_act.2[7]-"]
    assert facts["score"] == 3.0 and isinstance(facts["score"], float) and facts["label"] == "plurals"
    assert facts["written"] == " are" and "written" not in read.nodes["logits"]
    assert read.graph["limits"] == "keys"
