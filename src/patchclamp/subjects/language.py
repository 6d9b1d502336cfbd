"""Language models: tokens in, logits out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.tasks.task import Task
from patchclamp.nouns.tasks.texts import TextTask
from patchclamp.subjects.clamp.batch import Batch, Pair, one_each, right_pad
from patchclamp.subjects.clamp.modes import Training
from patchclamp.subjects.texts import text_pairs
from patchclamp.subjects.transformer import Transformer

if TYPE_CHECKING:
    from patchclamp.nouns.tasks.task import EncodedTask


class LanguageModel(Transformer):
    """A transformer over tokens, with its tokenizer.

    Parameters
    ----------
    model
        A Hugging Face model object, used as it is.
    tokenizer
        Its tokenizer; None leaves only passes over token ids.
    name, fingerprint, training
        As `open_subject` gives them.
    bos
        Whether a beginning-of-sequence token is put before every text; None follows the tokenizer.

    Examples
    --------
    >>> from patchclamp import open_subject
    >>> lm = open_subject("smollm2")                                    # doctest: +SKIP
    >>> run = lm.run(lm.batch(lm.encode(["The capital of France is"])), read=lm.resolve("mlp_act.15"))
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any = None,
        name: str = "model",
        fingerprint: str = "",
        bos: bool | None = None,
        *,
        training: Training = "refuse",
    ) -> None:
        super().__init__(model, name, fingerprint, training=training)
        self.tokenizer = tokenizer
        self.bos = bos
        if bos and getattr(tokenizer, "bos_token_id", None) is None:
            raise PatchclampError(f"{name}: bos=True, but its tokenizer has no such token; leave bos to None")

    @property
    def max_length(self) -> int:
        """Longest input in tokens."""
        return int(
            getattr(self.config, "max_position_embeddings", 0)
            or getattr(self.config, "n_positions", 0)
            or 10**9
        )

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids as `encode` gives them, without its refusal of empty and long texts; empty ones get no BOS."""
        if self.tokenizer is None:
            raise PatchclampError(
                f"{self.name}: this subject has no tokenizer; pass one to open_subject(..., tokenizer=)"
            )
        rows = self.tokenizer(list(texts), add_special_tokens=self.bos is not False)["input_ids"]
        first: Any = getattr(self.tokenizer, "bos_token_id", None)
        return [[first, *row] if self.bos and row and row[0] != first else list(row) for row in rows]

    @property
    def begins_with_bos(self) -> bool:
        """Whether texts begin with a BOS token under the subject's policy."""
        first = getattr(self.tokenizer, "bos_token_id", None)
        return first is not None and self.tokenise(["a"])[0][:1] == [first]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts under the subject's BOS policy, without padding.

        Raises
        ------
        PatchclampError
            For a text without tokens or longer than the context, naming it.
        """
        ids = self.tokenise(texts)
        for number, row in enumerate(ids):
            if self.bos and not row:
                ids[number] = row = [self.tokenizer.bos_token_id]
            if not row:
                raise PatchclampError(
                    f"text {number} is empty ({texts[number]!r}): it has no token to run on; leave it out"
                )
            if len(row) > self.max_length:
                raise PatchclampError(
                    f"text {number} has {len(row)} tokens, and {self.name} reads {self.max_length}; split it first"
                )
        return ids

    def batch(self, sequences: list[list[int]], rows: list[int] | None = None) -> Batch:
        """Pad token lists on the right to a batch."""
        pad = getattr(self.tokenizer, "pad_token_id", None) or 0
        return right_pad(sequences, rows, pad if pad < self._vocabulary else 0)

    @cached_property
    def _special(self) -> Tensor:
        return torch.tensor(sorted(getattr(self.tokenizer, "all_special_ids", [])), dtype=torch.int64)

    @property
    def _vocabulary(self) -> int:
        return int(self.config.vocab_size)

    def content_mask(self, batch: Batch) -> Bool[Tensor, "batch pos"]:
        """Tokens that enter statistics: no padding, no special token, and in a causal model not position 0,
        where attention sinks sit whether or not the model has a BOS token."""
        assert batch.tokens is not None
        content = batch.mask.clone()
        content &= ~torch.isin(batch.tokens, self._special.to(batch.tokens.device))
        if self.causal:
            first = batch.mask & (batch.mask.cumsum(1) == 1)
            content &= ~first
        return content

    def dummy(self) -> Batch:
        """Two tokens."""
        return right_pad([[1, 2]])

    def _probe(self) -> Batch:
        """Eight tokens from all over the vocabulary, those to which the config gives a part (images, say) aside."""
        configs = (self.config, getattr(self.model, "config", self.config))
        special = {
            value
            for config in configs
            for key, value in config.to_dict().items()
            if "token" in key and isinstance(value, int)
        }
        spread = dict.fromkeys((11 + 7919 * k) % self._vocabulary for k in range(64))
        plain = [token for token in spread if token not in special]
        return right_pad([plain[:8] or [0]])

    def _forward(self, batch: Batch, logits: str | Tensor | None, whole: bool) -> Tensor | None:
        assert batch.tokens is not None
        if logits is not None and "logits" not in self.row.fixed:
            raise PatchclampError(f"{self.name} gives no logits: {self.row.missing['logits']}")
        inputs: dict[str, Any] = {"input_ids": batch.tokens, **batch.tensors}
        accepted = self._accepted
        plain = batch.unpadded or (self.causal and batch.right_padded)
        if not plain:
            inputs["attention_mask"] = batch.mask.long()
        if "position_ids" in accepted:
            inputs["position_ids"] = _positions(batch, plain)
        if "use_cache" in accepted and "past_key_values" not in inputs:
            inputs["use_cache"] = False
        if logits is None or logits == "all":
            if logits is None and "logits_to_keep" in accepted and not whole:
                inputs["logits_to_keep"] = 1
            out = self.model(**inputs)
            return None if logits is None else out.logits
        at = batch.last if isinstance(logits, str) else logits.to(batch.tokens.device)
        if isinstance(logits, str) and logits != "last":
            raise PatchclampError(f"logits={logits!r}: give 'last', 'all', a tensor of positions or None")
        rows = torch.arange(len(batch), device=at.device)
        if "logits_to_keep" not in accepted or whole:
            found: Tensor = self.model(**inputs).logits[rows, at]
        else:
            kept, column = at.unique(return_inverse=True)
            found = self.model(**inputs, logits_to_keep=kept).logits[rows, column]
        return found

    def pairs(self, task: TaskLike, batch_size: int = 32) -> Iterator[Pair]:
        """Batches of a task's items, sorted by length, clean beside corrupted, with the metric per item.

        `rows` are the items' places in the task, so that results can be put back in order.
        """
        if isinstance(task, TextTask):
            yield from text_pairs(task, self, batch_size)
            return
        if not isinstance(task, Task):
            raise PatchclampError(
                f"{self.name}: a language model takes a Task or a TextTask, not a {type(task).__name__}"
            )
        metric = task.score
        encoded = task.encode(self.tokenizer, bos=self.bos, max_length=self.max_length)
        for part in encoded.batches(batch_size):
            yield _pair(part.to(self.device), metric)


def _positions(batch: Batch, plain: bool) -> Tensor:
    if plain:
        # Counting on through the padding: repeated ids would be read as the start of another packed sequence.
        steps = torch.arange(batch.mask.shape[1], device=batch.mask.device)
        return steps.expand(batch.mask.shape[0], -1)
    return (batch.mask.long().cumsum(1) - 1).clamp(min=0)


def _pair(part: EncodedTask, metric: Any) -> Pair:
    def score(logits: Tensor, reference: Tensor | None = None) -> Tensor:
        return one_each(metric(logits, part, reference), len(part.rows))

    clean = Batch(part.clean, part.mask, part.rows)
    corrupted = None if part.corrupted is None else Batch(part.corrupted, part.mask, part.rows)
    return Pair(clean, corrupted, score, part.last, part.roles, tuple(part.templates), tuple(part.groups))
