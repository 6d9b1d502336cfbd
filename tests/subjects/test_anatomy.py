"""Every row of the anatomy table, proved by arithmetic on tiny random models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, T5Config, T5Model

import tiny
from anatomy import (
    EVERY,
    LANGUAGE,
    bare_logits,
    batch_of,
    close,
    layers_of,
    linear,
    plain_sites,
    recorded,
    subject_of,
    texts,
    writable,
)
from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.units import Site
from patchclamp.subjects import Batch, Edit, LanguageModel, VisionModel
from patchclamp.subjects.families.anatomy import POINTS, TABLE, families, module_at, row_for, weight_in_out

torch.set_num_threads(1)


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
    cap = getattr(subject.config, row.logit_softcap) if row.logit_softcap else None
    close(cap * torch.tanh(stream / cap) if cap else stream, seen["out"])
    assert torch.equal(seen["logits"][:, 0] if name in tiny.VISION else seen["logits"], seen["out"])
    if name == "gemma2":
        assert cap
        raw = subject.run(batch_of(name), read=subject.resolve("lm_head.out")).activity
        close(next(iter(raw.values())), stream)
        assert (seen["out"] - stream).abs().max() > 1e-4


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
    modules = dict(subject.model.named_modules()) | {type(subject.model).__name__: subject.model}
    caught: dict[str, Tensor] = {}
    handles = []
    for info in subject.sites():
        if info.site.point == "attn_probs":
            continue
        path, _, io = info.module.rpartition(".")

        def pre(module: nn.Module, args: Any, kwargs: Any, site: Site = info.site) -> None:
            caught[str(site)] = (args[0] if args else kwargs["hidden_states"]).clone()

        def post(module: nn.Module, args: Any, out: Any, site: Site = info.site) -> None:
            caught[str(site)] = (out if isinstance(out, torch.Tensor) else out[0]).clone()

        if io == "in":
            handles.append(modules[path].register_forward_pre_hook(pre, with_kwargs=True))
        else:
            handles.append(modules[path].register_forward_hook(post))
    subject.run(batch_of(name), logits="all")
    for handle in handles:
        handle.remove()
    for site, value in caught.items():
        assert torch.equal(value.reshape(seen[site].shape), seen[site]), site


@pytest.mark.parametrize("name", EVERY)
def test_recording_changes_no_output_bit(name: str) -> None:
    subject, batch = subject_of(name), batch_of(name, (8, 8, 8))
    want = bare_logits(name, batch)
    run = subject.run(batch, read=plain_sites(subject), logits="all")
    assert torch.equal(run.logits, want)
    assert all(torch.isfinite(value).all() for value in run.activity.values())
    for edit in (Edit(site, lambda t, b: t.clone()) for site in writable(subject)):
        assert torch.equal(subject.run(batch, write=[edit], logits="all").logits, want), edit.site


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
