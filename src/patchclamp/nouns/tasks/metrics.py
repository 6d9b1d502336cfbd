"""Task metrics: one number per item from the logits at the answer's position, with their direction as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchclamp.base.errors import PatchclampError, did_you_mean

if TYPE_CHECKING:
    from patchclamp.nouns.tasks.encode import EncodedTask

MetricFunction = Callable[..., Float[Tensor, " batch"]]


@dataclass(frozen=True)
class Metric:
    """A task metric: the function and what has to be known about it.

    Calling it with ``(logits, encoded, reference=None)``, logits (batch, vocabulary) at the answer's position,
    gives (batch,). The result is differentiable wherever the formula is (`accuracy` is not).

    Parameters
    ----------
    name
        Key in `METRICS`, or the name of the user's function.
    fn
        ``fn(logits, encoded, reference)``.
    formula
        What it computes, in a line.
    unit
        Unit of the number, for axis labels.
    higher_is_better
        Direction: False for a loss or a divergence. Scores are never flipped by it (positive always means that
        a unit raises the metric); it says which way is the behaviour.
    needs_foils, needs_reference
        Whether items must have foils; whether the logits of the clean run must be given as `reference`.
    contrast
        Whether it is a difference of answers and foils, so that its mean must be above zero for a model that
        does the task.
    """

    name: str
    fn: MetricFunction
    formula: str = ""
    unit: str = ""
    higher_is_better: bool = True
    needs_foils: bool = False
    needs_reference: bool = False
    contrast: bool = False

    def __call__(
        self,
        logits: Float[Tensor, "batch vocab"],
        encoded: EncodedTask,
        reference: Float[Tensor, "batch vocab"] | None = None,
    ) -> Float[Tensor, " batch"]:
        if self.needs_reference and reference is None:
            raise PatchclampError(
                f"metric {self.name}: compares with the clean run; pass its logits as reference"
            )
        return self.fn(logits.float(), encoded, None if reference is None else reference.float())

    def __str__(self) -> str:
        return self.name


def as_metric(metric: str | Metric | MetricFunction) -> Metric:
    """Return the metric of this name, or wrap a user's function ``fn(logits, encoded, reference)``.

    A function is taken to be better when higher; give a `Metric` to say otherwise.

    Examples
    --------
    >>> as_metric("loss").higher_is_better
    False
    """
    if isinstance(metric, Metric):
        return metric
    if callable(metric):
        return Metric(getattr(metric, "__name__", type(metric).__name__), metric, formula="a user's function")
    if metric not in METRICS:
        raise PatchclampError(
            f"{metric}: no such metric{did_you_mean(str(metric), METRICS)}; choose one of {', '.join(METRICS)}, "
            "or pass a function (logits, encoded, reference) -> one number per item"
        )
    return METRICS[metric]


def _gather(values: Tensor, tokens: Int[Tensor, "batch k"], fill: float) -> Float[Tensor, "batch k"]:
    """Values at token ids; `fill` where the id is the padding -1."""
    found = values.gather(1, tokens.clamp(min=0))
    return found.masked_fill(tokens < 0, fill)


def _mean(values: Tensor, tokens: Int[Tensor, "batch k"]) -> Float[Tensor, " batch"]:
    return _gather(values, tokens, 0.0).sum(1) / (tokens >= 0).sum(1)


def logit_diff(logits: Tensor, encoded: EncodedTask, reference: Tensor | None = None) -> Tensor:
    """Mean logit of the answers minus mean logit of the foils: linear in the logits."""
    return _mean(logits, encoded.answers) - _mean(logits, encoded.foils)


def prob_diff(logits: Tensor, encoded: EncodedTask, reference: Tensor | None = None) -> Tensor:
    """Summed probability of the answers minus summed probability of the foils."""
    p = logits.softmax(-1)
    return _gather(p, encoded.answers, 0.0).sum(1) - _gather(p, encoded.foils, 0.0).sum(1)


def prob(logits: Tensor, encoded: EncodedTask, reference: Tensor | None = None) -> Tensor:
    """Summed probability of the answers."""
    return _gather(logits.softmax(-1), encoded.answers, 0.0).sum(1)


def loss(logits: Tensor, encoded: EncodedTask, reference: Tensor | None = None) -> Tensor:
    """Minus the log of the answers' summed probability, in nats."""
    return -_gather(logits.log_softmax(-1), encoded.answers, -torch.inf).logsumexp(1)


def accuracy(logits: Tensor, encoded: EncodedTask, reference: Tensor | None = None) -> Tensor:
    """1 where the best answer's logit is above the best foil's (ties are wrong).

    An item without foils counts 1 where an answer has the largest logit of the whole vocabulary.
    """
    best = _gather(logits, encoded.answers, -torch.inf).amax(1)
    none = (encoded.foils < 0).all(1) if encoded.foils.shape[1] else torch.ones_like(best, dtype=torch.bool)
    everything = logits.amax(1)
    if encoded.foils.shape[1]:
        foil = _gather(logits, encoded.foils, -torch.inf).amax(1)
        return torch.where(none, best >= everything, best > foil).to(logits.dtype)
    return (best >= everything).to(logits.dtype)


def kl(logits: Tensor, encoded: EncodedTask, reference: Tensor | None = None) -> Tensor:
    """KL(reference || logits), summed over the vocabulary, in nats per item."""
    assert reference is not None
    log_p, log_q = reference.log_softmax(-1), logits.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric(
            "logit_diff",
            logit_diff,
            "mean logit of answers - mean logit of foils",
            unit="logits",
            needs_foils=True,
            contrast=True,
        ),
        Metric(
            "prob_diff",
            prob_diff,
            "sum p(answers) - sum p(foils)",
            unit="probability",
            needs_foils=True,
            contrast=True,
        ),
        Metric("prob", prob, "sum p(answers)", unit="probability"),
        Metric("loss", loss, "-log sum p(answers)", unit="nats", higher_is_better=False),
        Metric("accuracy", accuracy, "1 if max logit of answers > max logit of foils", unit="fraction"),
        Metric(
            "kl",
            kl,
            "KL(clean || this run) over the vocabulary",
            unit="nats",
            higher_is_better=False,
            needs_reference=True,
        ),
    )
}
