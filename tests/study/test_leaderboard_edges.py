"""Rows of connect on circuits: edges of the mechanism against all others."""

from __future__ import annotations

import pytest

from patchclamp.base.errors import PatchclampError
from patchclamp.connect.circuits import edge_attribution
from patchclamp.nouns.circuit import CircuitGraph
from patchclamp.study.leaderboard import leaderboard
from patchclamp.study.leaderboard.edges import edge_values
from patchclamp.truth import load_truth


def test_a_method_that_names_the_true_edges_is_right_and_one_that_weighs_all_alike_is_not():
    def oracle(subject, task, **options):
        edges = load_truth("relay-gpt2").edges
        return by_hand({edge: float(real) for edge, real in edges.items()}, len(task))

    def flat(subject, task, **options):
        return by_hand(dict.fromkeys(load_truth("relay-gpt2").edges, 1.0), len(task))

    # The name says how a method is called, so that ours are put in place of the graph of neurons.
    for method, value, verdict in ((oracle, 1.0, "recovered"), (flat, 0.5, "missed")):
        board = leaderboard(
            "connect", methods={"neuron_graph": method}, only=["neuron_graph"], truths=["relay-gpt2"]
        )
        (row,) = board.rows
        assert (row.outcome.recovery, row.outcome.verdict) == (value, verdict)
        assert row.outcome.note == "3 of 96 edges belong to it"


def by_hand(weights, n):
    nodes = list(dict.fromkeys(end for edge in weights for end in edge.split("->")))
    ends = [[nodes.index(end) for end in reversed(edge.split("->"))] for edge in weights]
    return CircuitGraph.of(nodes, ends, [list(weights.values())] * n, method="by hand")


def test_edge_attribution_finds_the_induction_circuit_and_nothing_where_it_is_gone():
    board = leaderboard(
        "connect", only=["edge_attribution"], truths=["induction-gpt2", "induction-gpt2-idle"]
    )
    found = {(row.truth, row.variant): row.outcome for row in board.rows}
    assert {variant for _, variant in found} == {"EAP", "EAP-IG", "RelP"}
    for (truth, _), outcome in found.items():
        assert outcome.verdict == ("clean" if truth.endswith("idle") else "recovered")
        if not truth.endswith("idle"):
            assert outcome.low > 0.95


def test_signs_of_a_neuron_and_roles_of_tokens_are_added_up():
    graph = CircuitGraph.of(
        ["tokens:end", "tokens:other", "mlp_act.0[2]+", "mlp_act.0[2]-", "logits"],
        [(2, 0), (3, 1), (4, 2), (4, 3)], [[1.0, 2.0, 4.0, 8.0]], method="by hand",
    )  # fmt: skip
    assert edge_values(graph, ["embeddings->mlp_act.0[2]", "mlp_act.0[2]->logits", "a->b"]).tolist() == [
        [3.0, 12.0, 0.0]
    ]
    with pytest.raises(PatchclampError, match="none of the 1 edges"):
        edge_values(graph, ["a->b"])
    with pytest.raises(PatchclampError, match="a str came back"):
        edge_values("graph", ["a->b"])
    system = load_truth("induction-gpt2")
    assert edge_values(edge_attribution(system.subject, system.task, steps=0), list(system.edges)).shape == (
        32,
        110,
    )
