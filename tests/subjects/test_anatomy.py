"""Every row of the anatomy table, proved by arithmetic on tiny random models."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, T5Config, T5Model

import tiny
from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.intervention import Intervention
from patchclamp.nouns.units import Site
from patchclamp.subjects import Batch, Edit, LanguageModel, TensorTask, VisionModel
from patchclamp.subjects.clamp.reference import Reference
from patchclamp.subjects.clamp.trial import run_trial
from patchclamp.subjects.families.anatomy import POINTS, TABLE, families, module_at, row_for, weight_in_out

torch.set_num_threads(1)
LENGTHS = (9, 4, 7)
EVERY = sorted(tiny.ALL)
LANGUAGE = sorted(tiny.LANGUAGE)


@cache
def subject_of(name: str) -> Any:
    model = tiny.tiny_model(name)
    return VisionModel(model, name) if name in tiny.VISION else LanguageModel(model, name=name)


def texts(lengths: tuple[int, ...] = LENGTHS, seed: int = 1) -> list[list[int]]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(6, tiny.VOCAB, (n,), generator=draw).tolist() for n in lengths]


def batch_of(name: str, lengths: tuple[int, ...] = LENGTHS) -> Batch:
    subject = subject_of(name)
    if name in tiny.VISION:
        return subject.batch(torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)))
    return subject.batch(texts(lengths))


def plain_sites(subject: Any) -> list[Site]:
    return [site for site in subject.known_sites() if site.point != "attn_probs"]


@cache
def recorded(name: str) -> dict[str, Tensor]:
    subject = subject_of(name)
    run = subject.run(batch_of(name), read=plain_sites(subject), logits="all")
    return {str(site): value for site, value in run.activity.items()} | {"out": run.logits}


def close(got: Tensor, want: Tensor, tolerance: float = 1e-5) -> None:
    assert got.shape == want.shape
    error = (got - want).norm() / want.norm()
    assert error < tolerance, f"relative error {error:.2e}"


def layers_of(subject: Any) -> list[tuple[int, nn.Module, Any]]:
    return [(i, layer, subject.row_at(i)) for i, layer in enumerate(subject.layers)]


def linear(module: nn.Module, x: Tensor) -> Tensor:
    y = x @ weight_in_out(module)
    return y if module.bias is None else y + module.bias


# ---- arithmetic


@pytest.mark.parametrize("name", EVERY)
def test_stream_adds_up(name: str) -> None:
    subject, seen = subject_of(name), recorded(name)
    assert torch.equal(seen["embeddings"], seen["resid_pre.0"])
    for i, layer, row in layers_of(subject):
        before, after = seen[f"resid_pre.{i}"], seen[f"resid_post.{i}"]
        attention, mlp = seen[f"attn_out_post.{i}"], seen[f"mlp_out_post.{i}"]
        if i:
            assert torch.equal(before, seen[f"resid_post.{i - 1}"])
        if row.parallel:
            close(before + attention + mlp, after)
            continue
        middle = seen[f"resid_mid.{i}"]
        norms = [module_at(layer, path) for path in row.norms]
        close(norms[0](before + attention) if row.post_norm else before + attention, middle)
        close(norms[1](middle + mlp) if row.post_norm else middle + mlp, after)


@pytest.mark.parametrize("name", EVERY)
def test_heads_sum_to_attention(name: str) -> None:
    subject, seen = subject_of(name), recorded(name)
    for i, layer, row in layers_of(subject):
        heads = seen[f"head.{i}"]
        assert heads.shape[2] == subject.n_heads
        assert torch.equal(heads.flatten(2), seen[f"z.{i}"])
        bias = module_at(layer, row.head_proj).bias
        total = torch.einsum("bthd,hdm->btm", heads, subject.head_output_matrix(i))
        close(total if bias is None else total + bias, seen[f"attn_out.{i}"])


@pytest.mark.parametrize("name", EVERY)
def test_neurons_project_to_mlp_out(name: str) -> None:
    subject, seen = subject_of(name), recorded(name)
    for i, layer, row in layers_of(subject):
        if row.mlp_proj is None:
            assert f"mlp_act.{i}" not in seen and f"router.{i}" in seen
            continue
        close(linear(module_at(layer, row.mlp_proj), seen[f"mlp_act.{i}"]), seen[f"mlp_out.{i}"])


@pytest.mark.parametrize("name", EVERY)
def test_activation_makes_neurons(name: str) -> None:
    subject, seen = subject_of(name), recorded(name)
    for i, layer, row in layers_of(subject):
        if row.activation is None:
            continue
        neurons = module_at(layer, row.activation)(seen[f"mlp_pre.{i}"])
        if row.gated:
            address = f"{subject.row.layers}.{i}.{row.mlp_in[-1]}.out"
            (site,) = subject.resolve(address)
            up = subject.run(batch_of(name), read=[site]).activity[site]
            neurons = neurons * (up if len(row.mlp_in) == 2 else up.chunk(2, -1)[1])
        close(neurons, seen[f"mlp_act.{i}"])


@pytest.mark.parametrize("name", sorted(tiny.DECODERS))
def test_router_is_the_gate(name: str) -> None:
    subject, seen = subject_of(name), recorded(name)
    for i, layer, _ in layers_of(subject):
        if f"router.{i}" not in seen:
            with pytest.raises(PatchclampError, match="router"):
                subject.resolve(f"router.{i}")
            continue
        (site,) = subject.resolve(f"{subject.row.layers}.{i}.mlp.in")
        entering = subject.run(batch_of(name), read=[site]).activity[site]
        close(entering.float() @ module_at(layer, "mlp.gate").weight.float().T, seen[f"router.{i}"])
        with pytest.raises(PatchclampError, match="inside fused experts"):
            subject.resolve(f"mlp_act.{i}")


@pytest.mark.parametrize("name", EVERY)
def test_head_of_the_model(name: str) -> None:
    subject, seen = subject_of(name), recorded(name)
    row, model = subject.row, subject.model
    stream = seen[f"resid_post.{subject.n_layers - 1}"]
    if "final_norm" in row.fixed:
        normed = module_at(model, row.fixed["final_norm"].module)(stream)
        close(normed, seen["final_norm"])
        stream = normed
    if name in tiny.VISION:
        stream = stream[:, 0]
    for path in row.head_path:
        stream = module_at(model, path)(stream)
    close(stream, seen["logits"][:, 0] if name in tiny.VISION else seen["logits"])
    cap = getattr(subject.config, row.logit_softcap) if row.logit_softcap else None
    close(cap * torch.tanh(stream / cap) if cap else stream, seen["out"])
    if name == "gemma2":
        assert cap and (seen["out"] - seen["logits"]).abs().max() > 1e-4


@pytest.mark.parametrize("name", EVERY)
def test_attention_probabilities(name: str) -> None:
    subject, seen = subject_of(name), recorded(name)
    batch = batch_of(name)
    sites = subject.resolve("attn_probs.*")
    before = subject.model.config._attn_implementation
    assert len(sites) == subject.n_layers
    probs = subject.run(batch, read=sites).activity
    assert subject.model.config._attn_implementation == before
    for i, site in enumerate(sites):
        weights = probs[site]
        length = weights.shape[-1]
        assert weights.shape == (len(batch), subject.n_heads, length, length)
        close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        if subject.causal:
            assert torch.all(weights.triu(1) == 0)
        values = _values(subject, i, batch)
        if values is not None:
            z = torch.einsum("bhqk,bkhd->bqhd", weights, values)
            real = batch.mask if name not in tiny.VISION else torch.ones(z.shape[:2], dtype=torch.bool)
            close(z[real], seen[f"head.{i}"][real])


def _values(subject: Any, i: int, batch: Batch) -> Tensor | None:
    """Values per query head, from the projections of families that have one for values alone."""
    path = subject.row_at(i).qkv[-1]
    if path.rsplit(".", 1)[-1] not in ("v_proj", "value"):
        return None
    (site,) = subject.resolve(f"{subject.row.layers}.{i}.{path}.out")
    (z,) = subject.resolve(f"z.{i}")
    values = subject.run(batch, read=[site]).activity[site]
    values = values.unflatten(-1, (-1, subject.width(z) // subject.n_heads))
    return values.repeat_interleave(subject.n_heads // values.shape[2], dim=2)


# ---- against tools of others


@pytest.mark.parametrize("name", LANGUAGE)
def test_transformers_own_hidden_states(name: str) -> None:
    subject, seen = subject_of(name), recorded(name)
    batch = batch_of(name, (9, 9))
    run = subject.run(batch, read=plain_sites(subject), logits="all")
    with torch.no_grad():
        bare = subject.model(input_ids=batch.tokens, output_hidden_states=True, use_cache=False)
    for i, state in enumerate(bare.hidden_states[:-1]):
        assert torch.equal(run.activity[Site("resid_pre", i)], state)
    if "final_norm" in seen and "project_out" not in str(subject.row.head_path):
        assert torch.equal(run.activity[Site("final_norm")], bare.hidden_states[-1])


@pytest.mark.parametrize("name", EVERY)
def test_recorded_equals_hand_written_hooks_bit_for_bit(name: str) -> None:
    """The table of sites says which tensor each address is; plain hooks on just those see the same bits."""
    subject, seen = subject_of(name), recorded(name)
    modules = dict(subject.model.named_modules())
    caught: dict[str, Tensor] = {}
    handles = []
    for info in subject.sites():
        if info.site.point == "attn_probs":
            continue
        path, _, io = info.module.rpartition(".")

        def pre(module: nn.Module, args: Any, kwargs: Any, site: Site = info.site) -> None:
            caught[str(site)] = (args[0] if args else kwargs["hidden_states"]).clone()

        def post(module: nn.Module, args: Any, out: Any, site: Site = info.site) -> None:
            caught[str(site)] = (out[0] if isinstance(out, tuple) else out).clone()

        if io == "in":
            handles.append(modules[path].register_forward_pre_hook(pre, with_kwargs=True))
        else:
            handles.append(modules[path].register_forward_hook(post))
    subject.run(batch_of(name), logits="all")
    for handle in handles:
        handle.remove()
    for site, value in caught.items():
        assert torch.equal(value.reshape(seen[site].shape), seen[site]), site


# ---- recording changes nothing; padding changes nothing


def bare_logits(name: str, batch: Batch) -> Tensor:
    subject = subject_of(name)
    # GPT-J rounds otherwise when it keeps a cache, and the engine keeps none
    inputs = dict(batch.tensors) if name in tiny.VISION else {"input_ids": batch.tokens, "use_cache": False}
    with torch.no_grad():
        return subject.model(**inputs).logits


@pytest.mark.parametrize("name", EVERY)
def test_recording_changes_no_output_bit(name: str) -> None:
    subject, batch = subject_of(name), batch_of(name, (8, 8, 8))
    want = bare_logits(name, batch)
    run = subject.run(batch, read=plain_sites(subject), logits="all")
    assert torch.equal(run.logits, want)
    assert all(torch.isfinite(value).all() for value in run.activity.values())
    for edit in (Edit(site, lambda t, b: t.clone()) for site in writable(subject)):
        assert torch.equal(subject.run(batch, write=[edit], logits="all").logits, want), edit.site


def writable(subject: Any) -> list[Site]:
    return [site for site in plain_sites(subject) if site.point not in ("router", "logits")]


def left_padded(sequences: list[list[int]]) -> Batch:
    width = max(map(len, sequences))
    tokens = torch.tensor([[0] * (width - len(s)) + s for s in sequences])
    mask = torch.tensor([[False] * (width - len(s)) + [True] * len(s) for s in sequences])
    return Batch(tokens, mask, torch.arange(len(sequences)))


@pytest.mark.parametrize("name", LANGUAGE)
def test_padding_and_batching_leave_real_tokens_alone(name: str) -> None:
    subject = subject_of(name)
    sites, sequences = plain_sites(subject), texts()
    alone = [subject.run(subject.batch([s]), read=sites, logits="all") for s in sequences]
    for batch in (subject.batch(sequences), left_padded(sequences)):
        together = subject.run(batch, read=sites, logits="all")
        for row, single in enumerate(alone):
            real = batch.mask[row]
            close(together.logits[row, real], single.logits[0], 2e-5)
            for site in sites:
                close(together.activity[site][row, real], single.activity[site][0], 2e-5)
        last = subject.run(batch, logits="last").logits
        for row, single in enumerate(alone):
            close(last[row], single.logits[0, -1], 2e-5)


@pytest.mark.parametrize("name", LANGUAGE)
def test_padding_agrees_with_the_model_under_its_own_mask(name: str) -> None:
    subject, batch = subject_of(name), batch_of(name)
    with torch.no_grad():
        want = subject.model(input_ids=batch.tokens, attention_mask=batch.mask.long()).logits
    close(recorded(name)["out"][batch.mask], want[batch.mask])


# ---- writing


@pytest.mark.parametrize("name", EVERY)
def test_no_write_is_lost(name: str) -> None:
    """A write is what a later read of the same site sees, and it reaches the output."""
    subject, batch = subject_of(name), batch_of(name)
    base = recorded(name)
    for site in writable(subject):
        new = base[str(site)].roll(1, -1) * 1.5  # not a shift and a scale, which a norm would undo
        kept = new.clone()
        run = subject.run(batch, read=[site], write=[Edit(site, lambda t, b, v=new: v)], logits="all")
        assert torch.equal(new, kept), f"{site}: the caller's own tensor was changed"
        close(run.activity[site], new, 1e-6)
        assert not torch.allclose(run.logits, base["out"], atol=1e-4), f"{site}: the write had no effect"


@pytest.mark.parametrize("name", EVERY)
def test_written_stream_carries_on(name: str) -> None:
    """Writing resid_mid moves both the norm's input and the skip path."""
    subject, batch = subject_of(name), batch_of(name)
    for i, layer, row in layers_of(subject):
        if row.parallel:
            with pytest.raises(PatchclampError, match="same stream"):
                subject.resolve(f"resid_mid.{i}")
            continue
        middle, added, after = (Site(p, i) for p in ("resid_mid", "mlp_out_post", "resid_post"))
        edit = Edit(middle, lambda t, b: -0.5 * t)
        seen = subject.run(batch, read=[middle, added, after], write=[edit]).activity
        want = seen[middle] + seen[added]
        close(module_at(layer, row.norms[1])(want) if row.post_norm else want, seen[after])


