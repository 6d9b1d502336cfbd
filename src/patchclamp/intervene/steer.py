"""`steer`: what a language model writes while units are changed, beside what it writes without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.base.errors import PatchclampError
from patchclamp.base.progress import Progress
from patchclamp.base.seeds import numpy_rng
from patchclamp.draw.cards import shown
from patchclamp.nouns.intervention import Intervention
from patchclamp.subjects.clamp.batch import Batch, Edit, Pair
from patchclamp.subjects.clamp.edits import compile_interventions
from patchclamp.subjects.clamp.reference import Reference
from patchclamp.subjects.language import LanguageModel

__all__ = ["Steering", "match_kl", "steer"]


@shown
@dataclass(frozen=True)
class Steering:
    """Continuations of the same prompts with and without an intervention.

    Parameters
    ----------
    prompts
        What was continued.
    clean, steered
        Token ids written after each prompt, up to the end of the text.
    clean_texts, steered_texts
        The same, decoded.
    kl
        For each prompt KL(steered || clean) in nats, of the first token written.
    """

    prompts: tuple[str, ...]
    clean: tuple[tuple[int, ...], ...]
    steered: tuple[tuple[int, ...], ...]
    clean_texts: tuple[str, ...]
    steered_texts: tuple[str, ...]
    kl: tuple[float, ...]

    def __str__(self) -> str:
        rows = zip(self.prompts, self.clean_texts, self.steered_texts, strict=True)
        return "\n\n".join(f"{p}\n  clean    {c!r}\n  steered  {s!r}" for p, c, s in rows)


def steer(
    subject: LanguageModel,
    change: Intervention | Sequence[Intervention],
    prompts: Sequence[str],
    *,
    new_tokens: int = 20,
    temperature: float = 1.0,
    seed: int = 0,
    reference: Any = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Steering:
    """Continue prompts while units are changed, and without.

    Tokens are sampled with the Gumbel trick, argmax(log p / temperature + g), with the same g on both sides: texts
    differ by what the change does, not by luck. Each step reads the whole text anew, so that a change at all positions
    also acts on what was written; this costs `new_tokens` passes a side and keeps no cache of keys.

    Parameters
    ----------
    subject
        A `LanguageModel`.
    change
        One intervention or several. Positions count over the text so far: ``"all"``, or ``-1`` for the newest token.
        Roles of tasks are unknown here.
    prompts
        Texts to continue.
    new_tokens
        At most so many; a text ends early at the tokenizer's end token.
    temperature
        0 takes the likeliest token.
    seed
        Of the noise, which belongs to a prompt and a step: results do not depend on the batch size (up to rounding).
    reference
        Task (or `Reference`) for mean and resample ablation.
    batch_size
        Prompts in one pass.
    progress
        Told the steps of all batches done, and the most that there can be.

    Raises
    ------
    PatchclampError
        For no prompt, a subject without tokenizer or LM head, and units that it does not have.

    Examples
    --------
    >>> from patchclamp import Intervention, open_subject
    >>> lm = open_subject("smollm2")                                                    # doctest: +SKIP
    >>> print(steer(lm, Intervention("mlp_act.2[7]", "clamp", value=20.0), ["I saw"]))  # doctest: +SKIP
    """
    if not prompts or isinstance(prompts, str):
        raise PatchclampError(f"prompts={prompts!r}: give a list of texts to continue")
    if new_tokens < 1 or temperature < 0:
        raise PatchclampError(
            f"new_tokens={new_tokens}, temperature={temperature}: wanted at least 1, and 0 or more"
        )
    changes = (change,) if isinstance(change, Intervention) else tuple(change)
    ids = subject.encode(list(prompts))
    source = None if reference is None else Reference.of(subject, reference)
    writer = _Writer(subject, temperature, seed, new_tokens)
    sides: dict[str, list[list[int]]] = {"clean": [], "steered": []}
    kl: list[float] = []
    done, most = 0, 2 * new_tokens * -(-len(ids) // batch_size)

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress("writing texts", done, most)

    for first in range(0, len(ids), batch_size):
        part = ids[first : first + batch_size]
        rows = list(range(first, first + len(part)))
        written, base = writer.write(part, rows, lambda batch: [], tick)
        sides["clean"] += written
        written, moved = writer.write(
            part,
            rows,
            lambda batch: compile_interventions(changes, subject, _as_pair(batch), source),
            tick,
        )
        sides["steered"] += written
        kl += _divergence(moved, base).tolist()
    decode = subject.tokenizer.decode
    return Steering(
        prompts=tuple(prompts),
        clean=tuple(map(tuple, sides["clean"])),
        steered=tuple(map(tuple, sides["steered"])),
        clean_texts=tuple(decode(row) for row in sides["clean"]),
        steered_texts=tuple(decode(row) for row in sides["steered"]),
        kl=tuple(kl),
    )


def match_kl(
    subject: LanguageModel,
    change: Intervention,
    prompts: Sequence[str],
    kl: float = 0.5,
    *,
    steps: int = 12,
    largest: float = 1e4,
) -> Intervention:
    """Scale the `value` of an intervention so that it moves the next token's distribution by so many nats on average.

    Units, features and random directions can be compared only where they disturb the model equally. The value is found
    by doubling and bisection; KL need not grow with it everywhere, so one crossing is found, the first by doubling.

    Parameters
    ----------
    subject, prompts
        As for `steer`.
    change
        Of kind ``add``, ``clamp`` or ``scale``; its `value` (1 by default) is where the search begins, its sign stays.
    kl
        Mean over prompts of KL(changed || clean) of the next token, in nats.
    steps
        Bisections after the doubling.
    largest
        Where the doubling gives up, times the first value.

    Raises
    ------
    PatchclampError
        When even the largest value does not move the model that far.
    """
    if change.kind not in ("add", "clamp", "scale"):
        raise PatchclampError(f"match_kl: {change.kind} has no value to scale; give add, clamp or scale")
    batch = subject.batch(subject.encode(list(prompts)))
    base = _logits(subject, batch, [])
    start = 1.0 if change.value is None else change.value

    def moved(factor: float) -> float:
        edits = compile_interventions([replace(change, value=start * factor)], subject, _as_pair(batch))
        return float(_divergence(_logits(subject, batch, edits), base).mean())

    low, high = 0.0, 1.0
    while moved(high) < kl:
        low, high = high, 2 * high
        if high > largest:
            raise PatchclampError(
                f"match_kl: {change.units} at {largest:g} times its value moves the next token by less than {kl} nats"
            )
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if moved(middle) < kl else (low, middle)
    return replace(change, value=start * high)


@dataclass(frozen=True)
class _Writer:
    subject: LanguageModel
    temperature: float
    seed: int
    new_tokens: int

    def write(
        self,
        prompts: list[list[int]],
        rows: list[int],
        edits: Callable[[Batch], list[Edit]],
        tick: Callable[[], None],
    ) -> tuple[list[list[int]], Tensor]:
        """Tokens after each prompt, and the logits of the first of them."""
        texts = [list(ids) for ids in prompts]
        end = getattr(self.subject.tokenizer, "eos_token_id", None)
        going, first = list(range(len(texts))), torch.empty(0)
        for step in range(self.new_tokens):
            batch = self.subject.batch([texts[i] for i in going])
            logits = _logits(self.subject, batch, edits(batch))
            first = logits if step == 0 else first
            for i, token in zip(
                list(going), self._sample(logits, [rows[i] for i in going], step), strict=True
            ):
                texts[i].append(token)
                if token == end or len(texts[i]) >= self.subject.max_length:
                    going.remove(i)
            tick()
            if not going:
                break
        return [text[len(ids) :] for text, ids in zip(texts, prompts, strict=True)], first

    def _sample(self, logits: Float[Tensor, "batch vocabulary"], rows: list[int], step: int) -> list[int]:
        if self.temperature == 0:
            return [int(i) for i in logits.argmax(1)]
        noise = np.stack([numpy_rng([self.seed, row, step]).gumbel(size=logits.shape[1]) for row in rows])
        return [int(i) for i in (logits.double() / self.temperature + torch.from_numpy(noise)).argmax(1)]


def _logits(subject: LanguageModel, batch: Batch, edits: Sequence[Edit]) -> Float[Tensor, "batch vocabulary"]:
    out = subject.run(batch, write=edits, logits="last").logits
    assert out is not None
    return out.float().cpu()


def _divergence(changed: Tensor, clean: Tensor) -> Float[Tensor, " batch"]:
    p, q = changed.double().log_softmax(-1), clean.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def _as_pair(batch: Batch) -> Pair:
    def no_metric(*_: Any) -> Tensor:
        raise PatchclampError("prompts have no metric")

    return Pair(batch, None, no_metric, "all")
