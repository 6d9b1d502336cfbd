"""Integrated gradients: gradients averaged along the way from the corrupted to the clean input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from patchclamp.attribute._shared import (
    Collector,
    Direction,
    Positions,
    Sites,
    check_options,
    choose_sites,
    runs_of,
)
from patchclamp.attribute.attribution_patching import backward
from patchclamp.attribute.relevance_rules import RulePlan
from patchclamp.errors import PatchclampError, did_you_mean
from patchclamp.scores import Scores
from patchclamp.subjects.base import Subject
from patchclamp.subjects.batch import Batch, Edit, Pair
from patchclamp.units import Site

Quadrature = Literal["midpoint", "gauss-legendre"]


def integrated_gradients(
    subject: Subject,
    task: object,
    sites: Sites = None,
    *,
    direction: Direction = "denoising",
    positions: Positions = "sum",
    batch_size: int = 32,
    steps: int = 5,
    rule: Quadrature = "midpoint",
    ln_rule: bool = True,
) -> Scores:
    """Estimate the effect of patching each node by its gradient along the path between the two inputs.

    score = (a_clean - a_corrupted) * sum_k w_k dm/da at embeddings e_corrupted + alpha_k (e_clean - e_corrupted),
    with nodes alpha_k and weights w_k of the quadrature rule. Positive: the node raises the metric.

    Parameters
    ----------
    subject, task, sites, positions, batch_size
        As for `attribution_patching`.
    direction
        Only recorded: the path is the same in both.
    steps
        Gradients taken along the path.
    rule
        ``"midpoint"`` (alpha = (k + 1/2) / steps) or ``"gauss-legendre"``.
    ln_rule
        Hold the scale of every norm fixed in the backward pass (the LN rule of relevance patching). With it the
        estimate has the right scale (docs/attribute.md); without it scores at the input are complete.

    Returns
    -------
    Scores
        In units of the metric, per item. Without the LN rule, scores of the embeddings sum to
        m(clean) - m(corrupted) as `steps` grows.

    Raises
    ------
    PatchclampError
        For fewer than one step, an unknown rule, a task without corrupted inputs, an unknown site.

    Notes
    -----
    Sundararajan et al. 2017; path over the inputs with the node's own difference as in EAP-IG (Hanna et al. 2024),
    whose left-point rule is biased and therefore not offered.

    Examples
    --------
    >>> import torch
    >>> from patchclamp.subjects import TensorTask, TorchModule
    >>> net = TorchModule(torch.nn.Sequential(torch.nn.Identity(), torch.nn.Hardtanh(-1, 1)), torch.zeros(1, 1))
    >>> task = TensorTask("saturates", 2 * torch.ones(1, 1), torch.zeros(1, 1), lambda out: out[:, 0])
    >>> integrated_gradients(net, task, "0.out", steps=4, ln_rule=False).mean(net.resolve("0.out")[0]).tolist()
    [1.0]
    """
    check_options(direction, positions)
    alphas, weights = quadrature(steps, rule)
    collector = Collector(
        subject,
        task,
        "integrated_gradients",
        direction,
        positions,
        choose_sites(subject, sites),
        batch_size,
    )
    collector.meta |= {"steps": steps, "rule": rule, "ln_rule": ln_rule}
    plan = RulePlan(subject, ("LN",) if ln_rule else (), strict=False)
    for pair in collector.pairs():
        _along_the_path(collector, pair, alphas, weights, plan)
    return collector.scores(cost=f"two forward passes, and {steps} forward and backward passes")


def quadrature(steps: int, rule: str) -> tuple[list[float], list[float]]:
    """Nodes and weights on [0, 1].

    Examples
    --------
    >>> quadrature(2, "midpoint")
    ([0.25, 0.75], [0.5, 0.5])
    """
    if steps < 1:
        raise PatchclampError(f"steps={steps}: a path needs at least one step")
    if rule == "midpoint":
        return [(k + 0.5) / steps for k in range(steps)], [1 / steps] * steps
    if rule == "gauss-legendre":
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()
    options = ("midpoint", "gauss-legendre")
    raise PatchclampError(f"rule {rule!r}: give midpoint or gauss-legendre{did_you_mean(rule, options)}")


def _along_the_path(
    collector: Collector, pair: Pair, alphas: list[float], weights: list[float], plan: RulePlan
) -> None:
    subject, sites = collector.subject, collector.sites
    runs_of(pair, collector.direction, collector.method)
    assert pair.corrupted is not None
    ends = [e for e in [Site("embeddings")] if e in subject.known_sites()]
    read = list(dict.fromkeys([*sites, *ends]))
    clean = subject.run(pair.clean, read=read, logits=pair.answer_position)
    corrupted = subject.run(pair.corrupted, read=read, logits=pair.answer_position)
    assert clean.logits is not None and corrupted.logits is not None
    metrics = [pair.metric(r.logits, reference=clean.logits) for r in (clean, corrupted)]
    collector.metric(pair, metrics[0], metrics[1])
    low, high = ([run.activity[e] for e in ends] for run in (corrupted, clean))
    difference = {site: clean.activity.pop(site) - corrupted.activity.pop(site) for site in sites}
    total: dict[Site, Tensor] = {}

    def reader(site: Site, weight: float) -> Callable[[Tensor], None]:
        def gather(gradient: Tensor) -> None:
            part = weight * collector.reduce(site, gradient * difference[site])
            total[site] = total[site] + part if site in total else part

        def read_site(tensor: Tensor) -> None:
            tensor.register_hook(gather)

        return read_site

    for alpha, weight in zip(alphas, weights, strict=True):
        batch, edits = _between(pair, low, high, ends, alpha)
        with plan.active():
            run = subject.run(
                batch,
                read={site: reader(site, weight) for site in sites},
                write=edits,
                logits=pair.answer_position,
                grad=True,
            )
            assert run.logits is not None
            backward(pair.metric(run.logits, reference=clean.logits), collector.method)
    for site, scores in total.items():
        collector.add(site, pair, scores)


def _between(
    pair: Pair, low: list[Tensor], high: list[Tensor], ends: list[Site], alpha: float
) -> tuple[Batch, list[Edit]]:
    """The batch, and the edits, that run a point of the path: embeddings, or the input itself where it is one tensor."""
    if ends:
        point = torch.lerp(low[0], high[0], alpha).requires_grad_(True)
        return pair.clean, [Edit(ends[0], lambda activity, batch: point)]
    assert pair.corrupted is not None
    start, end = pair.corrupted.tensors, pair.clean.tensors
    mixed = {name: torch.lerp(start[name], end[name], alpha) for name in start}
    return replace(pair.clean, tensors=mixed), []
