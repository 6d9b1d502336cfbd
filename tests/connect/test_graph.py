"""Graphs: edges, areas, measures and files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from patchclamp.base.errors import PatchclampError
from patchclamp.connect.against import against
from patchclamp.nouns.graph import Graph

nx = pytest.importorskip("networkx")
CHAIN = np.array([[0, 0, 0, 0], [3, 0, 0, 0], [0, -2, 0, 0], [0, 0, 1, 0.0]])


def chain(**more) -> Graph:
    table = pd.DataFrame({"region": ["v1", "v1", "v2", "v2"]})
    q = np.where(np.abs(CHAIN) > 1.5, 0.01, 0.5)
    null = {"name": "by hand", "samples": 99, "low": CHAIN - 1, "high": CHAIN + 1, "p": q, "q": q}
    return Graph(("a", "b", "c", "d"), CHAIN, True, "chain", null, None, "anything", table, **more)


def test_edges_run_from_source_to_target_and_largest_comes_first():
    table = chain().edges()
    assert table[["source", "target", "weight"]].values.tolist() == [
        ["a", "b", 3.0],
        ["b", "c", -2.0],
        ["c", "d", 1.0],
    ]
    assert chain().edges(significant=0.05)["target"].tolist() == ["b", "c"]
    assert table["low"].tolist() == [2.0, -3.0, 0.0]


def test_an_edge_without_direction_has_one_row():
    both = Graph(("a", "b"), [[1, 0.5], [0.5, 1]], False, "r")
    assert len(both.edges()) == 1 and "1 pairs, undirected" in str(both)


def test_area_and_direction():
    assert chain().auroc(CHAIN) == 1.0 and chain().direction(CHAIN) == 1.0
    turned = Graph(("a", "b", "c", "d"), CHAIN.T, True, "turned")
    assert turned.direction(CHAIN) == 0.0 and turned.auroc(CHAIN) < 0.5
    symmetric = Graph(("a", "b", "c", "d"), CHAIN + CHAIN.T, False, "both ways")
    assert symmetric.direction(CHAIN) == 0.5
    # 3 of 6 symmetric entries are true: each true edge ties with its reverse and beats 6 zeros
    assert symmetric.auroc(CHAIN) == pytest.approx((9 * 3 - 4.5) / 27, abs=0.06)


def test_area_against_pairs_counted_by_hand():
    rng = np.random.default_rng(0)
    weights, truth = rng.integers(-3, 4, (6, 6)).astype(float), rng.random((6, 6)) < 0.4
    weights[0, 1] = np.nan
    graph = Graph(tuple("abcdef"), weights, True, "random")
    use = np.isfinite(weights) & ~np.eye(6, dtype=bool)
    size = np.abs(weights)
    pairs = [np.sign(p - n) / 2 + 0.5 for p in size[use & truth] for n in size[use & ~truth]]
    assert graph.auroc(truth) == pytest.approx(np.mean(pairs), abs=1e-12)


def test_measures_of_a_chain():
    table = chain().measures().set_index("node")
    assert table.loc["b", ["in_degree", "out_degree"]].tolist() == [1, 1]
    assert table["out_strength"].tolist() == [3, 2, 1, 0] and table["in_strength"].tolist() == [0, 3, 2, 1]
    assert table["betweenness"].tolist() == pytest.approx([0, 2 / 6, 2 / 6, 0])
    assert table["clustering"].tolist() == [0, 0, 0, 0]


def test_two_cliques_are_two_communities():
    weights = np.kron(np.eye(2), np.ones((4, 4)))
    table = Graph(tuple("abcdefgh"), weights, False, "cliques").measures()
    assert table["community"].tolist() in ([0] * 4 + [1] * 4, [1] * 4 + [0] * 4)
    assert table.attrs["modularity"] == pytest.approx(0.5)
    assert (table["degree"] == 3).all() and (table["strength"] == 3).all()


def test_files_come_back(tmp_path: Path):
    chain().to_graphml(tmp_path / "g.graphml")
    read = nx.read_graphml(tmp_path / "g.graphml")
    assert read["a"]["b"]["weight"] == 3.0 and read.nodes["c"]["region"] == "v2" and read.is_directed()
    chain().to_circuit_tracer(tmp_path / "g.json", significant=0.05)
    data = json.loads((tmp_path / "g.json").read_text())
    assert [link["weight"] for link in data["links"]] == [3.0, -2.0]
    ids = {node["node_id"]: node["clerp"] for node in data["nodes"]}
    assert [ids[link["source"]] for link in data["links"]] == ["a", "b"]
    wanted = {"node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp", "token_prob"}
    assert all(wanted <= set(node) for node in data["nodes"])
    assert {"slug", "scan", "transcoder_list", "prompt_tokens", "prompt"} <= set(data["metadata"])


def test_addresses_keep_their_layer_in_circuit_tracers_file(tmp_path: Path):
    graph = Graph(("mlp_act.2[7]", "mlp_act.5[1]"), [[0, 0], [1, 0]], True, "by hand")
    graph.to_circuit_tracer(tmp_path / "g.json")
    data = json.loads((tmp_path / "g.json").read_text())
    assert [node["layer"] for node in data["nodes"]] == ["2", "5"]
    assert [node["node_id"] for node in data["nodes"]] == ["2_7_0", "5_1_0"]
    assert data["nodes"][0]["feature"] == 9 * 10 // 2 + 7


def test_xarray_and_subgraph():
    data = chain().to_xarray()
    assert float(data["weight"].sel(target="b", source="a")) == 3.0 and "q" in data
    part = chain().subgraph(["b", "c"])
    assert part.edges()["weight"].tolist() == [-2.0] and part.node_data is not None
    assert part.node_data["region"].tolist() == ["v1", "v2"]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Graph(("a", "b"), [[0.0]], True, "m"), "for 2 nodes"),
        (lambda: Graph(("a", "a"), np.zeros((2, 2)), True, "m"), "two nodes are named 'a'"),
        (lambda: Graph(("a", "b"), [[0, 1], [0, 0]], False, "m"), "not symmetric"),
        (lambda: Graph(("a", "b"), np.zeros((2, 2)), True, "m").edges(0.05), "no null"),
        (lambda: chain().auroc(np.zeros((4, 4))), "needs both"),
        (lambda: chain().auroc(np.zeros((3, 3))), "for 4 nodes"),
        (lambda: chain().direction(np.ones((4, 4))), "no true edge runs one way"),
        (lambda: chain().subgraph(["z"]), "'z': not a node"),
        (lambda: Graph(("a",), [[0.0]], True, "m", {"q": np.zeros((2, 2))}), r"null\['q'\]"),
    ],
)
def test_bad_input_is_refused(call, says):
    with pytest.raises(PatchclampError, match=says):
        call()


# ---- against a known matrix


def test_permuted_nodes_find_what_is_there_and_not_what_hubs_fake():
    rng = np.random.default_rng(0)
    truth = (rng.random((14, 14)) < 0.2).astype(float)
    names = tuple(map(str, range(14)))
    same = against(Graph(names, truth + 0.3 * rng.normal(size=(14, 14)), True, "noisy"), truth, n_perm=99)
    assert same.p == 0.01 and same.null.low < 0.5 < same.null.high < same.value and "null" in str(same)
    small = 0
    for seed in range(40):
        # two matrices with hubs of their own: pairs would say they are related, nodes do not
        draw = np.random.default_rng(seed)
        hubs = [np.add.outer(h, h) + 0.1 * draw.normal(size=(14, 14)) for h in draw.normal(size=(2, 14))]
        found = against(Graph(names, hubs[0], True, "hubs"), hubs[1], "pearson", n_perm=39, seed=seed)
        small += found.p <= 0.05
    assert small <= 6


def test_direction_and_rank_statistics_have_nulls_as_well():
    rng = np.random.default_rng(1)
    truth = np.triu(rng.random((12, 12)) < 0.4, 1).astype(float)
    graph = Graph(tuple(map(str, range(12))), truth + 0.1 * rng.random((12, 12)), True, "upper")
    assert against(graph, truth, "direction", n_perm=99).value == 1.0
    assert against(graph, truth, "spearman", n_perm=99).p == 0.01
    with pytest.raises(PatchclampError, match="statistic='r2'"):
        against(graph, truth, "r2")
    with pytest.raises(PatchclampError, match="for 12 nodes"):
        against(graph, np.zeros((3, 3)))
