"""The graph of neurons: its scores are relevance patching's, its edges add up, and it holds on a planted circuit."""

import numpy as np
import pytest
import torch

import tiny
from circuit_toys import InductionModel, induction_model, induction_task
from hooks import hook_counts
from language_toys import TokenModel, items
from patchclamp.attribute import relevance_patching, relevance_rules
from patchclamp.base.errors import PatchclampError
from patchclamp.connect.circuits import neuron_graph
from patchclamp.nouns.units import Site
from patchclamp.subjects.clamp.batch import Edit
from patchclamp.subjects.clamp.flow import FlowPlan
from patchclamp.subjects.clamp.freeze import held, state_of


def setting(name, n=4, **options):
    subject, task = TokenModel(tiny.tiny_model(name), name=name), items(n)
    return subject, task, neuron_graph(subject, task, **{"neurons": 12, "heads": 4, "senders": 7, **options})


def all_told(graph, target):
    """What tokens and all neurons of the model say to a node together, mean over items."""
    table = graph.params["senders"]
    tokens = [name for name in graph.nodes if name.startswith("tokens:")]
    row = graph.nodes.index(target)
    said = np.nansum([graph.weights[row, graph.nodes.index(name)] for name in tokens])
    return said + table.loc[table.target == target, "weight"].sum()


def under_full_freeze(subject, pair, reads):
    """The corrupted run with clean embeddings and clean neurons, and with its own patterns and norm scales."""
    neurons = [Site("mlp_act", layer) for layer in range(subject.n_layers)]
    clean = subject.run(pair.clean, read=[Site("embeddings"), *neurons]).activity
    state = state_of(subject, pair.corrupted)
    edits = [Edit(site, lambda t, b, site=site: clean[site]) for site in (Site("embeddings"), *neurons)]
    with held(subject, state) as probs:
        return subject.run(pair.corrupted, read=[*probs, *reads], write=edits, logits=pair.answer_position)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt_neox", "phi3", "opt"])
def test_what_is_said_to_a_node_adds_up_to_its_change_under_full_freeze(name):
    subject, task, graph = setting(name)
    pair = next(subject.pairs(task))
    plan = FlowPlan(subject, ())
    paths = [path for layer in range(subject.n_layers) for path in plan.mlp_in[layer]]
    reads = [Site(path, io="out") for path in paths]
    frozen = under_full_freeze(subject, pair, reads)
    base = subject.run(pair.corrupted, read=reads, logits=pair.answer_position)
    change = (pair.metric(frozen.logits) - pair.metric(base.logits)).mean()
    if subject.row.logit_softcap is None:  # a capped logit is no linear function of the stream
        assert abs(all_told(graph, "logits") - float(change)) < 1e-4 * max(1, abs(float(change)))
    # and for neurons: relevance at what they read, times the change of it
    relevance = {}
    with relevance_rules(subject, strict=False):
        keep = {
            site: lambda t, site=site: t.register_hook(lambda g: relevance.update({site: g}))
            for site in reads
        }
        run = subject.run(pair.corrupted, read=keep, logits=pair.answer_position, grad=True)
        pair.metric(run.logits).sum().backward()
    flow = plan.run(pair.corrupted)
    act = subject.run(pair.clean, read=[Site("mlp_act", i) for i in range(subject.n_layers)]).activity
    neurons = graph.node_data[graph.node_data.kind == "neuron"]
    for place, node in neurons.iterrows():
        layer = Site("mlp_act", int(node.site.split(".")[1])).layer
        at = {f"out:{p}": flow.by_position(frozen.activity[Site(p, io="out")] - base.activity[Site(p, io="out")]) for p in plan.mlp_in[layer]}  # fmt: skip
        weight = {f"out:{p}": flow.by_position(relevance[Site(p, io="out")]) for p in plan.mlp_in[layer]}
        moved, by = flow.neuron_inputs(layer, at), flow.neuron_inputs(layer, weight)
        here = (act[Site("mlp_act", layer)][..., node["index"]] > 0) == (node.sign > 0)
        want = sum((a * b)[..., node["index"]] for a, b in zip(moved, by, strict=True))
        want = float((want * here).sum(1).mean())
        assert abs(all_told(graph, graph.nodes[place]) - want) < 1e-4 * max(1, abs(want)), graph.nodes[place]
    assert not any(hook_counts(subject.model))


def test_nodes_are_those_of_relevance_patching_cut_by_sign():
    subject, task, graph = setting("llama", neurons=10**6, heads=10**6, senders=0)
    scores = relevance_patching(subject, task, ["mlp_act.*", "head.*"])
    table = graph.node_data
    for site in scores.sites:
        got = np.zeros(subject.width(site))
        rows = table[table.site == str(site)]
        np.add.at(got, rows["index"].to_numpy(), rows["score"].to_numpy())
        assert np.allclose(got, scores.mean(site), atol=1e-5), site
    # every edge among all neurons, so tokens and neurons to the logits are the sum of all that is said
    assert graph.params["senders"] is None


