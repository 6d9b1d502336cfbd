"""Direct logit attribution: what each part writes straight towards the answer, by exact arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchclamp.attribute._shared import (
    Collector,
    Positions,
    Sites,
    as_selection,
    check_options,
    choose_sites,
    units_of,
)
from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.units import Site
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Pair, Run
from patchclamp.subjects.clamp.relevance_formulas import recognise_norm
from patchclamp.subjects.transformer import Transformer

_INSIDE = {
    "head": "attn_out",
    "z": "attn_out",
    "attn_out": "attn_out",
    "mlp_act": "mlp_out",
    "mlp_out": "mlp_out",
}
_STREAM = ("embeddings", "resid_pre", "resid_mid", "resid_post", "attn_out_post", "mlp_out_post")


def direct_logit_attribution(
    subject: Subject,
    task: TaskLike,
    sites: Sites = None,
    *,
    positions: Positions = "sum",
    batch_size: int = 32,
) -> Scores:
    """Split the metric of the clean run into what each part writes into the stream at the answer's position.

    score = a / s * gain . (U_answer - U_foils), with the final norm's scale s of this very run held fixed. It is
    arithmetic on one run, no intervention: parts that act through later layers score 0.

    Parameters
    ----------
    subject
        A language model with a linear output embedding and blocks that add to a stream.
    task
        Its metric must be linear in the logits (logit_diff).
    sites
        Addresses; None for resid_pre.0 (the embeddings), head.* and mlp_out.* (with their own norms where a family
        has such), whose scores and `meta` biases sum to the metric. Also mlp_act.*, attn_out.*, resid_*, z.*, and
        features of dictionaries whose target is one of these: codes times what their directions write.
    positions
        With ``"roles"`` or ``"each"`` all but the answer's position are 0: nothing is written directly from there.
    batch_size
        Items in a pass; results do not depend on it (beyond rounding).

    Returns
    -------
    Scores
        In units of the metric, direction ``"none"``. `meta["bias"]` is the final norm's and output embedding's share,
        `meta["attention_bias"]` that of the attention output biases, per item.

    Raises
    ------
    PatchclampError
        For a metric that is not linear, a model whose logits are capped or whose blocks normalise the stream itself,
        a site that does not write into the stream.

    Notes
    -----
    Elhage et al. 2021; Wang et al. 2023. Holding the scale fixed hides parts that act through the norm, and later
    layers may make up for a part that is taken out.

    Examples
    --------
    >>> from patchclamp import open_subject
    >>> from patchclamp.nouns.tasks.builtin import load_task
    >>> lm = open_subject("smollm2")                                            # doctest: +SKIP
    >>> direct_logit_attribution(lm, load_task("ioi", lm.tokenizer)).top(5)     # doctest: +SKIP
    """
    check_options("denoising", positions)
    model = _supported(subject)
    sites = as_selection(subject, sites)
    for site, units in units_of(sites, None).items():
        raise PatchclampError(
            f"{site}{list(units)}: the parts of the logits are those of whole sites here; give {site}, and choose units from "
            "the result"
        )
    chosen = _default(model) if sites is None else choose_sites(subject, sites)
    collector = Collector(subject, task, "direct_logit_attribution", "none", positions, chosen, batch_size)
    bias: dict[str, Tensor] = {}
    for pair in collector.pairs():
        for name, values in _split(collector, model, pair).items():
            bias.setdefault(name, torch.zeros(len(collector.task), dtype=torch.float64))
            bias[name][pair.rows.cpu()] = values.double().cpu()
    return collector.scores(**{n: v.tolist() for n, v in bias.items()}, cost="one forward pass")


def _supported(subject: Subject) -> Transformer:
    if not isinstance(subject, Transformer):
        raise PatchclampError(
            f"{subject.name}: direct logit attribution needs a transformer with an output embedding"
        )
    row = subject.row
    if row.post_norm:
        raise PatchclampError(
            f"{row.family}: its blocks normalise the stream itself, so nothing is written directly"
        )
    if row.logit_softcap is not None and getattr(subject.config, row.logit_softcap, None) is not None:
        raise PatchclampError(
            f"{row.family}: its logits are capped ({row.logit_softcap}), so they are no sum; use attribution_patching"
        )
    subject.unembed()
    return subject


def _direct(model: Transformer, site: Site) -> bool:
    """Whether a site is added to the stream as it is, not through a norm of its own."""
    if site.point in _STREAM:
        return True
    point = _INSIDE.get(site.point)
    taps = model.row_at(site.layer or 0).taps
    return point is not None and taps.get(point) == taps.get(f"{point}_post")


def _default(model: Transformer) -> list[Site]:
    known, chosen = set(model.known_sites()), [Site("resid_pre", 0)]
    for layer in range(model.n_layers):
        for inside, outside in (("head", "attn_out_post"), ("mlp_out", "mlp_out_post")):
            site = Site(inside, layer)
            chosen.append(site if site in known and _direct(model, site) else Site(outside, layer))
    return chosen


def _split(collector: Collector, model: Transformer, pair: Pair) -> dict[str, Float[Tensor, " batch"]]:
    sites, last = collector.sites, Site("resid_post", model.n_layers - 1)
    heads = list({s.layer: s for s in sites if s.point in ("head", "z") and s.dictionary is None}.values())
    attention = [Site("attn_out", s.layer) for s in heads]
    at = torch.arange(len(pair.rows), device=model.device), _answer(pair)

    def here(tensor: Tensor) -> Tensor:
        return tensor[at].detach().clone()

    reads = dict.fromkeys([*sites, *attention, last], here)
    run = model.run(pair.clean, read=reads, logits=pair.answer_position)
    toward, constant, metric = _towards(model, pair, run, run.activity[last])
    collector.metric(pair, metric, torch.full_like(metric, float("nan")))
    biases = torch.zeros_like(metric)
    for site in sites:
        score = _contribution(model, site, run.activity[site], toward)
        collector.add(site, pair, _at_answer(collector, pair, score))
        if site in heads:
            biases += (run.activity[Site("attn_out", site.layer)].float() * toward).sum(1) - score.sum(1)
    return {"bias": constant, "attention_bias": biases}


def _answer(pair: Pair) -> Int[Tensor, " batch"]:
    if isinstance(pair.answer_position, str):
        raise PatchclampError(
            "direct logit attribution: the metric is one of whole texts, and what is written at one position answers "
            "nothing there; use attribution_patching"
        )
    return pair.answer_position


def _at_answer(collector: Collector, pair: Pair, score: Tensor) -> Tensor:
    """(batch, node) put at the group of positions that holds the answer's."""
    held = collector.masks[torch.arange(len(pair.rows), device=score.device), _answer(pair)]
    return score[:, :, None] * held[:, None, :].to(score.dtype)


