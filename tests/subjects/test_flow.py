"""The engine of circuits: what is frozen stays, and what writes adds up to what reads, in every family."""

import pytest
import torch

import tiny
from anatomy import batch_of, subject_of
from hooks import hook_counts
from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.units import Site
from patchclamp.subjects import LanguageModel
from patchclamp.subjects.clamp.batch import Edit, right_pad
from patchclamp.subjects.clamp.flow import KINDS, FlowPlan
from patchclamp.subjects.clamp.freeze import as_they_were, held, state_of

EVERY = sorted(tiny.ALL)
NEURONS = [
    name for name in EVERY if name not in ("mixtral", "qwen3_moe", "olmoe", "deepseek_v3", "qwen2_moe")
]


def receivers(flow, layer, units=(5, 11)):
    """Rows at the inputs of neurons at the last position of every item: one for each matrix that they read with."""
    shape = flow.blocks[0]["pre"].shape[:2]
    at = torch.zeros(shape)
    at[torch.arange(shape[0]), flow.batch.last] = 1
    rows = []
    for number in range(len(flow.reading(layer))):
        weights = [at.expand(len(units), *shape) * (number == k) for k in range(len(flow.reading(layer)))]
        rows.append(flow.at_neurons(layer, torch.tensor(units), weights))
    return torch.cat(rows)


def inputs_of(flow, layer, units=(5, 11)):
    """What the same neurons' matrices give there, the bias of the matrices left out."""
    values = flow.neuron_inputs(layer, {name: flow.value(layer, name) for name in flow.made(layer)})
    biases = [flow.plan.biases[layer].get(f"out:{path}") for path in flow.plan.mlp_in[layer]]
    if len(biases) < len(values):
        biases = [None] * len(values)
    rows = torch.arange(len(flow.batch))
    got = [v[rows, flow.batch.last] - (0 if b is None else b) for v, b in zip(values, biases, strict=True)]
    return torch.cat([v[:, list(units)].T for v in got])


def contributions(flow, layer, rows):
    """(row, item): sums over embeddings, neurons and biases, and the sum of their sizes."""
    total, size = 0, 0

    def add(gradient, value):
        nonlocal total, size
        part = gradient * value
        total, size = total + part.flatten(2).sum(2), size + part.abs().flatten(2).sum(2)

    wanted = ["mlp_out", *{name for block in flow.plan.biases for name in block}]
    for at, found in flow.down({layer: {flow.mlp_input(layer): rows}}, wanted):
        if at < layer:
            weight = flow.subject.output_matrix(Site("mlp_act", at))
            add(found["mlp_out"] @ weight.T, flow.value(at, "mlp_act"))
        for name, bias in flow.plan.biases[at].items():
            add(found[name], bias)
    add(found["pre"], flow.value(0, "pre"))
    return total, size


@pytest.mark.parametrize("name", NEURONS)
def test_all_that_writes_adds_up_to_what_a_neuron_reads(name):
    subject = subject_of(name)
    before = hook_counts(subject.model)  # transformers may keep some of its own
    flow = FlowPlan(subject).run(batch_of(name), biases=True)
    layer = subject.n_layers - 1
    total, size = contributions(flow, layer, receivers(flow, layer))
    error = ((total - inputs_of(flow, layer)).abs() / size).max()
    assert error < 1e-6, float(error)
    assert hook_counts(subject.model) == before


@pytest.mark.parametrize("name", NEURONS)
def test_a_change_under_full_freeze_is_what_the_gradients_say(name):
    """Embeddings and a neuron move; patterns, scales and the MLPs stay as they were."""
    subject, batch = subject_of(name), batch_of(name)
    layer = subject.n_layers - 1
    flow = FlowPlan(subject).run(batch)
    rows = receivers(flow, layer)
    neurons = [Site("mlp_act", at) for at in range(layer)]
    state = state_of(subject, batch, neurons)
    draw = torch.Generator().manual_seed(0)
    step = torch.randn(flow.blocks[0]["pre"].shape, generator=draw)
    moved = state.activity[neurons[0]].clone()
    moved[:, :, 3] += 2.0
    said = torch.zeros(len(rows), len(batch))
    for at, found in flow.down({layer: {flow.mlp_input(layer): rows}}, ["mlp_out"]):
        if at == 0:
            write = subject.output_matrix(neurons[0])[3]
            said = (found["pre"] * step).sum((2, 3)) + 2.0 * (found["mlp_out"] @ write).sum(2)
    state.activity[neurons[0]] = moved
    edits = [Edit(Site("embeddings"), lambda t, b: t + step), *as_they_were(state, neurons)]
    reads = {}
    path = flow.plan.mlp_in[layer]
    with held(subject, state) as probs:
        wanted = [*probs, *(Site(one, None, io="out") for one in path)]
        reads = subject.run(batch, read=wanted, write=edits, stop=False).activity
    after = flow.neuron_inputs(
        layer, {f"out:{one}": flow.by_position(reads[Site(one, None, io="out")]) for one in path}
    )
    before = flow.neuron_inputs(layer, {n: flow.value(layer, n) for n in flow.made(layer)})
    items = torch.arange(len(batch))
    got = torch.cat([(a - b)[items, batch.last][:, [5, 11]].T for a, b in zip(after, before, strict=True)])
    assert torch.allclose(said, got, atol=1e-4 * float(said.abs().max())), (said - got).abs().max()


