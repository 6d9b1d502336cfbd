"""What is frozen is exact: edges by hand, predicted against measured with all else held, no gradient through a pattern."""

import pytest
import torch

import tiny
from language_toys import TokenModel, items
from patchclamp.connect.circuits import edge_patching, neuron_graph
from patchclamp.nouns.units import Site
from patchclamp.subjects.clamp.batch import Edit
from patchclamp.subjects.clamp.flow import FlowPlan
from patchclamp.subjects.clamp.freeze import as_they_were, held, state_of


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "falcon-new", "phi3", "opt"])
def test_with_patterns_norms_and_mlps_held_what_is_predicted_is_what_is_measured(name):
    """One neuron at a time is patched where its clean activity has the node's sign: the metric moves by the edge."""
    subject, task = TokenModel(tiny.tiny_model(name), name=name), items(4)
    graph = neuron_graph(subject, task, neurons=9, heads=0, senders=0)
    pair = next(subject.pairs(task))
    sites = [Site("mlp_act", layer) for layer in range(subject.n_layers)]
    clean = subject.run(pair.clean, read=sites).activity
    state = state_of(subject, pair.corrupted, sites)
    base = subject.run(pair.corrupted, logits=pair.answer_position)
    nodes = graph.node_data[graph.node_data.kind == "neuron"]
    assert len(nodes) == 9
    for place, node in nodes.iterrows():
        site = Site("mlp_act", int(node.site.split(".")[1]))
        positive = clean[site][..., node["index"]] > 0
        there = positive if node.sign > 0 else ~positive
        new = state.activity[site].clone()
        new[..., node["index"]] = torch.where(there, clean[site][..., node["index"]], new[..., node["index"]])
        edits = [Edit(site, lambda t, b, new=new: new), *as_they_were(state, [s for s in sites if s != site])]
        with held(subject, state) as probs:
            run = subject.run(pair.corrupted, read=probs, write=edits, logits=pair.answer_position)
        measured = pair.metric(run.logits) - pair.metric(base.logits)
        predicted = torch.tensor(graph.edge(graph.nodes[place], "logits"))
        assert (measured - predicted).abs().max() < 1e-4 * max(1, measured.abs().max()), graph.nodes[place]
    assert abs(graph.items).max() > 1e-3


