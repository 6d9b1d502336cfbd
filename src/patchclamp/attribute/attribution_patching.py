"""Attribution patching: the first-order estimate of exact patching, for all units at once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from patchclamp.attribute._shared import Collector, Direction, Level, Positions, Sites, runs_of
from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.scores import Scores
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.units import Site
from patchclamp.subjects.base import Subject
from patchclamp.subjects.clamp.batch import Pair
from patchclamp.subjects.clamp.hooks import on_gradient

COST = "one forward pass, and one forward and backward pass"


def attribution_patching(
    subject: Subject,
    task: TaskLike,
    sites: Sites = None,
    *,
    direction: Direction = "denoising",
    positions: Positions = "sum",
    batch_size: int = 32,
    level: Level = "auto",
) -> Scores:
    """Estimate the effect of patching each node by the gradient at the run that would be patched.

    score = (a_clean - a_corrupted) * dm/da, with the derivative at the corrupted run for denoising and at the
    clean run for noising. Positive: the node raises the metric.

    Parameters
    ----------
    subject, task
        What to attribute: a live model, and a task with corrupted inputs.
    sites
        Addresses; None for head.*, mlp_act.*, attn_out.*, mlp_out.*, resid_post.*. Heads, neurons and units of
        module paths get a score each, other sites one for their whole vector.
    direction
        ``"denoising"`` or ``"noising"``.
    positions
        ``"sum"`` over all real tokens, ``"roles"`` (the task's, and the rest as ``other``), or ``"each"`` token.
    batch_size
        Items in a pass; results do not depend on it (beyond rounding).
    level
        ``"site"`` scores each site as a whole, its units together, ``"unit"`` each of its units. ``"auto"``: heads,
        neurons, features and units of module paths one by one, other sites as a whole.

    Returns
    -------
    Scores
        In units of the metric, per item.

    Raises
    ------
    PatchclampError
        For a task without corrupted inputs, an unknown site, or scores that are not finite.

    Notes
    -----
    Nanda 2023 (attribution patching), Syed et al. 2023 (the same for edges). It fails where the metric bends
    between the two runs: saturated softmax, norms after large components.

    Examples
    --------
    >>> import torch
    >>> from patchclamp.subjects import TensorTask, TorchModule
    >>> net = TorchModule(torch.nn.Sequential(torch.nn.Identity(), torch.nn.Hardtanh(-1, 1)), torch.zeros(1, 2))
    >>> task = TensorTask("sum", 2 * torch.ones(1, 2), torch.zeros(1, 2), lambda out: out.sum(1))
    >>> attribution_patching(net, task, "0.out").mean(net.resolve("0.out")[0]).tolist()
    [2.0, 2.0]
    """
    collector = Collector.of(
        subject, task, "attribution_patching", sites, direction, positions, batch_size, level
    )
    for pair in collector.pairs():
        gradient_times_difference(collector, pair)
    return collector.scores(cost=COST)


def gradient_times_difference(
    collector: Collector,
    pair: Pair,
    rules: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> None:
    """Add (a_clean - a_corrupted) * gradient for a batch, the backward pass under `rules`.

    The product is summed inside the gradient's hook and the difference given up at once, so that never more than
    one site's gradient is held.
    """
    subject, sites = collector.subject, collector.sites
    patched, other = runs_of(pair, collector.direction, collector.method)
    source = subject.run(other, read=sites, logits=pair.answer_position)
    assert source.logits is not None
    sign = 1.0 if collector.direction == "denoising" else -1.0

    def reader(site: Site) -> Callable[[Tensor], None]:
        def read(tensor: Tensor) -> None:
            difference = sign * (source.activity.pop(site) - tensor.detach())

            def add(gradient: Tensor) -> None:
                collector.add(site, pair, collector.reduce(site, gradient * difference))

            on_gradient(site, tensor, add)

        return read

    with rules():
        run = subject.run(
            patched, read={site: reader(site) for site in sites}, logits=pair.answer_position, grad=True
        )
        assert run.logits is not None
        reference = source.logits if sign > 0 else run.logits.detach()
        metric = pair.metric(run.logits, reference=reference)
        backward(metric, collector.method)
    other_metric = pair.metric(source.logits, reference=reference)
    collector.metric(pair, *((other_metric, metric) if sign > 0 else (metric, other_metric)))


def backward(metric: Tensor, method: str) -> None:
    """Gradients of every item's metric at once: items do not depend on each other."""
    if not metric.requires_grad:
        raise PatchclampError(
            f"{method}: the metric has no gradient (an accuracy, say, or a network whose hard steps, such as (v > 1).float(), "
            "cut it); use logit_diff or prob_diff, give hard steps a surrogate gradient, or use activation_patching"
        )
    torch.autograd.backward(metric.sum())
