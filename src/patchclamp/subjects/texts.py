"""Whole texts as a task: how well a model predicts them, token by token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchclamp.errors import PatchclampError
from patchclamp.subjects.batch import Batch, Pair, one_each


@dataclass(frozen=True)
class TextTask:
    """Running texts, scored by the mean log-probability of their tokens in nats (higher is better).

    Whatever takes a task and needs no corrupted inputs takes it: `effect`, `Reference`, `run_trial`.

    Parameters
    ----------
    name
        Printed in tables and claims.
    texts
        At least two tokens each; the first token of a text is given, not predicted.
    groups
        The unit of dependence of each text; each text its own where left out.
    labels
        Of each text; not used by the metric.
    max_tokens
        Longer texts are cut here.

    Examples
    --------
    >>> TextTask("two", ("One text.", "Another."), labels=("a", "b")).where("b").texts
    ('Another.',)
    """

    name: str
    texts: tuple[str, ...]
    groups: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    max_tokens: int = 128
    metric: str = field(default="log_probability", init=False)

    def __post_init__(self) -> None:
        empty = [i for i, text in enumerate(self.texts) if not text.strip()]
        if empty:
            raise PatchclampError(f"{self.name}: text {empty[0]} is empty; leave it out")
        for what, column in (("groups", self.groups), ("labels", self.labels)):
            if len(column) not in (0, len(self.texts)):
                raise PatchclampError(f"{self.name}: {len(column)} {what} for {len(self.texts)} texts")

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, places: list[int], name: str = "") -> TextTask:
        """The texts at some places."""
        return TextTask(
            name or self.name,
            tuple(self.texts[i] for i in places),
            tuple(self.groups[i] for i in places) if self.groups else (),
            tuple(self.labels[i] for i in places) if self.labels else (),
            self.max_tokens,
        )

    def where(self, label: str) -> TextTask:
        """The texts of one label."""
        places = [i for i, one in enumerate(self.labels) if one == label]
        if not places:
            raise PatchclampError(f"{self.name}: no text has the label {label!r}")
        return self.take(places, f"{self.name}: {label}")


def text_pairs(task: TextTask, subject: Any, batch_size: int) -> Iterator[Pair]:
    """Batches of texts of like length; at most 2,048 tokens each, since logits are taken at every one."""
    limit = min(task.max_tokens, subject.max_length or task.max_tokens)
    tokens = [ids[:limit] for ids in subject.encode(list(task.texts))]
    short = [i for i, ids in enumerate(tokens) if len(ids) < 2]
    if short:
        raise PatchclampError(
            f"{task.name}: text {short[0]} has a single token, of which nothing is predicted; leave it out"
        )
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    while order:
        longest = len(tokens[order[-1]])
        rows = order[-max(1, min(batch_size, 2048 // longest)) :]
        del order[-len(rows) :]
        batch = subject.batch([tokens[i] for i in rows], rows).to(subject.device)
        groups = tuple(task.groups[i] for i in rows) if task.groups else ()
        yield Pair(batch, None, _scorer(batch), "all", {"end": batch.last}, ("",) * len(rows), groups)


def _scorer(batch: Batch) -> Any:
    def score(logits: Float[Tensor, "batch pos vocabulary"], reference: Tensor | None = None) -> Tensor:
        assert batch.tokens is not None
        return one_each(mean_log_probability(logits, batch.tokens, batch.lengths), len(batch.rows))

    return score


def mean_log_probability(
    logits: Float[Tensor, "batch pos vocabulary"],
    tokens: Int[Tensor, "batch pos"],
    lengths: Int[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """Mean over the tokens of each text, the first left out, of log p(token | those before it); padding never counts.

    Examples
    --------
    >>> logits = torch.zeros(1, 3, 4)
    >>> mean_log_probability(logits, torch.tensor([[0, 1, 2]]), torch.tensor([3])).exp().tolist()
    [0.25]
    """
    inner = logits[:, :-1].float()
    target = tokens[:, 1:]
    chosen = inner.gather(2, target[..., None])[..., 0] - inner.logsumexp(2)
    real = torch.arange(1, tokens.shape[1], device=tokens.device)[None, :] < lengths[:, None]
    return (chosen * real).sum(1) / (lengths - 1)
