"""Whole texts as a task: how well a model predicts them, token by token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.tasks.encode import unnamed
from patchclamp.nouns.tasks.texts import TextTask
from patchclamp.subjects.clamp.batch import Batch, Pair, one_each


class Encodes(Protocol):
    """What texts ask of the model that reads them."""

    @property
    def max_length(self) -> int | None:
        """The model's context, in tokens."""

    @property
    def device(self) -> torch.device:
        """Where its passes run."""

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text."""

    def batch(self, sequences: list[list[int]], rows: list[int]) -> Batch:
        """The sequences, padded."""


def text_pairs(task: TextTask, subject: Encodes, batch_size: int) -> Iterator[Pair]:
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
        names = tuple(unnamed(length) for length in batch.lengths.tolist())
        yield Pair(batch, None, _scorer(batch), "all", {"end": batch.last}, names, groups)


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