def test_the_sum_over_all_nodes_is_what_the_strongest_and_the_rest_add_up_to():
    subject, task, graph = setting("gpt2", neurons=10**6)
    row = graph.nodes.index("logits")
    neurons = [i for i, kind in enumerate(graph.node_data.kind) if kind == "neuron"]
    table = graph.params["senders"]
    listed = table.loc[table.target == "logits", "weight"].sum()
    assert abs(np.nansum(graph.weights[row, neurons]) - listed) < 1e-5
    part = table[(table.target == "logits") & (table.source != "rest")]
    assert len(part) == 7
    first = part.iloc[0]
    signs = [name for name in graph.nodes if name.startswith(first.source) and name[-1] in "+-"]
    values = sum(graph.edge(name, "logits") for name in signs)
    assert abs(values.mean() - first.weight) < 1e-6
    assert abs(values.std(ddof=1) / len(values) ** 0.5 - first.standard_error) < 1e-5


def test_heads_of_the_planted_circuit_are_linked_and_idle_ones_are_not():
    """Values alone: tokens to head 1.0, head 1.0 to the logits; head 0.0 works through keys, which are frozen."""
    model = induction_model()
    graph = neuron_graph(InductionModel(model), induction_task(), neurons=4, heads=8, senders=0)
    best = graph.edges().iloc[:2]
    assert {(r.source, r.target) for r in best.itertuples()} == {
        ("head.1[0]", "logits"),
        ("tokens:other", "head.1[0]"),
    }
    assert graph.edge("head.1[0]", "logits").min() > 2
    idle = [
        abs(graph.weights[graph.nodes.index("logits"), graph.nodes.index(f"head.1[{h}]")]) for h in (1, 2, 3)
    ]
    assert np.nanmax(idle) < 0.1
    bare = neuron_graph(
        InductionModel(induction_model(1, 0.3, planted=False)), induction_task(), neurons=4, senders=0
    )
    assert abs(bare.weights[np.isfinite(bare.weights)]).max() < 0.5


def test_items_do_not_depend_on_the_batch_and_what_has_no_neurons_is_refused():
    subject, task, graph = setting("llama", n=5)
    single = neuron_graph(subject, task, neurons=12, heads=4, senders=7, batch_size=1)
    assert graph.nodes == single.nodes
    assert np.allclose(graph.items, single.items, atol=1e-5)
    with pytest.raises(PatchclampError, match="mlp_act"):
        neuron_graph(TokenModel(tiny.tiny_model("mixtral")), task)
    with pytest.raises(PatchclampError, match="at least one neuron"):
        neuron_graph(subject, task, neurons=0)


def test_both_directions_begin_in_their_own_run():
    subject, task, graph = setting("llama")
    other = neuron_graph(subject, task, neurons=12, heads=4, senders=0, direction="noising")
    pair = next(subject.pairs(task))
    same = [name for name in other.nodes if name in graph.nodes and name.startswith("mlp_act.2")]
    assert same
    swapped = type(task)(task.corrupted, task.clean)
    mirror = neuron_graph(subject, swapped, neurons=12, heads=4, senders=0)
    heads = [n for n in mirror.nodes if n.startswith("head") and n in other.nodes]
    for name in heads:
        assert torch.allclose(
            torch.tensor(mirror.edge(name, "logits")), -torch.tensor(other.edge(name, "logits")), atol=1e-5
        )
    assert heads and len(pair.clean) == 4


def test_given_nodes_are_taken_in_place_of_the_largest():
    subject, task, graph = setting("llama")
    names = [
        row.site + f"[{row.index}]" for row in graph.node_data.itertuples() if row.kind in ("neuron", "head")
    ][:4]
    again = neuron_graph(subject, task, nodes=", ".join(dict.fromkeys(names)), senders=0)
    table = again.node_data[again.node_data["kind"].isin(["neuron", "head"])]
    assert {f"{row.site}[{row.index}]" for row in table.itertuples()} == set(names)
    shared = [edge for edge in again.edges().itertuples() if {edge.source, edge.target} <= set(graph.nodes)]
    assert shared
    for edge in shared:  # which nodes there are does not change what one says to another
        assert graph.edge(edge.source, edge.target) == pytest.approx(
            again.edge(edge.source, edge.target), abs=1e-5
        )
    with pytest.raises(PatchclampError, match="a node of this graph is a neuron"):
        neuron_graph(subject, task, nodes="attn_out.0")
