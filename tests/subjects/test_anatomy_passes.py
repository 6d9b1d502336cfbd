"""Every family, pass by pass: writes carry on, passes stop and resume, everything is restored."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anatomy import (
    EVERY,
    LANGUAGE,
    batch_of,
    close,
    layers_of,
    recorded,
    subject_of,
    writable,
)
from hooks import hook_counts
from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.intervention import Intervention
from patchclamp.nouns.units import Site
from patchclamp.subjects import Batch, Edit, TensorTask
from patchclamp.subjects.clamp.reference import Reference
from patchclamp.subjects.clamp.trial import run_trial
from patchclamp.subjects.families.anatomy import module_at


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
    logits = logits if bias is None else logits + bias
    cap = getattr(subject.config, subject.row.logit_softcap) if subject.row.logit_softcap else None
    close(cap * torch.tanh(logits / cap) if cap else logits, seen["logits"])


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

    hooked = hook_counts(subject.model)  # transformers leaves some of its own

    def fail(tensor: Tensor) -> None:
        raise KeyError("from the reader")

    for point in ("mlp_out", "attn_probs"):
        with pytest.raises(KeyError, match="from the reader"):
            subject.run(batch, read={Site(point, 1): fail}, grad=True)
    assert hook_counts(subject.model) == hooked
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
