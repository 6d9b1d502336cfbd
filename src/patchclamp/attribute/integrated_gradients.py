"""Integrated gradients: gradients averaged along the way from the corrupted to the clean input."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from patchclamp.attribute._path import Path
from patchclamp.attribute._shared import Collector, Direction, Level, Positions, Sites
from patchclamp.base.errors import PatchclampError, check_choice
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.units import Site
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Pair
from patchclamp.subjects.clamp.relevance_rules import RulePlan

Quadrature = Literal["midpoint", "gauss-legendre"]


def integrated_gradients(
    subject: Subject,
    task: TaskLike,
    sites: Sites = None,
    *,
    direction: Direction = "denoising",
    positions: Positions = "sum",
    batch_size: int = 32,
    steps: int = 5,
    rule: Quadrature = "midpoint",
    ln_rule: bool = True,
    level: Level = "auto",
) -> Scores:
    """Estimate the effect of patching each node by its gradient along the path between the two inputs.

    score = (a_clean - a_corrupted) * sum_k w_k dm/da at embeddings e_corrupted + alpha_k (e_clean - e_corrupted),
    with nodes alpha_k and weights w_k of the quadrature rule. Positive: the node raises the metric.

    Parameters
    ----------
    subject, task, sites, positions, batch_size, level
        As for `attribution_patching`.
    direction
        Only recorded: the path is the same in both.
    steps
        Gradients taken along the path.
    rule
        ``"midpoint"`` (alpha = (k + 1/2) / steps) or ``"gauss-legendre"``.
    ln_rule
        Hold the scale of every norm that reads the stream fixed in the backward pass (rule ``"Stream"`` of relevance
        patching). With it the estimate has the right scale (docs/attribute.md); without it scores at the input are complete.

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
    alphas, weights = quadrature(steps, rule)
    collector = Collector.of(
        subject, task, "integrated_gradients", sites, direction, positions, batch_size, level
    )
    collector.meta |= {"steps": steps, "rule": rule, "ln_rule": ln_rule}
    plan = RulePlan(subject, ("Stream",) if ln_rule else (), strict=False)
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
    check_choice("rule", rule, ("midpoint", "gauss-legendre"))
    if rule == "midpoint":
        return [(k + 0.5) / steps for k in range(steps)], [1 / steps] * steps
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()


def _along_the_path(
    collector: Collector, pair: Pair, alphas: list[float], weights: list[float], plan: RulePlan
) -> None:
    path = Path.between(collector, pair)
    total: dict[Site, Tensor] = {}
    for alpha, weight in zip(alphas, weights, strict=True):

        def gather(site: Site, product: Tensor, weight: float = weight) -> None:
            scores = weight * collector.reduce(site, product)
            total[site] = total[site] + scores if site in total else scores

        path.gradients(torch.full((len(pair.rows),), alpha), plan, gather)
    for site, scores in total.items():
        collector.add(site, pair, scores)
