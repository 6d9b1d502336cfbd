"""Relevance patching (RelP): attribution patching with relevance rules in place of the plain gradient."""

from __future__ import annotations

from collections.abc import Sequence

from patchclamp.attribute._shared import Collector, Direction, Level, Positions, Sites
from patchclamp.attribute.attribution_patching import COST, gradient_times_difference
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.relevance_rules import DEFAULT_RULES, RulePlan


def relevance_patching(
    subject: Subject,
    task: TaskLike,
    sites: Sites = None,
    *,
    direction: Direction = "denoising",
    positions: Positions = "sum",
    batch_size: int = 32,
    rules: Sequence[str] = DEFAULT_RULES,
    level: Level = "auto",
) -> Scores:
    """Estimate the effect of patching each node with a backward pass that follows relevance rules.

    score = (a_clean - a_corrupted) * c, where c is what takes the gradient's place: norms with their scale held
    fixed (LN), act(z) / z for activations (Identity), half the gradient through gated products (Half), and, not by
    default, attention patterns held fixed (AH). Linear maps need no rule. Positive: the node raises the metric.

    Parameters
    ----------
    subject, task, sites, direction, positions, batch_size, level
        As for `attribution_patching`.
    rules
        Names in `relevance_rules.RULES`.

    Returns
    -------
    Scores
        In units of the metric, per item; `meta["rules"]` says which rule acted on which modules.

    Raises
    ------
    PatchclampError
        For an operation without a known rule, naming the module; otherwise as `attribution_patching`.

    Notes
    -----
    Jafari et al. 2025 (RelP); rules after Ali et al. 2022 and Achtibat et al. 2024. Layer-wise relevance propagation
    may be covered by patents; using this code grants no licence to them. The rules fit patching, not zero ablation.

    Examples
    --------
    >>> import torch
    >>> from patchclamp.subjects import TensorTask, TorchModule
    >>> net = TorchModule(torch.nn.Sequential(torch.nn.Identity(), torch.nn.ReLU()), torch.zeros(1, 2))
    >>> task = TensorTask("sum", torch.ones(1, 2), torch.full((1, 2), 0.5), lambda out: out.sum(1))
    >>> relevance_patching(net, task, "0.out").mean(net.resolve("0.out")[0]).tolist()
    [0.5, 0.5]
    """
    collector = Collector.of(
        subject, task, "relevance_patching", sites, direction, positions, batch_size, level
    )
    plan = RulePlan(subject, tuple(rules))
    for pair in collector.pairs():
        gradient_times_difference(collector, pair, plan.active)
    return collector.scores(rules=plan.applied.report(), cost=COST)