@pytest.mark.parametrize("name", EVERY)
def test_no_gradient_passes_a_frozen_pattern(name):
    subject, layer = subject_of(name), 1
    plan = FlowPlan(subject, freeze=("patterns", "norms"))
    flow = plan.run(batch_of(name))
    paths = list(dict.fromkeys(plan.qkv[layer]))
    rows = torch.randn(1, *flow.blocks[layer]["post"].shape, generator=torch.Generator().manual_seed(0))
    found = flow.pull(layer, {"post": rows}, [f"out:{path}" for path in paths])
    if name == "deepseek_v3":  # queries; keys share their module with values
        assert not found[f"out:{paths[0]}"].any()
        return
    for kind in KINDS:
        part = plan.projection(layer, kind)
        assert found[f"out:{part.path}"][..., part.columns].any() == (kind == "v"), kind


@pytest.mark.parametrize("name", [name for name in EVERY if name != "deepseek_v3"])
def test_the_columns_of_each_head_are_its_own(name):
    """A change of one head's queries or keys moves its patterns alone, of its values what it reads and no pattern."""
    subject, batch, layer = subject_of(name), batch_of(name), 1
    plan = FlowPlan(subject)
    sites = [Site("attn_probs", layer), Site("head", layer)]
    before = subject.run(batch, read=sites).activity
    for kind in KINDS:
        part = plan.projection(layer, kind)
        heads = torch.arange(subject.n_heads).view(len(part), -1)[len(part) - 1].tolist()
        columns = part.columns[-1]
        # not the same for every token, or no pattern would move
        edit = Edit(
            Site(part.path, None, io="out"),
            lambda t, b, columns=columns: t.index_add(
                -1,
                columns,
                torch.randn(*t.shape[:-1], len(columns), generator=torch.Generator().manual_seed(0)),
            ),
        )
        after = subject.run(batch, read=sites, write=[edit]).activity
        probs = [
            i
            for i in range(subject.n_heads)
            if not torch.equal(after[sites[0]][:, i], before[sites[0]][:, i])
        ]
        values = [
            i
            for i in range(subject.n_heads)
            if (after[sites[1]] - before[sites[1]])[:, :, i].abs().max() > 1e-5
        ]
        if (
            name.startswith("olmo") and kind != "v"
        ):  # its norm of queries and keys goes over all heads together
            assert set(heads) <= set(probs)
            continue
        assert probs == ([] if kind == "v" else heads), kind
        assert values == heads, kind
    assert len(part) == {"llama": 2, "falcon": 1, "falcon-new": 2, "gpt2": 4}.get(name, len(part))


def test_latent_attention_is_refused():
    with pytest.raises(PatchclampError, match="kv_b_proj.*take mlp_out.L and logits"):
        FlowPlan(subject_of("deepseek_v3")).projection(0, "v")


def test_an_edge_without_attention_is_what_one_writes_times_what_the_other_reads():
    """Llama without attention: edge = w_in . (gain / scale) . w_out, at the same position."""
    model = tiny.tiny_model("llama")
    for block in model.model.layers:
        block.self_attn.o_proj.weight.data.zero_()
        if block.self_attn.o_proj.bias is not None:
            block.self_attn.o_proj.bias.data.zero_()
    subject = LanguageModel(model)
    batch = right_pad([[5, 6, 7, 8]])
    flow = FlowPlan(subject).run(batch)
    rows = receivers(flow, 2, units=(5,))[:1]
    for at, found in flow.down({2: {flow.mlp_input(2): rows}}, ["mlp_out"]):
        if at == 1:
            write = subject.output_matrix("mlp_act.1")
            got = found["mlp_out"][0, 0] @ write.T  # (pos, neuron)
    stream = subject.run(batch, read="resid_mid.2").activity["resid_mid.2"][0, -1]
    norm = model.model.layers[2].post_attention_layernorm
    scale = (stream.pow(2).mean() + norm.variance_epsilon).rsqrt()
    want = write @ (model.model.layers[2].mlp.gate_proj.weight[5] * norm.weight * scale)
    assert torch.allclose(got[-1], want, rtol=1e-5, atol=1e-6)
    assert not got[:-1].any()


def test_patterns_need_an_attention_that_shows_them():
    subject = subject_of("llama")
    with pytest.raises(PatchclampError, match="freeze.*pattern"):
        FlowPlan(subject, freeze=("pattern",))
    with pytest.raises(PatchclampError, match="eager attention only"):
        state = state_of(subject, batch_of("llama"))
        with held(subject, state):
            subject.run(batch_of("llama"), read="resid_post.2")