@pytest.mark.parametrize("name", EVERY)
def test_zeroed_head_equals_zeroed_slice_by_hand(name: str) -> None:
    subject, batch = subject_of(name), batch_of(name)
    layer, head = 1, 2
    site = Site("head", layer)

    def silence(z: Tensor, batch: Batch) -> Tensor:
        keep = torch.ones(z.shape[2], 1)
        keep[head] = 0
        return z * keep

    ours = subject.run(batch, write=[Edit(site, silence)], logits="all").logits
    size = recorded(name)[str(site)].shape[-1]

    def by_hand(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        z = args[0].clone()
        z[..., head * size : (head + 1) * size] = 0
        return (z, *args[1:])

    proj = module_at(subject.layers[layer], subject.row.head_proj)
    handle = proj.register_forward_pre_hook(by_hand)
    want = subject.run(batch, logits="all").logits
    handle.remove()
    assert torch.equal(ours, want)
    assert not torch.allclose(ours, recorded(name)["out"], atol=1e-4)


def test_order_of_the_list_of_edits_decides_nothing() -> None:
    subject, batch = subject_of("llama"), batch_of("llama")
    edits = [
        Edit(Site(p, 1), lambda t, b, k=k: k * t) for k, p in ((2, "resid_mid"), (3, "resid_pre"), (5, "z"))
    ]
    forth = subject.run(batch, write=edits, read=[Site("resid_mid", 1)], logits="all")
    back = subject.run(batch, write=edits[::-1], read=[Site("resid_mid", 1)], logits="all")
    assert torch.equal(forth.logits, back.logits)
    seen = subject.run(batch, write=edits[1:], read=[Site("resid_mid", 1)]).activity
    close(forth.activity[Site("resid_mid", 1)], 2 * seen[Site("resid_mid", 1)])


@pytest.mark.parametrize("name", LANGUAGE)
def test_unembedding(name: str) -> None:
    """logits = norm-without-gain(stream) * gain @ W_U (+ bias), up to the final cap."""
    subject, seen = subject_of(name), recorded(name)
    if name == "bert":
        with pytest.raises(PatchclampError, match="not linear"):
            subject.unembed()
        return
    weight, gain = subject.unembed()
    stream = seen[f"resid_post.{subject.n_layers - 1}"]
    if gain is not None:
        norm = module_at(subject.model, subject.row.fixed["final_norm"].module)
        centred = stream - stream.mean(-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else stream
        eps = next(getattr(norm, key) for key in ("eps", "variance_epsilon") if hasattr(norm, key))
        stream = centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt() * gain
        stream = stream if getattr(norm, "bias", None) is None else stream + norm.bias
    bias = subject.model.get_output_embeddings().bias
    logits = stream @ weight.T
    close(logits if bias is None else logits + bias, seen["logits"])


@pytest.mark.parametrize("name", ["llama", "mixtral", "bert", "vit"])
def test_write_that_would_do_nothing_is_refused(name: str) -> None:
    subject = subject_of(name)
    point = "router.0" if name == "mixtral" else "attn_probs.0"
    (site,) = subject.resolve(point)
    with pytest.raises(PatchclampError, match="would do nothing"):
        subject.run(batch_of(name), write=[Edit(site, lambda t, b: t * 0)], logits="all")


# ---- stopping and cleaning up


@pytest.mark.parametrize("name", EVERY)
def test_pass_stops_after_the_last_site(name: str) -> None:
    subject, batch = subject_of(name), batch_of(name)
    calls: list[Any] = []
    handles = [layer.register_forward_pre_hook(lambda m, a: calls.append(m)) for layer in subject.layers]
    heads = [module_at(subject.model, path) for path in subject.row.head_path]
    handles += [head.register_forward_pre_hook(lambda m, a: calls.append(m)) for head in heads if head]
    # OPT and Gemma 3 with images see their embeddings at the door of the first block
    door = int(subject.row.fixed["embeddings"].module.endswith("layers.0"))
    for address, wanted in (("embeddings", door), ("resid_pre.1", 2), ("mlp_out.1", 2), ("resid_post.0", 1)):
        calls.clear()
        subject.run(batch, read=subject.resolve(address))
        assert len(calls) == wanted, address
    calls.clear()
    subject.run(batch, read=subject.resolve(f"resid_post.{subject.n_layers - 1}"))
    assert len(calls) == subject.n_layers, "the head ran"
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("name", EVERY)
def test_everything_is_restored_after_an_exception(name: str) -> None:
    subject, batch = subject_of(name), batch_of(name)
    flags = [p.requires_grad for p in subject.model.parameters()]
    attention = subject.model.config._attn_implementation

    def hooks() -> list[int]:  # transformers leaves some of its own
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in subject.model.modules()]

    hooked = hooks()

    def fail(tensor: Tensor) -> None:
        raise KeyError("from the reader")

    for point in ("mlp_out", "attn_probs"):
        with pytest.raises(KeyError, match="from the reader"):
            subject.run(batch, read={Site(point, 1): fail}, grad=True)
    assert hooks() == hooked
    assert not any("forward" in module.__dict__ for module in subject.model.modules())
    assert [p.requires_grad for p in subject.model.parameters()] == flags
    assert subject.model.config._attn_implementation == attention
    assert torch.equal(subject.run(batch, logits="all").logits, recorded(name)["out"])


@pytest.mark.parametrize("name", EVERY)
def test_resumed_pass_gives_the_same_bits(name: str) -> None:
    subject, batch = subject_of(name), batch_of(name)
    run = subject.run(batch, logits="all", start=(2, recorded(name)["resid_pre.2"]))
    assert torch.equal(run.logits, recorded(name)["out"])


@pytest.mark.parametrize("name", EVERY)
def test_logits_are_read_at_every_position_whatever_is_asked_for(name: str) -> None:
    subject, batch = subject_of(name), batch_of(name)
    if "logits" in subject.row.fixed:
        for logits in (None, "last"):
            seen = subject.run(batch, read=[Site("logits")], logits=logits).activity[Site("logits")]
            assert torch.equal(seen, recorded(name)["logits"])


def test_positions_of_a_vision_model_are_its_patches() -> None:
    subject, batch = subject_of("vit"), batch_of("vit")
    assert batch.mask.shape == subject.content_mask(batch).shape == recorded("vit")["resid_post.0"].shape[:2]
    task = TensorTask("class", batch.tensors["pixel_values"], None, lambda out: out[:, 0])
    for where in (0, 3, -1):
        edit = Edit(
            Site("mlp_act", 1), lambda a, b, where=where: a.index_fill(1, torch.tensor([where % 17]), 0.0)
        )
        want = subject.run(batch, write=[edit], logits="all").logits[:, 0]
        trial = run_trial(subject, task, [[Intervention("mlp_act.1", "zero", where)]])
        assert trial.changed[0] == pytest.approx(want.numpy(), abs=1e-6)
    site = Site("mlp_act", 1)
    size = recorded("vit")[str(site)].abs().mean((0, 1)).double() * subject.output_norms(site)
    assert torch.allclose(Reference(subject, task).activity([site])[site], size.double(), rtol=1e-5)
    assert run_trial(subject, task, [[Intervention("logits[0]", "zero")]]).changed.tolist() == [[0.0, 0.0]]


# ---- the table


def test_table_is_whole() -> None:
    used = {row_for(tiny.tiny_model(name)).family for name in EVERY}
    assert used == set(families())
    for row in TABLE:
        points = {*row.taps, *row.fixed, *row.missing} | ({"router"} if row.experts else set())
        if row.family not in ("BERT", "OPT (norm after the sum, 350m)"):
            assert points == set(POINTS), row.family
        assert points <= set(POINTS), row.family
        assert not set(row.taps) & set(row.missing), row.family


def test_documentation_lists_every_family() -> None:
    page = (Path(__file__).parents[2] / "docs" / "subjects.md").read_text(encoding="utf-8")
    table = page.partition("## Families")[2].partition("What differs")[0]
    for family, model_types in families().items():
        assert family.partition(" (one after")[0].partition(" (norm after")[0] in table, family
        assert all(f"`{name}`" in table for name in model_types), family
    assert set(re.findall(r"`([a-z0-9_]+)`", table)) - {"model_type"} == {
        n for r in TABLE for n in r.model_types
    }
    for point in POINTS:
        assert f"`{point}" in page, point


@pytest.mark.parametrize("name", sorted(set(EVERY) - {"gemma3-images"}))
def test_model_without_its_head(name: str) -> None:
    base = tiny.tiny_model(name).base_model
    subject = VisionModel(base) if name in tiny.VISION else LanguageModel(base)
    batch = batch_of(name)
    run = subject.run(batch, read=plain_sites(subject))
    for site, value in run.activity.items():
        assert torch.equal(value, recorded(name)[str(site)]), site
    with pytest.raises(PatchclampError, match="without its head"):
        subject.resolve("logits")
    with pytest.raises(PatchclampError, match="no logits|no classifier"):
        subject.run(batch, logits="all")


def test_unknown_families_are_refused_with_the_way_out() -> None:
    odd = T5Model(T5Config(d_model=8, d_ff=8, num_layers=1, num_heads=2, d_kv=4, vocab_size=9))
    with pytest.raises(PatchclampError, match=r"'t5'.*not in the anatomy table.*dotted path"):
        row_for(odd)
    with pytest.raises(PatchclampError, match="no transformers configuration"):
        row_for(nn.Linear(2, 2))
    with pytest.raises(PatchclampError, match="add_cross_attention"):
        row_for(
            GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=9, add_cross_attention=True))
        )
    bloom = tiny.tiny_model("bloom")
    bloom.config.apply_residual_connection_post_layernorm = True
    with pytest.raises(PatchclampError, match="no residual stream"):
        row_for(bloom)
    llama = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=9
        )
    )
    llama.model.layers = nn.ModuleList()
    with pytest.raises(PatchclampError, match="laid out otherwise"):
        row_for(llama)


def test_only_plain_linear_maps_have_a_matrix() -> None:
    with pytest.raises(PatchclampError, match="unquantised"):
        weight_in_out(nn.LayerNorm(4))