def _contribution(
    model: Transformer, site: Site, activity: Tensor, toward: Float[Tensor, "batch d"]
) -> Float[Tensor, "batch node"]:
    dictionary = None if site.dictionary is None else model.dictionary(site)
    target = site if dictionary is None else dictionary.target
    if not _direct(model, target):
        raise PatchclampError(
            f"{site}: is not added to the stream as it is; give {', '.join(_STREAM[1:])} or, in families without "
            "norms after them, head, attn_out, mlp_act, mlp_out"
        )
    activity = activity.float()
    along = _along_units(model, target, toward)
    if dictionary is not None:
        return activity * (along.flatten(1) @ dictionary.directions.float().to(along.device).T)
    if site.point == "head":
        return (activity * along).sum(2)
    if site.point in ("mlp_act", "z"):
        return activity * along.flatten(1)
    return (activity * along).sum(1, keepdim=True)


def _along_units(
    model: Transformer, site: Site, toward: Float[Tensor, "batch d"]
) -> Float[Tensor, "batch ..."]:
    """What one unit of activity at each coordinate of a site writes along the direction."""
    if site.point in ("head", "z"):
        return torch.einsum("hkd,bd->bhk", model.head_output_matrix(site.layer or 0).float(), toward)
    if site.point == "mlp_act":
        return toward @ model.output_matrix(site).float().T
    return toward


def _towards(
    model: Transformer, pair: Pair, run: Run, stream: Float[Tensor, "batch d"]
) -> tuple[Tensor, Tensor, Tensor]:
    """The direction in the stream along which the metric grows, what biases give to it, and the metric."""
    assert run.logits is not None
    logits = run.logits.float().requires_grad_(True)
    metric = pair.metric(logits, reference=run.logits)
    weights = torch.autograd.grad(metric.sum(), logits)[0]
    metric = metric.detach()
    unembed, _ = model.unembed()
    toward = weights @ unembed.float()
    network: Any = model.model
    bias = getattr(network.get_output_embeddings(), "bias", None)
    constant = weights @ bias.detach().float() if isinstance(bias, Tensor) else torch.zeros_like(metric)
    tap = model.row.fixed.get("final_norm")
    if tap is not None:
        norm = model.model.get_submodule(tap.module)
        formula = recognise_norm(norm)
        if formula is None:
            raise PatchclampError(
                f"{tap.module}: what this norm computes is not known, so nothing can be split"
            )
        bias = getattr(norm, "bias", None)
        if isinstance(bias, Tensor):
            constant = constant + toward @ bias.detach().float()
        leaf = stream.float().requires_grad_(True)
        with torch.enable_grad():  # the formula is linear in its input, its scale being held fixed
            out = (formula.linear(leaf) * toward).sum()
        toward = torch.autograd.grad(out, leaf)[0]
    total = (stream.float().detach() * toward).sum(1) + constant
    if not torch.allclose(total, metric, rtol=1e-3, atol=1e-3 * float(metric.abs().max()) + 1e-4):
        raise PatchclampError(
            f"direct logit attribution: the metric ({metric[0]:.4g}) is not linear in the logits (their sum gives "
            f"{total[0]:.4g}); use logit_diff"
        )
    return toward, constant, metric
