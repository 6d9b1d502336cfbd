"""Edges inside a model: exact patching against passes made by hand, gradients against exact patching, a planted circuit."""

import pytest
import torch

import tiny
from circuit_toys import EDGES, InductionModel, area_of, induction_model, induction_task
from hooks import hook_counts
from language_toys import TokenModel, items
from patchclamp.base.errors import PatchclampError
from patchclamp.connect.circuits import METHODS, edge_attribution, edge_patching, path_patching
from patchclamp.nouns.units import Site
from patchclamp.subjects import TensorTask, TorchModule
from patchclamp.subjects.clamp.batch import Edit
from patchclamp.subjects.clamp.flow import FlowPlan
from patchclamp.subjects.clamp.paths import PathRuns
from patchclamp.subjects.clamp.receivers import receiver

HEAD, MLP, START = Site("head", 0), Site("mlp_out", 0), Site("embeddings")


def tiny_subject(name):
    return TokenModel(tiny.tiny_model(name), name=name)


def runs(subject, task, sites):
    pair = next(subject.pairs(task))
    found = [subject.run(b, read=sites, logits=pair.answer_position) for b in (pair.clean, pair.corrupted)]
    return pair, *found


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt_neox", "falcon-new", "bert"])
def test_a_small_step_along_an_edge_does_what_attribution_says(name):
    """Passes that move one edge a little, forwards only, against gradients at all edges."""
    subject, task, step = tiny_subject(name), items(3), 1e-2
    graph = edge_attribution(subject, task, steps=0, rules=())
    plan = FlowPlan(subject, ())
    pair, clean, corrupted = runs(subject, task, [HEAD, MLP, START])
    paths = PathRuns(plan, pair.corrupted, ("heads", "mlps"))
    shared = len(plan.projection(2, "k")) - 1
    edges = [("embeddings", "v.0[0]"), ("head.0[1]", f"k.2[{shared}]"), ("mlp_out.0", "q.2[3]"), ("head.0[1]", "mlp_out.1"),
             ("mlp_out.0", f"v.1[{shared}]"), ("head.0[1]", "logits"), ("embeddings", "mlp_out.2")]  # fmt: skip
    size = abs(graph.items).max()
    for source, target in edges:
        site = Site(*(source.split("[")[0].split(".")[0], 0)) if "." in source else START
        towards = clean.activity[site] - corrupted.activity[site]
        if site == HEAD:
            towards = towards * torch.eye(towards.shape[2])[1][:, None]
        one = receiver(plan, target)
        ends = []
        for sign in (step, -step):
            change = [Edit(site, lambda t, b, by=sign * towards: t + by)]
            ends.append(pair.metric(paths.send([one], paths.receive(change, [one]), pair.answer_position)))
        slope = (ends[0] - ends[1]) / (2 * step)
        assert (slope - torch.tensor(graph.edge(source, target))).abs().max() < 5e-3 * size, (source, target)
    assert not any(hook_counts(subject.model))


def test_an_edge_by_hand():
    """head.0[1] -> q.1[2] in Llama: the stream with that part exchanged, through the norm, into these queries alone."""
    subject, task = tiny_subject("llama"), items(4)
    pair, clean, corrupted = runs(subject, task, [HEAD, Site("resid_pre", 1)])
    block = subject.model.model.layers[1]
    written = (clean.activity[HEAD] - corrupted.activity[HEAD])[:, :, 1] @ subject.head_output_matrix(0)[1]
    size = subject.unit_dim(HEAD)
    columns = slice(2 * size, 3 * size)
    for direction, base, sign in (("denoising", corrupted, 1), ("noising", clean, -1)):
        with torch.no_grad():
            queries = block.self_attn.q_proj(
                block.input_layernorm(base.activity[Site("resid_pre", 1)] + sign * written)
            )

        def put(activity, batch, queries=queries):
            return torch.cat(
                [activity[..., : columns.start], queries[..., columns], activity[..., columns.stop :]], -1
            )

        batch = pair.corrupted if direction == "denoising" else pair.clean
        edit = Edit(Site("model.layers.1.self_attn.q_proj", io="out"), put)
        got = subject.run(batch, write=[edit], logits=pair.answer_position).logits
        want = sign * (pair.metric(got) - pair.metric(base.logits))
        graph = edge_patching(subject, task, [("head.0[1]", "q.1[2]")], direction=direction)
        assert torch.allclose(torch.tensor(graph.edge("head.0[1]", "q.1[2]")), want, atol=1e-5)
        assert want.abs().max() > 1e-4


def test_a_path_runs_through_mlps_unless_they_are_frozen_too():
    """head.0[1] -> logits: with MLPs free all later MLPs see the change, other heads do not."""
    subject, task = tiny_subject("llama"), items(4)
    sites = [Site("head", layer) for layer in range(3)]
    pair, clean, corrupted = runs(subject, task, [*sites, *(Site("mlp_act", i) for i in range(3))])
    other = corrupted.activity[HEAD].clone()
    other[:, :, 1] = clean.activity[HEAD][:, :, 1]
    fixed = {site: corrupted.activity[site] for site in sites} | {HEAD: other}
    edits = [Edit(site, lambda t, b, site=site: fixed[site]) for site in sites]
    got = subject.run(pair.corrupted, write=edits, logits=pair.answer_position).logits
    through = path_patching(subject, task, "head.0[1]").edge("head.0[1]", "logits")
    want = pair.metric(got) - pair.metric(corrupted.logits)
    assert torch.allclose(torch.tensor(through), want, atol=1e-5)
    direct = edge_patching(subject, task, [("head.0[1]", "logits")]).edge("head.0[1]", "logits")
    assert abs(through - direct).max() > 1e-3