def test_an_edge_between_neurons_is_what_one_writes_times_what_the_other_reads():
    """Llama whose second block attends to nothing: w_out . J . w_in with J the norm at its scale, for gate and up."""
    model = tiny.tiny_model("llama")
    model.model.layers[1].self_attn.o_proj.weight.data.zero_()
    subject, task = TokenModel(model), items(3)
    graph = neuron_graph(subject, task, neurons=10**6, heads=0, senders=0, rules=())
    pair = next(subject.pairs(task))
    block, norm = model.model.layers[1].mlp, model.model.layers[1].post_attention_layernorm
    act, ends = (
        Site("mlp_act", 0),
        [Site(f"model.layers.1.mlp.{part}_proj", io="out") for part in ("gate", "up")],
    )
    clean, corrupted = (
        subject.run(b, read=[act, Site("mlp_act", 1)]).activity for b in (pair.clean, pair.corrupted)
    )
    gradient = {}
    keep = {end: lambda t, end=end: t.register_hook(lambda g: gradient.update({end: g})) for end in ends}
    read = {**keep, Site("resid_mid", 1): lambda t: t.detach()}
    run = subject.run(pair.corrupted, read=read, logits=pair.answer_position, grad=True)
    pair.metric(run.logits).sum().backward()
    stream = run.activity[Site("resid_mid", 1)]
    scale = norm.weight / (stream.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()
    written = model.model.layers[0].mlp.down_proj.weight.detach()
    checked = 0
    for u, v in ((0, 0), (3, 5), (7, 2)):
        said = scale * written[:, u]
        heard = (said @ block.gate_proj.weight[v]) * gradient[ends[0]][..., v]
        heard = heard + (said @ block.up_proj.weight[v]) * gradient[ends[1]][..., v]
        moved = (clean[act] - corrupted[act])[..., u] * heard.detach()
        for a, b in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            names = [
                f"mlp_act.{layer}[{i}]{'+' if sign > 0 else '-'}" for layer, i, sign in ((0, u, a), (1, v, b))
            ]
            here = [
                (clean[Site("mlp_act", layer)][..., i] > 0) == (sign > 0)
                for layer, i, sign in ((0, u, a), (1, v, b))
            ]
            want = (moved * here[0] * here[1]).sum(1)
            if all(name in graph.nodes for name in names) and want.abs().max() > 0:
                got = torch.tensor(graph.edge(*names))
                assert (got - want).abs().max() < 1e-5 * want.abs().max() + 1e-9, names
                checked += 1
    assert checked >= 3


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "gemma2", "phi3", "falcon-new"])
def test_no_gradient_passes_a_frozen_pattern(name):
    """Exactly 0 at queries and keys, and not at values."""
    subject, task = TokenModel(tiny.tiny_model(name), name=name), items(3)
    pair = next(subject.pairs(task))
    for freeze, still in ((("patterns",), True), ((), False)):
        plan = FlowPlan(subject, freeze)
        flow = plan.run(pair.corrupted, pair.answer_position)
        for layer in range(subject.n_layers):
            rows = torch.randn(
                2, *flow.value(layer, "post").shape, generator=torch.Generator().manual_seed(0)
            )
            size = {}
            for kind in "qkv":
                part = plan.projection(layer, kind)
                at = flow.pull(layer, {"post": rows}, [f"out:{part.path}"])[f"out:{part.path}"]
                size[kind] = at[..., part.columns.flatten()].abs().max()
            assert size["v"] > 0
            assert (size["q"] == 0 and size["k"] == 0) == still


@pytest.mark.parametrize(
    "name",
    ["llama", "phi3", "gpt_neox", "gptj", "falcon-new", "gemma2", "olmo2", "opt", "opt-post-norm", "bert"],
)
def test_an_edge_into_a_neuron_is_its_own_columns_alone_with_that_part_exchanged(name):
    """head.0[1] -> mlp_act.1[5]: the MLP reads the stream with that part exchanged, and this neuron alone hears it.

    Every other neuron keeps what it read: in parallel blocks the MLP reads what attention reads, behind norms of outputs or of
    sums the part goes through them, and where gate and factor come from one matrix both of its columns belong to the neuron.
    """
    subject, task, neuron = TokenModel(tiny.tiny_model(name), name=name), items(3), 5
    graph = edge_patching(subject, task, [("head.0[1]", f"mlp_act.1[{neuron}]")])
    pair = next(subject.pairs(task))
    head, act = Site("head", 0), Site("mlp_act", 1)
    kept = [Site("head", 1), Site("mlp_act", 0)]
    clean = subject.run(pair.clean, read=[head]).activity[head]
    was = subject.run(pair.corrupted, read=[head, act, *kept], logits=pair.answer_position)
    new = was.activity[head].clone()
    new[:, :, 1] = clean[:, :, 1]
    still = [Edit(site, lambda t, b, site=site: was.activity[site]) for site in kept]
    edits = [Edit(head, lambda t, b: new), *still]
    heard = subject.run(pair.corrupted, read=[act], write=edits).activity[act]
    one = was.activity[act].clone()
    one[..., neuron] = heard[..., neuron]
    got = subject.run(pair.corrupted, write=[Edit(act, lambda t, b: one)], logits=pair.answer_position)
    want = pair.metric(got.logits) - pair.metric(was.logits)
    assert want.abs().max() > 1e-5
    found = torch.tensor(graph.edge("head.0[1]", f"mlp_act.1[{neuron}]"))
    assert (found - want).abs().max() < 1e-5 * max(1, want.abs().max())
