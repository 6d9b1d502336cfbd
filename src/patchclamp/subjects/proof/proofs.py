"""The proofs behind `patchclamp check`: the passes that they look at, and the arithmetic of each.

A proof is a function of a `Passes` that gives (figure, tolerance, detail) or raises `Skip`. To add one, write the
function and a line in `PROOFS`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import Tensor, nn

from patchclamp.nouns.units import Site
from patchclamp.subjects.clamp.batch import Batch, Edit, Run
from patchclamp.subjects.families.anatomy import module_at
from patchclamp.subjects.proof.passes import Finding, Passes, Skip, biased, called, error, gap, matrix
from patchclamp.subjects.transformer import Transformer
from patchclamp.subjects.vision import VisionModel

# ---- proofs: each returns (figure, tolerance, detail) or raises Skip


def _repeatable(passes: Passes) -> Finding:
    if passes.training:
        return float("inf"), 0.0, f"{passes.training}; call model.eval()"
    difference = gap(passes.call_bare(), passes.bare)
    return difference, 0.0, "two passes give the same output, bit for bit"


def _parity(passes: Passes) -> Finding:
    want, out = passes.bare, passes.run(passes.level).logits
    assert out is not None
    detail = f"the output with hooks at all {len(passes.sites)} sites is the bare module's, bit for bit"
    return gap(out, want), 0.0, detail


def _finite(passes: Passes) -> Finding:
    seen = passes.recorded.activity | (
        {} if passes.recorded.logits is None else {"the output": passes.recorded.logits}
    )
    bad = {str(site): float((~torch.isfinite(value)).sum()) for site, value in seen.items()}
    first = next((site for site, n in bad.items() if n), None)
    return sum(bad.values()), 0.0, f"NaN or infinity, first at {first}" if first else "no NaN, no infinity"


def _continuity(passes: Passes) -> Finding:
    errors = {}
    for i, _, _ in passes.blocks():
        name, before = (
            ("embeddings", passes.at("embeddings"))
            if i == 0
            else (f"resid_post.{i - 1}", passes.at("resid_post", i - 1))
        )
        errors[f"{name} = resid_pre.{i}"] = gap(before, passes.at("resid_pre", i))
    return passes.worst(errors, 0.0)


def _stream(passes: Passes) -> Finding:
    errors = {}
    for i, layer, row in passes.blocks():
        before, after = passes.at("resid_pre", i), passes.at("resid_post", i)
        attention, mlp = passes.at("attn_out_post", i), passes.at("mlp_out_post", i)
        norms = [module_at(layer, path) for path in row.norms]
        if row.parallel:
            errors[f"resid_post.{i}"] = error(before + attention + mlp, after)
            continue
        middle = passes.at("resid_mid", i)
        first, second = before + attention, middle + mlp
        if row.post_norm:
            first, second = called(norms[0], first), called(norms[1], second)
        errors[f"resid_mid.{i}"] = error(first, middle)
        errors[f"resid_post.{i}"] = error(second, after)
    return passes.worst(errors, passes.within)


def _heads(passes: Passes) -> Finding:
    errors = {}
    for i, layer, row in passes.blocks():
        heads, proj = passes.at("head", i), module_at(layer, row.head_proj)
        weight = matrix(proj, heads).unflatten(0, tuple(heads.shape[2:]))
        total = torch.einsum("bthd,hdm->btm", heads.float(), weight)
        errors[f"attn_out.{i}"] = error(biased(total, proj), passes.at("attn_out", i))
    return passes.worst(errors, passes.within)


def _neurons(passes: Passes) -> Finding:
    errors = {}
    for i, layer, row in passes.blocks():
        if row.mlp_proj is None:
            continue
        neurons, proj = passes.at("mlp_act", i), module_at(layer, row.mlp_proj)
        errors[f"mlp_out.{i}"] = error(
            biased(neurons.float() @ matrix(proj, neurons), proj), passes.at("mlp_out", i)
        )
    return passes.worst(errors, passes.within)


def _unembedding(passes: Passes) -> Finding:
    passes.blocks()
    subject = passes.subject
    assert isinstance(subject, Transformer)
    if not passes.has_output:
        raise Skip("the model has no head")
    row, stream = subject.row, passes.at("resid_post", subject.n_layers - 1)
    path = [row.fixed["final_norm"].module] if "final_norm" in row.fixed else []
    for name in path:
        stream = called(module_at(subject.model, name), stream)
    stream = stream[:, 0] if isinstance(subject, VisionModel) else stream
    for name in row.head_path:
        stream = called(module_at(subject.model, name), stream)
    cap = getattr(subject.config, row.logit_softcap) if row.logit_softcap else None
    out = passes.recorded.logits
    assert out is not None
    chain = " -> ".join([*path, *row.head_path, *(["soft cap"] if cap else [])])
    return (
        error(cap * torch.tanh(stream / cap) if cap else stream, out),
        passes.within,
        f"last resid_post -> {chain} = output",
    )


def _right_padding(passes: Passes) -> Finding:
    return _alone(passes, passes.padded, passes.recorded)


def _left_padding(passes: Passes) -> Finding:
    batch = passes.padded
    assert batch.tokens is not None
    order = batch.mask.long().argsort(dim=1, stable=True)  # padding first, real tokens in their order
    left = Batch(batch.tokens.gather(1, order), batch.mask.gather(1, order), batch.rows)
    return _alone(passes, left, passes.run(left))


def _batching(passes: Passes) -> Finding:
    if len(passes.level) < 2:
        raise Skip("there is one input only")
    return _alone(passes, passes.level, passes.run(passes.level))


def _alone(passes: Passes, batch: Batch, together: Run) -> Finding:
    """Rows by themselves, without padding, against the same rows in a batch, at their real tokens.

    Of padded batches the two shortest rows, which have most padding.
    """
    errors: dict[str, float] = {}
    rows = batch.lengths.argsort()[:2].tolist() if not batch.unpadded else range(len(batch))
    for row in rows:
        one = batch.take(torch.tensor([row]))
        if one.tokens is not None:
            real = one.mask[0]
            one = Batch(one.tokens[:, real], one.mask[:, real], one.rows)
        else:
            real = torch.ones(1, dtype=torch.bool)
        alone = passes.run(one)
        for site, value in alone.activity.items():
            got = together.activity[site][row : row + 1]
            got = got[:, real.to(got.device)] if one.tokens is not None else got
            errors[str(site)] = max(errors.get(str(site), 0.0), error(got, value))
    figure, tolerance, detail = passes.worst(errors, passes.through)
    return figure, tolerance, f"{detail} ({len(rows)} rows, each against itself alone)"


def _plain_hooks(passes: Passes) -> Finding:
    """Hooks of torch, put on by hand at the modules that the table of sites names."""
    subject, caught = passes.subject, {}
    modules = dict(subject.model.named_modules())
    modules[type(subject.model).__name__] = subject.model
    with ExitStack() as hooks:
        for info in subject.sites():
            path, _, io = info.module.partition("[")[0].rpartition(".")
            if info.site not in passes.sites:
                continue

            def pre(module: nn.Module, args: Any, kwargs: Any, site: Site = info.site) -> None:
                caught[site] = (args[0] if args else kwargs["hidden_states"]).detach().clone()

            def post(module: nn.Module, args: Any, out: Any, site: Site = info.site) -> None:
                caught[site] = (out if isinstance(out, Tensor) else out[0]).detach().clone()

            if io == "in":
                hooks.enter_context(modules[path].register_forward_pre_hook(pre, with_kwargs=True))
            else:
                hooks.enter_context(modules[path].register_forward_hook(post))
        subject.run(passes.batch, logits="all" if passes.has_output else None, stop=False)
    recorded, batch = passes.recorded.activity, passes.batch
    errors = {str(s): gap(subject.place(s).units(value, batch), recorded[s]) for s, value in caught.items()}
    return passes.worst(errors, 0.0)


def _own_values(passes: Passes) -> Finding:
    passes.need_output()
    edits = [Edit(site, lambda t, b: t.clone()) for site in _writable(passes)]
    out = passes.subject.run(passes.batch, write=edits, logits="all").logits
    assert out is not None and passes.recorded.logits is not None
    return (
        gap(out, passes.recorded.logits),
        0.0,
        f"each of {len(edits)} sites written with its own values: no bit moves",
    )


def _writes_arrive(passes: Passes) -> Finding:
    """The share of sites where another value, written, does not change the output."""
    passes.need_output()
    layers = {0, getattr(passes.subject, "n_layers", 0) - 1, None}
    sites = [s for s in _writable(passes) if s.layer in layers]
    lost = []
    for site in sites:
        out = passes.subject.run(
            passes.level, write=[Edit(site, lambda t, b: 2 * t.roll(1, -1))], logits="all"
        ).logits
        assert out is not None
        if torch.equal(out, passes.bare):
            lost.append(str(site))
    return (
        len(lost) / len(sites),
        0.0,
        f"no effect at {', '.join(lost)}" if lost else f"all of {len(sites)} writes reach the output",
    )


def _writable(passes: Passes) -> list[Site]:
    rows = getattr(getattr(passes.subject, "row", None), "read_only", {})
    return [s for s in passes.sites if s.point not in rows and s.point != "router"]


def _attention(passes: Passes) -> Finding:
    sites = [s for s in passes.subject.known_sites() if s.point == "attn_probs"]
    if not sites:
        raise Skip("this model has no named attention probabilities")
    errors = {}
    for site, probs in passes.subject.run(passes.batch, read=sites).activity.items():
        later = probs.triu(1).abs().max().item() if passes.subject.causal else 0.0  # type: ignore[attr-defined]
        errors[str(site)] = max((probs.float().sum(-1) - 1).abs().max().item(), later)
    return passes.worst(errors, passes.within)


def _early_stop(passes: Passes) -> Finding:
    blocks = passes.blocks()
    calls: list[int] = []
    with ExitStack() as hooks:
        for i, layer, _ in blocks:
            hooks.enter_context(layer.register_forward_pre_hook(lambda module, args, i=i: calls.append(i)))
        passes.subject.run(passes.level, read=[Site("resid_post", 0)])
    return float(len(calls) - 1), 0.0, f"reading resid_post.0 runs {len(calls)} of {len(blocks)} blocks"


def _restored(passes: Passes) -> Finding:
    def state() -> list[Any]:
        return [
            (len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in m.__dict__)
            for m in passes.subject.model.modules()
        ]

    def fail(tensor: Tensor) -> None:
        raise _Interrupt

    before = state(), [p.requires_grad for p in passes.subject.model.parameters()]
    with suppress(_Interrupt):
        passes.subject.run(passes.level, read={passes.sites[-1]: fail})
    after = state(), [p.requires_grad for p in passes.subject.model.parameters()]
    return float(before != after), 0.0, "hooks and flags are as they were after an exception in a pass"


class _Interrupt(Exception):
    pass


PROOFS: dict[str, tuple[Callable[[Passes], Finding], bool]] = {
    "repeatable": (_repeatable, True),
    "parity": (_parity, True),
    "finite values": (_finite, True),
    "stream is continuous": (_continuity, True),
    "stream adds up": (_stream, True),
    "heads sum": (_heads, True),
    "neurons project": (_neurons, True),
    "unembedding": (_unembedding, True),
    "right padding": (_right_padding, True),
    "early stop": (_early_stop, True),
    "restored": (_restored, True),
    "left padding": (_left_padding, False),
    "batching": (_batching, False),
    "plain hooks": (_plain_hooks, False),
    "attention": (_attention, False),
    "own values": (_own_values, False),
    "writes arrive": (_writes_arrive, False),
}