def test_the_three_node_toy_in_closed_form():
    """A -> R -> logit and A -> logit and A -> B -> logit: the path by way of R has none of the other two terms."""
    model = tiny.tiny_model("gpt2")
    subject, task = TokenModel(model), items(3)
    both = path_patching(
        subject, task, "mlp_out.0", ["mlp_out.1", "mlp_out.2", "logits"], freeze=("heads", "mlps")
    )
    pair, clean, corrupted = runs(subject, task, [MLP, Site("resid_mid", 1), Site("mlp_out", 1)])
    moved = corrupted.activity[Site("resid_mid", 1)] + clean.activity[MLP] - corrupted.activity[MLP]
    block = model.transformer.h[1]
    with torch.no_grad():
        heard = block.mlp(block.ln_2(moved))
    out = subject.run(
        pair.corrupted, write=[Edit(Site("mlp_out", 1), lambda t, b: heard)], logits=pair.answer_position
    )
    want = pair.metric(out.logits) - pair.metric(corrupted.logits)
    assert torch.allclose(torch.tensor(both.edge("mlp_out.0", "mlp_out.1")), want, atol=1e-5)


def nearly_linear():
    """Llama whose second run differs from the first by very little."""
    subject = tiny_subject("llama")
    with torch.no_grad():
        weight = subject.model.model.embed_tokens.weight
        weight.copy_(weight.mean(0) + 0.004 * (weight - weight.mean(0)))
    return subject


def test_many_steps_agree_with_exact_patching_where_the_model_is_nearly_linear():
    subject, task = nearly_linear(), items(4)
    exact = edge_patching(subject, task)
    estimate = edge_attribution(subject, task, steps=8, rules=())
    assert exact.nodes == estimate.nodes
    pairs = exact.pairs
    assert (pairs == estimate.pairs).all()
    error = abs(exact.weights - estimate.weights)[pairs].max()
    assert error < 0.03 * abs(exact.weights[pairs]).max()


@pytest.fixture(scope="module")
def planted():
    return InductionModel(induction_model()), induction_task()


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_a_planted_induction_circuit_is_found_edge_by_edge(planted, direction):
    exact = edge_patching(*planted, direction=direction)
    assert area_of(exact) == 1.0
    found = {(row.source, row.target) for row in exact.edges().head(5).itertuples()}
    assert found == EDGES
    assert area_of(edge_attribution(*planted, direction=direction, rules=())) > 0.95
    table = exact.intervals(5)
    assert (table["low"] > 0).all()


def test_without_the_plant_nothing_is_found():
    """The same model with random weights, on the same task: planted edges rank as any others."""
    areas = [
        area_of(
            edge_attribution(
                InductionModel(induction_model(seed, 0.3, planted=False)), induction_task(), rules=()
            )
        )
        for seed in range(6)
    ]
    # of 105 edges five: one area has a standard deviation of .13 under chance
    assert 0.25 < sum(areas) / len(areas) < 0.75


def test_keys_and_values_are_reported_once_for_the_heads_that_share_them():
    graph = edge_attribution(tiny_subject("llama"), items(2), steps=0)
    names = [name for name in graph.nodes if name.startswith(("q.1", "k.1", "v.1"))]
    assert names == [*(f"q.1[{h}]" for h in range(4)), *(f"{kind}.1[{g}]" for kind in "kv" for g in range(2))]
    # sources before layer 0, 1, 2, 3 are 1, 6, 11, 16; eight inputs of heads a layer; an MLP hears its layer's heads too
    assert len(graph.ends) == 8 * (1 + 6 + 11) + (5 + 10 + 15) + 16


def test_items_do_not_depend_on_the_batch_they_are_in():
    subject, task = tiny_subject("qwen3"), items(5)
    for method in (edge_attribution, path_patching):
        one, all_ = (method(subject, task, batch_size=n) for n in (1, 5))
        assert abs(one.items - all_.items).max() < 2e-5 * max(1, abs(all_.items).max())
    part = all_.on_items([3, 1])
    assert (part.items == all_.items[[3, 1]]).all()


def test_what_cannot_be_measured_is_refused(planted):
    subject, task = planted
    with pytest.raises(PatchclampError, match="has read the stream before"):
        edge_patching(subject, task, [("head.1[0]", "q.1[0]")])
    with pytest.raises(PatchclampError, match="not a receiver"):
        path_patching(subject, task, "head.0[0]", "resid_post.1")
    with pytest.raises(PatchclampError, match=r"k.1\[0..3\]"):
        path_patching(subject, task, "head.0[0]", "k.1[4]")
    with pytest.raises(PatchclampError, match="not a sender"):
        path_patching(subject, task, "resid_post.0", "logits")
    with pytest.raises(PatchclampError, match="no receiver comes after"):
        path_patching(subject, task, "head.1[0]", "q.0[0]")
    with pytest.raises(PatchclampError, match="steps=-1"):
        edge_attribution(subject, task, steps=-1)
    net = TorchModule(torch.nn.Sequential(torch.nn.Linear(2, 2)), torch.zeros(1, 2))
    toy = TensorTask("t", torch.ones(1, 2), torch.zeros(1, 2), lambda out: out[:, 0])
    for method in (m for name, m in METHODS.items() if name != "causal_path_graph"):  # which takes any module
        with pytest.raises(PatchclampError, match="transformers of the anatomy table"):
            method(net, toy)
    with pytest.raises(PatchclampError, match="there is no such edge"):
        edge_attribution(subject, task, steps=0).edge("logits", "embeddings")
